"""Evidence by outcomes, and the status of their metrics."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from experiment_statuses import T0, begin_experiment
from sundog_operator.api import (
    EvidenceEpoch,
    ExperimentStatus,
    PauseStatus,
)
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums, OutcomeSums, parse_sums
from sundog_operator.core.trial.evaluation import ExperimentEvaluation, OutcomeDecision
from sundog_operator.core.trial.experiment import dropped_arms, outcome_evaluation, state, state_machine

HOUR = timedelta(hours=1)
BY_USER = {"header": "x-user-id"}


def running(unit: dict[str, Any], epochs: int = 1, **spec: Any) -> ExperimentStatus:
    metrics = {
        "success": [{"name": "conversion", "feedback": "bought"}],
        "secondary": [{"name": "spent", "feedback": "amount", "type": "mean"}],
    }
    begun = begin_experiment(("a", "b"), **{"exposure": "60%", "unit": unit, "metrics": metrics, **spec})
    shares = state.target_buckets(begun)
    found = tuple(
        EvidenceEpoch(number=number, buckets=tuple(shares[arm.name] for arm in begun.arms))
        for number in range(1, epochs + 1)
    )
    confirmed = begun.epoch.model_copy(update={"number": epochs, "confirmed": True})
    return begun.model_copy(update={"evidence_epochs": found, "epoch": confirmed, "since": T0})


def counted(positive: dict[str, int], units: int = 1000, epoch: int = 1) -> Counters:
    exposed = {(epoch, name): units for name in ("stable", *positive)}
    outcomes = {
        ("bought", epoch, name): OutcomeSums(own, own, own * 10**6, own * 10**12) for name, own in positive.items()
    }
    return Counters("uid", feedback=FeedbackSums("s1", 9, exposed, outcomes))


def evaluate(
    status: ExperimentStatus, counters: Counters, undecided_reason: str = ""
) -> outcome_evaluation.OutcomeEvaluation:
    return outcome_evaluation.evaluate_experiment_outcomes(status, counters, {}, undecided_reason, T0 + HOUR)


def test_each_arm_and_metric_has_its_units() -> None:
    found = evaluate(running(BY_USER), counted({"control": 100, "a": 250, "b": 90}))
    assert [(each.arm, each.name, each.role, each.verdict, each.events) for each in found.metrics] == [
        ("a", "conversion", "success", "Better", (100, 250)),
        ("b", "conversion", "success", "Undecided", (100, 90)),
        ("a", "spent", "secondary", "Undecided", (0, 0)),
        ("b", "spent", "secondary", "Undecided", (0, 0)),
    ]
    assert found.metrics[0].ratio == pytest.approx(2.5)
    assert found.metrics[0].interval[0] < 2.5 < found.metrics[0].interval[1]
    assert found.metrics[1].needed is not None
    assert found.decided is not None
    assert (found.decided.decision, found.decided.winner) == ("Winner", "a")
    assert found.observed_traffic is not None
    assert found.observed_traffic.control_values == {"conversion": (0.1, 0.0)}
    # 4 arms, 1000 units each, in an hour without the warm-up.
    counted_s = 3600 - running(BY_USER).plan.warmup_duration.total_seconds()
    assert counted_s < 3600
    assert found.observed_traffic.units_per_second == pytest.approx(4000 / counted_s)


def test_a_metric_that_was_never_reported_shows_how_to_report_it() -> None:
    found = evaluate(running(BY_USER), counted({"control": 100, "a": 250, "b": 90}))
    assert [each.note for each in found.metrics] == [None, None, "Unreported", "Unreported"]
    assert found.metrics[2].message == (
        "spent of a: no outcome amount of any unit was reported yet; POST it to -/feedback below the service's URL, with the"
        " x-sundog-exposure of its answer"
    )
    # Outcomes of 0 were reported, and so was one of a single arm.
    zeros = {("bought", 1, "control"): OutcomeSums(5, 0, 0, 0), ("amount", 1, "a"): OutcomeSums(1, 0, 0, 0)}
    exposed = dict.fromkeys(((1, name) for name in ("stable", "control", "a", "b")), 1000)
    reported = evaluate(running(BY_USER), Counters("uid", feedback=FeedbackSums("s1", 9, exposed, zeros)))
    assert [each.note for each in reported.metrics] == [None] * 4


def test_a_secondary_metric_that_differs_is_a_discovery_without_a_verdict() -> None:
    names = [f"m{number}" for number in range(10)]
    secondary = [{"name": name, "feedback": name} for name in names]
    status = running(BY_USER, metrics={"secondary": secondary})
    exposed = {(1, arm): 10_000 for arm in ("stable", "control", "a", "b")}
    events = {("control", place): 1000 for place in range(10)} | {
        (arm, place): 1000 + 54 * place for arm in ("a", "b") for place in range(10)
    }
    sums = {(f"m{place}", 1, arm): OutcomeSums(own, own, 0, 0) for (arm, place), own in events.items()}
    found = evaluate(status, Counters("uid", feedback=FeedbackSums("s1", 9, exposed, sums))).metrics
    verdicts = {each.name: (each.verdict, each.note) for each in found if each.arm == "a"}
    assert verdicts["m0"] == ("Undecided", None)
    assert verdicts["m3"] == ("Undecided", "Discovery")
    assert verdicts["m9"] == ("Better", None)
    (message,) = (each.message for each in found if (each.arm, each.name) == ("a", "m3"))
    assert message.endswith("; differs from control (e-BH over all secondary metrics)")


def test_an_epoch_with_unfit_control_decides_nothing() -> None:
    status = running(BY_USER)
    (epoch,) = status.evidence_epochs
    excluded = status.model_copy(update={"evidence_epochs": (epoch.model_copy(update={"troubled": True}),)})
    found = evaluate(excluded, counted({"control": 100, "a": 250, "b": 90}))
    assert {each.verdict for each in found.metrics} == {"NoData"}
    assert found.decided is not None
    assert found.decided.winner == ""


def test_evidence_after_an_outage_needs_more_because_earlier_evidence_was_tested() -> None:
    """All tests of outcomes pay, and so do the intervals: for success metrics, secondary ones and guardrails."""
    spent, kept = {"name": "spent", "feedback": "spent"}, {"name": "kept", "feedback": "bought", "margin": "5%"}
    metrics = {"success": [{"name": "conversion", "feedback": "bought"}], "secondary": [spent], "guardrails": [kept]}
    first = running(BY_USER, metrics=metrics)
    (epoch,) = first.evidence_epochs
    outage = epoch.model_copy(update={"number": 0, "troubled": True})
    unlisted = epoch.model_copy(update={"restarts": 1})
    counters = counted({"control": 100, "a": 156, "b": 100})
    sums = {("spent", *key): own for (_, *key), own in counters.feedback.outcomes.items()}
    counters = replace(counters, feedback=replace(counters.feedback, outcomes={**counters.feedback.outcomes, **sums}))
    found = [
        evaluate(first.model_copy(update={"evidence_epochs": epochs}), counters).metrics
        for epochs in ((epoch,), (outage, epoch), (unlisted,))
    ]
    assert found[1] == found[2]
    for role, verdict in (("success", "Better"), ("secondary", "Better"), ("guardrail", "Passed")):
        before, after = (next(each for each in own if (each.arm, each.role) == ("a", role)) for own in found[:2])
        assert (before.verdict, after.verdict) == (verdict, "Undecided")
        assert after.interval[0] < before.interval[0] < before.interval[1] < after.interval[1]


def test_invalid_counts_are_shown_and_decide_nothing() -> None:
    found = evaluate(running(BY_USER), counted({"control": 100, "a": 250, "b": 90}), "the split is off")
    assert found.metrics[0].verdict == "Better"
    assert found.decided is not None
    assert (found.decided.decision, found.decided.reason) == ("Undecided", "nothing is decided: the split is off")


def test_a_dropped_arm_keeps_its_place_and_cannot_win() -> None:
    status = running(BY_USER, epochs=2)
    marked = tuple(arm.model_copy(update={"dropped": "Harm: x"}) if arm.name == "a" else arm for arm in status.arms)
    first, second = status.evidence_epochs
    without = second.model_copy(update={"buckets": (6000, 2000, 0, 2000)})
    dropped = status.model_copy(update={"arms": marked, "evidence_epochs": (first, without)})
    found = evaluate(dropped, counted({"control": 100, "a": 250, "b": 180}))
    assert found.decided is not None
    assert (found.decided.decision, found.decided.winner) == ("Winner", "b")
    assert [arm.standing for arm in found.decided.arms] == ["Out", "Won"]


def with_dropped(status: ExperimentStatus, name: str) -> ExperimentStatus:
    marked = tuple(arm.model_copy(update={"dropped": "Harm: x"}) if arm.name == name else arm for arm in status.arms)
    return status.model_copy(update={"arms": marked})


def test_a_dropped_arm_has_no_estimates() -> None:
    counters = counted({"control": 100, "a": 105, "b": 105})
    before, after = (
        evaluate(status, counters).metrics for status in (running(BY_USER), with_dropped(running(BY_USER), "a"))
    )
    assert [each.eta is not None for each in before] == [True, True, False, False]
    assert [(each.arm, each.name, each.needed is None, each.eta) for each in after] == [
        ("a", "conversion", True, None),
        ("b", "conversion", False, before[1].eta),
        ("a", "spent", True, None),
        ("b", "spent", before[3].needed is None, None),
    ]
    assert after[0].message.startswith("conversion of a is 5 % above control's")
    assert [each.message.endswith(": the arm was dropped") for each in after] == [True, False, True, False]
    assert (after[0].ratio, after[0].interval) == (before[0].ratio, before[0].interval)


def test_the_drop_of_an_arm_removes_its_estimates() -> None:
    """Also those of metrics from before the drop, and of guardrails, which are not tested any more."""
    status = running(BY_USER)
    metrics = evaluate(status, counted({"control": 100, "a": 105, "b": 105})).metrics
    rate = metrics[0].model_copy(
        update={"name": "errorRate", "role": "guardrail", "verdict": "Undecided", "message": "needs about 9 events"}
    )
    passed = rate.model_copy(update={"name": "retries", "verdict": "Passed", "message": "retries: no worse"})
    evidence = ExperimentEvaluation(metrics=(*metrics, rate, passed), harm={"a": "x"})
    after = state_machine.tick(status, state.ExperimentInputs(now=T0 + HOUR, confirmed=True, evidence=evidence))
    again = dropped_arms.merge_dropped_metrics(after, after.metrics)
    assert again == after.metrics
    assert {(each.arm, each.needed, each.eta) for each in after.metrics if each.arm == "a"} == {("a", None, None)}
    assert next(each for each in after.metrics if each.arm == "b") == metrics[1]
    assert {each.name: each.message for each in after.metrics if each.arm == "a"} == {
        "conversion": "conversion of a was not decided: the arm was dropped",
        "spent": "spent of a was not decided: the arm was dropped",
        "errorRate": "errorRate of a was not decided: the arm was dropped",
        "retries": "retries: no worse; the arm was dropped",
    }


REVENUE = {"name": "revenue", "feedback": "bought", "margin": "10%"}
GUARDED = {
    "success": [{"name": "conversion", "feedback": "bought"}],
    "guardrails": [{"metric": "errorRate"}, REVENUE],
}
MANY = 100_000


def rails(found: outcome_evaluation.OutcomeEvaluation) -> dict[str, tuple[str, float | None]]:
    return {each.arm: (each.verdict, each.allowed) for each in found.metrics if each.role == "guardrail"}


def test_an_outcome_can_be_a_guardrail() -> None:
    status = running(BY_USER, metrics=GUARDED)
    found = evaluate(status, counted({"control": 10_000, "a": 10_100, "b": 8000}, MANY))
    assert rails(found) == {"a": ("Passed", 0.9), "b": ("Harm", 0.9)}
    assert list(found.harm) == ["b"]
    assert found.harm["b"].startswith("arm b: revenue of b is 20 % below control's")
    broken = evaluate(status, counted({"control": 10_000, "a": 10_100, "b": 8000}, MANY), "the split is off")
    assert rails(broken) == rails(found)
    assert broken.harm == {}


def test_an_arm_wins_only_after_its_outcomes_have_passed() -> None:
    metrics = {**GUARDED, "guardrails": [{**REVENUE, "feedback": "amount", "type": "mean"}]}
    counters = counted({"control": 10_000, "a": 12_000, "b": 10_000}, MANY)
    found = evaluate(running(BY_USER, metrics=metrics), counters)
    assert found.decided is not None
    assert found.decided.winner == ""
    assert "waits for revenue of a to pass" in found.decided.reason
    paid = {("amount", 1, arm): OutcomeSums(10_000, 10_000, 10**10, 10**16) for arm in ("control", "a", "b")}
    both = Counters("uid", feedback=replace(counters.feedback, outcomes={**counters.feedback.outcomes, **paid}))
    passed = evaluate(running(BY_USER, metrics=metrics), both)
    assert rails(passed) == {"a": ("Passed", 0.9), "b": ("Passed", 0.9)}
    assert passed.decided is not None
    assert passed.decided.winner == "a"


def test_a_guardrail_alone_drops_an_arm() -> None:
    """Without a success metric nothing is decided, and harm still is."""
    status = running(BY_USER, metrics={"guardrails": [REVENUE]})
    found = evaluate(status, counted({"control": 10_000, "a": 10_000, "b": 8000}, MANY))
    assert found.decided is None
    assert list(found.harm) == ["b"]
    evidence = ExperimentEvaluation(metrics=found.metrics, harm=found.harm)
    after = state_machine.tick(status, state.ExperimentInputs(now=T0 + HOUR, confirmed=True, evidence=evidence))
    assert {arm.name: arm.dropped_code for arm in after.arms if arm.dropped} == {"b": "Harm"}
    assert set(rails(evaluate(after, counted({"control": 10_000, "a": 10_000, "b": 8000}, MANY)))) == {"a"}
    kept = dropped_arms.merge_dropped_metrics(after, ())
    assert {each.arm: each.verdict for each in kept if each.name == "revenue"} == {"a": "Passed", "b": "Harm"}


def test_outcomes_and_the_edge_share_the_error_of_harm() -> None:
    edge_only, both = running(BY_USER), running(BY_USER, metrics=GUARDED)
    assert outcome_evaluation.edge_harm_share(edge_only) == 1
    of_edge = len(both.plan.guardrails)
    assert outcome_evaluation.edge_harm_share(both) == of_edge / (of_edge + 1)


def test_without_evidence_a_guardrail_has_no_data() -> None:
    status = running(BY_USER, metrics=GUARDED).model_copy(update={"evidence_epochs": ()})
    assert rails(evaluate(status, Counters("uid"))) == {"a": ("NoData", 0.9), "b": ("NoData", 0.9)}


def test_a_capped_mean_has_sums_of_its_own() -> None:
    """Next to an uncapped one of the same feedback."""
    spent = {"name": "spent", "feedback": "paid", "type": "mean"}
    metrics = {"success": [{**spent, "cap": 2.5}], "secondary": [{**spent, "name": "whole"}]}
    status = running(BY_USER, metrics=metrics)
    selection = outcome_evaluation.make_feedback_selection("digits", "uid", status)
    assert selection is not None
    assert selection.metrics == {"paid@2500000", "paid"}
    sums = {
        (name, 1, arm): OutcomeSums(100, 100, total * factor, total**2 * factor)
        for name, total in (("paid", 100 * 10**6), ("paid@2500000", 2_500_000))
        for arm, factor in (("control", 100), ("a", 100), ("b", 100))
    }
    exposed = {(1, arm): 1000 for arm in ("stable", "control", "a", "b")}
    found = evaluate(status, Counters("uid", feedback=FeedbackSums("s1", 9, exposed, sums)))
    assert found.observed_traffic is not None
    assert found.observed_traffic.control_values["spent"][0] == pytest.approx(0.25)


def test_a_metric_with_a_cap_is_reported_by_its_own_sums() -> None:
    capped = {"name": "spent", "feedback": "paid", "type": "mean", "cap": 2.5}
    sums = {
        ("paid@2500000", 1, arm): OutcomeSums(100, 100, 2_500_000 * 100, 2_500_000**2 * 100)
        for arm in ("control", "a", "b")
    }
    exposed = {(1, arm): 1000 for arm in ("stable", "control", "a", "b")}
    status = running(BY_USER, metrics={"success": [capped]})
    found = evaluate(status, Counters("uid", feedback=FeedbackSums("s1", 9, exposed, sums)))
    assert [each.note for each in found.metrics] == [None, None]


def test_a_metric_with_a_window_is_about_matured_units() -> None:
    """1000 units of each arm are exposed, of which 500 have matured."""
    metric = {"name": "conversion", "feedback": "converted", "window": "1h"}
    status = running(BY_USER, metrics={"success": [metric], "secondary": [{"name": "all", "feedback": "converted"}]})
    selection = outcome_evaluation.make_feedback_selection("digits", "uid", status)
    assert selection is not None
    assert selection.metrics == {"converted@3600s", "converted"}
    arms = ("control", "a", "b")
    sums = {
        (name, 1, arm): OutcomeSums(own, own, own, own)
        for name, own in (("converted", 300), ("converted@3600s", 100))
        for arm in arms
    }
    exposed = {(1, arm): 1000 for arm in ("stable", *arms)}
    matured = {(3600, 1, arm): 500 for arm in ("stable", *arms)}
    counted = FeedbackSums("s1", 9, exposed, sums, matured=matured, until={3600: 1_769_000_000})
    assert parse_sums(counted.as_json()) == counted
    found = evaluate(status, Counters("uid", feedback=counted))
    assert found.observed_traffic is not None
    assert found.observed_traffic.control_values == {"conversion": (0.2, 0.0)}
    assert {each.name: each.events for each in found.metrics if each.arm == "a"} == {
        "conversion": (100, 100),
        "all": (300, 300),
    }


@pytest.mark.parametrize(("window", "share"), [(None, 1), ("15m", 3 / 4), ("1h", None)])
def test_units_count_only_since_the_first_window_has_passed(window: str | None, share: float | None) -> None:
    """An hour has passed: with a window of 15m the units of 45 minutes count, so as many more come in 45 minutes."""
    metric = {"name": "conversion", "feedback": "converted", "window": window}
    given = {"name": "kept", "feedback": "converted", "window": window, "margin": "1%"}
    status = running(BY_USER, metrics={"success": [metric], "guardrails": [given], "secondary": [metric]})
    window_s = {None: 0, "15m": 900, "1h": 3600}[window]
    name = f"converted@{window_s}s" if window_s else "converted"
    arms = ("control", "a", "b")
    feedback = FeedbackSums(
        "s1",
        9,
        {(1, arm): 1000 for arm in ("stable", *arms)},
        {
            (each, 1, arm): OutcomeSums(*[100 if arm == "control" else 115] * 4)
            for each in {name, "converted"}
            for arm in arms
        },
        matured={(window_s, 1, arm): 1000 for arm in arms},
    )
    for each in evaluate(status, Counters("uid", feedback=feedback)).metrics:
        assert each.needed is not None
        expected = None if share is None else (each.needed / 2000 - 1) * 3600 * share
        assert (None if each.eta is None else each.eta.total_seconds()) == pytest.approx(expected, rel=0.01)


def test_before_a_window_has_passed_nothing_is_known_and_reports_have_come() -> None:
    status = running(BY_USER, metrics={"success": [{"name": "conversion", "feedback": "converted", "window": "1h"}]})
    sums = {("converted", 1, arm): OutcomeSums(9, 9, 9, 9) for arm in ("control", "a", "b")}
    exposed = {(1, arm): 1000 for arm in ("stable", "control", "a", "b")}
    found = evaluate(status, Counters("uid", feedback=FeedbackSums("s1", 9, exposed, sums)))
    assert [(each.verdict, each.note) for each in found.metrics] == [("NoData", None)] * 2


CLICKED = {"name": "ctr", "feedback": "clicks", "type": "ratio", "denominator": "views"}


def clicked(views: dict[str, int], clicks: dict[str, int], units: int = 1000) -> Counters:
    """Each unit has the same numbers of views and, but for one half more and one half fewer, of clicks."""
    exposed = {(1, arm): units for arm in ("stable", *views)}
    sums, products = {}, {}
    for arm, seen in views.items():
        own = clicks[arm]
        squares = units // 2 * ((own + 1) ** 2 + (own - 1) ** 2) * 10**12
        sums["clicks", 1, arm] = OutcomeSums(units, units, units * own * 10**6, squares)
        sums["views", 1, arm] = OutcomeSums(units, units, units * seen * 10**6, units * seen**2 * 10**12)
        products["clicks*views", 1, arm] = units * own * seen * 10**12
    return Counters("uid", feedback=FeedbackSums("s1", 9, exposed, sums, products))


def test_a_ratio_is_of_both_sums() -> None:
    """a has fewer clicks than control, but more of them per view; b has more clicks, but fewer per view."""
    status = running(
        BY_USER, metrics={"success": [CLICKED], "guardrails": [{**CLICKED, "name": "ctr-kept", "margin": "5%"}]}
    )
    selection = outcome_evaluation.make_feedback_selection("digits", "uid", status)
    assert selection is not None
    assert (selection.metrics, selection.products) == ({"clicks", "views"}, {"clicks*views"})
    counters = clicked({"control": 50, "a": 30, "b": 80}, {"control": 10, "a": 9, "b": 12})
    found = evaluate(status, counters)
    assert [(each.name, each.arm, each.verdict) for each in found.metrics] == [
        ("ctr", "a", "Better"),
        ("ctr", "b", "Worse"),
        ("ctr-kept", "a", "Passed"),
        ("ctr-kept", "b", "Harm"),
    ]
    assert found.metrics[0].ratio == pytest.approx((9 / 30) / (10 / 50))
    assert found.observed_traffic is not None
    value, deviation = found.observed_traffic.control_values["ctr"]
    assert (value, deviation) == (pytest.approx(0.2), pytest.approx(1 / 50))


def test_a_ratio_without_denominators_shows_what_to_report() -> None:
    counters = counted({"control": 100, "a": 100, "b": 100})
    ratio = {**CLICKED, "feedback": "bought"}
    found = evaluate(running(BY_USER, metrics={"success": [ratio]}), counters)
    assert [each.note for each in found.metrics] == ["Unreported", "Unreported"]
    assert "no outcome views of any unit was reported yet" in found.metrics[0].message


def test_counters_of_a_ratio_that_no_units_can_have_are_invalid() -> None:
    counters = clicked(dict.fromkeys(("control", "a", "b"), 50), dict.fromkeys(("control", "a", "b"), 10))
    products = {**counters.feedback.products, ("clicks*views", 1, "a"): 10**20}
    wrong = replace(counters, feedback=replace(counters.feedback, products=products))
    found = evaluate(running(BY_USER, metrics={"success": [CLICKED]}), wrong)
    assert [each.verdict for each in found.metrics] == ["Invalid", "Undecided"]


def test_a_mean_is_adjusted_by_what_its_units_did_before() -> None:
    """Each unit spends what it spent before, plus or minus one, and 8 % more in a. History explains nearly all that differs."""
    half, arms = 500, {"control": 1.0, "a": 1.08, "b": 1.0}
    sums, products = {}, {}
    for arm, factor in arms.items():
        rows = [(int(factor * 10**6 * (x + more)), x * 10**6) for x in (1, 99) for more in (-0.5, 0.5)]
        times = half // 2
        sums["paid", 1, arm] = OutcomeSums(
            1000, 1000, times * sum(y for y, _ in rows), times * sum(y * y for y, _ in rows)
        )
        before = [times * sum(own) for own in ((x for _, x in rows), (x * x for _, x in rows))]
        sums["paid<", 1, arm] = OutcomeSums(1000, 1000, *before)
        products["paid*paid<", 1, arm] = times * sum(y * x for y, x in rows)
    exposed = {(1, arm): 1000 for arm in ("stable", *arms)}
    counters = Counters("uid", feedback=FeedbackSums("s1", 9, exposed, sums, products))
    spent = {"name": "spent", "feedback": "paid", "type": "mean"}
    plain = evaluate(running(BY_USER, metrics={"success": [spent]}), counters)
    assert [each.verdict for each in plain.metrics] == ["Undecided", "Undecided"]
    status = running(BY_USER, metrics={"success": [spent | {"covariate": "paid"}]})
    selection = outcome_evaluation.make_feedback_selection("digits", "uid", status)
    assert selection is not None
    assert (selection.metrics, selection.products) == ({"paid", "paid<"}, {"paid*paid<"})
    adjusted = evaluate(status, counters)
    assert [each.verdict for each in adjusted.metrics] == ["Better", "Undecided"]
    assert adjusted.metrics[0].ratio == pytest.approx(1.08, abs=0.001)
    assert plain.observed_traffic is not None
    assert adjusted.observed_traffic is not None
    (value, deviation), (same, left) = (
        each.observed_traffic.control_values["spent"] for each in (plain, adjusted) if each.observed_traffic is not None
    )
    assert (value, same, deviation, left) == pytest.approx((50, 50, 49, 0.5), rel=0.01)


def test_requests_as_units_are_counted_and_at_least_those_with_outcomes() -> None:
    tallies = counted({"control": 100, "a": 250, "b": 90})
    rows = {
        (1, "control"): ArmCounts(assigned=400),
        (1, "a"): ArmCounts(assigned=200),
        (1, "b"): ArmCounts(assigned=400),
    }
    counters = Counters("uid", {"edge/boot": rows}, feedback=tallies.feedback)
    arms = ("control", "a", "b")
    assert [counters.count_exposed_units(1, arm, sticky=False) for arm in arms] == [400, 250, 400]
    assert [counters.count_exposed_units(1, arm, sticky=True) for arm in arms] == [1000, 1000, 1000]


def test_a_sample_ratio_mismatch_of_first_exposures_is_reported() -> None:
    status, even = running(BY_USER), {"stable": 4000, "control": 2000, "a": 2000, "b": 2000}
    off = {**even, "control": 2600, "a": 1400}
    messages = [
        outcome_evaluation.find_split_mismatch(
            status, Counters("uid", feedback=FeedbackSums("s1", 1, {(1, arm): own for arm, own in units.items()}))
        )
        for units in (even, off, {})
    ]
    assert (messages[0], messages[2]) == ("", "")
    assert messages[1].endswith("of 10000 units, expected 2000: sample-ratio mismatch")


def test_weights_move_once_an_hour_within_the_exposure() -> None:
    status = running(BY_USER, allocation={"mode": "thompson"}, stop={"maxDuration": "10h"})
    counters = counted({"control": 100, "a": 130, "b": 100})
    early = outcome_evaluation.evaluate_experiment_outcomes(status, counters, {}, "", T0 + HOUR - timedelta(seconds=1))
    assert early.shares is None
    shares = evaluate(status, counters).shares
    assert shares is not None
    assert sum(shares) == 6000
    assert shares[1] > 2000 > max(shares[0], shares[2])
    assert evaluate(status, counters, "the split is off").shares is None
    moved = state_machine.tick(
        status,
        state.ExperimentInputs(now=T0 + HOUR, confirmed=True, evidence=ExperimentEvaluation(shares=shares)),
    )
    assert moved.epoch.number == status.epoch.number + 1
    assert moved.evidence_epochs[-1].buckets == (4000, *shares)
    assert state.target_buckets(moved) == {"stable": 4000, "control": shares[0], "a": shares[1], "b": shares[2]}
    assert state.max_target_buckets(moved, "a") == 6000


@pytest.mark.parametrize("paused", [True, False])
def test_a_winner_is_declared_unless_paused(paused: bool) -> None:
    status = running(BY_USER)
    if paused:
        status = status.model_copy(update={"paused": PauseStatus(reason="ControlDegraded", message="", since=T0)})
    evidence = ExperimentEvaluation(
        outcome_decision=OutcomeDecision("Winner", "a", "it is better " * 200),
        unreachable_edges=("edge",) if paused else (),
    )
    after = state_machine.tick(status, state.ExperimentInputs(now=T0 + HOUR, confirmed=True, evidence=evidence))
    if paused:
        assert after == status
        return
    assert (after.phase, after.verdict.decision, after.verdict.winner) == ("Concluded", "Winner", "a")
    assert len(after.verdict.reason) == 1024
    assert {arm.name: arm.weight for arm in after.arms}["stable"] == 100


def test_edges_keep_first_exposures_outside_of_the_experiment_too() -> None:
    assert state.max_first_exposures(running(BY_USER, stop={"maxUnits": 6000})) == 10_000
    assert state.max_first_exposures(running(BY_USER, stop={"maxUnits": 1_000_000_000})) == 100_000_000
