"""The processes of this machine: starting, finding and signalling them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Protocol

import psutil

MARK_ENV_VAR: Final = "SUNDOG_PROCESS"
"""Environment variable by which every process below ours is known; its children inherit it."""
CLOCK_STEP_S: Final = 2.0
"""How much the start time of a process may seem to move: it is told in whole seconds of a clock that is corrected."""
_LOG_BYTES: Final = 10 * 2**20


@dataclass(frozen=True, slots=True)
class ProcessCommand:
    """A process to start. `descriptors` stay open in it."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    directory: Path
    log: Path
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One running process. `created` is in seconds since the epoch; `mark` is empty where it cannot be read."""

    pid: int
    created: float
    session: int
    argv: tuple[str, ...] = ()
    mark: str = ""


class ProcessTable(Protocol):
    """What supervision needs of the operating system. Every method may block for some milliseconds."""

    def spawn(self, command: ProcessCommand) -> ProcessInfo:
        """Start, as the leader of a session, so that no signal of our terminal reaches it. Raises OSError."""

    def look(self, pid: int) -> ProcessInfo | None:
        """A running process; None for one that has ended, reaped or not. Raises OSError when that cannot be told."""

    def exit_code(self, pid: int) -> int | None:
        """How a child of ours ended, negative for a signal; None where that is unknown."""

    def everything(self) -> list[ProcessInfo]:
        """All processes of this user, except this one and its ancestors."""

    def descendants(self, pid: int) -> list[ProcessInfo]:
        """Children, their children and so on."""

    def signal(self, seen: ProcessInfo, number: signal.Signals) -> None:
        """Signal exactly that process; nothing happens when it has ended."""


class SystemProcessTable:
    """`ProcessTable` of this machine."""

    # Children belong to this process and not to the table that started them: another table may have to reap them.
    _children: ClassVar[dict[int, subprocess.Popen[bytes]]] = {}
    _codes: ClassVar[dict[int, int]] = {}

    def spawn(self, command: ProcessCommand) -> ProcessInfo:
        """Start a process that outlives this one: its output goes to a file, never to a pipe of ours."""
        _rotate(command.log)
        with command.log.open("ab") as log:
            child = subprocess.Popen(
                command.argv,
                env=dict(command.env),
                cwd=command.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=command.descriptors,
            )
        self._children[child.pid] = child
        self._codes.pop(child.pid, None)
        with contextlib.suppress(psutil.Error):
            return ProcessInfo(
                child.pid,
                psutil.Process(child.pid).create_time(),
                child.pid,
                command.argv,
                command.env.get(MARK_ENV_VAR, ""),
            )
        raise OSError(f"{command.argv[0]} ended at once")

    def look(self, pid: int) -> ProcessInfo | None:
        """A running process; a child of ours that has ended is reaped on the way."""
        self._reap(pid)
        try:
            return _seen(psutil.Process(pid))
        except (psutil.NoSuchProcess, ProcessLookupError):
            return None
        except psutil.Error as err:
            raise OSError(f"pid {pid} cannot be looked at: {err}") from err

    def exit_code(self, pid: int) -> int | None:
        """How a child of ours ended, reaped on the way: a look that came just before its end has not done so."""
        self._reap(pid)
        return self._codes.get(pid)

    def everything(self) -> list[ProcessInfo]:
        """All processes of this user, except this one and its ancestors."""
        for child in list(self._children):
            self._reap(child)
        user = os.geteuid()
        ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid not in ours and process.uids().effective == user and (seen := _seen(process)):
                    found.append(seen)
        return found

    def descendants(self, pid: int) -> list[ProcessInfo]:
        """Children, their children and so on."""
        found = []
        with contextlib.suppress(psutil.Error, OSError):
            for process in psutil.Process(pid).children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):
                    if seen := _seen(process):
                        found.append(seen)
        return found

    def _reap(self, pid: int) -> None:
        child = self._children.get(pid)
        if child is not None and (code := child.poll()) is not None:
            self._codes[pid] = code
            self._children.pop(pid, None)

    def signal(self, seen: ProcessInfo, number: signal.Signals) -> None:
        """Signal exactly that process: its start time is compared, for its number may be another's by now."""
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(seen.pid)
            if abs(process.create_time() - seen.created) <= CLOCK_STEP_S:
                process.send_signal(number)


def _seen(process: psutil.Process) -> ProcessInfo | None:
    with process.oneshot():
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        mark = ""
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK_ENV_VAR, "")
        return ProcessInfo(process.pid, process.create_time(), os.getsid(process.pid), tuple(process.cmdline()), mark)


def _rotate(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_name(log.name + ".1"))


def last_line(log: Path, limit: int = 300) -> str:
    """The last line of a log that says something, blanks joined; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines: Sequence[str] = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((" ".join(line.split())[:limit] for line in reversed(lines) if line.strip()), "")
