"""A real edge, HAProxy and agent, in front of whatever its split document names."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_ray import free_ports, wait_until

_CLI = (sys.executable, "-c", "from sundog_edge.cli import main; main()")


@dataclass
class RunningEdge:
    """One edge of the namespace `vision`."""

    url: str
    agent: str
    split: Path

    def apply(self, document: Mapping[str, Any]) -> None:
        """Put a split document in force."""
        temporary = self.split.with_suffix(".new")
        temporary.write_text(json.dumps(document))
        temporary.replace(self.split)
        wait_until(lambda: self.evidence()["document"]["generation"] == document["generation"], 30, "the document")

    def evidence(self) -> dict[str, Any]:
        """The evidence document. Raises OSError while the agent is away."""
        with urllib.request.urlopen(f"{self.agent}/evidence", timeout=10) as answer:
            document: dict[str, Any] = json.loads(answer.read())
        return document

    def up(self, service: str, arm: str = "stable") -> int:
        """Healthy replicas of an arm."""
        return int(self.evidence()["services"][service]["arms"][arm]["servers"]["up"])


@contextlib.contextmanager
def running_edge() -> Iterator[RunningEdge]:
    """Its processes end with the context."""
    # Unix socket paths are short, pytest's own temporary paths are not.
    root = Path(tempfile.mkdtemp(prefix="sde-", dir="/tmp"))
    http, agent = free_ports(2)
    edge = RunningEdge(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{agent}", root / "split.json")
    state = ("--state-dir", str(root / "s"))
    haproxy = ("haproxy", *state, "--http-bind", f"127.0.0.1:{http}", "--threads", "1", "--drain-seconds", "5")
    listen = ("--listen", f"127.0.0.1:{agent}", "--edge-name", "edge-0", "--namespace", "vision")
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in (haproxy, ("agent", *state, "--split", str(edge.split), *listen)):
            process = subprocess.Popen([*_CLI, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            processes.append(process)
        wait_until(lambda: _healthy(edge.agent), 30, "a healthy edge")
        yield edge
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(root)


def _healthy(agent: str) -> bool:
    try:
        with urllib.request.urlopen(f"{agent}/healthz", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
