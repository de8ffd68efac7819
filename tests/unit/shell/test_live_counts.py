"""`sundog describe` shows the present counts of the edges, not those of a status a minute ago."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from doubles.cluster import NAMESPACE
from sundog_operator.core.edge import objects
from sundog_operator.ports import EXPERIMENT, POD, Object, Ref, ref_of


@pytest.fixture
def agent() -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the port of an edge's agent, and the evidence that it serves."""
    evidence: dict[str, Any] = {"version": 1, "counters": []}

    class Agent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(evidence).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served.server_port, evidence
        served.shutdown()
        thread.join()


async def edge(cluster: Any, port: int) -> None:
    """Return the only edge pod, which serves at a real port."""
    for pod in await cluster.kube.list(POD, NAMESPACE, objects.EDGE_SELECTOR):
        await cluster.kube.delete(ref_of(pod))
    made: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "real", "namespace": NAMESPACE, "labels": objects.EDGE_SELECTOR},
        "spec": {"containers": [{"name": "agent", "ports": [{"name": "agent", "containerPort": port}]}]},
    }
    stored = await cluster.kube.create(made)
    version = stored["metadata"]["resourceVersion"]
    await cluster.kube.patch_status(ref_of(made), {"podIP": "127.0.0.1"}, resource_version=version)


def row(uid: str, arm: str, assigned: int, errors: int) -> dict[str, Any]:
    ends = {"ok": assigned - errors, "server5xx": errors}
    return {"attempt": uid, "arm": arm, "origin": "assigned", "assigned": assigned, "ends": ends}


def test_arms_are_shown_as_the_edges_count_them_now(
    local: Any, server: Any, manifest: Any, agent: tuple[int, dict[str, Any]]
) -> None:
    local("apply", "-f", str(manifest()))
    server.serve_revision(1)
    local("apply", "-f", str(manifest("file:///models/v2")))
    server.until(lambda cluster: cluster.at_weight(2, 25), "25 %")
    server.pause()
    port, evidence = agent
    server.do(lambda cluster: edge(cluster, port))
    uid = server.do(lambda cluster: cluster.experiment("digits-r2"))["metadata"]["uid"]
    evidence["counters"] = [row(uid, "canary", 1234, 56), row("another", "canary", 99_999, 0)]

    def arms(*what: str) -> list[str]:
        return [
            line
            for line in map(" ".join, map(str.split, local("describe", *what).out.splitlines()))
            if "canary" in line
        ]

    assert "canary r2 25 % 1234 56" in arms("digits")
    assert "canary r2 25 % 1234 56" in arms("mexp", "digits-r2")
    assert "Arms, counted by the edges at " in local("describe", "digits").out
    evidence["counters"] = []
    stored = server.do(lambda cluster: cluster.kube.get(Ref(EXPERIMENT, NAMESPACE, "digits-r2")))
    assert next(arm for arm in stored["status"]["arms"] if arm["name"] == "canary").get("requests", 0) < 1234
    evidence["version"] = 2
    assert any(line.startswith("canary r2 25 % ") for line in arms("digits")), "an edge that tells nothing is no error"
