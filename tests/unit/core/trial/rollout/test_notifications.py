"""Notices of a rollout: which, to whom, and how often."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sundog_operator.api import ExperimentStatus, NotificationDelivery, PauseStatus, Rollout, RolloutNotice
from sundog_operator.api.reasons import Cause
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.trial.rollout import freeze, notifications, state_machine, steering, transitions
from sundog_operator.core.trial.rollout.commands import RolloutCommand
from sundog_operator.core.trial.rollout.state import RolloutInputs

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
ALL = ["started", "paused", "promoted", "aborted", "rolledBack"]
HOOK, OTHER = "https://hooks.example/a?token=t", "https://other.example/"
STEPS = [{"weight": 10, "gate": "time"}, {"pause": {}}, {"weight": 50, "gate": "manual"}]
OK, BUSY = WebhookResult(204), WebhookResult(500)


def frozen(*receivers: dict[str, Any], steps: list[dict[str, Any]] = STEPS) -> ExperimentStatus:
    rollout = Rollout.from_json({"steps": steps, "notify": list(receivers)})
    return notifications.add_notices(ExperimentStatus(), freeze.freeze(rollout, 7, 8, T0), T0)


def run_rollout(status: ExperimentStatus, *commands: str, ticks: int = 40) -> ExperimentStatus:
    """Tick, and send a command whenever nothing moves."""
    left = list(commands)
    for number in range(ticks):
        now = T0 + timedelta(minutes=10 * (number + 1))
        after = state_machine.tick(status, RolloutInputs(now=now, replicas=1, available=1, confirmed=True))
        if after == status and left:
            after = steering.execute_command(status, RolloutCommand(f"c{number}", left.pop(0), 8), now)
        status = notifications.add_notices(status, after, now)
    return status


def notices_of(status: ExperimentStatus) -> list[tuple[str, int, int, str]]:
    return [(each.event, each.step, each.weight, each.reason) for each in status.notices]


def test_a_rollout_is_notified_from_start_to_end_with_each_pause() -> None:
    after = run_rollout(frozen({"webhook": HOOK, "events": ALL}), "promote", "promote")
    assert notices_of(after) == [
        ("started", 0, 0, "Started: revision 8 is starting"),
        ("paused", 2, 10, "WaitsForPromote: step 2 waits for promote"),
        ("paused", 3, 50, "WaitsForPromote: step 3 waits for promote"),
        ("promoted", 4, 100, "Promoted: after step 4 at 100 %"),
    ]
    assert [each.verdict for each in after.notices] == ["Undecided"] * 4
    assert [each.time for each in after.notices] == sorted(each.time for each in after.notices)


def test_a_rollback_without_steps_is_notified_too() -> None:
    rollout = Rollout.from_json({"notify": [{"webhook": HOOK, "events": ALL}]})
    begun = freeze.freeze_without_steps(rollout, 7, 5, T0, "returns to revision 5, within rollbackWindow")
    after = run_rollout(notifications.add_notices(ExperimentStatus(), begun, T0))
    assert [each.event for each in after.notices] == ["started", "promoted"]


def test_without_receivers_nothing_is_kept() -> None:
    assert run_rollout(frozen(), "promote", "promote").notices == ()


@pytest.mark.parametrize(
    ("end", "event"),
    [
        (("Aborted", "by command x"), "aborted"),
        (("LoadFailed", "boom"), "aborted"),
        (("SampleRatioMismatch", "10 of 100"), "aborted"),
        (("RolledBack", "errorRate is 3 times stable's"), "rolledBack"),
        (("Superseded", "revision 9 is wanted now"), None),
    ],
)
def test_an_end_has_the_name_in_the_status_of_the_deployment(end: tuple[str, str], event: str | None) -> None:
    before = frozen({"webhook": HOOK})
    after = notifications.add_notices(before, transitions.stop(before, Cause(*end), T0), T0)
    assert notices_of(after)[1:] == ([(event, 0, 0, ": ".join(end))] if event else [])
    assert notifications.add_notices(after, after, T0) == after


def test_a_reason_is_cut_to_what_a_status_takes() -> None:
    before = frozen({"webhook": HOOK})
    after = notifications.add_notices(before, transitions.stop(before, Cause("LoadFailed", "x" * 5000), T0), T0)
    assert after.notices[-1].reason == "LoadFailed: " + "x" * (notifications.REASON_LIMIT - 12)
    assert ExperimentStatus.parse(after.to_json()).notices == after.notices


def test_a_pause_is_notified_once_for_each_step_and_reason() -> None:
    status = frozen({"webhook": HOOK}, steps=[{"weight": 10, "gate": "time"}, {"weight": 50, "gate": "time"}])

    def pauses(status: ExperimentStatus, reason: str, step: int) -> ExperimentStatus:
        at = state_machine.tick(status, RolloutInputs(now=T0, replicas=1, available=1, confirmed=True)).step
        assert at is not None
        going = status.model_copy(update={"paused": None, "step": at.model_copy(update={"index": step})})
        stops = going.model_copy(update={"paused": PauseStatus(reason=reason, since=T0)})
        return notifications.add_notices(going, stops, T0)

    for reason, step in (("NoData", 1), ("Manual", 1), ("NoData", 1), ("NoData", 2), ("Manual", 1)):
        status = pauses(status, reason, step)
    assert notices_of(status)[1:] == [
        ("paused", 1, 0, "NoData: paused because an arm has no requests"),
        ("paused", 1, 0, "Manual: paused by command"),
        ("paused", 2, 0, "NoData: paused because an arm has no requests"),
    ]


def test_an_attempt_has_room_for_its_end_whatever_it_was_paused_for() -> None:
    status = frozen({"webhook": HOOK})
    many = [
        RolloutNotice(event="paused", step=number, reason="Manual: paused by command", time=T0)
        for number in range(notifications.MAX_PAUSE_NOTICES)
    ]
    full = status.model_copy(update={"notices": (*status.notices, *many)})
    paused = full.model_copy(update={"paused": PauseStatus(reason="NoData", since=T0)})
    assert notifications.add_notices(full, paused, T0).notices == full.notices
    ended = notifications.add_notices(full, transitions.stop(full, Cause("Aborted", "by command x"), T0), T0)
    assert ended.notices[-1].event == "aborted"
    assert ExperimentStatus.parse(ended.to_json()) == ended


def test_a_damaged_status_keeps_its_notices_and_starts_once() -> None:
    before = frozen({"webhook": HOOK, "events": ALL})
    damaged = before.model_copy(update={"arms": ()})
    again = freeze.freeze(Rollout.from_json({"steps": STEPS, "notify": [{"webhook": HOOK}]}), 7, 8, T0)
    assert notifications.add_notices(damaged, again, T0).notices == before.notices


def test_each_receiver_gets_its_events_in_order() -> None:
    status = run_rollout(
        frozen({"webhook": HOOK, "events": ALL}, {"webhook": OTHER}, {"webhook": OTHER, "events": ["aborted"]}),
        "promote",
        "promote",
    )
    received: dict[int, list[tuple[str, int]]] = {0: [], 1: [], 2: []}
    while waiting := notifications.pending_notices(status):
        for each in waiting:
            received[each.receiver].append((each.notice.event, each.number))
            status = notifications.record_delivery(status, each, OK, T0)
    assert received == {
        0: [("started", 1), ("paused", 2), ("paused", 3), ("promoted", 4)],
        1: [("paused", 2), ("paused", 3), ("promoted", 4)],
        2: [],
    }
    assert status.deliveries == (NotificationDelivery(receiver=0, told=4), NotificationDelivery(receiver=1, told=4))


def test_a_failing_receiver_stays_at_its_notice_and_delays_no_other() -> None:
    status = frozen({"webhook": HOOK, "events": ALL}, {"webhook": OTHER, "events": ALL})
    first, second = notifications.pending_notices(status)
    after = notifications.record_delivery(notifications.record_delivery(status, first, BUSY, T0), second, OK, T0)
    assert after.deliveries == (
        NotificationDelivery(receiver=0, problem="answered 500"),
        NotificationDelivery(receiver=1, told=1),
    )
    assert notifications.pending_notices(after) == [first]
    again = notifications.record_delivery(after, first, WebhookResult(problem="broke off"), T0 + timedelta(minutes=59))
    assert again == after, "the same trouble is written once"
    assert notifications.record_delivery(again, first, None, T0) == again
    done = notifications.record_delivery(again, first, OK, T0)
    assert done.deliveries[0] == NotificationDelivery(receiver=0, told=1)


def test_after_an_hour_a_notice_is_given_up_and_counted() -> None:
    status = frozen({"webhook": HOOK, "events": ALL})
    (first,) = notifications.pending_notices(status)
    early = notifications.record_delivery(status, first, BUSY, T0 + notifications.GIVE_UP_AFTER - timedelta(seconds=1))
    assert notifications.pending_notices(early) == [first]
    late = notifications.record_delivery(early, first, WebhookResult(404), T0 + notifications.GIVE_UP_AFTER)
    assert late.deliveries == (NotificationDelivery(receiver=0, told=1, lost=1, problem="answered 404"),)
    assert notifications.pending_notices(late) == []


@pytest.mark.parametrize(("status", "accepts"), [(199, False), (200, True), (299, True), (300, False), (None, False)])
def test_any_2xx_confirms_delivery(status: int | None, accepts: bool) -> None:
    assert WebhookResult(status).accepts is accepts


def test_a_status_without_a_plan_has_no_notices() -> None:
    status = frozen({"webhook": HOOK, "events": ALL})
    assert notifications.pending_notices(status.model_copy(update={"arms": ()})) == []


def test_the_payload_is_complete_and_has_no_secret() -> None:
    status = run_rollout(frozen({"webhook": HOOK}))
    (what,) = notifications.pending_notices(status)
    experiment = {
        "metadata": {"name": "digits-r8", "namespace": "vision", "uid": "u"},
        "spec": {"modelDeployment": "digits"},
    }
    assert notifications.make_payload(experiment, status, what) == {
        "id": "u/2",
        "event": "paused",
        "name": "digits",
        "namespace": "vision",
        "experiment": "digits-r8",
        "revision": 8,
        "stable": 7,
        "step": 2,
        "weight": 10,
        "reason": "WaitsForPromote: step 2 waits for promote",
        "verdict": "Undecided",
        "time": what.notice.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert replace(what, number=3).number == 3


def test_stored_deliveries_are_preserved() -> None:
    stored = {"phase": "Running", "deliveries": [{"receiver": 0, "told": 2}]}
    stale = {"phase": "Stopped", "deliveries": [{"receiver": 0, "told": 1}]}
    assert notifications.preserve_deliveries(stale, stored) == {**stored, "phase": "Stopped"}
    assert notifications.preserve_deliveries({"phase": "Stopped"}, stored) == {**stored, "phase": "Stopped"}
    for empty in (None, {}, {"phase": "Running"}):
        assert notifications.preserve_deliveries({"phase": "Stopped"}, empty) == {"phase": "Stopped"}
