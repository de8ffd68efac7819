"""The intake: bodies in, answers out; and the reports while the store is away."""

import asyncio
import gc
import json
from datetime import UTC, datetime

import pytest

from edge_reference import sign_exposure
from feedback_stores import MemoryStore
from split_documents import header_unit, parsed, service_fields
from sundog_edge.errors import StoreUnavailable
from sundog_edge.feedback.exposure import SignedExposure
from sundog_edge.feedback.intake import MAX_PROBLEMS, FeedbackIntake
from sundog_edge.feedback.join import OutcomeBatch
from sundog_edge.feedback.signing_keys import NO_KEYS, SigningKeys
from sundog_edge.split.assignment import unit_hash
from sundog_edge.split.document import SplitDocument
from sundog_feedback import Counts
from sundog_feedback.outbox import REPEAT_AFTER_S, Outbox
from waiting import PATIENCE_S

KEY, OLD, OTHER = (bytes([number]) * 32 for number in range(3))
NOW = 1_769_000_000.0


def document(attempt: str = "d-1", **changes: object) -> SplitDocument:
    taking = {"unit": header_unit(), "feedback": {"metrics": ["converted"]}}
    return parsed(service_fields(attempt=attempt, **{"epoch": 1, **taking, **changes}))


class Desk:
    """An intake with changeable dependencies."""

    def __init__(self) -> None:
        self.store: MemoryStore = MemoryStore()
        self.keys = SigningKeys(KEY, (KEY, OLD))
        self.document: SplitDocument | None = document()
        self.lines: list[tuple[int, int]] = []
        self.clock = NOW
        self.intake = FeedbackIntake(
            self.store, lambda: self.keys, lambda: self.document, self.drain, lambda: self.clock
        )
        self.intake.update_trackers()

    def drain(self) -> None:
        for unit, us in self.lines:
            self.intake.first_seen["digits/d-1"].observe(unit, us, 1, "stable")
        self.lines = []

    def id(self, number: int = 1, attempt: str = "d-1", key: bytes = KEY, service: str = "digits") -> str:
        return sign_exposure(key, service, SignedExposure(attempt, 1, "stable", number, int(NOW) - 10))

    async def take(self, *items: object, name: str = "digits") -> tuple[int, dict[str, object]]:
        answer = await self.intake.take(name, json.dumps(items).encode())
        return answer.status, dict(answer.document) or {"code": answer.code, "detail": answer.detail}

    async def section(self) -> dict[str, object]:
        await self.intake.tick()
        return self.intake.sections()["digits"]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def converted(exposure: str, **members: object) -> dict[str, object]:
    return {"exposure": exposure, "metric": "converted", **members}


async def test_an_outcome_of_an_attempt_that_has_ended_is_late_and_in_no_sum(desk: Desk) -> None:
    before = converted(desk.id(1))
    assert (await desk.take(before))[0] == 200
    desk.document = document("d-2")
    desk.clock = NOW + 55
    desk.intake.update_trackers()
    exposure_id = sign_exposure(KEY, "digits", SignedExposure("d-1", 1, "stable", 2, int(NOW) - 10))
    status, answer = await desk.take(converted(exposure_id), before)
    assert (status, answer["late"], answer["accepted"]) == (207, 2, 0)
    ahead = sign_exposure(KEY, "digits", SignedExposure("d-3", 1, "stable", 2, int(NOW) + 40))
    assert (await desk.take(converted(ahead)))[1]["unknown"] == 1
    section = await desk.section()
    assert (section["late"], section["unknown"], section["outcomes"]) == (2, 1, [])
    # An older attempt keeps its start.
    desk.clock = NOW + 500
    desk.intake.update_trackers()
    assert (await desk.take(converted(ahead)))[1]["unknown"] == 1


