"""The examples of `examples/features` on one machine: batching, a canary by cookie, an answer in pieces."""

import http.cookiejar
import json
import shutil
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_local import condition, is_ready, weight

pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).parents[3] / "examples" / "features"
VISITORS = 60
SENTENCE = ["a", "bright", "spot", "beside", "the", "sun"]


def example(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def test_batching_a_canary_by_cookie_and_an_answer_in_pieces(
    up: Any, model: Any, clients: Callable[[str], Any], wait: Callable[..., Any]
) -> None:
    shutil.copytree(EXAMPLES / "words", up.manifests / "words")
    shutil.copy(EXAMPLES / "streaming.yaml", up.manifests)
    (batched,), (canary,) = example("batching.yaml"), example("cookie-canary.yaml")
    manifest = up.manifests / "mlp.yaml"

    def write(version: str) -> None:
        made = json.loads(model.manifest(version))
        made["spec"]["runtime"] = batched["spec"]["runtime"]
        made["spec"]["rollout"] = {**canary["spec"]["rollout"], "steps": [{"weight": 25, "gate": "manual"}]}
        manifest.write_text(json.dumps(made))

    write("v1")
    up.start()
    wait(lambda: is_ready(up.read("mlp")) and is_ready(up.read("words")), "both serving", 150)

    done = up.sundog("predict", "words", "-d", f"@{EXAMPLES / 'words' / 'request.json'}")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"outputs": {"place": place, "word": word}} for place, word in enumerate(SENTENCE)
    ]

    load = clients(up.read("mlp")["status"]["url"])
    load.start(4)
    wait(lambda: load.total() > 100, "clients being served")
    write("v2")
    wait(lambda: weight(up.read("mlp")) == 25, "the canary at 25 %", 90)
    wait(lambda: condition(up.read("mlp"), "TrafficSynced").get("reason") == "InForce", "the split in force")
    answered = [visit(load.url, model.inputs) for _ in range(VISITORS)]
    assert all(len(set(revisions)) == 1 for revisions in answered), "a visitor stays where the cookie says"
    # Nobody of so many in one arm of 25 % has a chance of 3 in 10^8.
    assert {revisions[0] for revisions in answered} == {"1", "2"}
    load.stop()
    assert load.wrong == []
    assert up.end(signal.SIGINT) == 0


def visit(url: str, inputs: Any) -> list[str]:
    """Three requests of one browser; the revisions that answered."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    request = urllib.request.Request(url, json.dumps({"inputs": inputs}).encode(), {"content-type": "application/json"})
    found = []
    for _ in range(3):
        with browser.open(request, timeout=30) as answer:
            found.append(answer.headers["x-sundog-revision"])
            answer.read()
    return found
