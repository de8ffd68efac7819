"""A parent process of the test run that ends whatever the run leaves behind.

pytest runs as two processes. The child runs the tests; the parent waits for it. The parent adopts every process
whose own parent has gone (Ray's daemons, workers of pytest-xdist that were killed), so it finds all of them when the
child has ended, however it ended: after its last test, by SIGINT, by SIGTERM or by SIGKILL.
"""

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NoReturn

import psutil
import pytest

from waiting import patience

_PR_SET_CHILD_SUBREAPER: Final = 36
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
_SENT_BY_A_PROCESS: Final = 0
"""`si_code` of a signal that kill(2) sent. A terminal sends Ctrl-C to the child as well, so that one is not forwarded."""

_FOLDER: Final = "SUNDOG_TESTS_FOLDER"
"""Names the temporary folder of the run to the child."""

_TESTS: Final = "t"
"""Folder for pytest's temporary files, below the temporary folder of the run."""

_TEARDOWN_S: Final = patience(120)
"""Time that fixtures have to end a Ray, an edge or a Kubernetes after an interrupt."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Fork before pytest-xdist starts its workers; the workers themselves have the same supervisor."""
    if hasattr(config, "workerinput") or sys.platform != "linux":
        return
    if (given := os.environ.pop(_FOLDER, None)) is None:
        _start(config)
    folder = Path(given)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Shells start jobs in the background with SIGINT ignored. Neither pytest nor what tests start would hear of an interrupt then.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    config.option.basetemp = config.option.basetemp or folder / _TESTS


def _start(config: pytest.Config) -> NoReturn:
    # Unix sockets have paths of at most 107 bytes, and Ray adds some 60: this one stays short.
    folder = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))
    config.pluginmanager.getplugin("capturemanager").suspend_global_capture(in_=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    if child := os.fork():
        _supervise(child, folder)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # Python begins anew: a library that conftests have loaded, such as Helm's with the runtime of Go, does not survive a fork.
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _FOLDER: str(folder)})


def _supervise(child: int, folder: Path) -> NoReturn:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    mounts = _mounts()
    code, interrupted = _await_end(child)
    left = [*_end_processes(), *sorted(_mounts() - mounts)]
    if interrupted or code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        _print(f"temporary files of the tests are kept in {folder / _TESTS}")
    for line in [] if interrupted else left:
        _print(f"left behind by the tests: {line}; a test must end and remove what it starts")
    sys.stderr.flush()
    # Without Python's own end: this process is a copy of pytest, whose exit handlers belong to the child.
    os._exit(1 if left and not interrupted and code == 0 else code)


def _await_end(child: int) -> tuple[int, bool]:
    """Wait for the child. Return its exit code, and whether a signal ended the run."""
    deadline = None
    while True:
        received = signal.sigtimedwait(_SIGNALS, 1.0)
        if (received and received.si_signo == signal.SIGTERM) or _is_sent_interrupt(received):
            # SIGINT lets pytest tear its fixtures down; a second request ends it at once.
            os.kill(child, signal.SIGKILL if deadline else signal.SIGINT)
            deadline = time.monotonic() + _TEARDOWN_S
        elif received and received.si_signo == signal.SIGINT:
            deadline = deadline or time.monotonic() + _TEARDOWN_S
        if deadline and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        if (status := _reaped(child)) is not None:
            code = os.waitstatus_to_exitcode(status)
            return (code if code >= 0 else 128 - code), deadline is not None or code < 0


def _is_sent_interrupt(received: "signal.struct_siginfo | None") -> bool:
    return bool(received) and received.si_signo == signal.SIGINT and received.si_code == _SENT_BY_A_PROCESS


def _reaped(child: int) -> int | None:
    """Reap all processes that have ended. Return the status of the child if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _end_processes() -> list[str]:
    """Kill every descendant that is left. Return their command lines."""
    found: dict[int, str] = {}
    while left := psutil.Process().children(recursive=True):
        for process in left:
            try:
                found.setdefault(process.pid, f"process {process.pid} ({' '.join(process.cmdline())[:120]})")
                process.kill()
            except psutil.Error:
                continue
        time.sleep(0.05)
        _reaped(0)
    return list(found.values())


def _mounts() -> set[str]:
    """Mounts below this checkout and below temporary folders of tests."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    root = str(Path(__file__).parents[2])
    return {f"mount {point}" for point in points if point.startswith((root, "/tmp/sd-"))}


def _print(line: str) -> None:
    sys.stderr.write(f"tests: {line}\n")
