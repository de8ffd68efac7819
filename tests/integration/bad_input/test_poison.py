"""Models that take their process with them, never end, or answer nonsense: their neighbour does not notice."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from real_local import condition, eventually, is_ready, weight

pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(240)]

PREDICTOR = """
import ctypes
import math
import os
import resource
import time


class Predictor:
    def load(self, path, config):
        {load}

    def predict(self, batch):
        {predict}
"""
AT_LOAD = {
    "segfault": ("ctypes.string_at(0)", "Deploying"),
    "exits": ("os._exit(1)", "Deploying"),
    "no-memory": (
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34)); bytearray(1 << 35)",
        "ModelTooLarge",
    ),
    "endless": ("while True: time.sleep(0.01)", "Deploying"),
}
"""What `load` does, and under which reason its revision is told as long as Serve tries."""

AT_PREDICT = {
    "nan": ("return [[math.nan]]", 500, "OutputNotFinite"),
    "object": ("return object()", 500, "OutputUnusable"),
    "raises": ("raise KeyError('secret')", 500, "ModelError"),
    "leaves": ("raise SystemExit(3)", 500, "ModelError"),
}
"""What `predict` does, the status and the code of the answer."""


def write(folder: Path, load: str = "pass", predict: str = "return batch") -> dict[str, Any]:
    """A model directory; its `spec.model`."""
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(PREDICTOR.format(load=load, predict=predict))
    return {"uri": f"file://{folder}", "entrypoint": "net:Predictor"}


@pytest.fixture
def neighbour(bed: Any) -> Iterator[Any]:
    """The good one under load: whatever a test does beside it, no answer of it is missing or wrong."""
    eventually(lambda: is_ready(bed.up.read("good")), "the good one serving", 120)
    load = bed.clients()
    load.start(4)
    yield load
    load.stop()
    assert load.wrong == []
    assert load.sent > 50


@pytest.fixture
def poison(bed: Any) -> Iterator[Any]:
    """Applies a ModelDeployment `poison`, which is gone afterwards."""

    def apply(model: dict[str, Any]) -> None:
        bed.apply(bed.manifest("poison", {"model": model, "rollout": {"strategy": "recreate"}}))

    yield apply
    assert bed.up.sundog("delete", "poison").returncode == 0
    eventually(lambda: bed.up.read("poison") == {}, "its deletion", 120)


@pytest.mark.parametrize("name", AT_LOAD)
def test_a_model_that_ruins_its_process_at_load(
    bed: Any, neighbour: Any, poison: Any, tmp_path: Path, name: str
) -> None:
    load, reason = AT_LOAD[name]
    poison(write(tmp_path / "model", load=load))
    found = eventually(lambda: told(bed, reason), f"the reason {reason}", 120)
    assert "Traceback" not in found["message"]
    sent = neighbour.sent
    eventually(lambda: neighbour.sent > sent + 200, "answers of the neighbour")
    assert not is_ready(bed.up.read("poison"))


def told(bed: Any, reason: str) -> dict[str, Any] | None:
    found = condition(bed.up.read("poison"), "RevisionReady")
    return found if found.get("reason") == reason else None


def test_a_second_revision_that_never_ends_its_load_is_given_up(bed: Any, neighbour: Any, tmp_path: Path) -> None:
    endless = write(tmp_path / "model", load=AT_LOAD["endless"][0])
    spec = bed.spec(**endless)
    bed.apply(bed.manifest("good", {**spec, "rollout": {**spec["rollout"], "progressDeadline": "10s"}}))
    try:
        last = eventually(lambda: given_up(bed), "the end of the attempt", 120)
        obj = bed.up.read("good")
        assert (last["outcome"], weight(obj)) == ("Aborted", 0)
        assert last["reason"].startswith("ProgressDeadlineExceeded")
        assert is_ready(obj)
    finally:
        bed.apply(bed.manifest("good", bed.spec()))
    eventually(lambda: condition(bed.up.read("good"), "Promoted").get("status") == "True", "its being mended")
    assert set(neighbour.revisions) == {str(bed.up.read("good")["status"]["stable"]["revision"])}


def given_up(bed: Any) -> dict[str, Any] | None:
    status = bed.up.read("good")["status"]
    last = status.get("lastRollout") or {}
    return last if "candidate" not in status and "Deadline" in last.get("reason", "") else None


def test_a_model_that_answers_nonsense(bed: Any, neighbour: Any, poison: Any, tmp_path: Path) -> None:
    """One service for all of them: its config says what it does."""
    folder = tmp_path / "model"
    branches = "\n        ".join(f"if batch == {name!r}: {predict}" for name, (predict, _, _) in AT_PREDICT.items())
    poison(write(folder, predict=f"{branches}\n        return {{'said': batch}}"))
    eventually(lambda: is_ready(bed.up.read("poison")), "the service", 120)
    url = bed.up.read("poison")["status"]["url"]
    for name, (_, status, code) in AT_PREDICT.items():
        found, answer = post(url, {"inputs": name})
        assert (found, answer["code"]) == (status, code), (name, answer)
        assert "secret" not in json.dumps(answer)
        assert post(url, {"inputs": "well"}) == (200, {"outputs": {"said": "well"}})


def test_a_process_that_dies_under_a_request_takes_only_that_request(
    bed: Any, neighbour: Any, poison: Any, tmp_path: Path
) -> None:
    predict = "os.abort() if batch == 'die' else None\n        return {'said': batch}"
    poison(write(tmp_path / "model", predict=predict))
    eventually(lambda: is_ready(bed.up.read("poison")), "the service", 120)
    url = bed.up.read("poison")["status"]["url"]
    assert post(url, {"inputs": "die"})[0] in (500, 502, 503, 504)
    eventually(lambda: post(url, {"inputs": "well"})[0] == 200, "the replica that takes its place", 120)


def post(url: str, document: Any) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(document).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as err:
        with err:
            body = err.read()
            # Serve's own proxy, which stands in for the replica that is gone, answers in plain text.
            return err.code, json.loads(body) if body.startswith(b"{") else body