async def test_a_client_repeats_a_request_with_unknown_units_and_each_outcome_counts_once(desk: Desk) -> None:
    """An edge names the first twenty problems only. It learns of some units between the two requests."""
    outbox = Outbox(capacity=100)
    for number in range(90):
        outbox.put({"unit": f"u{number}", "metric": "converted", "value": 1 if number else "no"})
    desk.lines = [(unit_hash(b"u%d" % number), int(desk.clock - 9) * 10**6) for number in range(30)]
    answer = await desk.intake.take("digits", outbox.take(0))
    outbox.settle(answer.document, 0)
    assert (len(outbox), outbox.take(1), outbox.pause_s(1)) == (89, b"", REPEAT_AFTER_S - 1)
    assert outbox.counts == Counts(accepted=29, refused=1)
    event = {"unit": "u1", "metric": "converted", "id": "2"}
    assert [outbox.put(event) for _ in range(12)].count(True) == 11, "what waits takes room, too"
    desk.lines = [(unit_hash(b"u%d" % number), int(desk.clock - 9) * 10**6) for number in range(30, 70)]
    repeated = outbox.take(REPEAT_AFTER_S)
    assert len(json.loads(repeated)) == 89
    answer = await desk.intake.take("digits", repeated)
    outbox.settle(answer.document, 2)
    assert outbox.counts == Counts(accepted=69, refused=21, dropped=1)
    (outcome,) = (await desk.section())["outcomes"]
    assert outcome == ["converted", 1, "stable", 69, 69, 69 * 10**6, 69 * 10**12]
    assert (len(outbox), outbox.pause_s(3)) == (11, 0)


async def test_each_item_has_its_own_result(desk: Desk) -> None:
    status, answer = await desk.take(
        converted(desk.id(1)),
        converted(desk.id(1)),
        converted(desk.id(2), time="2026-01-01T00:00:00Z"),
        {"unit": "nobody", "metric": "converted"},
        converted(desk.id(3), metric="clicks"),
        converted(desk.id(4), time="2027-01-01T00:00:00Z"),
    )
    problems = answer.pop("problems")
    assert status == 207
    assert answer == {
        "accepted": 1,
        "duplicate": 1,
        "late": 1,
        "unknown": 1,
        "future": 1,
        "invalid": 1,
        "overflow": 0,
    }
    assert [(each["item"], each["result"], each["field"]) for each in problems] == [
        (2, "late", "time"),
        (3, "unknown", "unit"),
        (4, "invalid", "metric"),
        (5, "future", "time"),
    ]
    assert problems[0]["found"] == "2026-01-01T00:00:00Z"
    assert all(each["found"] and each["expected"] for each in problems)
    assert "nobody" not in json.dumps(answer)


async def test_the_answer_does_not_reveal_the_owner_of_an_id(desk: Desk) -> None:
    genuine = desk.id()
    strangers = [
        "anything",
        genuine[:-1],
        genuine[:-1] + ("A" if genuine[-1] != "A" else "B"),
        desk.id(key=OTHER),
        desk.id(service="other"),
        desk.id(attempt="d-0"),
        "",
        "x" * 5000,
    ]
    answers = [await desk.take(converted(text)) for text in strangers]
    assert {status for status, _ in answers} == {207}
    assert len({json.dumps(answer) for _, answer in answers}) == 1
    assert (await desk.section())["unknown"] == len(strangers)
    assert (await desk.take(converted(desk.id(key=OLD))))[1]["accepted"] == 1


async def test_only_the_first_problems_are_listed(desk: Desk) -> None:
    _, answer = await desk.take(*[converted("x")] * 50)
    assert answer["unknown"] == 50
    assert [each["item"] for each in answer["problems"]] == list(range(MAX_PROBLEMS))


async def test_a_unit_of_a_just_answered_request_is_known(desk: Desk) -> None:
    desk.lines = [(unit_hash(b"ada"), int((NOW - 1) * 1e6))]
    assert await desk.take({"unit": "ada", "metric": "converted"}) == (
        200,
        {
            **dict.fromkeys(("duplicate", "late", "unknown", "future", "invalid", "overflow"), 0),
            "accepted": 1,
            "problems": [],
        },
    )
    assert desk.store.writes == 1, "the exposure and its outcome are one write"


