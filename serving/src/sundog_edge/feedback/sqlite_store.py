"""The store of one machine: a SQLite file, which every edge of the machine may open."""

import asyncio
import fcntl
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sundog_edge.errors import StoreUnavailable
from sundog_edge.feedback.export import ExportedExposure, ExportedOutcome
from sundog_edge.feedback.join import (
    EVENTS,
    STREAM_EVENTS,
    FirstExposure,
    OutcomeBatch,
    StoreChange,
    StoredState,
    join,
)
from sundog_edge.feedback.store import PAGE_ROWS, RETENTION_S, StoreSnapshot, pack_unit, unpack_unit

_T = TypeVar("_T")
_BUSY_S = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, named REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tally (attempt INTEGER, name TEXT, value TEXT NOT NULL, PRIMARY KEY (attempt, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units
    (attempt INTEGER, unit BLOB, us INTEGER NOT NULL, epoch INTEGER NOT NULL, arm TEXT NOT NULL, PRIMARY KEY (attempt, unit)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (attempt INTEGER, key BLOB, PRIMARY KEY (attempt, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals
    (attempt INTEGER, unit BLOB, metric TEXT, total TEXT NOT NULL, PRIMARY KEY (attempt, unit, metric)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events
    (attempt INTEGER, number INTEGER, unit BLOB, metric TEXT, epoch INTEGER, arm TEXT, value INTEGER, seconds INTEGER,
     PRIMARY KEY (attempt, number)) WITHOUT ROWID;
"""
_ITS = "attempt = (SELECT number FROM attempts WHERE name = ?)"
_EXPOSURES = f"SELECT unit, us, epoch, arm FROM units WHERE {_ITS} AND unit > ? ORDER BY unit LIMIT ?"  # noqa: S608
_OUTCOMES = f"""SELECT number, unit, metric, epoch, arm, value, seconds FROM events
    WHERE {_ITS} AND number > ? ORDER BY number LIMIT ?"""  # noqa: S608 - words of ours
_OF_ATTEMPT = ("tally", "units", "keys", "totals", "events")


class SqliteStore:
    """See `stored.Store`. One thread has the connection; a file that cannot be opened is tried again at the next call."""

    def __init__(self, path: Path, stream_events: int = STREAM_EVENTS) -> None:
        self._path = path
        self._stream_events = stream_events
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback-store")
        self._connection: sqlite3.Connection | None = None

    async def write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
        """See the protocol."""
        return await self._run(lambda: self._write(attempt, batch))

    async def read(self, attempts: Collection[str]) -> StoreSnapshot:
        """See the protocol."""
        return await self._run(lambda: self._read(tuple(attempts)))

    async def name(self, attempts: Collection[str], now: float) -> None:
        """See the protocol."""
        await self._run(lambda: self._name(tuple(attempts), now))

    async def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
        """See the protocol."""
        after = b""
        while page := await self._page(_EXPOSURES, attempt, after):
            for unit, *first in page:
                yield ExportedExposure(unpack_unit(unit), *first)
            after = page[-1][0]

    async def outcomes(self, attempt: str) -> AsyncIterator[ExportedOutcome]:
        """See the protocol."""
        after = 0
        while page := await self._page(_OUTCOMES, attempt, after):
            for _, unit, *told in page:
                yield ExportedOutcome(unpack_unit(unit), *told)
            after = page[-1][0]

    async def _page(self, query: str, attempt: str, after: bytes | int) -> list[tuple[Any, ...]]:
        def read() -> list[tuple[Any, ...]]:
            with self._transaction() as connection:
                return connection.execute(query, (attempt, after, PAGE_ROWS)).fetchall()

        return await self._run(read)

    async def close(self) -> None:
        """See the protocol."""
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            # Whatever is wrong with the file, the next call opens it anew.
            self._close()
            raise StoreUnavailable(f"store of feedback {self._path}: {error}") from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection = self._connection or self._open()
        # Others wait here rather than fail half way, when they would want to write after they have read.
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _open(self) -> sqlite3.Connection:
        # SQLite lets nobody wait for the switch to its log: of edges that open a new file at once, all but one would fail.
        with _alone(self._path.with_name(f"{self._path.name}.lock")):
            return self._prepared()

    def _prepared(self) -> sqlite3.Connection:
        # Not opened by hand: to close a file drops all locks that the process has on it, SQLite's too.
        self._path.touch(0o600)
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            connection.execute(
                "INSERT INTO store SELECT ? WHERE NOT EXISTS (SELECT 1 FROM store)", (uuid.uuid4().hex[:16],)
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
        with self._transaction() as connection:
            number = _number(connection, attempt)
            known = _known(connection, number, batch)
            change = join(batch, known)
            self._apply(connection, number, change, known.tally.get(EVENTS, 0))
        return change.results

    def _apply(self, connection: sqlite3.Connection, number: int, change: StoreChange, events: int) -> None:
        connection.executemany(
            "INSERT INTO units VALUES (?, ?, ?, ?, ?)",
            ((number, pack_unit(unit), *first) for unit, first in change.firsts.items()),
        )
        connection.executemany("INSERT INTO keys VALUES (?, ?)", ((number, key) for key in change.keys))
        connection.executemany(
            "REPLACE INTO totals VALUES (?, ?, ?, ?)",
            ((number, pack_unit(unit), metric, str(total)) for (unit, metric), total in change.totals.items()),
        )
        connection.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (number, place, pack_unit(event.unit), event.metric, first.epoch, first.arm, event.value, event.seconds)
                for place, (event, first) in enumerate(change.events, events + 1)
            ),
        )
        newest = events + len(change.events)
        connection.execute(
            "DELETE FROM events WHERE attempt = ? AND number <= ?", (number, newest - self._stream_events)
        )
        connection.executemany(
            "REPLACE INTO tally VALUES (?, ?, ?)", ((number, name, str(value)) for name, value in change.tally.items())
        )

    def _read(self, attempts: tuple[str, ...]) -> StoreSnapshot:
        with self._transaction() as connection:
            (own,) = connection.execute("SELECT id FROM store").fetchone()
            # What is only asked for is not made: anybody who may read evidence may ask for any name.
            return StoreSnapshot(own, {name: _tally(connection, _there(connection, name)) for name in attempts})

    def _name(self, attempts: tuple[str, ...], now: float) -> None:
        with self._transaction() as connection:
            for name in attempts:
                connection.execute("UPDATE attempts SET named = ? WHERE number = ?", (now, _number(connection, name)))
            connection.execute("UPDATE attempts SET named = ? WHERE named = 0", (now,))
            forgotten = connection.execute(
                "SELECT number FROM attempts WHERE named < ?", (now - RETENTION_S,)
            ).fetchall()
            for table in _OF_ATTEMPT:
                connection.executemany(f"DELETE FROM {table} WHERE attempt = ?", forgotten)  # noqa: S608 - names of ours
            connection.executemany("DELETE FROM attempts WHERE number = ?", forgotten)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _number(connection: sqlite3.Connection, attempt: str) -> int:
    connection.execute("INSERT OR IGNORE INTO attempts (name, named) VALUES (?, 0)", (attempt,))
    return _there(connection, attempt)


def _there(connection: sqlite3.Connection, attempt: str) -> int:
    """The number of an attempt; 0, which none has, before anything of it was written."""
    found = connection.execute("SELECT number FROM attempts WHERE name = ?", (attempt,)).fetchone()
    return int(found[0]) if found else 0


def _known(connection: sqlite3.Connection, number: int, batch: OutcomeBatch) -> StoredState:
    keys = {
        event.key
        for event in batch.events
        if connection.execute("SELECT 1 FROM keys WHERE attempt = ? AND key = ?", (number, event.key)).fetchone()
    }
    firsts = {}
    for unit in batch.units:
        row = connection.execute(
            "SELECT us, epoch, arm FROM units WHERE attempt = ? AND unit = ?", (number, pack_unit(unit))
        ).fetchone()
        if row is not None:
            firsts[unit] = FirstExposure(*row)
    totals = {}
    for unit, metric in batch.totals:
        row = connection.execute(
            "SELECT total FROM totals WHERE attempt = ? AND unit = ? AND metric = ?", (number, pack_unit(unit), metric)
        ).fetchone()
        if row is not None:
            totals[unit, metric] = int(row[0])
    return StoredState(keys, firsts, totals, _tally(connection, number))


def _tally(connection: sqlite3.Connection, number: int) -> dict[str, int]:
    rows = connection.execute("SELECT name, value FROM tally WHERE attempt = ?", (number,))
    return {name: int(value) for name, value in rows}
