"""`rollout: {}` from the edit to the promotion, with nothing made shorter: real digits, and twenty requests a second."""

import http.client
import json
import logging
import subprocess
import sys
import time
from typing import Any

import pytest

from real_local import Clients, is_ready, stable
from waiting import eventually, patience

pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.campaign, pytest.mark.timeout(patience(7200))]

log = logging.getLogger(__name__)

CLIENTS = 5
PAUSE_S = 0.25
HISTORY_S = 60.0
"""Of traffic, from which on it is known how much there is."""

LONGEST_S = patience(5400)


class Digits(Clients):
    """Clients that take any answer of a revision for right: how well it reads is no concern of an edge."""

    def _one(self, connection: http.client.HTTPConnection, path: str, body: bytes, which: int) -> tuple[str, str]:
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        problem = "" if response.status == 200 else f"status {response.status}: {text[:200]!r} to image {which}"
        return response.getheader("x-sundog-revision", ""), problem


def test_the_default_plan_promotes_a_better_model(bench: Any) -> None:
    pytest.importorskip("sklearn")
    models = bench.folder / "digits"
    subprocess.run([sys.executable, "-m", "sundog_operator.shell.demo.training", models], check=True)
    held_out = json.loads((models / "held-out.json").read_text())
    digits = bench.add("digits", {})
    digits.write(f"file://{models}/v1", "net:Net")
    eventually(lambda: is_ready(digits.read()), "the first revision serving")
    digits.load = Digits(digits.read()["status"]["url"], [[image] for image in held_out["images"]], {}, PAUSE_S)
    digits.load.start(CLIENTS)
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > HISTORY_S, "traffic that is known")
    digits.write(f"file://{models}/v2", "net:Net")
    edited, sent = time.monotonic(), digits.load.sent
    eventually(lambda: digits.progress().get("phase") in ("Concluded", "Stopped"), "a verdict", LONGEST_S)
    took, requests, ended = time.monotonic() - edited, digits.load.sent - sent, digits.progress()
    log.info("%.0f s, %d requests, %.1f a second; %s", took, requests, requests / took, json.dumps(ended["verdict"]))
    log.info("plan %s; epochs %s", json.dumps(ended["plan"]), json.dumps(ended["evidenceEpochs"]))
    log.info("metrics %s", json.dumps(ended["metrics"]))
    assert (ended["verdict"]["decision"], ended["verdict"]["winner"]) == ("Promoted", "canary")
    assert [step["weight"] for step in ended["plan"]["steps"]] == [25, 50, 100]
    eventually(lambda: stable(digits.read()) == 2, "the new revision as stable")
    digits.load.stop()
    assert digits.load.wrong == []
