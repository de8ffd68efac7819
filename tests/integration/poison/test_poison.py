"""Models that take their process with them, never end, or answer nonsense: their neighbour does not notice."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from real_local import (
    Clients,
    Rows,
    Up,
    condition,
    instance,
    is_ready,
    processes_of,
    save_network,
    weight,
    without_privilege,
)
from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

NEIGHBOUR = "neighbour"
BATCHES: list[Rows] = [[[0.5, -1.0, 2.0, float(number)]] for number in range(4)]
PREDICTOR = """
import ctypes
import math
import os
import re
import resource
import signal
import time


class Predictor:
    def load(self, path, config):
        with (path / "begun").open("a") as file:
            file.write(f"{{os.getpid()}}\\n")
        {load}

    def predict(self, batch):
        {predict}
"""
DIED = "the replica's process died during its start"
AT_LOAD = {
    "segfault": ("ctypes.string_at(0)", "DeployFailed", DIED),
    # As the kernel does it where memory runs out.
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "DeployFailed", DIED),
    "no-memory": (
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34)); bytearray(1 << 35)",
        "ModelTooLarge",
        "not enough memory",
    ),
    "endless": ("while True: time.sleep(0.01)", "Deploying", "0 of 1 replica running"),
}
"""What `load` does, the reason that its revision is told under, and what the message says."""

LOAD_SECONDS = 30
ENDLESS = {
    "python": ("while True: pass", ""),
    # It holds the interpreter's lock: nothing else of the process runs any more.
    "regex": ("re.match('(a+)+$', 'a' * 64 + '!')", ": load at net.py:"),
}
"""A `load` that never ends, and what the message of its deadline says besides."""

AT_PREDICT = {
    "nan": ("return [[math.nan]]", 500, "OutputNotFinite"),
    "object": ("return object()", 500, "OutputUnusable"),
    "raises": ("raise KeyError('secret')", 500, "ModelError"),
    "leaves": ("raise SystemExit(3)", 500, "ModelError"),
    "reshaped": ("return [[1.0, 2.0, 3.0]]", 500, "OutputNotAsDeclared"),
}
"""What `predict` does, the status and the code of the answer."""


def write(folder: Path, load: str = "pass", predict: str = "return batch", outputs: str = "[]") -> dict[str, Any]:
    """A model directory; its `spec.model`."""
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(f"outputs: {outputs}")
    (folder / "net.py").write_text(PREDICTOR.format(load=load, predict=predict))
    return {"uri": f"file://{folder}", "entrypoint": "net:Predictor"}


@dataclass
class Bed:
    """A good service, `neighbour`, and the poison beside it."""

    up: Up
    folder: Path
    answers: list[Rows]

    def good(self) -> dict[str, Any]:
        rollout = {"steps": [{"weight": 50, "gate": "manual"}], "progressDeadline": "10s"}
        return {"model": {"uri": f"file://{self.folder}/good", "entrypoint": "net:Net"}, "rollout": rollout}

    def apply(self, name: str, spec: dict[str, Any]) -> None:
        path = self.folder / f"{name}.yaml"
        meta = {"name": name, "namespace": "default"}
        kind = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment"}
        path.write_text(json.dumps({**kind, "metadata": meta, "spec": spec}))
        done = self.up.sundog("apply", "-f", str(path))
        assert done.returncode == 0, done.stderr

    def read(self, name: str = "poison") -> dict[str, Any]:
        return self.up.read(name)

    def url(self, name: str = "poison") -> str:
        eventually(lambda: is_ready(self.read(name)), f"{name} serving")
        return str(self.read(name)["status"]["url"])


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """On an instance of its own: what is endless is to end in less than ten minutes."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("poison")
    with pytest.MonkeyPatch.context() as patch, instance(folder) as up:
        patch.setenv("SUNDOG_LOAD_MAX_SECONDS", str(LOAD_SECONDS))
        up.prefix = without_privilege()
        up.start()
        eventually(lambda: (up.state / "kubeconfig").exists(), "the API server of local mode")
        made = Bed(up, folder, save_network(folder / "good", 0, BATCHES))
        made.apply(NEIGHBOUR, made.good())
        yield made
        assert up.sundog("delete", NEIGHBOUR).returncode == 0
        assert up.end(signal.SIGINT) == 0, up.output()[-2000:]
        assert processes_of(up.state) == []


@pytest.fixture
def neighbour(bed: Bed) -> Iterator[Clients]:
    """Clients of the good service: whatever a test does beside it, no answer is missing or wrong."""
    load = Clients(bed.url(NEIGHBOUR), BATCHES, {"1": [bed.answers]})
    load.start(4)
    yield load
    load.stop()
    assert load.wrong == []
    assert load.sent > 50


