"""Whole Experiments that outcomes decide: edges join and report feedback minutes after its requests."""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster
from doubles.experiments import (
    Json,
    condition,
    counts,
    in_phase,
    message,
    named_arms,
    status,
    until_phase,
    user_experiment,
    verdict,
)
from doubles.hooked_kubernetes import Write
from doubles.traffic import Answers
from sundog_operator.core.forecast import experiment_forecast
from sundog_operator.core.kubernetes.names import application
from sundog_operator.ports import EXPERIMENT, POD, Object, Ref

BUYING = {"success": [{"name": "conversion", "feedback": "bought", "minimumEffect": "20%"}]}
SLOWLY = {"success": [{"name": "conversion", "feedback": "bought"}]}
ROLLOUT = {"warmup": {"requests": 200, "duration": "1m"}}
AB = "ab"


async def serving(chance: Mapping[int, float], edges: int = 1, seed: int = 3, **answers: Answers) -> Cluster:
    """Revision 1 serves; this share of each revision's requests buys."""
    cluster = Cluster()
    cluster.set_traffic(60, seed=seed)
    cluster.edges.traffic.answers = dict(answers)
    cluster.edges.outcomes.chance = {application(NAME, number): {"bought": own} for number, own in chance.items()}
    await cluster.deploy(rollout=ROLLOUT)
    for number in range(1, edges):
        await cluster.add_edge(f"sundog-edge-{number}")
    await cluster.settle(3, seconds=10)
    return cluster


async def is_over(cluster: Cluster) -> bool:
    return (await status(cluster, AB)).get("phase") in ("Concluded", "Stopped")


def experiment(arms: int = 1, metrics: Json | None = None, **spec: Any) -> Object:
    """Return an Experiment of all traffic with arms of this number, each with its own model."""
    names = [f"arm-{number}" for number in range(1, arms + 1)]
    return user_experiment(AB, named_arms(*names), **{"exposure": "100%", "metrics": metrics or BUYING, **spec})


async def until_counts(cluster: Cluster, manifest: Object) -> None:
    """Apply an Experiment, and wait until its arms have warmed up."""
    await cluster.kube.apply(manifest)
    assert await cluster.go_on(10, functools.partial(counts, cluster, AB)), await status(cluster, AB)


def found(status: Json, arm: str, name: str = "conversion") -> Json:
    return next(dict(each) for each in status["metrics"] if (each["arm"], each["name"]) == (arm, name))


def accepted(state: Json) -> tuple[str, str, str]:
    """Return the condition of the spec."""
    return *condition(state, "SpecAccepted"), message(state, "SpecAccepted")


def entry(cluster: Cluster) -> Json:
    return dict(cluster.edges.in_force()[-1]["services"][0])


async def ends(cluster: Cluster, minutes: float = 120) -> Json:
    assert await cluster.go_on(minutes, functools.partial(is_over, cluster)), await status(cluster, AB)
    return await status(cluster, AB)


@pytest.mark.parametrize("refused", [{"minimumEffect": "0%"}, {"name": "retries"}])
async def test_one_whose_spec_is_refused_since_is_decided_by_its_plan(refused: Json) -> None:
    cluster = await serving({1: 0.2, 2: 0.3})
    await until_counts(cluster, experiment())
    none = {"success": [{**BUYING["success"][0], **refused}]}
    await cluster.kube.apply(experiment(metrics=none))
    await cluster.settle(5)
    assert condition(await status(cluster, AB), "SpecAccepted") == ("False", "InvalidSpec")
    assert entry(cluster)["feedback"]["metrics"] == ["bought"]
    state = await ends(cluster)
    assert verdict(state) == ("Concluded", "Winner", "arm-1")


@pytest.mark.parametrize("unit", [{"request": {}}, {"header": "x-user-id"}])
async def test_the_faster_arm_wins_by_what_edges_count_without_feedback(unit: Json) -> None:
    fast = {application(NAME, 3): Answers(median_ms=15.0)}
    cluster = await serving({}, edges=2, **fast)
    faster = {"success": [{"metric": "latencyP95", "goal": "decrease", "minimumEffect": "5%"}]}
    await until_counts(cluster, experiment(2, metrics=faster, unit=unit))
    assert "feedback" not in entry(cluster)
    state = await ends(cluster)
    assert (state["phase"], state["verdict"]["winner"]) == ("Concluded", "arm-2")
    assert state["verdict"]["reason"].startswith("Winner: latencyP95 (share of answers above ")
    assert condition(state, "DataQuality") == ("True", "Consistent")
    rows = {(each["arm"], each["role"], each["name"]): each["verdict"] for each in state["metrics"]}
    assert rows["arm-2", "success", "latencyP95"] == "Better"
    assert rows["arm-2", "guardrail", "errorRate"] == "Passed"
    assert rows["arm-1", "success", "latencyP95"] in ("Undecided", "NoEffect")
    assert any(each["role"] == "success" for point in state["history"] for each in point.get("metrics", ()))