async def test_units_reach_the_store_without_any_feedback(desk: Desk) -> None:
    desk.lines = [(unit, int(NOW * 1e6)) for unit in range(12_000)]
    desk.drain()
    found = await desk.section()
    assert (found["exposed"], desk.store.writes) == ([[1, "stable", 12_000]], 3)
    await desk.section()
    assert desk.store.writes == 3


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"[" + b"1," * 1000 + b"1]"])
async def test_a_body_without_items_is_one_problem(desk: Desk, body: bytes) -> None:
    answer = await desk.intake.take("digits", body)
    assert (answer.status, answer.code) == (400, "BadFeedback")
    assert desk.store.writes == 0


async def test_a_service_without_feedback_takes_none(desk: Desk) -> None:
    for name, changed in (("other", desk.document), ("digits", document(feedback=None)), ("digits", None)):
        desk.document = changed
        assert (await desk.take(converted(desk.id()), name=name))[0] == 404
    assert await desk.intake.tick() is None


async def test_without_a_key_no_feedback_is_taken_and_the_evidence_says_why(desk: Desk) -> None:
    desk.keys = SigningKeys(problem="--signing-key /k cannot be read: Permission denied")
    assert await desk.take(converted("x")) == (
        503,
        {"code": "FeedbackUnavailable", "detail": "feedback is not taken now"},
    )
    assert await desk.section() == {"attempt": "d-1", "error": "--signing-key /k cannot be read: Permission denied"}
    desk.keys = NO_KEYS
    assert (await desk.section())["error"] == "the agent was started without --signing-key"
    without = FeedbackIntake(None, lambda: desk.keys, lambda: desk.document, desk.drain)
    await without.tick()
    assert without.update_trackers() is False
    assert without.sections() == {"digits": {"attempt": "d-1", "error": "the agent was started without --store"}}


async def test_a_store_that_is_away_loses_nothing_that_was_acknowledged(desk: Desk) -> None:
    assert (await desk.take(converted(desk.id(1))))[0] == 200
    before = await desk.section()
    desk.store.away = True
    desk.lines = [(7, int(NOW * 1e6))]
    status, answer = await desk.take(converted(desk.id(2)))
    assert (status, answer["code"]) == (503, "FeedbackUnavailable")
    with pytest.raises(StoreUnavailable):
        await desk.intake.tick()
    assert desk.intake.sections()["digits"] == {"attempt": "d-1", "error": "feedback store: away"}
    assert desk.intake.failures == 2
    desk.store.away = False
    after = await desk.section()
    assert (after["exposed"], before["exposed"]) == ([[1, "stable", 2]], [[1, "stable", 1]])
    assert after["outcomes"] == before["outcomes"] == [["converted", 1, "stable", 1, 1, 10**6, 10**12]]


async def test_a_hanging_store_is_waited_for_with_a_timeout(desk: Desk) -> None:
    class Hanging(MemoryStore):
        hangs = True

        async def write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
            if self.hangs:
                await asyncio.Event().wait()
            return await super().write(attempt, batch)

    desk.store = Hanging()
    desk.intake = FeedbackIntake(
        desk.store, lambda: desk.keys, lambda: desk.document, lambda: None, lambda: NOW, answer_s=0.05
    )
    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(*(desk.take(converted(desk.id(number))) for number in range(20)))
    assert {(status, answer["code"]) for status, answer in answers} == {(503, "FeedbackUnavailable")}
    assert desk.intake.failures == 20
    desk.store.hangs, desk.intake._answer_s = False, PATIENCE_S
    assert (await desk.take(converted(desk.id(1))))[1]["accepted"] == 1


