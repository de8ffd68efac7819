"""The folder of one cluster: its files, the processes that it started, and their end."""

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from waiting import patience

END_S = patience(20)
"""Seconds for a process to end after SIGTERM. The API server is slow."""


class ClusterError(Exception):
    """Why a cluster cannot be had, in one line."""


@dataclass(frozen=True)
class Instance:
    """One cluster. Everything it writes is below `directory`; nothing else on the disk is its own."""

    directory: Path

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def records(self) -> Path:
        return self.directory / "processes.jsonl"

    def folder(self, name: str) -> Path:
        """A folder of this cluster, made where it is missing."""
        path = self.directory / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        return self.folder("log") / f"{name}.log"

    def tail(self, name: str) -> str:
        """The last line a process wrote; empty where it wrote none."""
        with contextlib.suppress(OSError):
            lines = self.log(name).read_text(errors="replace").splitlines()
            return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
        return ""

    def start(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> psutil.Process:
        """Starts a process that outlives this one, and records it at once."""
        log = (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        pid = os.posix_spawnp(
            command[0],
            tuple(command),
            {**os.environ, **(environment or {})},
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), log, (os.POSIX_SPAWN_DUP2, 1, 2)],
            setsid=True,
        )
        return self.record(name, pid)

    def record(self, name: str, pid: int) -> psutil.Process:
        """Remembers a process by pid and start time. Raises ClusterError where it is gone already."""
        try:
            process = psutil.Process(pid)
            started = _started_s(process)
        except psutil.NoSuchProcess:
            raise ClusterError(f"{name} ended at once: {self.tail(name)}") from None
        with self.records.open("a") as file:
            file.write(json.dumps({"name": name, "pid": pid, "started": started}) + "\n")
        return process

    def processes(self) -> dict[str, psutil.Process]:
        """The recorded processes that still run. A pid that was given to another process since is not ours."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self.records.read_text().splitlines():
                record = json.loads(line)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process = psutil.Process(record["pid"])
                    if _started_s(process) == record["started"] and process.status() != psutil.STATUS_ZOMBIE:
                        found[record["name"]] = process
        return found

    def stop(self, *names: str) -> None:
        """Ends processes in this order, each given time to end by itself."""
        running = self.processes()
        for name in names:
            if process := running.get(name):
                end(process)

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def _started_s(process: psutil.Process) -> float:
    """Seconds from the machine's start to that of a process. No correction of the clock changes it, unlike the time of day."""
    return round(process.create_time() - psutil.boot_time(), 2)


def end(process: psutil.Process, within: float = END_S) -> None:
    """End a process by SIGTERM, and after `within` seconds by SIGKILL."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(within)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(END_S)