@pytest.mark.parametrize("unit", [{"request": {}}, {"header": "x-user-id"}])
async def test_the_better_arm_wins_by_what_its_units_did_and_stable_has_all_traffic(unit: Json) -> None:
    cluster = await serving({1: 0.2, 2: 0.2, 3: 0.3}, edges=2)
    await until_counts(cluster, experiment(2, unit=unit))
    state = await ends(cluster)
    assert verdict(state) == ("Concluded", "Winner", "arm-2")
    assert state["verdict"]["reason"].startswith("Winner: conversion of arm-2 is ")
    assert "leader" not in state["verdict"]
    assert condition(state, "Conclusive") == ("True", "Winner")
    assert condition(state, "Running") == ("False", "Winner")
    assert condition(state, "Ready") == ("True", "Concluded")
    better, alike = found(state, "arm-2"), found(state, "arm-1")
    assert (better["role"], better["verdict"], alike["verdict"]) == ("success", "Better", "Undecided")
    assert better["interval"][0] < 1.5 < better["interval"][1]
    assert alike["interval"][0] < 1.0 < alike["interval"][1]
    control, arm = better["values"]
    assert better["measure"] == "rate"
    for events, own in zip(better["events"], (control, arm), strict=True):
        assert own["value"] == pytest.approx(events / own["count"], rel=1e-4)
        assert own["interval"][0] < own["value"] < own["interval"][1]
    arms = {each["name"]: each for each in state["arms"]}
    # Stable has no share of an exposure of 100 %: its requests before the start do not count.
    assert arms["stable"]["requests"] == 0
    if "header" in unit:
        assert [arms[name]["unitsFrom"] for name in ("control", "arm-2")] == ["exposures"] * 2
        assert [arms[name]["units"] for name in ("control", "arm-2")] == [control["count"], arm["count"]]
    assert {each["name"] for point in state["history"] for each in point.get("metrics", ())} >= {"conversion"}
    await cluster.settle(10)
    assert await cluster.weights() == {1: 100}
    assert "ExperimentConcluded" in await cluster.events()
    assert "feedback" not in entry(cluster)


async def test_outcomes_are_taken_from_the_end_of_the_warm_up_on() -> None:
    """A unit counts where it is first seen, so returning units are not lost to the warm-up."""
    cluster = await serving({})
    await cluster.kube.apply(experiment(exposure="50%", stop={"maxUnits": 1000}))

    await until_phase(cluster, "Running", AB)
    await cluster.settle(2)
    assert "feedback" not in entry(cluster)
    assert await cluster.go_on(10, functools.partial(counts, cluster, AB))
    await cluster.settle(3)
    assert entry(cluster)["feedback"] == {"metrics": ["bought"], "maxUnits": 2000}


async def test_outcomes_of_the_warm_up_are_no_evidence() -> None:
    cluster = await serving({1: 0.1, 2: 0.1})
    await until_counts(cluster, experiment())
    await cluster.go_on(3)
    state = await status(cluster, AB)
    exposed = sum(arm["requests"] for arm in state["arms"] if arm["name"] != "stable")
    events = sum(found(state, "arm-1")["events"])
    assert 0 < events < 0.1 * exposed


async def test_arms_without_an_effect_worth_finding_end_it_without_a_winner() -> None:
    metrics = {"success": [{"name": "conversion", "feedback": "bought", "minimumEffect": "60%"}]}
    cluster = await serving({1: 0.3, 2: 0.3, 3: 0.1})
    await cluster.kube.apply(experiment(2, metrics))
    state = await ends(cluster)
    assert verdict(state) == ("Concluded", "NoWinner", "")
    assert state["verdict"]["reason"].startswith("NoWinner: no arm can win any more: ")
    assert [found(state, arm)["verdict"] for arm in ("arm-1", "arm-2")] == ["NoEffect", "Worse"]
    assert condition(state, "Conclusive") == ("True", "NoWinner")