async def test_waiting_exposures_are_written_at_the_end(desk: Desk) -> None:
    desk.lines = [(7, int(NOW * 1e6))]
    desk.drain()
    await desk.intake.finish()
    assert desk.store.attempts["digits/d-1"].firsts.keys() == {7}
    desk.store.away = True
    desk.lines = [(8, int(NOW * 1e6))]
    desk.drain()
    await desk.intake.finish()


async def test_units_mature_while_no_request_comes(desk: Desk) -> None:
    desk.document = document(feedback={"metrics": ["converted"], "windows": {"converted": [240]}})
    await desk.take(converted(desk.id(1)))
    assert (await desk.section())["matured"] == []
    desk.clock = NOW + 245
    section = await desk.section()
    assert section["matured"] == [[240, 1, "stable", 1]]
    assert ["converted@240s", 1, "stable", 1, 1, 1_000_000, 10**12] in section["outcomes"]
    # Each cohort costs one write; between two there is none.
    writes = desk.store.writes
    desk.clock += 1
    assert (await desk.section(), desk.store.writes) == (section, writes)


async def test_units_that_came_back_mature_too_and_every_visit_needs_an_id_or_a_time(desk: Desk) -> None:
    desk.document = document(feedback={"metrics": ["converted"], "delayedWindows": {"converted": [[120, 240]]}})
    assert (await desk.section())["undelayed"] == 0
    for clock in (NOW, NOW + 115):
        desk.clock = clock
        await desk.take(*(converted(desk.id(unit)) for unit in (1, 2)), converted(desk.id(2), id=f"visit-{clock}"))
    # 119 s after the exposure; 185 s, which is 60 s ahead of the clock; and too far ahead.
    times = [converted(desk.id(3), time=f"2026-01-21T12:{at}Z") for at in ("55:09", "56:15", "56:16")]
    assert (await desk.take(*times))[1]["future"] == 1
    desk.clock = NOW + 245
    section = await desk.section()
    assert (section["matured"], section["undelayed"]) == ([[240, 1, "stable", 3]], 0)
    assert ["converted@120-240s", 1, "stable", 2, 2, 2_000_000, 2 * 10**12] in section["outcomes"]


async def test_a_new_attempt_starts_at_zero(desk: Desk) -> None:
    await desk.take(converted(desk.id(1)))
    desk.document = document("d-2")
    assert desk.intake.update_trackers() is True
    assert [*desk.intake.first_seen] == ["digits/d-2"]
    assert (await desk.section())["sequence"] == 0
    assert (await desk.take(converted(desk.id(1))))[1]["unknown"] == 1


async def test_a_unit_from_before_feedback_is_first_exposed_when_it_comes_again(desk: Desk) -> None:
    """After a warm-up, its lines still come when the next epoch starts."""
    desk.document, coming = document(epoch=1, feedback=None), document(epoch=2)
    desk.intake = FeedbackIntake(desk.store, lambda: desk.keys, lambda: desk.document, desk.drain, lambda: NOW)
    assert desk.intake.update_trackers(coming) is True
    seen = desk.intake.first_seen["digits/d-1"]
    seen.observe(7, int(NOW * 1e6), 1, "stable")
    desk.document = coming
    desk.intake.update_trackers()
    seen.observe(8, int(NOW * 1e6), 1, "stable")
    seen.observe(7, int(NOW * 1e6) + 1, 2, "stable")
    assert (await desk.section())["exposed"] == [[2, "stable", 1]]


async def test_a_restarted_agent_reads_the_waiting_lines(desk: Desk) -> None:
    desk.document, coming = None, document(epoch=5)
    desk.intake = FeedbackIntake(desk.store, lambda: desk.keys, lambda: desk.document, desk.drain, lambda: NOW)
    assert desk.intake.update_trackers(coming) is True
    desk.intake.first_seen["digits/d-1"].observe(7, int(NOW * 1e6), 4, "stable")
    desk.document = coming
    assert (await desk.section())["exposed"] == [[4, "stable", 1]]


