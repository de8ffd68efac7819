"""HAProxy of local mode, killed again and again under light load: it is back each time, and what it counted is whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from real_local import Clients, Rows, Up, is_ready, save_network
from waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

NAME, HAPROXY = "unharmed", "edge-0-haproxy"
BATCHES: list[Rows] = [[[0.5, -1.0, 2.0, float(number)]] for number in range(4)]
CLIENTS, KILLS = 3, 4


@pytest.fixture
def load(shared_up: Up, tmp_path: Path) -> Iterator[Clients]:
    """Clients of a service that is there as long as they are."""
    pytest.importorskip("torch")
    answers = save_network(tmp_path / "model", 0, BATCHES)
    model = {"uri": f"file://{tmp_path}/model", "entrypoint": "net:Net"}
    kind = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": NAME}}
    manifest = shared_up.manifests / f"{NAME}.yaml"
    manifest.write_text(json.dumps({**kind, "spec": {"model": model, "rollout": {"strategy": "recreate"}}}))
    eventually(lambda: is_ready(shared_up.read(NAME)), "the service")
    clients = Clients(shared_up.read(NAME)["status"]["url"], BATCHES, {"1": [answers]})
    clients.start(CLIENTS)
    yield clients
    clients.stop()
    manifest.unlink()
    eventually(lambda: shared_up.read(NAME) == {}, "its deletion")


def test_haproxy_is_back_however_often_it_is_killed_and_its_counts_are_whole(shared_up: Up, load: Clients) -> None:
    for _ in range(KILLS):
        answered = load.revisions["1"]
        eventually(lambda answered=answered: load.revisions["1"] > answered + 100, "answers")
        pid = shared_up.pid(HAPROXY)
        psutil.Process(pid).kill()
        eventually(lambda pid=pid: shared_up.is_replaced(HAPROXY, pid), "the next HAProxy")
    answered = load.revisions["1"]
    eventually(lambda: load.revisions["1"] > answered + 100, "answers of the last one")
    load.stop()
    # Connections broke or were refused; whoever reached HAProxy was answered.
    assert {problem.split()[1].rstrip(":") for problem in load.wrong} <= {
        *("ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected", "BrokenPipeError")
    }
    rows = eventually(lambda: settled(shared_up), "no request in flight")
    # Each kill may take one request of each client with it: before its answer, or between the answer and its line.
    under_way = CLIENTS * KILLS
    assert abs(sum(row["ends"]["ok"] for row in rows) - load.revisions["1"]) <= under_way
    assert sum(row["lost"] for row in rows) <= under_way
    for row in rows:
        assert row["assigned"] == sum(row["ends"].values()) + row["lost"], row
    assert len({row["boot"] for row in rows if row["assigned"]}) == KILLS + 1
    assert is_ready(shared_up.read(NAME))


def settled(up: Up) -> list[dict[str, Any]] | None:
    rows = [row for row in up.evidence().get("counters", ()) if row["service"] == NAME]
    return rows if rows and all(row["inFlight"] == 0 for row in rows) else None