async def test_units_count_once_their_window_has_passed() -> None:
    cluster = await serving({1: 0.2, 2: 0.4})
    metrics = {"success": [{**BUYING["success"][0], "window": "10m"}]}
    await until_counts(cluster, experiment(metrics=metrics, unit={"header": "x-user-id"}))
    await cluster.go_on(6)
    assert entry(cluster)["feedback"]["windows"] == {"bought": [600]}
    assert found(await status(cluster, AB), "arm-1")["verdict"] == "NoData"
    state = await ends(cluster)
    assert verdict(state) == ("Concluded", "Winner", "arm-1")
    assert state["plan"]["comparison"]["outcomes"][0]["window"] == "10m"


RETURNING = {"success": [{**BUYING["success"][0], "window": "4m", "after": "2m"}]}


async def came_back(*, older: bool = False) -> Cluster:
    """Arm 1 has twice the outcomes of control, two minutes after their first exposures."""
    cluster = await serving({1: 0.2, 2: 0.4})
    outcomes = cluster.edges.outcomes
    outcomes.delay_s, outcomes.behind_s, outcomes.older = 120, -120, older
    await until_counts(cluster, experiment(metrics=RETURNING, unit={"header": "x-user-id"}))
    return cluster


async def test_an_arm_wins_by_units_that_came_back_after_a_while() -> None:
    cluster = await came_back()
    await cluster.go_on(1)
    taken = entry(cluster)["feedback"]
    assert (taken["delayedWindows"], "windows" in taken) == ({"bought": [[120, 240]]}, False)
    state = await ends(cluster)
    assert verdict(state) == ("Concluded", "Winner", "arm-1")
    assert state["plan"]["comparison"]["outcomes"][0]["after"] == "2m"


async def test_edges_that_know_no_delay_decide_nothing_by_units_that_came_back() -> None:
    cluster = await came_back(older=True)
    await cluster.go_on(2)
    state = await status(cluster, AB)
    assert condition(state, "DataQuality") == ("False", "FeedbackUnavailable")
    cluster.edges.outcomes.older = False
    await cluster.go_on(9)
    state = await status(cluster, AB)
    assert found(state, "arm-1")["verdict"] == "Better"
    assert (state["verdict"]["winner"], condition(state, "DataQuality")) == ("", ("False", "EdgeOutdated"))


async def test_an_arm_like_control_wins_if_it_does_no_harm() -> None:
    cluster = await serving({1: 0.3, 2: 0.3})
    await cluster.kube.apply(experiment(preset="doNoHarm"))
    state = await ends(cluster)
    assert verdict(state) == ("Concluded", "Winner", "arm-1")
    assert state["verdict"]["reason"].startswith(
        "Winner: arm-1 does no harm: conversion.noHarm, errorRate, latencyP95 "
    )
    assert state["plan"]["comparison"]["winBy"] == "noHarm"
    assert found(state, "arm-1")["verdict"] == "NoEffect"


def expecting(rate: str) -> Json:
    return {"success": [{**BUYING["success"][0], "expected": {"rate": rate}}]}


async def test_too_short_an_experiment_is_reported_before_its_start_by_the_expected_value() -> None:
    cluster = await serving({1: 0.1, 2: 0.1})
    await cluster.settle(6, seconds=10)
    await cluster.kube.apply(experiment(metrics=expecting("0.1%"), stop={"maxDuration": "1h"}))
    await cluster.settle(1)
    state = await status(cluster, AB)
    assert state["phase"] == "Pending"
    assert accepted(state)[:2] == ("True", "Underpowered")
    assert accepted(state)[2].startswith(
        "conversion is unlikely to be decided before the experiment stops: an effect of 20 % needs about "
    )
    assert " in 60 minutes (by spec.metrics.success[].expected and by the " in accepted(state)[2]
    # The value is no part of the plan, so it can be corrected while the Experiment runs, until there are counts.
    assert await cluster.go_on(10, functools.partial(in_phase, cluster, "Running", AB))
    assert accepted(await status(cluster, AB))[:2] == ("True", "Underpowered")
    assert " requests/s before the start)" in accepted(await status(cluster, AB))[2]
    await cluster.kube.apply(experiment(metrics=expecting("30%"), stop={"maxDuration": "1h"}))
    await cluster.settle(2)
    assert accepted(await status(cluster, AB)) == ("True", "Accepted", "")