async def test_no_unit_is_tracked_if_requests_are_units(desk: Desk) -> None:
    desk.document = document(unit={"kind": "request"})
    assert desk.intake.update_trackers() is True
    assert not desk.intake.first_seen
    assert (await desk.take(converted(desk.id(5))))[0] == 200
    found = await desk.section()
    assert (found["exposed"], found["outcomes"][0][3]) == ([], 1)


async def test_dropped_exposures_are_counted_once_with_concurrent_reports(desk: Desk) -> None:
    class Slow(MemoryStore):
        async def write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
            for _ in range(20):
                await asyncio.sleep(0)
            return await super().write(attempt, batch)

    desk.store = Slow()
    desk.intake = FeedbackIntake(desk.store, lambda: desk.keys, lambda: desk.document, lambda: None, lambda: NOW)
    desk.intake.update_trackers()
    desk.intake.first_seen["digits/d-1"].dropped = 7
    await asyncio.gather(*(desk.take(converted(desk.id(number))) for number in range(5)))
    assert desk.intake.first_seen["digits/d-1"].dropped == 0
    assert desk.store.attempts["digits/d-1"].tally["overflow"] == 7


def locks() -> int:
    return sum(type(each) is asyncio.Lock for each in gc.get_objects())


async def test_ended_attempts_leave_no_state(desk: Desk) -> None:
    before = locks()
    for number in range(1, 6):
        desk.document = document(f"d-{number}")
        desk.intake.update_trackers()
        assert (await desk.take(converted(desk.id(number, f"d-{number}"))))[0] == 200
    assert locks() == before


def test_services_share_the_memory_for_units(desk: Desk) -> None:
    assert desk.document is not None
    (service,) = desk.document.services
    many = tuple(service.model_copy(update={"name": f"s{number}"}) for number in range(40))
    desk.document = desk.document.model_copy(update={"services": many})
    desk.intake.update_trackers()
    assert sum(seen.max_waiting for seen in desk.intake.first_seen.values()) == 400_000
    desk.document = desk.document.model_copy(update={"services": many[:2]})
    desk.intake.update_trackers()
    assert [seen.max_waiting for seen in desk.intake.first_seen.values()] == [100_000] * 2


@pytest.mark.parametrize("skew_s", [2, 3 * 3600])
async def test_an_edge_with_a_late_clock_accepts_events_without_a_time(desk: Desk, skew_s: int) -> None:
    ahead = sign_exposure(KEY, "digits", SignedExposure("d-1", 1, "stable", 1, int(NOW) + skew_s))
    now = datetime.fromtimestamp(NOW, UTC).isoformat()
    _, answer = await desk.take(converted(ahead), converted(ahead, time=now))
    assert (answer["accepted"], answer["late"]) == (1, 1)
    assert desk.store.attempts["digits/d-1"].tally["early"] == 1


@pytest.mark.parametrize("skew_s", [2, 3 * 3600])
async def test_an_edge_with_a_late_clock_accepts_units_with_stored_exposures(desk: Desk, skew_s: int) -> None:
    desk.lines = [(unit_hash(b"ada"), int(NOW + skew_s) * 1_000_000)]
    ada, now = {"unit": "ada", "metric": "converted"}, datetime.fromtimestamp(NOW, UTC).isoformat()
    _, answer = await desk.take(ada, {**ada, "time": None, "id": "again"}, {**ada, "time": now})
    assert (answer["accepted"], answer["late"]) == (2, 1)
    assert [event.seconds for event, _ in desk.store.attempts["digits/d-1"].events] == [int(NOW) + skew_s] * 2


async def test_bodies_at_the_same_time_count_each_event_once(desk: Desk) -> None:
    items = [converted(desk.id(number)) for number in range(250)]
    answers = await asyncio.gather(*(desk.take(*items) for _ in range(4)))
    assert sum(answer["accepted"] for _, answer in answers) == 250
    assert sum(answer["duplicate"] for _, answer in answers) == 750
    assert desk.intake.results == {("digits", "accepted"): 250, ("digits", "duplicate"): 750}
