"""Facts about a request: ids, traces, deadlines, and what a predictor sees of it."""

import re
from typing import Any

import pytest

from sundog_runtime.context import RequestContext, current, deadline_of, joined, working_on
from sundog_runtime.telemetry.replica_metrics import ReplicaMetrics

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (PARENT, PARENT),
        (f" {PARENT}\t", PARENT),
        (f"cc-{TRACE}-b7ad6b7169203331-01-what-comes-later", f"cc-{TRACE}-b7ad6b7169203331-01"),
        ("", ""),
        (f"{PARENT}-more", ""),
        (PARENT.upper(), ""),
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE}-b7ad6b7169203331", ""),
        (f"00-{TRACE[:-1]}-b7ad6b7169203331-01", ""),
        ("nonsense", ""),
    ],
)
def test_an_invalid_trace_parent_is_replaced(given: str, kept: str) -> None:
    context = RequestContext({b"traceparent": given.encode(), b"tracestate": b"vendor=1"})
    assert re.fullmatch(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", context.traceparent)
    assert context.traceparent == context.traceparent
    assert (context.traceparent == kept) == bool(kept)
    assert (context.trace_id == TRACE) == bool(kept)
    assert context.tracestate == ("vendor=1" if kept else "")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("1", 0.95), ("30", 29.9), ("0.2", 0.19), ("0", None), ("-1", None), ("nan", None), ("inf", None), ("soon", None)],
)
def test_the_deadline_comes_before_serves(given: str, seconds: float | None) -> None:
    found = deadline_of({b"x-request-timeout-seconds": given.encode()}, 100.0)
    assert found == (float("inf") if seconds is None else pytest.approx(100 + seconds))


@pytest.mark.parametrize(("given", "seconds"), [("1", 1), ("30.5", 30.5), ("0", None), ("nan", None), ("x", None)])
def test_the_edges_deadline_is_taken_as_it_is(given: str, seconds: float | None) -> None:
    found = deadline_of({b"x-sundog-timeout-seconds": given.encode(), b"x-request-timeout-seconds": b"9"}, 100.0)
    assert found == (float("inf") if seconds is None else 100 + seconds)


def test_current_requests() -> None:
    one, two = RequestContext(), RequestContext()
    assert (current(), joined()) == (None, ())
    with working_on(one):
        assert current() is one
        with working_on(one, two):
            assert (current(), joined()) == (None, (one, two))
        assert current() is one
    assert current() is None
    assert one.request_id == one.request_id != two.request_id


ASKING = """
from sundog_runtime.context import current

class Predictor:
    def load(self, path, config): pass
    def configure(self, user_config): self.config = user_config
    def example(self): return "x"
    def predict(self, batch):
        request = current()
        if request is None:
            assert self.config == {"ready": True}, "warmed up before it was configured"
            return None
        return [request.request_id, request.traceparent, request.deadline < float("inf")]
"""


async def test_a_predictor_asks_about_its_request(serve_predictor: Any) -> None:
    client = await serve_predictor(ASKING, user_config={"userConfig": {"ready": True}})
    headers = {"x-request-id": "find-me", "traceparent": PARENT, "x-request-timeout-seconds": "30"}
    assert (await client.post("/", json={"inputs": "x"}, headers=headers)).json()["outputs"] == [
        "find-me",
        PARENT,
        True,
    ]
    assert (await client.get("/nowhere")).status_code == 404
    # A probe is not counted, because it does not reach the model.
    assert (await client.get("/v2/health/ready")).status_code == 200
    metrics: ReplicaMetrics = client.replica.metrics  # type: ignore[attr-defined]
    assert metrics.answers == {"ok": 1, "NotFound": 1}
    assert sum(metrics.latency.counts) == 2
