"""Starts processes that outlive local mode, records them on disk, adopts them in the next run, and ends them completely."""

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
_EXIT_CODE_WAIT_S: Final = 1.0
_KILL_DEADLINE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """The record of a process. `created` is in seconds since the epoch; `command` is a digest of its arguments."""

    name: str
    pid: int
    created: float
    command: str
    mark: str

    def describes(self, info: ProcessInfo | None) -> bool:
        """Return whether a process is the recorded one, and not another one with the same pid.

        The mark is unique for each start. Where it is unreadable, start time and arguments must agree. For an instant
        after an exec both mark and arguments are unreadable, and the start time decides.
        """
        if info is None or info.pid != self.pid:
            return False
        if info.mark:
            return info.mark == self.mark
        return self.has_start_time_of(info) and (not info.argv or digest_arguments(info.argv) == self.command)

    def has_start_time_of(self, info: ProcessInfo) -> bool:
        """Return whether the start times agree, except for corrections of the system's clock."""
        return abs(info.created - self.created) <= CLOCK_STEP_S


class Processes:
    """The processes of one state directory, by name."""

    def __init__(self, state: StateDirectory, table: ProcessTable, clock: Clock) -> None:
        self._state = state
        self._table = table
        self._clock = clock
        self._ended: dict[str, int] = {}
        self._matched: dict[str, ProcessRecord] = {}
        self._started: set[int] = set()

    async def running(self, name: str) -> ProcessRecord | None:
        """Return the record of a running process; None for one that ended, also before a reboot."""
        return await asyncio.to_thread(self._running, name)

    async def start(self, command: ProcessCommand) -> ProcessRecord:
        """Start a process and record it. Call `clear` before, for an earlier process of the name. Raises DependencyError."""
        mark = self._mark(command.name, uuid.uuid4().hex)
        marked = replace(command, env={**command.env, MARK_ENV_VAR: mark})
        start = asyncio.create_task(asyncio.to_thread(self._start, marked, mark))
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            # The thread cannot be cancelled. A stop that follows must find the process that it starts.
            await asyncio.wait([start])
            raise
        except OSError as err:
            raise DependencyError(f"{command.name}: cannot start {command.argv[0]}: {err.strerror or err}") from err

    async def stop(self, name: str, grace_s: float) -> None:
        """End a process and its descendants: SIGTERM to it, and after `grace_s` SIGKILL to all that remain.

        Raises DependencyError when a process survives.
        """
        # Before the first signal, because descent does not find processes that outlive their parents.
        members = await asyncio.to_thread(self._members, name)
        if await asyncio.to_thread(self._terminate, name):
            await self._wait_for_end(name, members, grace_s)
        await self.clear(name, members)

    async def clear(self, name: str, known: Iterable[ProcessInfo] = ()) -> None:
        """Kill the remaining processes of a name, and remove its record. Raises DependencyError when one survives.

        Args:
            name: of the process.
            known: processes that belong to it.
        """
        members = list(known)
        deadline = self._clock.monotonic() + _KILL_DEADLINE_S
        while left := await asyncio.to_thread(self._kill, name, members):
            if self._clock.monotonic() > deadline:
                raise DependencyError(f"{name}: {_describe(left)} did not end on SIGKILL")
            await self._clock.sleep(_POLL_S)
        await asyncio.to_thread(self._path(name).unlink, missing_ok=True)

    async def leftovers(self) -> list[ProcessInfo]:
        """Return every process that belongs to this state directory, also those of earlier runs."""
        return await asyncio.to_thread(find_marked_processes, self._state, self._table)

    def recorded(self) -> list[str]:
        """Return the names with a record, running or not, in order."""
        return sorted(path.stem for path in self._state.processes.glob("*.json"))

    async def describe_end(self, name: str, log: Path) -> str:
        """Return how the last process of a name ended, such as `ended with status 1; ray-0.log ends with: …`.

        The log of a killed process is not quoted.
        """
        code = await self._exit_code(name)
        if code is not None and code < 0:
            return f"ended with signal {-code}"
        how = "ended" if code is None else f"ended with status {code}"
        line = await asyncio.to_thread(last_line, log)
        return f"{how}; {log} ends with: {line}" if line else how

    async def _exit_code(self, name: str) -> int | None:
        """Return the exit code; None where it is unknown, because only a parent gets it."""
        pid = self._ended.get(name)
        if pid is None or pid not in self._started:
            return None if pid is None else self._table.exit_code(pid)
        deadline = self._clock.monotonic() + _EXIT_CODE_WAIT_S
        # A large process releases its memory, and so its command line, before it has an exit code.
        while (code := self._table.exit_code(pid)) is None and self._clock.monotonic() < deadline:
            await self._clock.sleep(_POLL_S)
        return code

    def _mark(self, name: str, instance: str) -> str:
        return _SEPARATOR.join((str(self._state.path), name, instance))

    def _path(self, name: str) -> Path:
        return self._state.processes / f"{name}.json"

    def _start(self, command: ProcessCommand, mark: str) -> ProcessRecord:
        info = self._table.spawn(command)
        record = ProcessRecord(command.name, info.pid, info.created, digest_arguments(command.argv), mark)
        write_atomically(self._path(command.name), orjson.dumps(asdict(record)))
        self._matched[command.name] = record
        self._started.add(info.pid)
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
        if self._matches(record, self._table.find(record.pid)):
            self._matched[name] = record
            return record
        self._ended[name] = record.pid
        return None

    def _matches(self, record: ProcessRecord, info: ProcessInfo | None) -> bool:
        """Return whether a process is the recorded one. A process that matched once needs no readable mark again."""
        if info is not None and not info.mark and self._matched.get(record.name) == record:
            return record.has_start_time_of(info)
        return record.describes(info)

    def _terminate(self, name: str) -> bool:
        record = self._read(name)
        info = None if record is None else self._table.find(record.pid)
        if record is None or info is None or not self._matches(record, info):
            return False
        self._table.signal(info, signal.SIGTERM)
        return True

    async def _wait_for_end(self, name: str, known: Iterable[ProcessInfo], grace_s: float) -> None:
        deadline = self._clock.monotonic() + grace_s
        members = list(known)
        while self._clock.monotonic() < deadline:
            if not await asyncio.to_thread(self._members, name, members):
                return
            await self._clock.sleep(_POLL_S)

    def _kill(self, name: str, known: Iterable[ProcessInfo]) -> list[ProcessInfo]:
        members = self._members(name, known)
        for info in members:
            self._table.signal(info, signal.SIGKILL)
        return members

    def _members(self, name: str, known: Iterable[ProcessInfo] = ()) -> list[ProcessInfo]:
        """Return the processes of a name: by mark, by descent, and by session.

        Descent misses orphans. The mark misses processes that rewrote their environment, but those keep their session.
        A session's number stays taken while it has members. So it is ours unless another process has the leader's pid now.
        """
        prefix = self._mark(name, "")
        record = self._read(name)
        leader = None if record is None else self._table.find(record.pid)
        ours = record is not None and (leader is None or self._matches(record, leader))
        found = {info.pid: info for info in known if (now := self._table.find(info.pid)) and _is_same(now, info)}
        for info in self._table.find_all():
            in_session = (
                ours
                and record is not None
                and info.session == record.pid
                and info.created >= record.created - CLOCK_STEP_S
            )
            if info.mark.startswith(prefix) or (in_session and not info.mark):
                found[info.pid] = info
        if leader is not None and ours:
            found.update((info.pid, info) for info in (leader, *self._table.descendants(leader.pid)))
        return list(found.values())


def find_marked_processes(state: StateDirectory, table: ProcessTable) -> list[ProcessInfo]:
    """Return every process whose mark names a state directory, in order of pid."""
    prefix = f"{state.path}{_SEPARATOR}"
    return sorted((info for info in table.find_all() if info.mark.startswith(prefix)), key=lambda info: info.pid)


def digest_arguments(argv: Iterable[str]) -> str:
    """Return the SHA-256 of an argument list, in hexadecimal."""
    return hashlib.sha256("\0".join(argv).encode("utf-8", "surrogateescape")).hexdigest()


def _is_same(one: ProcessInfo, other: ProcessInfo) -> bool:
    return one.pid == other.pid and abs(one.created - other.created) <= CLOCK_STEP_S


def _describe(processes: Iterable[ProcessInfo]) -> str:
    return ", ".join(f"pid {info.pid}" for info in processes)