async def test_own_counts_replace_the_expected_value() -> None:
    cluster = await serving({1: 0.3, 2: 0.3})
    await cluster.settle(6, seconds=10)
    await cluster.kube.apply(experiment(metrics=expecting("0.1%"), stop={"maxDuration": "1h"}))
    assert await cluster.go_on(20, functools.partial(estimates, cluster))
    assert accepted(await status(cluster, AB)) == ("True", "Accepted", "")


async def estimates(cluster: Cluster) -> bool:
    return any("ratio" in each for each in (await status(cluster, AB)).get("metrics", ()))


async def test_requests_are_the_most_units_that_can_come() -> None:
    cluster = await serving({1: 0.1, 2: 0.1})
    await cluster.settle(6, seconds=10)
    await cluster.kube.apply(
        experiment(metrics=expecting("0.1%"), unit={"header": "x-user-id"}, stop={"maxDuration": "1h"})
    )
    await cluster.settle(1)
    assert "; at most " in accepted(await status(cluster, AB))[2]


async def test_what_is_undecided_runs_its_course_and_is_reported_with_numbers() -> None:
    cluster = await serving({1: 0.1, 2: 0.1})
    cluster.edges.traffic.rps = {NAME: 20}
    await until_counts(cluster, experiment(stop={"maxDuration": "8m"}))
    assert (await status(cluster, AB))["verdict"]["reason"] == "evidence is being evaluated"
    await cluster.go_on(4)
    assert (await status(cluster, AB))["verdict"]["reason"].startswith("conversion of arm-1 is ")
    text = message(await status(cluster, AB), "Conclusive")
    assert text.startswith("arm arm-1: conversion of arm-1 is ")
    assert "conversion is unlikely to be decided before the experiment stops: an effect of 20 % needs about" in text
    state = await ends(cluster)
    assert state["verdict"]["decision"] == "Undecided"
    assert state["verdict"]["reason"].startswith("MaxDuration: ran for 8m (spec.stop.maxDuration); conversion of")


async def test_with_pause_all_stays_as_it_is_until_somebody_ends_it() -> None:
    cluster = await serving({1: 0.2, 2: 0.4})
    await cluster.kube.apply(experiment(onWin="pause"))

    async def won() -> bool:
        return "paused" in await status(cluster, AB)

    assert await cluster.go_on(60, won)
    state = await status(cluster, AB)
    assert (
        state["phase"],
        state["paused"]["reason"],
        state["verdict"]["winner"],
    ) == ("Running", "Won", "arm-1")
    await cluster.go_on(5)
    state = await status(cluster, AB)
    assert condition(state, "Running") == ("True", "Running")
    assert condition(state, "Conclusive") == ("True", "Winner")
    assert {arm["name"]: arm["weight"] for arm in state["arms"]} == {
        "stable": 0,
        "control": 50,
        "arm-1": 50,
    }
    assert (await cluster.events()).count("ArmWon") == 1
    assert "feedback" in entry(cluster)
    await cluster.kube.apply(experiment(onWin="pause", stopped=True))
    state = await ends(cluster, 2)
    assert verdict(state) == ("Concluded", "Winner", "arm-1")
    assert state["verdict"]["reason"].endswith("; ended by StoppedByUser: spec.stopped is true")
    assert condition(state, "Ready") == ("True", "Concluded")
    await cluster.settle(10)
    assert await cluster.weights() == {1: 100}


@pytest.mark.extended
async def test_while_the_store_does_not_answer_nobody_wins_and_then_somebody_does() -> None:
    cluster = await serving({1: 0.2, 2: 0.6})
    cluster.edges.outcomes.error = "redis://sundog-edge-store: does not answer"
    await cluster.kube.apply(experiment())
    await cluster.go_on(15)
    state = await status(cluster, AB)
    assert verdict(state) == ("Running", "Undecided", "")
    assert condition(state, "DataQuality") == ("False", "FeedbackUnavailable")
    text = message(state, "DataQuality")
    assert text == "sundog-edge-0 has no outcomes: redis://sundog-edge-store: does not answer"
    assert found(state, "arm-1")["verdict"] in ("Undecided", "NoData")
    written = await cluster.writes_of(cluster.go_on(2))
    written = [w for w in written if w.changed and w.ref.kind == EXPERIMENT]
    assert len(written) <= 3
    assert await cluster.notes("EvidenceDoubted") == [
        f"Experiment ab: no verdict while its data is in doubt (FeedbackUnavailable): {text}"
    ]
    cluster.edges.outcomes.error = ""
    state = await ends(cluster)
    assert state["verdict"]["winner"] == "arm-1"
    # The status shows the data that decided, and not the data of the evaluation before.
    assert condition(state, "DataQuality") == ("True", "Consistent")


