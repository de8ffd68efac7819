"""A process table, a clock and a state directory that tests control."""

import asyncio
import signal
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sundog_operator.adapters.local.process_table import MARK_ENV_VAR, ProcessCommand, ProcessInfo
from sundog_operator.adapters.local.processes import Processes
from sundog_operator.adapters.local.state_directory import StateDirectory

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Time that passes only in `sleep`."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        await asyncio.sleep(0)


@dataclass
class FakeTable:
    """Processes that exist only here. `stubborn` ones ignore SIGTERM, `immortal` ones SIGKILL too."""

    clock: FakeClock
    processes: dict[int, ProcessInfo] = field(default_factory=dict)
    parents: dict[int, int] = field(default_factory=dict)
    stubborn: set[int] = field(default_factory=set)
    immortal: set[int] = field(default_factory=set)
    signals: list[tuple[int, signal.Signals]] = field(default_factory=list)
    codes: dict[int, int] = field(default_factory=dict)
    commands: list[ProcessCommand] = field(default_factory=list)
    next_pid: int = 100

    def spawn(self, command: ProcessCommand) -> ProcessInfo:
        if command.argv[0] == "missing":
            raise FileNotFoundError(2, "No such file or directory")
        self.commands.append(command)
        return self.add(argv=command.argv, mark=command.env.get(MARK_ENV_VAR, ""))

    def add(
        self,
        *,
        argv: tuple[str, ...] = ("child",),
        mark: str = "",
        parent: int | None = None,
        session: int | None = None,
        age: float = 0.0,
    ) -> ProcessInfo:
        """A process; a child is in its parent's session."""
        pid = self.next_pid
        self.next_pid += 1
        if session is None:
            session = pid if parent is None else self.processes[parent].session
        seen = ProcessInfo(pid, self.clock.now().timestamp() - age, session, argv, mark)
        self.processes[pid] = seen
        if parent is not None:
            self.parents[pid] = parent
        return seen

    def replace(self, pid: int, **changes: object) -> None:
        self.processes[pid] = replace(self.processes[pid], **changes)  # type: ignore[arg-type]

    def end(self, pid: int, code: int = 0) -> None:
        self.codes[pid] = code
        self.processes.pop(pid, None)
        self.parents = {child: parent for child, parent in self.parents.items() if pid not in {child, parent}}

    def find(self, pid: int) -> ProcessInfo | None:
        return self.processes.get(pid)

    def exit_code(self, pid: int) -> int | None:
        return self.codes.get(pid)

    def find_all(self) -> list[ProcessInfo]:
        return list(self.processes.values())

    def descendants(self, pid: int) -> list[ProcessInfo]:
        children = [child for child, parent in self.parents.items() if parent == pid]
        return [self.processes[child] for child in children] + [
            s for child in children for s in self.descendants(child)
        ]

    def signal(self, seen: ProcessInfo, number: signal.Signals) -> None:
        self.signals.append((seen.pid, number))
        ignoring = self.immortal | (self.stubborn if number is signal.SIGTERM else set())
        if seen.pid not in ignoring:
            self.end(seen.pid, -number)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def table(clock: FakeClock) -> FakeTable:
    return FakeTable(clock)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDirectory:
    """A prepared state directory. Its path is too long for sockets, which these tests do not open."""
    monkeypatch.setattr("sundog_operator.adapters.local.state_directory.MAX_PATH_BYTES", 4096)
    state = StateDirectory.at(tmp_path / "state")
    state.prepare()
    return state


@pytest.fixture
def processes(state: StateDirectory, table: FakeTable, clock: FakeClock) -> Processes:
    return Processes(state, table, clock)
