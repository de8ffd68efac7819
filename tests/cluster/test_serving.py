"""Digits served on a cluster from end to end: by the chart, real Ray Serve, real edges, and clients in pods."""

import pytest

from real_serving import Team, example

pytestmark = pytest.mark.timeout(900)

HELD_OUT = 540


def test_the_example_is_served_by_the_name_of_its_service(vision: Team) -> None:
    vision.kubectl("apply", "-f", "-", stdin=example())
    vision.kubectl("wait", "mdep/digits", "--for=condition=Ready", "--timeout=10m", timeout=610)
    assert vision.status()["url"] == "http://digits.vision.svc"
    with vision.traffic() as traffic:
        told = traffic.until(lambda told: told["images"].get("1") == HELD_OUT, "every held-out image was read")
    assert told["right"] == {"1": round(vision.serving.accuracy("v1") * HELD_OUT)}
