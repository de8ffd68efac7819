"""Stored Experiments of users after some time, for tests of reports and commands."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from rollout_fixtures import BEGUN, condition
from sundog_operator.api import (
    Epoch,
    EvidenceEpoch,
    ExperimentSpec,
    ExperimentStatus,
    HistoryPoint,
    MetricStatus,
    ModelDeploymentSpec,
    PlanOutcome,
    Rollout,
    Verdict,
)
from sundog_operator.core import revisions
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums, OutcomeSums
from sundog_operator.core.analysis.outcome_status import make_rate
from sundog_operator.core.kubernetes import names
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial import history
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.experiment import arms, freeze, outcome_evaluation

HOUR: Final = timedelta(hours=1)
NINE: Final = ("a", "b", "c", "d", "e", "f", "g", "h", "i")
BOUGHT: Final = {"name": "converted", "feedback": "bought", "minimumEffect": "2%"}
SPENT: Final = {"name": "spent", "feedback": "amount", "type": "mean"}
WAITED: Final = {"name": "waited", "feedback": "seconds", "type": "mean", "goal": "decrease"}

Shares = Mapping[str, float]
"""Percent of the traffic by arm. Stable gets the rest."""


def frozen(beside: Sequence[str] = ("a", "b"), **spec: Any) -> ExperimentStatus:
    """Return the status of a frozen plan without traffic on its arms."""
    content = revisions.content_of(ModelDeploymentSpec.from_json({"model": {"uri": "file:///models/v1"}}))
    stable = Revision(7, revisions.content_hash(content), content)
    told = ExperimentSpec.from_json(
        {
            "modelDeployment": "digits",
            "arms": [{"name": name} for name in beside],
            "metrics": {"success": [BOUGHT], "guardrails": [{"metric": "errorRate"}]},
            **spec,
        }
    )
    planned = [(arm, 8 + place) for place, arm in enumerate(arms.plan_arms(stable, told))]
    return freeze.freeze(told, Rollout(), (7, stable.hash), planned, StableTraffic(100.0), BEGUN)


def outcome(of: Mapping[str, Any], arm: str, ratio: float, look: int, verdict: str = "Undecided") -> MetricStatus:
    """Return an outcome with an interval that gets narrower with each look."""
    reach = 1 + 2 / (look + 1)
    return MetricStatus(
        name=str(of["name"]),
        role="success",
        arm=arm,
        events=(100 * look, 110 * look),
        ratio=ratio,
        interval=(ratio / reach,) if look == 1 else (ratio / reach, ratio * reach),
        verdict=verdict,
        message=f"{of['name']} of {arm} is {ratio:g} times control's",
    )


def guardrail(arm: str, look: int, verdict: str = "Undecided", role: str = "guardrail") -> MetricStatus:
    """Return the error rate of an arm, near that of control."""
    status = outcome({"name": "errorRate"}, arm, 1.1, look, verdict)
    return status.model_copy(update={"role": role, "allowed": 1.25})


def at(status: ExperimentStatus, shares: Shares, look: int) -> ExperimentStatus:
    """Return the status with these weights, and the requests that they get until this hourly look."""
    outside = 100 - sum(shares.values())
    found = []
    for arm in status.arms:
        weight = round(outside, 2) if arm.name == names.STABLE else shares.get(arm.name, 0)
        requests = arm.requests + round(36_000 * arm.weight / 100) if look else 0
        counts = {"requests": requests, "errors": requests // 100, "units": requests // 9}
        found.append(arm.model_copy(update={"weight": weight, **counts}))
    return status.model_copy(update={"arms": tuple(found), "epoch": Epoch(number=look, since=BEGUN, confirmed=True)})


def with_history(
    status: ExperimentStatus, weights: Sequence[Shares], metrics: Sequence[Sequence[MetricStatus]]
) -> ExperimentStatus:
    """Return the status after one look per hour, with the history of weights and metrics that the operator stores."""
    known = status.model_copy(update={"phase": "Running"})
    for look, (shares, statuses) in enumerate(zip(weights, metrics, strict=True)):
        now = BEGUN + look * HOUR
        known = at(known, shares, look).model_copy(
            update={"metrics": tuple(statuses), "counted_at": now, "since": BEGUN}
        )
        known = history.record_point(known, statuses, now)
    return known.model_copy(update={"conditions": (condition("DataQuality", "True", "Consistent"),)})


def two_arms() -> ExperimentStatus:
    """Return an experiment after twelve hours with fixed weights for a fifth of the users: a is better than control, b is worse."""
    found = [
        [
            outcome(BOUGHT, "a", 1.4, look, "Better" if look > 8 else "Undecided"),
            outcome(BOUGHT, "b", 0.7, look, "Worse" if look > 8 else "Undecided"),
            guardrail("a", look, "Passed" if look > 8 else "Undecided"),
            guardrail("b", look),
        ]
        for look in range(12)
    ]
    status = with_history(frozen(exposure="20%"), [{"control": 6.68, "a": 6.66, "b": 6.66}] * 12, found)
    verdict = Verdict(decision="Winner", winner="a", reason="Winner: converted of a is 40 % above control's: better")
    ended = condition("Running", "False", "Winner", BEGUN + 11 * HOUR)
    return status.model_copy(
        update={"phase": "Concluded", "verdict": verdict, "conditions": (*status.conditions, ended)}
    )


def ten_arms() -> ExperimentStatus:
    """Return control and nine more arms for a tenth of the users, at twelve looks; the last arm was dropped after the fourth."""
    arms_of = ("control", *NINE)
    weights = [dict.fromkeys(arms_of if look < 4 else arms_of[:-1], 1.0) for look in range(12)]
    found = [
        [*(outcome(BOUGHT, arm, 1 + place / 40, look) for place, arm in enumerate(NINE)), *map_guardrails(look)]
        for look in range(12)
    ]
    return with_history(frozen(NINE, exposure="10%"), weights, found)


def map_guardrails(look: int) -> list[MetricStatus]:
    return [guardrail(arm, look, "Harm" if arm == NINE[-1] and look > 3 else "Undecided") for arm in NINE]


def moving() -> ExperimentStatus:
    """Return an experiment with adaptive weights: from a third each to 15, 80 and 5 percent of all traffic."""
    weights = [{"control": 33.34, "a": 33.33, "b": 33.33}] * 3
    weights += [{"control": 30, "a": 50, "b": 20}] * 2
    weights += [{"control": 15, "a": 80, "b": 5}] * 3
    found = [[outcome(BOUGHT, "a", 1.3, look), outcome(BOUGHT, "b", 0.8, look)] for look in range(len(weights))]
    return with_history(frozen(exposure="100%", allocation={"mode": "thompson"}), weights, found)


def means() -> ExperimentStatus:
    """Return one arm for a hundredth of the users with two mean metrics; for one of them less is better."""
    found = [
        [
            outcome(SPENT, "a", 1.2, look, "Better" if look > 4 else "Undecided"),
            outcome(WAITED, "a", 1.5, look, "Worse" if look > 4 else "Undecided").model_copy(
                update={"role": "secondary"}
            ),
        ]
        for look in range(8)
    ]
    metrics = {"success": [SPENT], "secondary": [WAITED]}
    return with_history(frozen(("a",), exposure="1%", metrics=metrics), [{"control": 0.5, "a": 0.5}] * 8, found)


def one_name() -> ExperimentStatus:
    """Return an experiment whose success metric has the name of a harm metric, with different results for the same arm."""
    status = frozen(("a",), exposure="20%", metrics={"success": [BOUGHT]})
    comparison = status.plan.comparison
    assert comparison is not None
    same = PlanOutcome(name="errorRate", role="success", feedback="mistakes", goal="decrease")
    plan = status.plan.model_copy(update={"comparison": comparison.model_copy(update={"outcomes": (same,)})})
    found = [
        [outcome({"name": "errorRate"}, "a", 0.5, look, "Better"), guardrail("a", look, "Harm", "harm")]
        for look in range(4)
    ]
    weights = [{"control": 10.0, "a": 10.0}] * 4
    return with_history(status.model_copy(update={"plan": plan}), weights, found)


def in_old_format(status: ExperimentStatus) -> ExperimentStatus:
    """Return the status in the old format, without weights of arms and roles of metrics."""
    return status.model_copy(update={"history": tuple(map(_in_old_format, status.history))})


def _in_old_format(point: HistoryPoint) -> HistoryPoint:
    metrics = tuple(each.model_copy(update={"role": None}) for each in point.metrics or ())
    return point.model_copy(update={"weights": None, "metrics": metrics or None})


@functools.cache
def measured() -> ExperimentStatus:
    """Return an experiment after six days, evaluated every eight hours from exact counts: wide wins, twin equals control."""
    status = frozen(
        ("wide", "twin"),
        unit={"header": "x-user-id"},
        metrics={"success": [{**BOUGHT, "minimumEffect": "10%"}, SPENT], "guardrails": [{"metric": "errorRate"}]},
        exposure="60%",
        stop={"maxDuration": "14d"},
    )
    shares = {"control": 20.0, "wide": 20.0, "twin": 20.0}
    generator, since = np.random.default_rng(11), BEGUN + HOUR
    exposed: Counter[str] = Counter()
    bought: Counter[str] = Counter()
    known = at(status, shares, 1).model_copy(update={"phase": "Running", "since": since})
    known = known.model_copy(update={"evidence_epochs": (EvidenceEpoch(number=2, buckets=(4000, 2000, 2000, 2000)),)})
    for look in range(1, 19):
        now = since + look * 8 * HOUR
        for arm, rate in (("control", 0.2), ("wide", 0.25 + 0.09 / look), ("twin", 0.2)):
            units = int(generator.poisson(160))
            exposed[arm] += units
            bought[arm] += int(generator.binomial(units, rate))
        known = at(known, shares, look).model_copy(update={"since": since, "counted_at": now})
        known = _evaluated(known, exposed, bought, now)
        won = any(each.verdict == "Better" and each.name == "converted" for each in known.metrics)
        if won and not known.verdict.winner:
            message = next(each.message for each in known.metrics if each.verdict == "Better")
            verdict = Verdict(decision="Winner", winner="wide", reason=f"Winner: {message}")
            conclusive = condition("Conclusive", "True", "Winner", now)
            known = known.model_copy(update={"verdict": verdict, "conditions": (conclusive,)})
        known = history.record_point(known, known.metrics, now)
    return known.model_copy(update={"conditions": (*known.conditions, condition("DataQuality", "True", "Consistent"))})


def _evaluated(
    status: ExperimentStatus, exposed: Mapping[str, int], bought: Mapping[str, int], now: datetime
) -> ExperimentStatus:
    """Return the status with the metrics of such counts. A buyer spends 4 on average."""
    million = 10**6
    sums = {("bought", 2, arm): OutcomeSums(own, own, own * million, own * million**2) for arm, own in bought.items()}
    sums |= {
        ("amount", 2, arm): OutcomeSums(own, own, 4 * own * million, 24 * own * million**2)
        for arm, own in bought.items()
    }
    counters = Counters("uid", feedback=FeedbackSums("s", 9, {(2, arm): own for arm, own in exposed.items()}, sums))
    found = outcome_evaluation.evaluate_experiment_outcomes(status, counters, {}, "", now).metrics
    errors = [
        MetricStatus(
            name="errorRate",
            role="guardrail",
            arm=arm,
            events=(40, 60 + place),
            lost=(0, 5),
            independent_events=12.0,
            measure="rate",
            values=(make_rate(40, 9000, 0.05, 8), make_rate(60 + place, 9000, 0.05, 8)),
            ratio=1.5,
            interval=(0.4, 6.0),
            allowed=1.25,
            basis="AllSteps",
            verdict="Undecided",
            message=f"errorRate of {arm} is 1.5 times control's",
        )
        for place, arm in enumerate(("wide", "twin"))
    ]
    arms_now = tuple(
        arm.model_copy(update={"units": exposed.get(arm.name, 0), "units_from": "exposures"}) for arm in status.arms
    )
    return status.model_copy(update={"metrics": (*found, *errors), "arms": arms_now})
