"""The whole product on one machine: from a manifest to predictions, a canary, a killed reconciler, a promotion, and nothing left."""

import json
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]


def ready(obj: dict[str, Any]) -> bool:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def weight(obj: dict[str, Any]) -> int:
    return int((obj.get("status", {}).get("candidate") or {}).get("weight", 0))


def stable(obj: dict[str, Any]) -> int:
    return int((obj.get("status", {}).get("stable") or {}).get("revision", 0))


def test_manifest_to_predictions_canary_kill_and_promotion(
    up: Any, model: Any, clients: Callable[[str], Any], wait: Callable[..., Any]
) -> None:
    manifest = up.manifests / "mlp.yaml"
    manifest.write_text(model.manifest("v1"))
    up.start()
    wait(lambda: ready(up.status("mlp")), "the first revision serving")
    url = up.status("mlp")["status"]["url"]

    done = up.sundog("predict", "mlp", "--data", json.dumps(model.inputs), "-o", "json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["arm"], answer["revision"]) == ("stable", "1")
    assert answer["prediction"]["outputs"][0] == pytest.approx(model.expected["v1"][0], abs=1e-4)

    load = clients(url)
    load.start(8)
    wait(lambda: load.total() > 100, "clients being served")

    # A second instance must not touch the state of the first.
    second = up.sundog("local", "up", str(up.manifests))
    assert second.returncode == 1
    assert f"in use by pid {up.process.pid}" in second.stderr
    assert len(second.stderr.splitlines()) == 1

    planned = model.manifest("v2")
    plan_file = up.manifests.parent / "models" / "planned.yaml"
    plan_file.write_text(planned)
    preview = up.sundog("plan", "-f", str(plan_file))
    assert "creates revision 2" in preview.stdout
    assert "25 % (manual gate) → 50 % (manual gate) → 100 %" in preview.stdout

    manifest.write_text(planned)
    wait(lambda: weight(up.status("mlp")) == 25, "the canary at 25 %")
    wait(lambda: load.revisions["2"] > 0, "an answer of the canary")
    load.fresh()
    wait(lambda: load.total() > 800, "800 requests at 25 %")
    share = load.revisions["2"] / load.total()
    # Binomial with n > 800: 0.17 to 0.33 are more than five standard deviations.
    assert 0.17 < share < 0.33

    # The reconciler dies; serving goes on, and the next start finds everything as it was.
    before = served_by(up)
    up.end(signal.SIGKILL)
    load.fresh()
    wait(lambda: load.total() > 200, "requests without a reconciler")
    assert set(load.revisions) == {"1", "2"}
    assert up.sundog("local", "status").returncode == 3
    up.start()
    wait(lambda: weight(up.status("mlp")) == 25, "the canary after the restart")
    assert before <= served_by(up)

    # What is wrong in a manifest is told in one line, and changes nothing.
    generation = up.status("mlp")["metadata"]["generation"]
    manifest.write_text("kind: [unclosed")
    wait(lambda: f"error: {manifest}: line 1: " in up.output(), "the line about YAML")
    manifest.write_text(model.manifest("v2", weight=250))
    wait(lambda: "spec.rollout.steps[0].weight: 250; expected 1 to 100" in up.output(), "the line about the field")
    manifest.write_text(planned)
    assert up.status("mlp")["metadata"]["generation"] == generation

    for _ in range(2):
        promoted = up.sundog("promote", "mlp")
        assert promoted.returncode == 0, promoted.stderr
        assert promoted.stdout == "mlp: promote revision 2 accepted\n"
    wait(lambda: stable(up.status("mlp")) == 2, "revision 2 as stable")
    # Of the requests that were under way, revision 1 may still answer some.
    for _ in range(2):
        load.fresh()
        wait(lambda: load.total() > 100, "requests after the promotion")
    assert set(load.revisions) == {"2"}
    load.stop()
    assert load.wrong == []

    assert up.end(signal.SIGINT) == 0
    assert processes_left(up) == []
    assert not (up.state / "kubeconfig").exists()
    assert up.sundog("get").returncode == 4


def served_by(up: Any) -> set[int]:
    """The Ray head, HAProxy, the agent: pids from the records, which must outlive the reconciler."""
    records = [json.loads(path.read_bytes()) for path in (up.state / "processes").glob("*.json")]
    assert {record["name"] for record in records} == {"ray-0", "edge-0-haproxy", "edge-0-agent"}
    pids = {int(record["pid"]) for record in records}
    assert all(psutil.pid_exists(pid) for pid in pids)
    return pids


def processes_left(up: Any) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            traces = [*process.cmdline(), *process.environ().values()]
        except (psutil.Error, OSError):
            continue
        if any(str(up.state) in trace for trace in traces) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(f"{process.pid} {process.cmdline()}")
    return found
