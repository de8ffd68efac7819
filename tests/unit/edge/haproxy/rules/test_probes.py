"""Probes: the edge and the model server agree on them, and they are counted separately."""

import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.agent.metrics import render_metrics
from sundog_edge.counting.evidence import AgentState, build_evidence
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.rows import TableEntry
from sundog_edge.feedback.first_seen import FirstExposureTracker
from sundog_edge.haproxy.rules import grpc, probes
from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.grpc_service import METHODS
from sundog_runtime.protocol.messages import EncodedResponse
from sundog_runtime.protocol.routes import Route, Routes
from sundog_runtime.replica import STARTUP_PATH
from sundog_runtime.signature import Signature

ROUTES = Routes("digits", "1.0", LoadedModel("python", "", lambda batch: batch, Signature()))
ROUTES.add(STARTUP_PATH, Route(answer=EncodedResponse(b"")))
PARTS = (
    "",
    "v2",
    "health",
    "live",
    "ready",
    "models",
    "digits",
    "versions",
    "1",
    "infer",
    "v1",
    "digits:predict",
    "repository",
    "index",
    "openapi.json",
    "-",
    "startup",
)
WITHOUT_THE_MODEL = (
    "/v2",
    "/v2/",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/health/ready//",
    "/v2/models/digits",
    "/v2/models/digits/ready",
    "/v2/models/digits/versions/1",
    "/v2/models/digits/versions/1/ready",
    "/openapi.json",
    "/-/startup",
    "/v1/models",
    "/v1/models/digits",
    "/v2/repository/index",
)


def is_probe(path: str) -> bool:
    return any(re.fullmatch(found, path) for found in (probes.PATHS, probes.POST_PATHS))


def route(path: str) -> Route | None:
    """The model server's route of a path below its prefix. It ignores trailing slashes."""
    try:
        return ROUTES.find(path.rstrip("/") or "/")
    except Problem:
        return None


@pytest.mark.parametrize("path", WITHOUT_THE_MODEL)
def test_requests_answered_without_the_model_are_probes(path):
    found = route(path)
    assert found is not None
    assert found.answer is not None
    assert is_probe(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v2/models",
        "/v2/models/digits/infer",
        "/v1/models/digits:predict",
        "/v1",
        "/v2/repository",
        "/v2/models/digits/versions",
        "/v2/models/digits/versions/1/infer",
        "/v2/health",
        "/v2/health/readyz",
        "//v2/health/ready",
        "/v2//health/ready",
        "/v2/health/ready/x",
        "/v22",
        "/V2",
        "/openapi_json",
        "/openapi.json5",
        "/-/routes",
    ],
)
def test_other_paths_are_requests(path):
    assert not is_probe(path)


@given(st.lists(st.sampled_from(PARTS), max_size=7))
def test_probes_are_exactly_the_routes_without_the_model(parts):
    path = "/" + "/".join(parts)
    found = route(path)
    if found is not None:
        assert is_probe(path) == (found.answer is not None), path


def test_all_grpc_methods_except_predictions_are_probes():
    assert {path.rpartition("/")[2] for path in grpc.PROBES} == {*METHODS} - {"ModelInfer"}


def line(row: str, number: int, total_us: int, unit: int = 5) -> bytes:
    head = f"a-1 {row} digits - 200 -- 0 10.0.0.1:80 ok 1000 100"
    return f"{head} {number} 10 {total_us} 20 {unit} 7 1000000000".encode()


REQUEST, PROBE = "digits/att/2/stable/assigned/sticky", "digits/att/2/stable/probe/anonymous"


def test_probes_do_not_change_the_row_units_or_metrics_of_an_arm():
    def count_all(lines: list[bytes], requests: int, asked: int):
        ledger, seen = Ledger(), FirstExposureTracker()
        ledger.watch({"digits/att": seen})
        ledger.consume(lines, 1.0)
        table = {REQUEST: TableEntry(requests, 0), **({PROBE: TableEntry(asked, 0)} if asked else {})}
        ledger.boots["a-1"].settle({"all": TableEntry(requests + asked, 0), **table}, "all", 1.0)
        rows = {row["origin"]: row for row in build_evidence(AgentState("e", "n"), None, ledger, 2.0)["counters"]}
        page = render_metrics(ledger, None, {}, "", {}).decode().splitlines()
        kept = [each for each in page if "_log_" not in each and "_created" not in each]
        return rows, seen.next_batch(), ledger.samples["digits/att"].as_json(), kept

    requests = [line(REQUEST, number, 5000, unit=number) for number in range(1, 4)]
    asked = [line(PROBE, number, 50, unit=100 + number) for number in range(1, 41)]
    alone, both = count_all(requests, 3, 0), count_all([*requests, *asked], 3, 40)
    assert both[0]["assigned"] == alone[0]["assigned"]
    assert both[1:3] == alone[1:3]
    extra = [each for each in both[3] if each not in alone[3]]
    assert extra == ['sundog_edge_probes_total{arm="stable",end="ok",revision="",service="digits"} 40.0']
    probe = both[0]["probe"]
    assert (probe["assigned"], probe["ends"]["ok"], probe["inFlight"], probe["lost"]) == (40, 40, 0, 0)


def test_a_lost_line_of_a_probe_counts_for_probes():
    ledger = Ledger()
    ledger.consume([line(PROBE, 1, 50), line(REQUEST, 1, 50)], 1.0)
    ledger.boots["a-1"].settle(
        {"all": TableEntry(4, 1), PROBE: TableEntry(3, 1), REQUEST: TableEntry(1, 0)}, "all", 1.0
    )
    rows = {key: (row.assigned, row.ended, row.in_flight, row.lost) for key, row in ledger.boots["a-1"].rows.items()}
    assert rows == {PROBE: (3, 1, 1, 1), REQUEST: (1, 1, 0, 0)}


def test_dropped_probes_stay_in_the_sum_of_probes():
    ledger = Ledger()
    ledger.consume([line(PROBE, 1, 50), line(PROBE, 2, 50), line(REQUEST, 1, 50)], 1.0)
    ledger.forget_rows("a-1", ledger.idle_rows("a-1", 2.0, set()))
    again = Ledger.from_json(orjson.loads(orjson.dumps(ledger.as_json())))
    page = render_metrics(again, None, {}, "", {}).decode()
    assert 'sundog_edge_probes_total{arm="stable",end="ok",revision="",service="digits"} 2.0' in page
    assert 'sundog_edge_assigned_total{arm="stable",revision="",service="digits"} 1.0' in page
    before = {name: value for name, value in ledger.as_json().items() if name != "pastProbes"}
    assert Ledger.from_json(before).past_probes == {}
