"""Events of poison requests."""

from types import SimpleNamespace
from typing import Any, cast

from sundog_operator.core.edge import split
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems import poison_requests


def report(pod: str, **poisoned: int) -> EdgeReport:
    rows = [{"attempt": "a", "arm": arm, "retries": {"poison": count}} for arm, count in poisoned.items()]
    # A row of another attempt, and one of an edge without this counter.
    others = [{"attempt": "b", "arm": "canary", "retries": {"poison": 7}}, {"attempt": "a", "arm": "canary"}]
    return EdgeReport(pod, True, False, {"counters": [*rows, *others]})


def recorded_events(*reports: EdgeReport) -> list[tuple[str, str]]:
    arms = (split.SplitArm("stable", 7, 75, ((0, 7500),)), split.SplitArm("canary", 8, 25, ((7500, 10_000),)))
    context: Any = SimpleNamespace(
        desired_split=lambda: split.Split("a", "a", 2, arms),
        observed=SimpleNamespace(edges=reports),
        events=[],
        report=None,
    )

    def add(event: Any) -> Any:
        context.events.append(event)
        return context

    context.report = add
    poison_requests.report_poison_requests(cast("PlanContext", context))
    return [(event.note, event.dedupe_key) for event in context.events]


def test_there_is_an_event_per_revision_and_another_when_the_count_has_doubled() -> None:
    assert recorded_events(report("edge-0"), EdgeReport("edge-1", True, False, None)) == []
    ((note, key),) = recorded_events(report("edge-0", canary=1))
    assert note.startswith("revision 8: 1 request got no answer from two replicas, one after the other")
    notes, keys = zip(
        *(recorded_events(report("edge-0", canary=count), report("edge-1", canary=1))[0] for count in (1, 2, 3)),
        strict=True,
    )
    assert notes[1].startswith("revision 8: 3 requests got")
    assert keys[0] == keys[1] != keys[2]
    assert key not in keys
    assert len(recorded_events(report("edge-0", canary=1, stable=1))) == 2


def test_there_is_no_event_without_traffic() -> None:
    context: Any = SimpleNamespace(
        desired_split=lambda: None, observed=SimpleNamespace(edges=[report("edge-0", canary=1)]), events=[]
    )
    poison_requests.report_poison_requests(cast("PlanContext", context))
    assert context.events == []
