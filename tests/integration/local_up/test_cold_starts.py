"""Scale to zero on a real Ray and a real edge: the first requests wake the model, and all of them are answered."""

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from real_local import is_at_zero
from waiting import PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

AT_ONCE = 100
PREDICTOR = """
class Model:
    def load(self, path, config):
        pass

    def predict(self, batch):
        return {"number": 1}
"""
SPEC = {
    "model": {"uri": "file://${MANIFEST_DIR}/../model", "format": "python", "entrypoint": "model:Model"},
    "runtime": {"warmup": {"requests": 0}},
    "autoscaling": {"minReplicas": 0, "maxReplicas": 1, "scaleToZeroDelay": "1s", "downscaleDelay": "1s"},
}


def ask(url: str) -> int:
    body = json.dumps({"inputs": [[1.0, 2.0]]}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_hundred_requests_at_zero_get_a_hundred_answers(up: Any, wait: Callable[..., Any]) -> None:
    folder = up.manifests.parent / "model"
    folder.mkdir()
    (folder / "model.py").write_text(PREDICTOR)
    manifest = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits"},
        "spec": SPEC,
    }
    (up.manifests / "digits.yaml").write_text(json.dumps(manifest))
    up.start()

    def at_zero() -> bool:
        found = is_at_zero(up.read("digits"))
        # The edge has to know as well.
        layouts = [json.loads(path.read_bytes()) for path in (up.state / "edge").glob("*/state/layout.json")]
        return found and all(layout["cold"] for layout in layouts)

    for _ in range(2):
        wait(at_zero, "scaled to zero, and ready all the same")
        assert up.read("digits")["status"]["replicas"] == 0
        url = up.read("digits")["status"]["url"]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            assert Counter(pool.map(ask, [url] * AT_ONCE)) == {200: AT_ONCE}
    rows = up.evidence()["counters"]
    held = sum(row["ends"]["ok"] for row in rows if row["origin"] == "held")
    assert held >= 2, "the first request of each cold start at least"

    def phases() -> Any:
        startup = up.read("digits")["status"].get("startup") or {}
        return startup if "wokenAt" in startup else None

    found = wait(phases, "the phases of a start from zero in the status")
    assert {"ray", "load", "total"} <= found.keys()
