"""How automatic decisions are reported in events, verdicts and conditions of whole rollouts and Experiments."""

import functools
from dataclasses import replace

import pytest

from doubles.attempts import ended, experiment, paused
from doubles.cluster import NAME, NAMESPACE, TIMED, Cluster
from doubles.traffic import Answers
from sundog_operator.core.kubernetes.names import application
from sundog_operator.ports import POD, Object, Ref

FINE = Answers(errors=0.01)
V2 = "file:///models/v2"
HASTY = {"steps": [{"weight": 50, "maxDuration": "6m"}], "guardrails": [{"metric": "errorRate", "floor": "0%"}]}
"""With little traffic nothing is known after six minutes."""


async def served(rps: float, rollout: Object, answers: Answers = FINE) -> Cluster:
    """Revision 1 has served for some minutes, and revision 2 was just applied."""
    cluster = Cluster()
    cluster.set_traffic(rps, answers, answers)
    await cluster.deploy(rollout=rollout)
    await cluster.settle(30, seconds=10)
    await cluster.apply(V2, rollout=rollout)
    return cluster


async def condition(cluster: Cluster, type_: str) -> tuple[str, str, str]:
    conditions = (await experiment(cluster)).get("conditions", ())
    return next(
        ((c["status"], c["reason"], c["message"]) for c in conditions if c["type"] == type_), ("Absent", "", "")
    )


async def is_frozen(cluster: Cluster) -> bool:
    return (await condition(cluster, "Conclusive"))[0] != "Absent"


@pytest.mark.extended
async def test_what_a_policy_promotes_is_reported_before_and_after_it_is() -> None:
    cluster = await served(0.5, {**HASTY, "onInconclusive": "promote"})
    assert await cluster.go_on(3, functools.partial(is_frozen, cluster), seconds=1)
    assert (await experiment(cluster))["phase"] == "Pending"
    void = "; a promotion has no statistical guarantee: onInconclusive: promote passes a step that evidence does not decide"
    conclusive = await condition(cluster, "Conclusive")
    assert conclusive[:2] == ("False", "Undecided")
    assert conclusive[2].endswith(void)
    assert await cluster.go_on(10, lambda: ended(cluster))
    await cluster.go_on(1)
    verdict = (await experiment(cluster))["verdict"]
    why = "after step 2 at 100 %; without evidence: step 1 at 50 % by onInconclusive: promote"
    assert (verdict["decision"], verdict["reason"]) == ("Undecided", f"Promoted: {why}")
    assert await condition(cluster, "Conclusive") == ("False", "Undecided", f"Promoted: {why}")
    note = (await cluster.notes("Promoted"))[-1]
    assert note.startswith(
        f"revision 2 is stable; it replaces revision 1: {why}; onInconclusive: promote, although errorRate "
    )


@pytest.mark.extended
async def test_a_rollout_that_is_paused_for_the_same_again_is_reported_again() -> None:
    cluster = await served(0.5, HASTY)
    for times in (1, 2):
        assert await cluster.go_on(10, functools.partial(paused, cluster))
        await cluster.go_on(1)
        assert len(await cluster.notes("RolloutPaused")) == times
        await cluster.command(f"resume revision=2 id={times}")
        await cluster.settle(2)
    assert len({each["number"] for each in (await experiment(cluster))["evidenceEpochs"]}) == 1
    assert await cluster.notes("RolloutResumed") == []


async def test_a_gate_that_opens_to_a_step_of_the_same_weight_is_reported() -> None:
    cluster = await served(
        0, {"steps": [*TIMED["steps"], {"pause": {"duration": "1m"}}, {"weight": 50, "gate": "manual"}]}
    )
    assert await cluster.go_on(5, functools.partial(cluster.at_weight, 2, 50))
    assert await cluster.notes("GateOpened") == ["rollout digits-r2: step 2 started, still at 25 %: 30s have passed"]
    assert await cluster.notes("TrafficShifted") == [
        "rollout digits-r2: revision 2 gets 25 % of the traffic from epoch 1",
        "rollout digits-r2: revision 2 gets 50 % of the traffic from epoch 2: 1m have passed",
    ]


async def test_requests_that_an_edge_lost_are_no_failures_that_anybody_saw() -> None:
    cluster = await served(50, HASTY, Answers(hanging=0.02))
    assert await cluster.go_on(5, functools.partial(counts, cluster))
    await cluster.settle(3, seconds=5)
    assert "is unknown" not in (await condition(cluster, "DataQuality"))[2]
    pod = await cluster.kube.get(Ref(POD, NAMESPACE, "sundog-edge-0")) or {"metadata": {"name": "sundog-edge-0"}}
    cluster.edges.counting(pod).restart(cluster.clock.now().timestamp())
    await cluster.go_on(2)
    status, reason, message = await condition(cluster, "DataQuality")
    assert (status, reason) == ("True", "Consistent")
    assert message.endswith(" of canary is unknown")
    (expected_message,) = (
        each["message"] for each in (await experiment(cluster))["metrics"] if each["name"] == "errorRate"
    )
    lost = int(message.split(" and ")[1].split()[0])
    assert lost > 0
    assert f"the canary has {lost} lost requests of unknown outcome" in expected_message


async def counts(cluster: Cluster) -> bool:
    return bool((await experiment(cluster)).get("evidenceEpochs"))


@pytest.mark.extended
async def test_an_experiment_that_stands_still_while_control_fails_is_told_to_go_on() -> None:
    cluster = Cluster()
    cluster.set_traffic(50)
    answer_all(cluster, FINE)
    await cluster.deploy()
    await cluster.settle(30, seconds=10)
    await cluster.kube.apply(
        {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "Experiment",
            "metadata": {"name": "ab", "namespace": NAMESPACE},
            "spec": {"modelDeployment": NAME, "arms": [{"name": "wide", "model": {"uri": V2}}], "exposure": "40%"},
        }
    )
    await cluster.go_on(5)
    answer_all(cluster, replace(FINE, errors=0.5))
    await cluster.go_on(4)
    (note,) = await cluster.notes("ExperimentPaused")
    assert note.startswith("Experiment ab collects no evidence until control has been healthy for 5 minutes: ")
    assert await cluster.notes("ExperimentResumed") == []
    answer_all(cluster, FINE)
    await cluster.go_on(9)
    (note,) = await cluster.notes("ExperimentResumed")
    assert note.startswith("Experiment ab collects evidence again: it was paused (ControlDegraded) since ")
    assert len(await cluster.notes("ExperimentPaused")) == 1
    assert {*await cluster.events()}.isdisjoint({"EvidenceDoubted", "WeightsMoved"})


def answer_all(cluster: Cluster, answers: Answers) -> None:
    cluster.edges.traffic.answers = {application(NAME, number): answers for number in (1, 2)}
