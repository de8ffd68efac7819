"""The store of a cluster: a Valkey or Redis server, by their common protocol.

A write is optimistic: the store watches the attempt's tally, reads the state for the batch, and writes the change in one transaction. The
server refuses the transaction if another edge has written to the attempt meanwhile. Scripts on the server cannot hold the sums.
"""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import RedisError, WatchError

from sundog_edge.errors import StoreUnavailable
from sundog_edge.feedback.join import STREAM_EVENTS, FirstExposure, OutcomeBatch, StoreChange, StoredState, join
from sundog_edge.feedback.store import (
    COLLECTIONS,
    PAGE_ROWS,
    RETENTION_S,
    ExportedExposure,
    ExportedOutcome,
    StoreSnapshot,
    pack_unit,
    unpack_unit,
)

_T = TypeVar("_T")
_ANSWER_S = 2.0
_WRITE_ATTEMPTS = 50
_PAUSE_S = 0.02


class RedisStore:
    """An `OutcomeStore`. `namespace` separates the namespaces that share the server."""

    def __init__(
        self,
        host: str,
        port: int,
        password_file: Path | None,
        namespace: str = "",
        stream_events: int = STREAM_EVENTS,
        username_file: Path | None = None,
    ) -> None:
        self._address = f"{host}:{port}"
        # Braces keep all keys of a transaction on one node of a cluster.
        self._prefix = f"sundog:{{{namespace}}}"
        self._stream_events = stream_events
        self._redis = client.Redis(
            host=host,
            port=port,
            credential_provider=_CredentialFiles(password_file, username_file) if password_file else None,
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=_ANSWER_S,
            # A sent command may have run: the caller decides whether to retry.
            retry=Retry(NoBackoff(), 0),
            client_name="sundog-edge",
        )

    async def write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
        """Implement `OutcomeStore`."""
        return await self._guarded(lambda: self._write(attempt, batch))

    async def read(self, attempts: Collection[str]) -> StoreSnapshot:
        """Implement `OutcomeStore`."""
        return await self._guarded(lambda: self._read(tuple(attempts)))

    async def name(self, attempts: Collection[str], now: float) -> None:
        """Implement `OutcomeStore`."""
        await self._guarded(lambda: self._name(attempts, now))

    async def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
        """Implement `OutcomeStore`."""
        key, cursor = self._key(attempt, "units"), 0
        while True:
            cursor, found = await self._guarded(lambda at=cursor: self._page(key, at))  # type: ignore[misc]
            for exposed in found:
                yield exposed
            if cursor == 0:
                return

    async def outcomes(self, attempt: str) -> AsyncIterator[ExportedOutcome]:
        """Implement `OutcomeStore`."""
        key, after = self._key(attempt, "events"), "-"
        while page := await self._guarded(lambda at=after: self._entries(key, at)):  # type: ignore[misc]
            for _, outcome in page:
                yield outcome
            after = f"({page[-1][0]}"

    async def _page(self, key: str, cursor: int) -> tuple[int, list[ExportedExposure]]:
        page: Any = await self._redis.hscan(key, cursor, count=PAGE_ROWS)
        following, found = page
        return following, [ExportedExposure(unpack_unit(unit), *_first(text)) for unit, text in found.items()]

    async def _entries(self, key: str, after: str) -> list[tuple[str, ExportedOutcome]]:
        found: Any = await self._redis.xrange(key, min=after, count=PAGE_ROWS)
        return [(number.decode(), _outcome(entry)) for number, entry in found]

    async def close(self) -> None:
        """Implement `OutcomeStore`."""
        await self._redis.aclose()

    async def _guarded(self, work: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await work()
        except (RedisError, OSError, ValueError) as error:
            # A restarted server has closed every connection, including idle ones.
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            # A foreign server may hold foreign data, and a password file any text: the message shows none of it.
            what = f"unreadable ({type(error).__name__})" if isinstance(error, ValueError) else _one_line(error)
            raise StoreUnavailable(f"feedback store {self._address}: {what}") from None

    def _key(self, attempt: str, what: str) -> str:
        return f"{self._prefix}:{attempt}:{what}"

    async def _write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
        for retries in range(_WRITE_ATTEMPTS):
            async with self._redis.pipeline(transaction=True) as pipe:
                await pipe.watch(self._key(attempt, "tally"))
                change = join(batch, await self._known(attempt, batch))
                if not change.tally:
                    return change.results
                pipe.multi()  # type: ignore[no-untyped-call]
                self._queue(pipe, attempt, change)
                try:
                    await pipe.execute()
                except WatchError:
                    pass
                else:
                    return change.results
            await asyncio.sleep(random.uniform(0, _PAUSE_S) * min(retries + 1, 10))  # noqa: S311 - no secret
        raise StoreUnavailable(
            f"feedback store {self._address}: other edges wrote at the same time in {_WRITE_ATTEMPTS} attempts"
        )

    async def _known(self, attempt: str, batch: OutcomeBatch) -> StoredState:
        keys = [event.key for event in batch.events]
        units, totals = [*batch.units], [*batch.totals]
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._key(attempt, "tally"))
            if keys:
                pipe.smismember(self._key(attempt, "keys"), keys)
            if units:
                pipe.hmget(self._key(attempt, "units"), [pack_unit(unit) for unit in units])
            if totals:
                pipe.hmget(self._key(attempt, "totals"), [_place(*place) for place in totals])
            answers = iter(await pipe.execute())
        tally = _tally(next(answers))
        seen = next(answers) if keys else ()
        firsts = next(answers) if units else ()
        sums = next(answers) if totals else ()
        return StoredState(
            {key for key, there in zip(keys, seen, strict=True) if there},
            {unit: _first(text) for unit, text in zip(units, firsts, strict=True) if text is not None},
            {place: int(text) for place, text in zip(totals, sums, strict=True) if text is not None},
            tally,
        )

    def _queue(self, pipe: Any, attempt: str, change: StoreChange) -> None:
        if change.firsts:
            exposures = {
                pack_unit(unit): f"{first.us}/{first.epoch}/{first.arm}" for unit, first in change.firsts.items()
            }
            pipe.hset(self._key(attempt, "units"), mapping=exposures)
        if change.keys:
            pipe.sadd(self._key(attempt, "keys"), *change.keys)
        if change.totals:
            sums = {_place(*place): total for place, total in change.totals.items()}
            pipe.hset(self._key(attempt, "totals"), mapping={key: str(total) for key, total in sums.items()})
        for event, first in change.events:
            entry = {
                "unit": pack_unit(event.unit),
                "metric": event.metric,
                "epoch": first.epoch,
                "arm": first.arm,
                "value": event.value,
                "seconds": event.seconds,
                # Also without any: a stream holds names once for as long as entries have the same ones.
                "properties": event.properties,
            }
            pipe.xadd(self._key(attempt, "events"), entry, maxlen=self._stream_events, approximate=True)
        written = {name: str(value) for name, value in change.tally.items()}
        pipe.hset(self._key(attempt, "tally"), mapping=written)
        if change.cleared:
            pipe.hdel(self._key(attempt, "tally"), *change.cleared)
        # `name` also removes attempts that no document has named.
        pipe.hsetnx(f"{self._prefix}:attempts", attempt, "0")

    async def _read(self, attempts: tuple[str, ...]) -> StoreSnapshot:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(f"{self._prefix}:store", uuid.uuid4().hex[:16], nx=True)
            pipe.get(f"{self._prefix}:store")
            for attempt in attempts:
                pipe.hgetall(self._key(attempt, "tally"))
            _, own, *tallies = await pipe.execute()
        return StoreSnapshot(
            own.decode(), {attempt: _tally(found) for attempt, found in zip(attempts, tallies, strict=True)}
        )

    async def _name(self, attempts: Collection[str], now: float) -> None:
        key = f"{self._prefix}:attempts"
        found: Any = await self._redis.hgetall(key)
        named = {name.decode(): float(at) for name, at in found.items()}
        fresh = {*attempts, *(name for name, at in named.items() if at == 0)}
        forgotten = [name for name, at in named.items() if name not in fresh and at < now - RETENTION_S]
        async with self._redis.pipeline(transaction=True) as pipe:
            for attempt in fresh:
                pipe.hset(key, attempt, str(now))
            for attempt in forgotten:
                pipe.unlink(*(self._key(attempt, what) for what in COLLECTIONS))
                pipe.hdel(key, attempt)
            await pipe.execute()


class _CredentialFiles(CredentialProvider):
    """The password, and its user if it is not the default one, read at every connection: files may be replaced at any time."""

    def __init__(self, password: Path, username: Path | None) -> None:
        self._files = [password] if username is None else [username, password]

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        *username, password = (file.read_text().strip() for file in self._files)
        return (username[0], password) if username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return await asyncio.to_thread(self.get_credentials)


def _place(unit: int, metric: str) -> bytes:
    return pack_unit(unit) + metric.encode()


def _first(text: bytes) -> FirstExposure:
    us, epoch, arm = text.decode().split("/")
    return FirstExposure(int(us), int(epoch), arm)


def _outcome(entry: Mapping[bytes, bytes]) -> ExportedOutcome:
    names = (b"unit", b"metric", b"epoch", b"arm", b"value", b"seconds")
    if not entry.keys() >= {*names}:
        raise ValueError("an entry of the stream is not an outcome")
    unit, metric, epoch, arm, value, seconds = (entry[name] for name in names)
    return ExportedOutcome(
        unpack_unit(unit),
        metric.decode(),
        int(epoch),
        arm.decode(),
        int(value),
        int(seconds),
        entry.get(b"properties", b"").decode(),
    )


def _tally(found: Mapping[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in found.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
