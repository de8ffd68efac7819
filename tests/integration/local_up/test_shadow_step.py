"""A candidate on a real Ray that gets copies of requests: its twin passes, another network is rolled back, and no caller sees either."""

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from real_local import EXPERIMENTS, is_ready, save_network, weight

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

SHADOW = {
    "percent": 100,
    "compare": {"agreement": {"min": 0.9, "by": "tolerance", "rtol": 0.001, "path": "$.outputs"}},
    "minSamples": 100,
}


def test_a_twin_passes_and_another_network_is_rolled_back(
    up: Any, model: Any, clients: Callable[[str], Any], wait: Callable[..., Any]
) -> None:
    manifest = up.manifests / "mlp.yaml"
    save_network(model.folder / "twin", 0, [model.inputs])

    def write(version: str) -> None:
        made = json.loads(model.manifest(version))
        made["spec"]["rollout"] = {"steps": [{"shadow": SHADOW}, {"pause": {}}]}
        manifest.write_text(json.dumps(made))

    def rollout(revision: int) -> dict[str, Any]:
        path = f"{EXPERIMENTS}/mlp-r{revision}"
        status, found = up.api("GET", path)
        told: dict[str, Any] = found.get("status", {}) if status == 200 else {}
        return told

    write("v1")
    up.start()
    wait(lambda: is_ready(up.read("mlp")), "revision 1 serving")
    load = clients(up.read("mlp")["status"]["url"])
    load.start(2)

    write("twin")
    wait(lambda: rollout(2).get("step", {}).get("index") == 2, "the answers of the twin agree")
    told = rollout(2)["shadow"]
    assert told["disagreed"] == told["errors"] == 0
    assert told["agreed"] == told["paired"] >= 363
    assert weight(up.read("mlp")) == 0
    assert "agree" in up.sundog("describe", "mlp").stdout

    write("v2")
    wait(lambda: (up.read("mlp")["status"].get("lastRollout") or {}).get("revision") == 3, "revision 3 ended")
    last = up.read("mlp")["status"]["lastRollout"]
    assert last["outcome"] == "RolledBack"
    assert "agreement by tolerance at $.outputs: 0 % of" in last["reason"]
    wait(lambda: "shadow" not in up.evidence()["services"]["mlp"], "no more copies")
    assert {row["arm"] for row in up.evidence()["counters"] if row["assigned"]} == {"stable"}

    load.stop()
    assert load.wrong == []
    assert up.end(signal.SIGINT) == 0
