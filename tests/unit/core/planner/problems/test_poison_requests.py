"""Requests that end replicas are events of their revision."""

from types import SimpleNamespace
from typing import Any, cast

from sundog_operator.core.edge import split
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems import poison_requests


def report(pod: str, **poisoned: int) -> EdgeReport:
    rows = [{"attempt": "a", "arm": arm, "retries": {"poison": count}} for arm, count in poisoned.items()]
    # Another attempt's, and one of an edge that counts no such thing.
    others = [{"attempt": "b", "arm": "canary", "retries": {"poison": 7}}, {"attempt": "a", "arm": "canary"}]
    return EdgeReport(pod, True, False, {"counters": [*rows, *others]})


def told(*reports: EdgeReport) -> list[tuple[str, str]]:
    arms = (split.SplitArm("stable", 7, 75, ((0, 7500),)), split.SplitArm("canary", 8, 25, ((7500, 10_000),)))
    seen: Any = SimpleNamespace(
        desired_split=lambda: split.Split("a", "a", 2, arms), observed=SimpleNamespace(edges=reports), events=[]
    )
    poison_requests.report_poison_requests(cast("PlanContext", seen))
    return [(event.note, event.dedupe_key) for event in seen.events]


def test_it_is_told_of_the_revision_over_all_edges_and_again_when_it_has_doubled() -> None:
    assert told(report("edge-0"), EdgeReport("edge-1", True, False, None)) == []
    ((note, key),) = told(report("edge-0", canary=1))
    assert note.startswith("revision 8: 1 request got no answer from two replicas, one after the other")
    notes, keys = zip(
        *(told(report("edge-0", canary=count), report("edge-1", canary=1))[0] for count in (1, 2, 3)), strict=True
    )
    assert notes[1].startswith("revision 8: 3 requests got")
    assert keys[0] == keys[1] != keys[2]
    assert key not in keys
    assert len(told(report("edge-0", canary=1, stable=1))) == 2


def test_nothing_in_traffic_has_nothing_to_tell() -> None:
    seen: Any = SimpleNamespace(
        desired_split=lambda: None, observed=SimpleNamespace(edges=[report("edge-0", canary=1)]), events=[]
    )
    poison_requests.report_poison_requests(cast("PlanContext", seen))
    assert seen.events == []