@pytest.fixture
def poison(bed: Bed) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Applies a ModelDeployment `poison`, which is gone afterwards."""
    yield lambda model: bed.apply("poison", {"model": model, "rollout": {"strategy": "recreate"}})
    if bed.read():
        assert bed.up.sundog("delete", "poison").returncode == 0
    eventually(lambda: bed.read() == {}, "its deletion")


@pytest.mark.parametrize("name", AT_LOAD)
def test_a_model_that_ruins_its_process_at_load(
    bed: Bed, neighbour: Clients, poison: Any, tmp_path: Path, name: str
) -> None:
    load, reason, says = AT_LOAD[name]
    poison(write(tmp_path / "model", load=load))
    eventually((tmp_path / "model" / "begun").exists, "the start of its load")
    found = eventually(lambda: told(bed, reason, says), f"the reason {reason}")
    assert "Traceback" not in found["message"]
    sent = neighbour.sent
    eventually(lambda: neighbour.sent > sent + 200, "answers of the neighbour")
    assert not is_ready(bed.read())


def told(bed: Bed, reason: str, message: str) -> dict[str, Any] | None:
    found = condition(bed.read(), "RevisionReady")
    return found if found.get("reason") == reason and message in found["message"] else None


@pytest.mark.parametrize("name", [pytest.param("python", marks=pytest.mark.campaign), "regex"])
def test_a_load_that_never_ends_is_reported_and_ended(
    bed: Bed, neighbour: Clients, poison: Any, tmp_path: Path, name: str
) -> None:
    load, says = ENDLESS[name]
    poison(write(tmp_path / "model", load=load))
    first = eventually(lambda: begun(tmp_path / "model"), "the start of its load")[0]
    late = f"loading did not end within {LOAD_SECONDS} s{says}"
    found = eventually(lambda: told(bed, "LoadTimeout", late), "its end")
    assert "\n" not in found["message"]
    assert "LoadTimeout" in bed.up.sundog("describe", "poison").stdout
    eventually(lambda: not psutil.pid_exists(first), "the end of the process")
    sent = neighbour.sent
    eventually(lambda: neighbour.sent > sent + 200, "answers of the neighbour")
    assert bed.up.sundog("delete", "poison").returncode == 0
    eventually(lambda: bed.read() == {}, "its deletion")
    eventually(lambda: not any(map(psutil.pid_exists, begun(tmp_path / "model"))), "the end of what was tried again")


def begun(folder: Path) -> list[int]:
    """The processes that have begun to load a model; empty before the first."""
    path = folder / "begun"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("name", ["endless", pytest.param("regex", marks=pytest.mark.campaign)])
def test_a_second_revision_that_never_ends_its_load_is_given_up(
    bed: Bed, neighbour: Clients, tmp_path: Path, name: str
) -> None:
    load = AT_LOAD[name][0] if name in AT_LOAD else ENDLESS[name][0]
    bed.apply(NEIGHBOUR, bed.good() | {"model": write(tmp_path / "model", load=load)})
    try:
        eventually(lambda: begun(tmp_path / "model"), "the start of its load")
        last = eventually(lambda: given_up(bed), "the end of the attempt")
        obj = bed.read(NEIGHBOUR)
        assert (last["outcome"], weight(obj)) == ("Aborted", 0)
        assert last["reason"].startswith("ProgressDeadlineExceeded")
        assert "not ready within 10s, spec.rollout.progressDeadline" in last["reason"]
        assert is_ready(obj)
        eventually(lambda: not any(map(psutil.pid_exists, begun(tmp_path / "model"))), "the end of its processes")
    finally:
        bed.apply(NEIGHBOUR, bed.good())
    eventually(lambda: condition(bed.read(NEIGHBOUR), "Promoted").get("status") == "True", "its being mended")
    assert set(neighbour.revisions) == {"1"}


def given_up(bed: Bed) -> dict[str, Any] | None:
    status = bed.read(NEIGHBOUR)["status"]
    last = status.get("lastRollout") or {}
    return last if "candidate" not in status and "Deadline" in last.get("reason", "") else None


def test_a_model_that_answers_nonsense(bed: Bed, neighbour: Clients, poison: Any, tmp_path: Path) -> None:
    """One service for all of them: the request says what it does."""
    folder = tmp_path / "model"
    branches = "\n        ".join(f"if batch == {name!r}: {predict}" for name, (predict, _, _) in AT_PREDICT.items())
    declared = "[{name: scores, dtype: float64, shape: [-1, 2]}]"
    poison(write(folder, predict=f"{branches}\n        return [[1.0, 2.0]]", outputs=declared))
    url = bed.url()
    for name, (_, status, code) in AT_PREDICT.items():
        found, answer = post(url, {"inputs": name})
        assert (found, answer["code"]) == (status, code), (name, answer)
        assert "secret" not in json.dumps(answer)
        assert post(url, {"inputs": "well"}) == (200, {"outputs": [[1.0, 2.0]]})


def test_a_process_that_dies_under_a_request_takes_only_that_request(
    bed: Bed, neighbour: Clients, poison: Any, tmp_path: Path
) -> None:
    predict = "os.abort() if batch == 'die' else None\n        return {'said': batch}"
    poison(write(tmp_path / "model", predict=predict))
    url = bed.url()
    assert post(url, {"inputs": "die"})[0] in (500, 502, 503, 504)
    eventually(lambda: post(url, {"inputs": "well"})[0] == 200, "the replica that takes its place")


def post(url: str, document: Any) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(document).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as err:
        with err:
            body = err.read()
            # Serve's own proxy, which stands in for the replica that is gone, answers in plain text.
            return err.code, json.loads(body) if body.startswith(b"{") else body