@pytest.mark.extended
async def test_one_that_ends_while_control_is_in_trouble_stays_reported_so() -> None:
    cluster = await serving({1: 0.2, 2: 0.2})
    await cluster.go_on(5)
    await until_counts(cluster, experiment(metrics=SLOWLY, stop={"maxDuration": "10m"}))
    cluster.edges.traffic.answers = {application(NAME, number): Answers(errors=0.5) for number in (1, 2)}
    state = await ends(cluster)
    assert state["verdict"]["reason"].startswith("MaxDuration: ")
    assert condition(state, "DataQuality") == ("False", "ControlDegraded")


@pytest.mark.extended
async def test_while_too_many_lines_are_missing_nobody_wins_and_then_somebody_does() -> None:
    cluster = await serving({1: 0.2, 2: 0.6})
    (pod,) = await cluster.kube.list(POD, NAMESPACE, {"app.kubernetes.io/name": "sundog-edge"})
    await until_counts(cluster, experiment(unit={"header": "x-user-id"}))
    cluster.edges.counting(pod).drops = 0.1
    await cluster.go_on(3)
    cluster.edges.counting(pod).drops = 0.0
    state = await status(cluster, AB)
    assert verdict(state) == ("Running", "Undecided", "")
    assert found(state, "arm-1")["verdict"] == "Better"
    assert condition(state, "DataQuality") == ("False", "RequestsLost")
    assert "requests of control have no known outcome" in message(state, "DataQuality")
    written = await cluster.writes_of(cluster.go_on(2))
    written = [w for w in written if w.changed and w.ref.kind == EXPERIMENT]
    assert len(written) <= 3
    assert (await ends(cluster))["verdict"]["winner"] == "arm-1"
    assert len(await cluster.notes("EvidenceDoubted")) == 1


SKEWED = " outcomes are timed before the exposure that they name, and 0 in the future"


@pytest.mark.parametrize(
    ("fault", "minutes", "reason", "text"),
    [
        ({"most_events": 10}, 4, "FeedbackOverflow", "the feedback store had no space for "),
        ({"behind_s": 7200.0}, 2, "ClockSkew", SKEWED),
    ],
    ids=["full store-FeedbackOverflow", "outcomes before exposures-ClockSkew"],
)
async def test_no_arm_wins_after_outcomes_were_lost(fault: Json, minutes: float, reason: str, text: str) -> None:
    cluster = await serving({1: 0.2, 2: 0.6})
    outcomes = cluster.edges.outcomes
    before = {name: getattr(outcomes, name) for name in fault}
    await until_counts(cluster, experiment(stop={"maxDuration": "12m"}))
    vars(outcomes).update(fault)
    await cluster.go_on(minutes)
    vars(outcomes).update(before)
    await cluster.go_on(3)
    state = await status(cluster, AB)
    assert found(state, "arm-1")["verdict"] == "Better"
    assert condition(state, "DataQuality") == ("False", reason)
    assert text in message(state, "DataQuality")
    assert verdict(state) == ("Running", "Undecided", "")
    why = (await ends(cluster, 10))["verdict"]["reason"]
    assert why.startswith("MaxDuration: ")
    assert "; nothing is decided: " in why
    assert text in why


@pytest.mark.extended
async def test_a_store_that_is_lost_takes_no_outcome_back_and_decides_nothing_any_more() -> None:
    cluster = await serving({1: 0.2, 2: 0.22})
    await until_counts(cluster, experiment(stop={"maxDuration": "40m"}))
    await cluster.go_on(2)
    events = found(await status(cluster, AB), "arm-1")["events"]
    assert min(events) > 0
    cluster.edges.outcomes.lose()
    await cluster.go_on(3)
    state = await status(cluster, AB)
    assert condition(state, "DataQuality") == ("False", "FeedbackStoreReplaced")
    assert [new >= old for new, old in zip(found(state, "arm-1")["events"], events, strict=True)] == [
        True,
        True,
    ]
    state = await ends(cluster)
    assert state["verdict"]["decision"] == "Undecided"


