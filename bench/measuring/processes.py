"""Processes that a benchmark starts, and their cost."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a process and its descendants since they started, and their resident bytes now."""

    cpu_s: float
    rss: int


def cost_of(pid: int) -> Cost:
    """Return CPU seconds and memory of a process with its descendants."""
    root = psutil.Process(pid)
    cpu, rss = 0.0, 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            cpu += times.user + times.system
            rss += process.memory_info().rss
    return Cost(cpu, rss)


def listening(port: int) -> int:
    """Return the process that listens on a TCP port. Raises LookupError if there is none."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN and each.laddr.port == port:
                    return process.pid
    raise LookupError(f"nobody listens on port {port}")


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, and end it with its descendants."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=cwd)
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=8)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(10)
