"""Processes that outlive us: started, recorded on disk, adopted by the next run, and ended with all their kin."""

import asyncio
import hashlib
import signal
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from sundog_operator.adapters.local.process_table import (
    CLOCK_STEP_S,
    MARK_ENV_VAR,
    ProcessCommand,
    ProcessInfo,
    ProcessTable,
    last_line,
)
from sundog_operator.adapters.local.state_directory import StateDirectory, read_json, write_atomically
from sundog_operator.errors import DependencyError
from sundog_operator.ports import Clock

_SEPARATOR: Final = "|"
_POLL_S: Final = 0.1
_LAST_BREATH_S: Final = 1.0
_KILL_DEADLINE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """What is remembered of a process. `created` is in seconds since the epoch, `command` a digest of its arguments."""

    name: str
    pid: int
    created: float
    command: str
    mark: str

    def describes(self, seen: ProcessInfo | None) -> bool:
        """Whether a process is the recorded one and not another that got its number.

        The mark is unique for each start. Where it cannot be read, start time and arguments must agree. For an instant
        after a program replaced itself by another, neither mark nor arguments can be read: the start time decides.
        """
        if seen is None or seen.pid != self.pid:
            return False
        if seen.mark:
            return seen.mark == self.mark
        return self.is_as_old_as(seen) and (not seen.argv or digest_arguments(seen.argv) == self.command)

    def is_as_old_as(self, seen: ProcessInfo) -> bool:
        """Whether the start times agree, as far as the system tells them: relative to a clock that is corrected."""
        return abs(seen.created - self.created) <= CLOCK_STEP_S


