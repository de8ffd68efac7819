"""Feedback stores for tests: one in memory, and a real server of the protocol of Valkey and Redis."""

import contextlib
import os
import select
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from ports import free_port
from store_processes import running
from sundog_edge.errors import StoreUnavailable
from sundog_edge.feedback.events import OutcomeEvent
from sundog_edge.feedback.export import ExportedExposure, ExportedOutcome
from sundog_edge.feedback.join import FirstExposure, OutcomeBatch, StoredState, join
from sundog_edge.feedback.store import RETENTION_S, StoreSnapshot
from sundog_operator.api.installation import Installation
from sundog_operator.core.edge.feedback_store import make_server
from sundog_operator.core.ray.valkey import make_command
from waiting import PATIENCE_S

PASSWORD = "a-password-of-tests"


@dataclass
class MemoryAttempt:
    """All data of one attempt."""

    keys: set[bytes] = field(default_factory=set)
    firsts: dict[int, FirstExposure] = field(default_factory=dict)
    totals: dict[tuple[int, str], int] = field(default_factory=dict)
    tally: dict[str, int] = field(default_factory=dict)
    events: list[tuple[OutcomeEvent, FirstExposure]] = field(default_factory=list)


class MemoryStore:
    """A store in memory. While `away` is set it does not answer."""

    def __init__(self) -> None:
        self.attempts: dict[str, MemoryAttempt] = defaultdict(MemoryAttempt)
        self.named: dict[str, float] = {}
        self.away = False
        self.writes = 0

    async def write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
        self._answer()
        own = self.attempts[attempt]
        self.named.setdefault(attempt, 0)
        change = join(batch, StoredState(own.keys, own.firsts, own.totals, own.tally))
        own.keys |= change.keys
        own.firsts |= change.firsts
        own.totals |= change.totals
        own.tally = {name: value for name, value in (own.tally | change.tally).items() if name not in change.cleared}
        own.events += change.events
        self.writes += 1
        return change.results

    async def read(self, attempts: Collection[str]) -> StoreSnapshot:
        self._answer()
        return StoreSnapshot("memory", {attempt: dict(self.attempts[attempt].tally) for attempt in attempts})

    async def name(self, attempts: Collection[str], now: float) -> None:
        self._answer()
        self.named |= {name: now for name, at in self.named.items() if at == 0} | dict.fromkeys(attempts, now)
        for name in [name for name, at in self.named.items() if at < now - RETENTION_S]:
            del self.named[name]
            self.attempts.pop(name, None)

    async def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
        self._answer()
        for unit, first in self.attempts[attempt].firsts.items():
            yield ExportedExposure(unit, *first)

    async def outcomes(self, attempt: str) -> AsyncIterator[ExportedOutcome]:
        self._answer()
        for event, first in self.attempts[attempt].events:
            place = first.epoch, first.arm
            yield ExportedOutcome(event.unit, event.metric, *place, event.value, event.seconds, event.properties)

    async def close(self) -> None:
        pass

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("feedback store: away")


class RedisServer(NamedTuple):
    """A running server: its port, its password file, and its process."""

    port: int
    password: Path
    pid: int


@contextmanager
def redis_server(folder: Path, port: int = 0) -> Iterator[RedisServer]:
    """Run the server of a namespace's store as the operator ships it. Skips if none is installed."""
    if not (shutil.which("valkey-server") or shutil.which("redis-server")):
        pytest.skip("neither valkey-server nor redis-server is installed (Debian's package redis-server)")
    port = port or free_port()
    password = folder / "password"
    password.write_text(PASSWORD + "\n")
    shell, option, script = make_command(make_server(Installation()), port, str(folder))
    command = [shell, option, f"{script} --bind 127.0.0.1"]
    with running(command, port, folder / "redis.log", {"PASSWORD": PASSWORD}):
        with redis.Redis(port=port, password=PASSWORD) as plain:
            pid = int(plain.info("server")["process_id"])
        process = os.pidfd_open(pid)
        try:
            yield RedisServer(port, password, pid)
        finally:
            _end(process)


class RestartedServer:
    """The server of a namespace's store that is killed, and started again at the same port with the same files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.server = self._start(0)

    def kill(self, away_s: float) -> None:
        """Kill it with SIGKILL. Another one answers when this returns, so many seconds later at the earliest."""
        os.kill(self.server.pid, signal.SIGKILL)
        self.close()
        time.sleep(away_s)
        self.server = self._start(self.server.port)

    def close(self) -> None:
        """End it."""
        self._stack.close()

    def _start(self, port: int) -> RedisServer:
        return self._stack.enter_context(redis_server(self._folder, port))


def _end(process: int) -> None:
    """End a server, of which only the shell is a child of the tests. It may be dead already."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGTERM)
    select.select([process], [], [], PATIENCE_S)
    os.close(process)
