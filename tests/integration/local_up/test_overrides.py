"""Callers who choose the candidate on a real Ray and a real edge, and an endpoint that tells nobody who answered."""

import json
import signal
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from real_local import condition, is_ready, stable, weight
from waiting import PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

PREDICTOR = """
class Model:
    def load(self, path, config):
        self.number = config["number"]

    def predict(self, batch):
        return {"number": self.number}
"""
OVERRIDES = [
    {"header": "x-pick", "value": value, "arm": arm, "callers": {"networks": [network]}}
    for value, arm, network in (
        ("new", "canary", "127.0.0.0/8"),
        ("old", "stable", "127.0.0.0/8"),
        ("theirs", "canary", "10.0.0.0/8"),
        ("nobody", "wide", "127.0.0.0/8"),
    )
]


def test_callers_on_the_list_choose_the_candidate_before_its_first_weight_and_after_it(
    up: Any, wait: Callable[..., Any]
) -> None:
    folder = up.manifests.parent / "model"
    folder.mkdir()
    (folder / "model.py").write_text(PREDICTOR)

    def write(number: int, **endpoint: Any) -> None:
        manifest = {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "digits"},
            "spec": {
                "model": {
                    "uri": "file://${MANIFEST_DIR}/../model",
                    "format": "python",
                    "entrypoint": "model:Model",
                    "config": {"number": number},
                },
                "runtime": {"warmup": {"requests": 0}},
                "rollout": {"steps": [{"pause": {}}, {"weight": 1, "gate": "manual"}]},
                "endpoint": {"overrides": OVERRIDES, **endpoint},
            },
        }
        (up.manifests / "digits.yaml").write_text(json.dumps(manifest))

    def ask(pick: str = "") -> tuple[int, dict[str, str]]:
        """The number of the model that answered, and what the edge tells of it."""
        headers = {"content-type": "application/json", **({"x-pick": pick} if pick else {})}
        request = urllib.request.Request(up.read("digits")["status"]["url"], b'{"inputs": [[1.0]]}', headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            told = {
                name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("x-sundog")
            }
            return int(json.loads(answer.read())["outputs"]["number"]), told

    def rows() -> set[tuple[str, str]]:
        return {(row["origin"], row["arm"]) for row in up.evidence()["counters"] if row["assigned"]}

    write(1)
    up.start()
    wait(lambda: is_ready(up.read("digits")), "revision 1 serving")
    assert ask("new") == (1, {"x-sundog-arm": "stable", "x-sundog-revision": "1"}), "there is no candidate"

    write(2)
    wait(lambda: ask("new") == (2, {"x-sundog-arm": "canary", "x-sundog-revision": "2"}), "the candidate chosen")
    assert weight(up.read("digits")) == 0
    assert {ask(pick)[0] for pick in ("", "old", "theirs", "nobody", "New")} == {1}
    assert ("override", "canary") in rows()
    assert ("assigned", "canary") not in rows()

    up.command("digits", "promote revision=2 id=a")
    wait(lambda: weight(up.read("digits")) == 1, "1 %")
    wait(lambda: condition(up.read("digits"), "TrafficSynced").get("reason") == "InForce", "the split in force")
    assert [ask("new")[0] for _ in range(5)] == [2] * 5
    assert [ask("old")[0] for _ in range(5)] == [1] * 5

    write(2, reveal=False)
    wait(lambda: not ask()[1].keys() & {"x-sundog-arm", "x-sundog-revision"}, "nobody told who answers")
    assert ask("new") == (2, {})
    assert ask("old") == (1, {})
    assert (stable(up.read("digits")), up.read("digits")["status"]["candidate"]["revision"]) == (1, 2), (
        "no revision of it"
    )

    up.command("digits", "abort revision=2 id=b")
    wait(lambda: ask("new") == (1, {}), "the candidate not to be chosen any more")
    assert ask() == (1, {})
    assert up.end(signal.SIGINT) == 0
