"""Scale to zero on a cluster: the pod goes, requests by HTTP and by gRPC wake it, and each of them is answered.

One ModelDeployment goes through all of it, in the order of the tests; each begins with what it finds.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import tritonclient.grpc

from measuring.record import Record
from real_local import is_at_zero
from real_serving import Json, Team
from sundog_operator.core.edge.objects import AGENT_PORT
from waiting import PATIENCE_S, patience

pytestmark = pytest.mark.timeout(patience(1200))

NAME = "sleepy"
AT_ONCE = 20
SLEEPS: Json = {
    "resources": {"cpu": "100m"},
    "autoscaling": {
        "minReplicas": 0,
        "maxReplicas": 1,
        "scaleToZeroDelay": "2s",
        "downscaleDelay": "2s",
        "coldStartTimeout": f"{PATIENCE_S:.0f}s",
    },
}
PHASES = ("cluster", "scheduled", "image", "ray", "download", "load", "warmup", "total")
BODY = json.dumps({"inputs": [[[0] * 8] * 8]})


@dataclass(frozen=True)
class Sleepy:
    """The service, and its address on the tests' own node."""

    team: Team
    url: str
    record: Record

    def ask(self, requests: int = 1) -> float:
        """Send so many requests at once, each over a connection of its own. Return the seconds until the last answer; each is 200."""
        began = time.monotonic()
        answers = asyncio.run(self._ask(requests))
        assert Counter(answers) == {(200, "1"): requests}
        return time.monotonic() - began

    async def _ask(self, requests: int) -> list[tuple[int, str]]:
        """Return the status of each answer, and the revision that gave it."""
        headers = {"content-type": "application/json", "host": f"{NAME}.{self.team.namespace}.svc"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=2 * PATIENCE_S, trust_env=False, limits=limits) as client:
            asked = (client.post(self.url, content=BODY, headers=headers) for _ in range(requests))
            answers = await asyncio.gather(*asked)
        return [(answer.status_code, answer.headers.get("x-sundog-revision", "")) for answer in answers]

    def gauge(self, name: str) -> list[float]:
        """Return a metric of the service from each edge."""
        found = []
        for edge in self.team.edges():
            text = httpx.get(
                f"http://{edge['status']['podIP']}:{AGENT_PORT}/metrics", timeout=patience(5), trust_env=False
            ).text
            own = re.findall(rf'^{name}{{[^}}]*service="{NAME}"[^}}]*}} (\S+)$', text, re.MULTILINE)
            found.append(sum(map(float, own)))
        return found

    def until_zero(self) -> None:
        """Its pod is gone, it is Ready all the same, and each edge holds what comes."""
        self.team.until(lambda: is_at_zero(self.team.get(NAME)), f"{NAME} is at zero, and Ready")
        began = time.monotonic()
        self.team.until(lambda: not self.team.all_workers(NAME), "its pod is gone")
        self.record.add("from zero replicas until the pod is gone", f"{time.monotonic() - began:.1f}s")
        self.team.until(lambda: set(self.gauge("sundog_edge_scaled_to_zero")) == {1.0}, "each edge knows")
        assert self.team.status(NAME)["replicas"] == 0

    def until_measured(self, before: str, what: str) -> Json:
        """Return the phases of a cold start later than that at `before`."""

        def startup() -> Json | None:
            found: Json = self.team.status(NAME).get("startup") or {}
            return found if found.get("wokenAt", "") > before else None

        found = self.team.until(startup, "the phases of a cold start")
        assert found is not None
        for phase in PHASES:
            self.record.add(f"{what}: {phase}", found.get(phase, "–"))
        return found

    def woken_at(self) -> str:
        return str((self.team.status(NAME).get("startup") or {}).get("wokenAt", ""))


@pytest.fixture(scope="module")
def sleepy(vision: Team) -> Iterator[Sleepy]:
    if vision.serving.cluster.instance is None:
        pytest.skip("the addresses of somebody else's cluster may not be reached from here")
    vision.apply(vision.digits(name=NAME, **SLEEPS))
    vision.until(lambda: vision.status(NAME).get("stable"), f"{NAME} serves")
    address = vision.get(NAME, "service")["spec"]["clusterIP"]
    record = Record("cold_starts_on_a_node", "Cold starts from zero replicas, on the tests' node", ("phase", "took"))
    yield Sleepy(vision, f"http://{address}/", record)
    record.finish()
    vision.kubectl("delete", "mdep", NAME)


def test_its_pod_goes_and_the_first_request_brings_one_and_is_answered(sleepy: Sleepy) -> None:
    sleepy.until_zero()
    before = sleepy.woken_at()
    sleepy.record.add("the first request: answered", f"{sleepy.ask():.1f}s")
    assert len(sleepy.team.all_workers(NAME)) == 1
    startup = sleepy.until_measured(before, "the first request")
    assert {"scheduled", "image", "ray", "load", "total"} <= startup.keys()


def test_a_grpc_call_at_zero_is_held_and_answered(sleepy: Sleepy) -> None:
    sleepy.until_zero()
    before, held = sleepy.woken_at(), sum(sleepy.gauge("sundog_edge_held_total"))
    image = tritonclient.grpc.InferInput("image", (1, 8, 8), "FP32")
    image.set_data_from_numpy(np.zeros((1, 8, 8), np.float32))
    began = time.monotonic()
    with tritonclient.grpc.InferenceServerClient(f"{httpx.URL(sleepy.url).host}:80") as client:
        answer = client.infer(NAME, [image], headers={"sundog-service": NAME}, client_timeout=2 * PATIENCE_S)
    sleepy.record.add("a gRPC call: answered", f"{time.monotonic() - began:.1f}s")
    [scores] = answer.get_response().outputs
    assert list(scores.shape) == [1, 10]
    sleepy.team.until(lambda: sum(sleepy.gauge("sundog_edge_held_total")) > held, "it was held")
    sleepy.until_measured(before, "a gRPC call")


def test_twenty_requests_at_zero_get_twenty_answers(sleepy: Sleepy) -> None:
    sleepy.until_zero()
    before, held = sleepy.woken_at(), sum(sleepy.gauge("sundog_edge_held_total"))
    sleepy.record.add(f"{AT_ONCE} at once: the last one answered", f"{sleepy.ask(AT_ONCE):.1f}s")
    sleepy.team.until(lambda: sum(sleepy.gauge("sundog_edge_held_total")) >= held + AT_ONCE, "all were held")
    sleepy.until_measured(before, f"{AT_ONCE} at once")
