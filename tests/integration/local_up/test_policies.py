"""There and back on one machine: a revision is promoted within a window, and what was kept warm takes over again without steps."""

import contextlib
import json
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from real_local import Up, condition, is_ready, processes_of, stable, weight

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

ALWAYS = {"cron": "0 * * * *", "duration": "2h", "tz": "Europe/Prague"}
NEVER_NOW = {"cron": "0 0 29 2 *", "duration": "1m"}
POLICIES = {
    "steps": [{"weight": 25, "gate": "time", "minDuration": "2s"}],
    "rollbackWindow": {"revisions": 1},
    "keepPrevious": {"revisions": 1, "replicas": 1, "for": "1h"},
}


def replicas(up: Up, revision: int) -> set[int]:
    """The processes of a revision's replicas. Others may end while they are looked at."""
    found = set()
    for process in processes_of(up.state):
        with contextlib.suppress(psutil.Error):
            if f"ServeReplica:mlp-r{revision}:" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


def test_a_window_opens_and_what_is_warm_returns_without_steps(
    up: Any, model: Any, clients: Callable[[str], Any], wait: Callable[..., Any]
) -> None:
    manifest = up.manifests / "mlp.yaml"

    def write(version: str, window: dict[str, str]) -> None:
        made = json.loads(model.manifest(version))
        made["spec"]["rollout"] = {**POLICIES, "windows": [window]}
        manifest.write_text(json.dumps(made))

    write("v1", NEVER_NOW)
    up.start()
    wait(lambda: is_ready(up.read("mlp")), "revision 1 serving")
    load = clients(up.read("mlp")["status"]["url"])
    load.start(4)

    write("v2", NEVER_NOW)
    wait(lambda: "outside its windows" in condition(up.read("mlp"), "Progressing").get("message", ""), "a wait")
    wait(lambda: replicas(up, 2), "a replica of the candidate")
    assert weight(up.read("mlp")) == 0
    write("v2", ALWAYS)
    wait(lambda: stable(up.read("mlp")) == 2, "revision 2 promoted within a window")
    wait(lambda: [each["revision"] for each in up.read("mlp")["status"]["kept"]] == [1], "revision 1 kept")
    warm = replicas(up, 1)
    assert warm
    load.fresh()

    write("v1", NEVER_NOW)
    wait(lambda: stable(up.read("mlp")) == 1, "revision 1 back")
    wait(lambda: condition(up.read("mlp"), "TrafficSynced").get("reason") == "InForce", "the split in force")
    assert replicas(up, 1) == warm, "none was started"
    last = up.read("mlp")["status"]["lastRollout"]
    assert (last["outcome"], last["reason"]) == ("Promoted", "returns to revision 1, within rollbackWindow")
    wait(lambda: not replicas(up, 2), "revision 2 gone")
    load.stop()
    assert load.wrong == []
    assert up.end(signal.SIGINT) == 0
