"""Starts, finds and signals the processes of this machine."""

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
"""Environment variable that marks every process of local mode. Children inherit it."""
CLOCK_STEP_S: Final = 2.0
"""Tolerance for start times of processes: the system reports whole seconds, and corrects its clock."""
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
    """One running process. `created` is in seconds since the epoch; `mark` is empty where it is unreadable."""

    pid: int
    created: float
    session: int
    argv: tuple[str, ...] = ()
    mark: str = ""


class ProcessTable(Protocol):
    """The operating system's processes. Every method may block for some milliseconds."""

    def spawn(self, command: ProcessCommand) -> ProcessInfo:
        """Start a process as the leader of a session, so that signals of our terminal do not reach it. Raises OSError."""

    def find(self, pid: int) -> ProcessInfo | None:
        """Return a running process; None for one that ended, reaped or not. Raises OSError when that is unknown."""

    def exit_code(self, pid: int) -> int | None:
        """Return the exit code of a child of ours, negative for a signal; None where it is unknown."""

    def find_all(self) -> list[ProcessInfo]:
        """Return all processes of this user, except this one and its ancestors."""

    def descendants(self, pid: int) -> list[ProcessInfo]:
        """Return the children, their children and so on."""

    def signal(self, info: ProcessInfo, number: signal.Signals) -> None:
        """Send a signal to exactly that process; do nothing when it has ended."""


class SystemProcessTable:
    """`ProcessTable` of this machine."""

    # Shared by all tables, because another table than the one that started a child may have to reap it.
    _children: ClassVar[dict[int, subprocess.Popen[bytes]]] = {}
    _codes: ClassVar[dict[int, int]] = {}

    def spawn(self, command: ProcessCommand) -> ProcessInfo:
        """Start a process that outlives this one: its output goes to a file and not to a pipe of ours."""
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

    def find(self, pid: int) -> ProcessInfo | None:
        """Return a running process; reap a child of ours that has ended."""
        self._reap(pid)
        try:
            return _read_info(psutil.Process(pid))
        except (psutil.NoSuchProcess, ProcessLookupError):
            return None
        except psutil.Error as err:
            raise OSError(f"pid {pid}: cannot be inspected: {err}") from err

    def exit_code(self, pid: int) -> int | None:
        """Return the exit code of a child of ours. Reap it first: a `find` just before its end did not."""
        self._reap(pid)
        return self._codes.get(pid)

    def find_all(self) -> list[ProcessInfo]:
        """Return all processes of this user, except this one and its ancestors."""
        for child in list(self._children):
            self._reap(child)
        user = os.geteuid()
        ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid not in ours and process.uids().effective == user and (info := _read_info(process)):
                    found.append(info)
        return found

    def descendants(self, pid: int) -> list[ProcessInfo]:
        """Return the children, their children and so on."""
        found = []
        with contextlib.suppress(psutil.Error, OSError):
            for process in psutil.Process(pid).children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):
                    if info := _read_info(process):
                        found.append(info)
        return found

    def _reap(self, pid: int) -> None:
        child = self._children.get(pid)
        if child is not None and (code := child.poll()) is not None:
            self._codes[pid] = code
            self._children.pop(pid, None)

    def signal(self, info: ProcessInfo, number: signal.Signals) -> None:
        """Send a signal to exactly that process. Its start time is compared, because another process may have its pid now."""
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(info.pid)
            if abs(process.create_time() - info.created) <= CLOCK_STEP_S:
                process.send_signal(number)


def _read_info(process: psutil.Process) -> ProcessInfo | None:
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
    """Return the last non-empty line of a log, with blanks joined; empty without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines: Sequence[str] = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((" ".join(line.split())[:limit] for line in reversed(lines) if line.strip()), "")
