"""Startup reports of replicas, which run a tenant's code, so their answers are untrusted."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from split_documents import parsed, service_fields
from sundog_edge.counting.evidence import AgentState, AppliedDocument, build_evidence
from sundog_edge.counting.ledger import Ledger
from sundog_edge.replicas.startup_reports import UNKNOWN_STARTUP, StartupReports
from sundog_edge.split.document import SplitDocument

ANSWER = {"version": 1, "beganAt": 1767225600.25, "phases": {"load": 2, "warmup": 0.5}}
START = {"beganAt": 1767225600.25, "phases": {"load": 2, "warmup": 0.5}}


class Replica:
    """A replica that gives a set answer, and counts its requests."""

    def __init__(self) -> None:
        self.answer: Any = ANSWER
        self.status = 200
        self.asked = 0
        app = web.Application()
        app.router.add_get("/digits-r1.app/-/startup", self._startup)
        self.server = TestServer(app)

    async def _startup(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response(self.answer, status=self.status, headers={"Location": "/digits-r1.app/-/startup"})

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        return {"digits-r1": (f"{self.server.host}:{self.server.port}",)}


@pytest.fixture
def document() -> SplitDocument:
    return parsed(service_fields())


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    made = Replica()
    async with made.server:
        yield made


@pytest.fixture
async def starts() -> AsyncIterator[StartupReports]:
    async with aiohttp.ClientSession() as session:
        yield StartupReports(session)


async def test_a_healthy_replica_is_asked_once(
    replica: Replica, starts: StartupReports, document: SplitDocument
) -> None:
    await starts.tick(document, {"digits-r1": ()})
    assert starts.known == {}, "nobody is healthy yet"
    for _ in range(3):
        await starts.tick(document, replica.addresses)
    assert (starts.known, replica.asked) == ({"digits-r1": START}, 1)


async def test_the_evidence_has_the_report_beside_the_health_of_the_arm(
    replica: Replica, starts: StartupReports, document: SplitDocument
) -> None:
    await starts.tick(document, replica.addresses)
    seen = AgentState("e", "vision", starts=starts.known)
    evidence = build_evidence(seen, AppliedDocument(document, 0.0, {}), Ledger(), 0.0)
    assert evidence["services"]["digits"]["arms"]["stable"]["startup"] == START


async def test_reports_of_applications_that_left_the_document_are_dropped(
    replica: Replica, starts: StartupReports, document: SplitDocument
) -> None:
    await starts.tick(document, replica.addresses)
    await starts.tick(None, replica.addresses)
    assert starts.known == {}
    await starts.tick(document, replica.addresses)
    assert replica.asked == 2


async def test_a_replica_that_does_not_answer_is_reported_and_asked_again_later(
    replica: Replica, starts: StartupReports, document: SplitDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.status = 500
    for _ in range(3):
        await starts.tick(document, replica.addresses)
    assert (starts.known, replica.asked) == ({"digits-r1": UNKNOWN_STARTUP}, 1)
    replica.status = 200
    monkeypatch.setattr("sundog_edge.replicas.startup_reports.time.monotonic", lambda: 1e9)
    await starts.tick(document, replica.addresses)
    assert starts.known == {"digits-r1": START}


async def test_after_a_cold_start_a_replica_is_asked_again_and_its_phases_are_summed_up(
    replica: Replica, starts: StartupReports, document: SplitDocument
) -> None:
    application = "digits-r1"
    await starts.tick(document, replica.addresses)
    starts.observe({application}, {application}, 1767225590.0)
    await starts.tick(document, {})
    starts.observe((), {application}, 1767225600.0)
    starts.observe((), {application}, 1767225601.0)
    starts.observe((), (), 1767225603.0)
    for _ in range(2):
        await starts.tick(document, replica.addresses)
    assert starts.known == {application: {**START, "wokenAt": 1767225600.0, "answersAt": 1767225603.0}}
    assert replica.asked == 2
    assert {phase: total for (_, phase), total in starts.phases.sums.items()} == {
        "process": (1, 0.25),
        "load": (1, 2),
        "warmup": (1, 0.5),
        "answers": (1, 0.25),
        "total": (1, 3.0),
    }
    await starts.tick(None, {})
    assert starts.phases.sums == {}


async def test_a_wake_that_serve_took_back_is_no_cold_start(starts: StartupReports) -> None:
    starts.observe((), {"digits-r1"}, 1.0)
    assert starts.cold_starts.woken_at == {"digits-r1": 1.0}
    starts.observe({"digits-r1"}, {"digits-r1"}, 2.0)
    assert starts.cold_starts.woken_at == {}
    starts.observe((), {"digits-r1"}, 5.0)
    starts.observe((), (), 6.0)
    assert starts.cold_starts.woken_at == {}
    assert starts.cold_starts.last["digits-r1"] == (5.0, 6.0)


@pytest.mark.parametrize("status", [302, 404])
async def test_a_redirect_is_not_followed(
    replica: Replica, starts: StartupReports, document: SplitDocument, status: int
) -> None:
    replica.status = status
    await starts.tick(document, replica.addresses)
    assert (starts.known, replica.asked) == ({"digits-r1": UNKNOWN_STARTUP}, 1)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"phases": None},
        {"phases": {"load": "soon"}},
        {"phases": {"load": -1}},
        {"phases": {"load": 1e300}},
        {"phases": {"load": True}},
        {"phases": {"Load; disable": 1.0}},
        {"phases": {chr(97 + number) * 2: 1.0 for number in range(17)}},
        {"phases": {}, "beganAt": "noon"},
        {"phases": {}, "beganAt": {"a": 1}},
        {"phases": {"load": 1.0}, "padding": "x" * 70_000},
    ],
)
async def test_an_answer_of_another_shape_is_no_report(
    replica: Replica, starts: StartupReports, document: SplitDocument, answer: Any
) -> None:
    replica.answer = answer
    await starts.tick(document, replica.addresses)
    assert starts.known == {"digits-r1": UNKNOWN_STARTUP}