class Processes:
    """The processes of one state directory, by name."""

    def __init__(self, state: StateDirectory, table: ProcessTable, clock: Clock) -> None:
        self._state = state
        self._table = table
        self._clock = clock
        self._ended: dict[str, int] = {}
        self._trusted: dict[str, ProcessRecord] = {}
        self._started: set[int] = set()

    async def running(self, name: str) -> ProcessRecord | None:
        """The record of a process that runs. A record of one that has ended, or of before a reboot, is removed."""
        return await asyncio.to_thread(self._running, name)

    async def start(self, command: ProcessCommand) -> ProcessRecord:
        """Start a process and record it; what an earlier one left must be cleared before. Raises DependencyError."""
        mark = self._mark(command.name, uuid.uuid4().hex)
        marked = replace(command, env={**command.env, MARK_ENV_VAR: mark})
        start = asyncio.create_task(asyncio.to_thread(self._start, marked, mark))
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            # The thread cannot be cancelled: who stops everything next must find what it started.
            await asyncio.wait([start])
            raise
        except OSError as err:
            raise DependencyError(f"cannot start {command.name} ({command.argv[0]}): {err.strerror or err}") from err

    async def stop(self, name: str, grace_s: float) -> None:
        """End a process and all that belongs to it: SIGTERM to it, and after `grace_s` SIGKILL to whatever is left.

        Raises DependencyError when something is still there afterwards.
        """
        # Taken before the first signal: of what outlives its parents afterwards, descent tells nothing.
        kin = await asyncio.to_thread(self._members, name)
        if await asyncio.to_thread(self._terminate, name):
            await self._gone(name, kin, grace_s)
        await self.clear(name, kin)

    async def clear(self, name: str, kin: Iterable[ProcessInfo] = ()) -> None:
        """Kill what a process of that name left, and forget it. Raises DependencyError when something survives.

        Args:
            name: of the process.
            kin: processes that are known to belong to it.
        """
        known = list(kin)
        deadline = self._clock.monotonic() + _KILL_DEADLINE_S
        while left := await asyncio.to_thread(self._kill, name, known):
            if self._clock.monotonic() > deadline:
                raise DependencyError(f"{name}: {_describe(left)} did not end on SIGKILL")
            await self._clock.sleep(_POLL_S)
        await asyncio.to_thread(self._path(name).unlink, missing_ok=True)

    async def leftovers(self) -> list[ProcessInfo]:
        """Every process that belongs to this state directory, whoever started it."""
        return await asyncio.to_thread(find_marked_processes, self._state, self._table)

    def recorded(self) -> list[str]:
        """Names that have a record, running or not, in order."""
        return sorted(path.stem for path in self._state.processes.glob("*.json"))

    async def describe_end(self, name: str, log: Path) -> str:
        """How the last process of that name ended, such as `ended with status 1; ray-0.log ends with: …`.

        A process that was killed had no last words.
        """
        code = await self._exit_code(name)
        if code is not None and code < 0:
            return f"ended with signal {-code}"
        how = "ended" if code is None else f"ended with status {code}"
        words = await asyncio.to_thread(last_line, log)
        return f"{how}; {log} ends with: {words}" if words else how

    async def _exit_code(self, name: str) -> int | None:
        """None where it cannot be known: only a parent is told."""
        pid = self._ended.get(name)
        if pid is None or pid not in self._started:
            return None if pid is None else self._table.exit_code(pid)
        deadline = self._clock.monotonic() + _LAST_BREATH_S
        # A large process that dies loses its memory, and so its command line, some time before it has a status.
        while (code := self._table.exit_code(pid)) is None and self._clock.monotonic() < deadline:
            await self._clock.sleep(_POLL_S)
        return code

    def _mark(self, name: str, instance: str) -> str:
        return _SEPARATOR.join((str(self._state.path), name, instance))

    def _path(self, name: str) -> Path:
        return self._state.processes / f"{name}.json"

    def _start(self, command: ProcessCommand, mark: str) -> ProcessRecord:
        seen = self._table.spawn(command)
        record = ProcessRecord(command.name, seen.pid, seen.created, digest_arguments(command.argv), mark)
        write_atomically(self._path(command.name), orjson.dumps(asdict(record)))
        self._trusted[command.name] = record
        self._started.add(seen.pid)
        return record

    def _read(self, name: str) -> ProcessRecord | None:
        document = read_json(self._path(name))
        if document is None:
            return None
        try:
            return ProcessRecord(
                name=name,
                pid=int(str(document["pid"])),
                created=float(str(document["created"])),
                command=str(document["command"]),
                mark=str(document["mark"]),
            )
        except (KeyError, ValueError):
            return None

    def _running(self, name: str) -> ProcessRecord | None:
        record = self._read(name)
        if record is None:
            return None
        if self._is(record, self._table.look(record.pid)):
            self._trusted[name] = record
            return record
        self._ended[name] = record.pid
        return None

    def _is(self, record: ProcessRecord, seen: ProcessInfo | None) -> bool:
        """Whether a process is the recorded one. What was recognised once need not tell its mark again."""
        if seen is not None and not seen.mark and self._trusted.get(record.name) == record:
            return record.is_as_old_as(seen)
        return record.describes(seen)

    def _terminate(self, name: str) -> bool:
        record = self._read(name)
        seen = None if record is None else self._table.look(record.pid)
        if record is None or seen is None or not self._is(record, seen):
            return False
        self._table.signal(seen, signal.SIGTERM)
        return True

    async def _gone(self, name: str, kin: Iterable[ProcessInfo], grace_s: float) -> None:
        deadline = self._clock.monotonic() + grace_s
        known = list(kin)
        while self._clock.monotonic() < deadline:
            if not await asyncio.to_thread(self._members, name, known):
                return
            await self._clock.sleep(_POLL_S)

    def _kill(self, name: str, kin: Iterable[ProcessInfo]) -> list[ProcessInfo]:
        members = self._members(name, kin)
        for seen in members:
            self._table.signal(seen, signal.SIGKILL)
        return members

    def _members(self, name: str, kin: Iterable[ProcessInfo] = ()) -> list[ProcessInfo]:
        """All that belongs to a name: by its mark, by descent, and by session.

        Descent misses what was orphaned, and the mark what rewrote its environment, but that keeps its session.
        A session's number stays taken while it has members, so it is ours unless another process now bears it.
        """
        prefix = self._mark(name, "")
        record = self._read(name)
        leader = None if record is None else self._table.look(record.pid)
        ours = record is not None and (leader is None or self._is(record, leader))
        found = {seen.pid: seen for seen in kin if (now := self._table.look(seen.pid)) and _same(now, seen)}
        for seen in self._table.everything():
            in_session = (
                ours
                and record is not None
                and seen.session == record.pid
                and seen.created >= record.created - CLOCK_STEP_S
            )
            if seen.mark.startswith(prefix) or (in_session and not seen.mark):
                found[seen.pid] = seen
        if leader is not None and ours:
            found.update((seen.pid, seen) for seen in (leader, *self._table.descendants(leader.pid)))
        return list(found.values())


def find_marked_processes(state: StateDirectory, table: ProcessTable) -> list[ProcessInfo]:
    """Every process whose mark names a state directory, in order of pid."""
    prefix = f"{state.path}{_SEPARATOR}"
    return sorted((seen for seen in table.everything() if seen.mark.startswith(prefix)), key=lambda seen: seen.pid)


def digest_arguments(argv: Iterable[str]) -> str:
    """SHA-256 of an argument list, in hexadecimal."""
    return hashlib.sha256("\0".join(argv).encode("utf-8", "surrogateescape")).hexdigest()


def _same(one: ProcessInfo, other: ProcessInfo) -> bool:
    return one.pid == other.pid and abs(one.created - other.created) <= CLOCK_STEP_S


def _describe(processes: Iterable[ProcessInfo]) -> str:
    return ", ".join(f"pid {seen.pid}" for seen in processes)