async def test_edges_that_come_and_go_count_no_outcome_twice() -> None:
    cluster = await serving({1: 0.2, 2: 0.2}, edges=3)
    await until_counts(cluster, experiment(stop={"maxDuration": "30m"}))
    await cluster.go_on(3)
    cluster.edges.silent = {"sundog-edge-1"}
    await cluster.go_on(1)
    assert condition(await status(cluster, AB), "DataQuality") == ("Unknown", "EdgeSilent")
    cluster.edges.silent = set()
    await cluster.kube.delete(Ref(POD, NAMESPACE, "sundog-edge-2"))
    await cluster.go_on(3)
    state = await status(cluster, AB)
    known = cluster.edges.outcomes.sections(cluster.edges.in_force()[-1])[NAME]["outcomes"]
    positive = {row[2]: row[4] for row in known}
    assert all(
        seen <= own
        for seen, own in zip(found(state, "arm-1")["events"], (positive["control"], positive["arm-1"]), strict=True)
    )
    assert sum(found(state, "arm-1")["events"]) > 0.5 * sum(positive.values())


async def test_a_harmful_arm_is_dropped_and_another_wins() -> None:
    metrics = {**BUYING, "guardrails": [{"metric": "errorRate", "margin": "50%", "floor": "2%"}]}
    bad = Answers(errors=0.3)
    cluster = await serving({1: 0.2, 2: 0.9, 3: 0.3}, **{application(NAME, 2): bad})
    await cluster.kube.apply(experiment(2, metrics))
    state = await ends(cluster)
    assert "dropped" in next(arm for arm in state["arms"] if arm["name"] == "arm-1")
    assert verdict(state) == ("Concluded", "Winner", "arm-2")
    assert found(state, "arm-1", "errorRate")["verdict"] == "Harm"


KEPT = {"name": "kept", "feedback": "kept", "margin": "10%"}


async def test_an_arm_that_buys_more_and_keeps_less_is_dropped_by_that_outcome() -> None:
    """The other arm buys as much and keeps as much as control, so it wins."""
    cluster = await serving({1: 0.2})
    cluster.edges.outcomes.chance = {
        application(NAME, number): {"bought": bought, "kept": kept}
        for number, bought, kept in ((1, 0.2, 0.5), (2, 0.4, 0.3), (3, 0.3, 0.5))
    }
    await until_counts(cluster, experiment(2, {**BUYING, "guardrails": [KEPT]}))
    await cluster.settle(3)
    assert entry(cluster)["feedback"]["metrics"] == ["bought", "kept"]
    state = await ends(cluster)
    first = next(arm for arm in state["arms"] if arm["name"] == "arm-1")
    assert first["dropped"].startswith("Harm: arm arm-1: kept of arm-1 is ")
    assert verdict(state) == ("Concluded", "Winner", "arm-2")
    lost, kept = found(state, "arm-1", "kept"), found(state, "arm-2", "kept")
    assert (lost["role"], lost["verdict"], kept["verdict"]) == ("guardrail", "Harm", "Passed")
    assert (lost["allowed"], kept["allowed"]) == (0.9, 0.9)


async def test_an_arm_does_not_win_before_its_outcomes_have_passed() -> None:
    cluster = await serving({1: 0.2, 2: 0.6})
    never_sent = {**KEPT, "margin": "1%"}
    await cluster.kube.apply(experiment(1, {**BUYING, "guardrails": [never_sent]}))
    await cluster.go_on(15)
    state = await status(cluster, AB)
    assert found(state, "arm-1")["verdict"] == "Better"
    assert found(state, "arm-1", "kept")["verdict"] == "Undecided"
    assert verdict(state) == ("Running", "Undecided", "")
    assert message(state, "Conclusive").startswith(
        "arm arm-1: kept of arm-1: no outcome kept of any unit was reported yet"
    )


SPENT = {"name": "spent", "feedback": "bought", "type": "mean"}
RETURNS = {"name": "returns", "feedback": "returned", "type": "ratio", "denominator": "bought", "goal": "decrease"}
BY_USER = {"unit": {"header": "x-user-id"}}


