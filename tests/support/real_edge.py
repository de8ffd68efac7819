"""A real edge, with HAProxy and agent as processes, and a split document for it."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring.processes import Cost, cost_of, running
from ports import free_ports
from waiting import eventually

Json = dict[str, Any]

NAMESPACE = "bench"
_EDGE = (sys.executable, "-c", "from sundog_edge.cli import main; main()")


def arm(name: str, application: str, prefix: str, ranges: Sequence[tuple[int, int]], revision: int = 1) -> Json:
    """One arm of the split document."""
    return {
        "name": name,
        "application": application,
        "routePrefix": prefix,
        "revision": revision,
        "weight": sum(end - start for start, end in ranges) / 100,
        "ranges": [list(pair) for pair in ranges],
    }


def service(name: str, arms: Sequence[Json], cluster: str = "ray", limit: int = 256) -> Json:
    """One service of the split document. Units come from the header `x-user-id`; `limit` is requests per replica."""
    return {
        "name": name,
        "hosts": [],
        "cluster": cluster,
        "attempt": f"{name}-attempt",
        "salt": f"{name}-salt",
        "unit": {"kind": "header", "name": "x-user-id"},
        "epoch": 1,
        "arms": list(arms),
        "requestTimeoutSeconds": 30.0,
        "maxRequestBytes": 64 << 20,
        "maxOngoingRequests": limit,
    }


@dataclass
class Edge:
    """One edge. `clusters` is that of the split document."""

    root: Path
    clusters: Json
    http_port: int
    agent_port: int
    haproxy: subprocess.Popen[bytes]
    agent: subprocess.Popen[bytes]
    _generation: int = field(default=0)

    def url(self, name: str, path: str = "/") -> str:
        """Return the URL of a service."""
        return f"http://127.0.0.1:{self.http_port}/{name}{path}"

    def evidence(self) -> Json:
        """Return the agent's report; empty while it is away."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.agent_port}/evidence", timeout=10) as answer:
                found: Json = json.loads(answer.read())
                return found
        except (urllib.error.URLError, OSError):
            return {"document": {"generation": -1, "error": "agent away"}, "services": {}, "counters": [], "boots": []}

    def apply(self, services: Sequence[Json], up: int = 1, timeout: float = 120.0) -> None:
        """Put services in force, and wait until each of their arms has that many healthy replicas."""
        self._generation += 1
        document = {
            "version": 1,
            "namespace": NAMESPACE,
            "generation": self._generation,
            "clusters": self.clusters,
            "services": list(services),
        }
        temporary = self.root / "split.new"
        temporary.write_text(json.dumps(document))
        temporary.replace(self.root / "split.json")

        def ready() -> bool:
            seen = self.evidence()
            # Errors that pass are those of the first moments, before HAProxy and the agent have found each other.
            if "refused" in seen["document"]["error"]:
                raise AssertionError(seen["document"]["error"])
            arms = [each for service in seen["services"].values() for each in service["arms"].values()]
            in_force = seen["document"]["generation"] == self._generation
            # The agent does not know the servers of a new document yet.
            return in_force and all(each.get("servers", {}).get("up", 0) >= up for each in arms)

        eventually(ready, f"{len(services)} services in force with {up} replicas", timeout)

    def costs(self) -> tuple[Cost, Cost]:
        """Return the costs of HAProxy and of the agent."""
        return cost_of(self.haproxy.pid), cost_of(self.agent.pid)

    def counted(self) -> tuple[int, int]:
        """Requests that were assigned to an arm, and lines that were lost, over all rows."""
        rows = self.evidence()["counters"]
        return sum(row["assigned"] for row in rows), sum(row["lost"] for row in rows)


@contextlib.contextmanager
def running_edge(
    dashboard: str,
    fallback: str = "",
    *,
    feedback: bool = False,
    secrets: Path | None = None,
) -> Iterator[Edge]:
    """An edge of a cluster `ray`; if it is to take feedback, with a key and a store.

    `secrets` has a folder for each Secret.
    """
    # Unix sockets have paths of at most 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="sdb-"))
    http, agent_port = free_ports(2)
    state = ("--state-dir", str(root / "s"))
    proxy = [*_EDGE, "haproxy", *state, "--http-bind", f"127.0.0.1:{http}", "--drain-seconds", "10"]
    beside = [*_EDGE, "agent", *state, "--split", str(root / "split.json"), "--edge-name", "edge-0"]
    beside += ["--namespace", NAMESPACE, "--listen", f"127.0.0.1:{agent_port}"]
    if feedback:
        (root / "key").write_text(bytes(range(32)).hex())
        beside += ["--signing-key", str(root / "key"), "--store", f"sqlite://{root}/feedback.db"]
    if secrets is not None:
        beside += ["--secrets-dir", str(secrets)]
    try:
        with (
            running(proxy, root / "haproxy.log") as haproxy,
            running(beside, root / "agent.log") as agent,
        ):
            clusters = {"ray": {"dashboard": dashboard, "fallback": fallback}}
            yield Edge(root, clusters, http, agent_port, haproxy, agent)
    finally:
        shutil.rmtree(root, ignore_errors=True)