@pytest.mark.parametrize(
    ("metric", "chances", "spec", "document"),
    [
        # Each buying unit has 1, which counts as 0.5.
        ({**SPENT, "cap": 0.5}, ({"bought": 0.2}, {"bought": 0.4}), {}, {"caps": {"bought": [500_000]}}),
        (
            {**SPENT, "covariate": "visits"},
            ({"bought": 0.2}, {"bought": 0.4}),
            BY_USER,
            {"metrics": ["bought", "visits"], "covariates": [["bought", "visits"]]},
        ),
        # Both arms buy as often; arm-1 returns half as much of it.
        (
            {**RETURNS, "minimumEffect": "20%"},
            ({"bought": 0.4, "returned": 0.4}, {"bought": 0.4, "returned": 0.2}),
            {},
            {"metrics": ["returned", "bought"], "products": [["returned", "bought"]]},
        ),
    ],
    ids=["cap", "covariate", "ratio"],
)
async def test_a_metric_decides_by_what_edges_count(
    metric: Json, chances: tuple[Json, Json], spec: Json, document: Json
) -> None:
    cluster = await serving({})
    cluster.edges.outcomes.chance = {application(NAME, n): chance for n, chance in enumerate(chances, start=1)}
    await until_counts(cluster, experiment(metrics={"success": [metric]}, **spec))
    await cluster.settle(3)
    assert entry(cluster)["feedback"].items() >= document.items()
    state = await ends(cluster)
    assert verdict(state) == ("Concluded", "Winner", "arm-1")
    assert state["plan"]["comparison"]["outcomes"][0].get("cap") == metric.get("cap")
    if "denominator" in metric:
        assert found(state, "arm-1", "returns")["ratio"] == pytest.approx(0.5, abs=0.15)


async def test_a_dropped_arm_is_not_waited_for_and_messages_are_about_the_remaining_arms() -> None:
    metrics = {**SLOWLY, "guardrails": [{"metric": "errorRate", "margin": "50%", "floor": "2%"}]}
    cluster = await serving({1: 0.2, 2: 0.2, 3: 0.2}, **{application(NAME, 2): Answers(errors=0.3)})
    await cluster.kube.apply(experiment(2, metrics))

    async def dropped() -> bool:
        return any("dropped" in arm for arm in (await status(cluster, AB)).get("arms", ()))

    assert await cluster.go_on(20, dropped)
    await cluster.go_on(2)
    state = await status(cluster, AB)
    assert message(state, "Conclusive").startswith("arm arm-2: conversion of arm-2 is ")
    assert "needed" in found(state, "arm-2")
    assert {"needed", "eta"}.isdisjoint(found(state, "arm-1"))
    assert all("the arm was dropped" in each["message"] for each in state["metrics"] if each["arm"] == "arm-1")


async def test_each_metric_is_named_that_is_unlikely_to_be_decided_in_its_time() -> None:
    success = [*BUYING["success"], {"name": "back", "feedback": "returned"}]
    metrics = {"success": success, "guardrails": [{"metric": "errorRate", "margin": "1%", "floor": "0%"}]}
    cluster = await serving({})
    alike = {"bought": 0.1, "returned": 0.05}
    cluster.edges.outcomes.chance = {application(NAME, number): alike for number in (1, 2)}
    cluster.edges.traffic.answers = {application(NAME, number): Answers(errors=0.01) for number in (1, 2)}
    await until_counts(cluster, experiment(1, metrics, stop={"maxDuration": "12m"}))
    await cluster.go_on(5)
    state = await status(cluster, AB)
    first = message(state, "Conclusive")
    assert first.startswith("arm arm-1: conversion of arm-1 is ")
    assert first.endswith("; unlikely to be decided before it stops, see status.metrics: back, errorRate"), first
    assert (
        "back is unlikely to be decided before the experiment stops: an effect of 5 %"
        in found(state, "arm-1", "back")["message"]
    )
    assert (
        "errorRate is unlikely to be decided before the experiment stops: it takes about "
        in found(state, "arm-1", "errorRate")["message"]
    )
    assert experiment_forecast.UNLIKELY_TEXT not in found(state, "arm-1", "retries")["message"]


async def test_a_metric_that_nobody_reports_is_named_before_the_others() -> None:
    cluster = await serving({1: 0.2, 2: 0.2})
    await cluster.kube.apply(
        experiment(metrics={"success": [*SLOWLY["success"], {"name": "back", "feedback": "returned"}]})
    )
    assert await cluster.go_on(6, functools.partial(counts, cluster, AB))
    await cluster.go_on(3)
    state = await status(cluster, AB)
    assert message(state, "Conclusive").startswith(
        "arm arm-1: back of arm-1: no outcome returned of any unit was reported"
    )
    assert found(state, "arm-1", "back")["note"] == "Unreported"
    assert "note" not in found(state, "arm-1")


async def test_an_arm_whose_guardrail_has_not_passed_does_not_win_yet() -> None:
    metrics = {**BUYING, "guardrails": [{"metric": "errorRate", "margin": "1%", "floor": "0%"}]}
    cluster = await serving({1: 0.2, 2: 0.6})
    cluster.edges.traffic.answers = {application(NAME, number): Answers(errors=0.01) for number in (1, 2)}
    await cluster.kube.apply(experiment(1, metrics))
    await cluster.go_on(15)
    state = await status(cluster, AB)
    assert found(state, "arm-1")["verdict"] == "Better"
    assert verdict(state) == ("Running", "Undecided", "")
    assert state["verdict"]["leader"] == "arm-1"
    assert state["verdict"]["reason"].startswith("conversion of arm-1 is ")
    assert state["verdict"]["reason"].endswith(": better; waits for errorRate of arm-1 to pass")
    assert message(state, "Conclusive").startswith("arm arm-1: errorRate ")
    written = await cluster.writes_of(cluster.go_on(3))
    reports = [write for write in written if write.changed and write.ref.kind == EXPERIMENT]
    assert len(reports) <= 4, "what a win waits for is written with the counts, once a minute"


@pytest.mark.extended
async def test_secondary_metrics_are_reported_and_decide_nothing() -> None:
    metrics = {"secondary": [{"name": "clicks", "feedback": "bought"}]}
    cluster = await serving({1: 0.2, 2: 0.6})
    await cluster.kube.apply(experiment(1, metrics))
    await cluster.go_on(10)
    state = await status(cluster, AB)
    assert (
        found(state, "arm-1", "clicks")["role"],
        found(state, "arm-1", "clicks")["verdict"],
    ) == (
        "secondary",
        "Better",
    )
    assert verdict(state) == ("Running", "Undecided", "")


@pytest.mark.extended
async def test_weights_follow_outcomes_once_an_hour_and_what_is_exposed_stays() -> None:
    cluster = await serving({1: 0.20, 2: 0.20, 3: 0.23})
    cluster.edges.traffic.rps = {NAME: 3}
    given = {"mode": "thompson", "floor": "10%", "delta": 0.3}
    await until_counts(cluster, experiment(2, SLOWLY, exposure="60%", allocation=given, stop={"maxDuration": "10h"}))
    first = (await status(cluster, AB))["epoch"]["number"]

    async def moved() -> bool:
        return (await status(cluster, AB))["epoch"]["number"] > first

    assert not await cluster.go_on(55, moved)
    assert await cluster.go_on(15, moved)
    state = await status(cluster, AB)
    weights = {arm["name"]: arm["weight"] for arm in state["arms"]}
    assert weights["stable"] == 40
    assert round(sum(weights.values()), 6) == 100
    assert weights["arm-2"] > 20 > weights["control"]
    assert min(weights.values()) >= 6 * 0.99
    assert [len(epoch["buckets"]) for epoch in state["evidenceEpochs"]] == [4, 4]
    assert state["plan"]["comparison"]["allocation"] == {"floor": 0.1, "delta": 0.3, "pace": "1h"}
    shares = ", ".join(f"{name} {weight} %" for name, weight in weights.items() if name != "stable")
    epoch = state["epoch"]["number"]
    (note,) = await cluster.notes("WeightsMoved")
    assert note == f"Experiment ab: outcomes moved the weights to {shares} from epoch {epoch}"
    # Each arm has the replicas for all of its possible traffic.
    assert {arm["replicas"] for arm in (await cluster.status())["arms"]} == {1}


class Died(Exception):
    """The process crashed."""


async def lives(moment: Literal["before", "after"] | None, number: int) -> tuple[Json, int]:
    """Run a short Experiment. The operator dies at one of its writes, and another continues. Return the end and the writes."""
    cluster, writes = await serving({1: 0.2, 2: 0.6}), 0

    def on_write(at: Literal["before", "after"], _: Write) -> None:
        nonlocal writes
        writes += at == "before"
        if at == moment and writes == number:
            raise Died

    await cluster.outside(functools.partial(cluster.kube.apply, experiment()))
    cluster.kube.on_write = on_write
    for _ in range(120):
        try:
            await cluster.round(10)
        except Died:
            continue
        if await is_over(cluster) and not (await cluster.status())["retiring"]:
            break
    return await status(cluster, AB), writes


@pytest.mark.extended
async def test_an_operator_that_dies_at_any_write_comes_to_the_same_verdict() -> None:
    wanted, writes = await lives(None, 0)
    assert wanted["verdict"]["winner"] == "arm-1"
    for number in range(1, writes + 1):
        for moment in ("before", "after"):
            state, _ = await lives(moment, number)  # type: ignore[arg-type]
            seen = (
                state["phase"],
                state["verdict"]["decision"],
                state["verdict"]["winner"],
            )
            assert seen == ("Concluded", "Winner", "arm-1"), f"died {moment} write {number}"
