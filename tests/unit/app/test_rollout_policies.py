"""A rollout beyond its steps: rollbacks, windows, and edits during the rollout."""

from datetime import UTC, datetime, timedelta

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, TIMED, Cluster, model_uri
from doubles.traffic import Answers
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.ports import CONTROLLER_REVISION, EXPERIMENT, Ref

WINDOW = {"rollbackWindow": {"revisions": 2}}
RETURNS = {**MANUAL, **WINDOW}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def promoted(cluster: Cluster, number: int, rollout: dict[str, object]) -> None:
    """Revision `number` is stable, after steps if there was a revision before."""
    if number == 1:
        await cluster.deploy(rollout=rollout)
    else:
        await cluster.roll_out(number, rollout=rollout)
        await cluster.promote(number)
    await cluster.settle(15)


async def history(cluster: Cluster, newest: int, rollout: dict[str, object]) -> None:
    for number in range(1, newest + 1):
        await promoted(cluster, number, rollout)


async def weights_in_force(cluster: Cluster, application: str) -> set[int]:
    return {weights[application] for weights in cluster.edges.weights_seen if application in weights}


class TestReturns:
    async def test_the_revision_before_returns_by_one_switch_that_is_recorded(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        assert (await cluster.status())["stableBefore"] == [1]
        cluster.edges.weights_seen.clear()
        puts = len(cluster.serve.puts)
        await cluster.deploy(rollout=RETURNS, replicas=3)
        asked = [app for put in cluster.serve.puts[puts:] for app in put["applications"] if app["name"] == "digits-r1"]
        assert {app["deployments"][0]["num_replicas"] for app in asked} == {3}, "all are asked for at once"
        assert cluster.serve.running("digits-r1") == 3
        assert await weights_in_force(cluster, "digits-r1") <= {0, 100}
        await cluster.settle(15)
        status, experiment = await cluster.status(), (await cluster.experiment("digits-r1"))["status"]
        assert status["stableBefore"] == []
        assert status["lastRollout"] | {"at": ""} == {
            "experiment": "digits-r1",
            "revision": 1,
            "outcome": "Promoted",
            "code": "Promoted",
            "reason": "returns to revision 1, within rollbackWindow",
            "at": "",
        }
        assert [step["weight"] for step in experiment["plan"]["steps"]] == [100]
        assert experiment["plan"]["reason"] == "returns to revision 1, within rollbackWindow"
        assert experiment["phase"] == "Concluded"
        assert experiment["verdict"]["reason"] == "Promoted: returns to revision 1, within rollbackWindow"
        assert await cluster.condition("Promoted") == ("True", "Promoted")

    async def test_nothing_moves_before_the_returning_revision_has_all_its_replicas(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        cluster.serve.failures[model_uri(1)] = ("ModelNotFound", "the store is away")
        await cluster.apply(model_uri(1), rollout=RETURNS)
        await cluster.settle(30)
        assert await cluster.weights() == {2: 100, 1: 0}
        assert await cluster.message("RevisionReady") == "revision 1: the store is away"
        cluster.serve.failures.clear()
        await cluster.until_serves(1)

    async def test_a_return_that_could_not_start_may_be_tried_again(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        cluster.serve.failures[model_uri(1)] = ("LoadFailed", "the disk is broken")
        await cluster.apply(model_uri(1), rollout=RETURNS)
        await cluster.settle(30)
        assert await cluster.condition("Stalled") == ("True", "Aborted")
        assert (await cluster.status())["stableBefore"] == [1]
        cluster.serve.failures.clear()
        await cluster.command("retry revision=1 id=again")
        await cluster.until_serves(1)
        assert (await cluster.experiment("digits-r1-a2"))["status"]["phase"] == "Concluded"

    async def test_without_a_window_the_steps_are_walked(self, cluster: Cluster) -> None:
        await history(cluster, 2, MANUAL)
        await cluster.roll_out(1)

    async def test_what_lies_further_back_than_the_window_walks_its_steps(self, cluster: Cluster) -> None:
        await history(cluster, 4, RETURNS)
        assert (await cluster.status())["stableBefore"] == [3, 2, 1]
        await cluster.roll_out(1, rollout=RETURNS)
        await cluster.deploy(2, rollout=RETURNS)

    async def test_who_goes_back_does_not_come_forward_again_without_steps(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        await cluster.deploy(rollout=RETURNS)
        await cluster.roll_out(rollout=RETURNS)

    async def test_a_revision_that_a_command_rolled_back_walks_its_steps(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        await cluster.command("rollback revision=1 id=back")
        await cluster.until_serves(1)
        await promoted(cluster, 3, RETURNS)
        assert (await cluster.status())["stableBefore"] == [1]
        await cluster.roll_out(rollout=RETURNS)

    async def test_a_revision_that_was_created_and_never_stable_walks_its_steps(self, cluster: Cluster) -> None:
        await promoted(cluster, 1, RETURNS)
        await cluster.roll_out(rollout=RETURNS)
        await promoted(cluster, 3, RETURNS)
        await cluster.roll_out(rollout=RETURNS)
        await cluster.settle(20)
        assert await cluster.weights() == {3: 75, 2: 25}

    async def test_a_revision_that_was_aborted_walks_its_steps(self, cluster: Cluster) -> None:
        await history(cluster, 2, MANUAL)
        await cluster.roll_out(1)
        await cluster.command("abort revision=1 id=bad")
        await cluster.settle(15)
        assert (await cluster.status())["stableBefore"] == []
        await promoted(cluster, 3, RETURNS)
        await cluster.roll_out(1, rollout=RETURNS)

    async def test_a_revision_that_evidence_rolled_back_walks_its_steps(self, cluster: Cluster) -> None:
        cluster.set_traffic(100, *[Answers(errors=0.01)] * 3)
        await history(cluster, 2, MANUAL)
        cluster.edges.traffic.answers[f"{NAME}-r1"] = Answers(errors=1.0)
        await cluster.settle(12, seconds=10)
        await cluster.apply(model_uri(1), rollout={"steps": [{"weight": 25}]})

        async def rolled_back() -> bool:
            return (await cluster.condition("Stalled")) == ("True", "RolledBack")

        assert await cluster.go_on(10, rolled_back)
        await promoted(cluster, 3, RETURNS)
        assert (await cluster.status())["stableBefore"] == [2]
        await cluster.roll_out(1, rollout=RETURNS)

    async def test_one_that_was_superseded_before_it_lost_anything_may_still_return(self, cluster: Cluster) -> None:
        await history(cluster, 2, MANUAL)
        await cluster.roll_out(1)
        await cluster.deploy(2, rollout=RETURNS)
        await cluster.settle(15)
        await cluster.deploy(rollout=RETURNS)

    async def test_a_return_ends_the_rollout_that_is_under_way(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        await cluster.roll_out(3, rollout=RETURNS)
        await cluster.deploy(rollout=RETURNS)
        assert (await cluster.experiment("digits-r3"))["status"]["phase"] == "Stopped"

    async def test_a_return_needs_no_evidence_of_units(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        by_user = {"unit": {"header": "x-user"}, **WINDOW}
        await cluster.deploy(rollout=by_user)
        assert await cluster.condition("SpecAccepted") == ("True", "Accepted")

    async def test_a_return_waits_while_the_spec_is_paused(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        await cluster.apply(model_uri(1), rollout=RETURNS, paused=True)
        await cluster.settle(30)
        assert await cluster.weights() == {2: 100}
        await cluster.deploy(rollout=RETURNS)

    async def test_revisions_of_the_window_are_kept_beyond_the_history(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        for number in range(3, 16):
            await cluster.roll_out(number, rollout=RETURNS)
        await cluster.apply(model_uri(2), rollout=RETURNS)
        await cluster.settle(15)
        kept = {obj["metadata"]["name"] for obj in await cluster.kube.list(CONTROLLER_REVISION, NAMESPACE)}
        assert f"{NAME}-r1" in kept
        assert f"{NAME}-r3" not in kept
        await cluster.deploy(rollout=RETURNS)

    async def test_a_spec_that_is_refused_forgets_none_of_them_nor_what_is_held_back(self, cluster: Cluster) -> None:
        rollout = {"strategy": "recreate", "rollbackWindow": {"revisions": 12}}
        for number in range(1, 14):
            await cluster.deploy(number, rollout=rollout)
        cluster.serve.failures[model_uri(14)] = ("LoadFailed", "size mismatch")
        await cluster.apply(model_uri(14), rollout=rollout)
        await cluster.settle(20)
        assert await cluster.condition("Stalled") == ("True", "Aborted")
        known = {f"{NAME}-r{number}" for number in range(1, 15)}
        await cluster.apply(model_uri(14), rollout=rollout, replicas="three")
        await cluster.settle(5)
        assert {obj["metadata"]["name"] for obj in await cluster.kube.list(CONTROLLER_REVISION, NAMESPACE)} == known
        await cluster.deploy(15, rollout=rollout)


AT_ONE = [{"cron": "0 13 * * *", "duration": "1h"}]
"""Days of the tests begin at 12:00."""


class TestWindows:
    async def test_outside_its_windows_a_candidate_starts_and_gets_no_traffic(self, cluster: Cluster) -> None:
        windowed = {**TIMED, "windows": AT_ONE}
        await promoted(cluster, 1, windowed)  # a first revision is no rollout
        await cluster.apply(model_uri(2), rollout=windowed)
        await cluster.settle(30)
        assert await cluster.weights() == {1: 100, 2: 0}
        assert cluster.serve.running("digits-r2") == 1
        outside = "outside its windows; the next opens at 2026-11-25T13:00:00Z"
        assert await cluster.condition("Progressing") == ("True", "Paused")
        assert await cluster.message("Progressing") == f"revision 2, step 1 of 2: {outside}"
        assert (await cluster.experiment("digits-r2"))["status"]["step"]["reason"] == outside
        before = cluster.kube.store.revision
        await cluster.settle(50, seconds=60)
        assert cluster.kube.store.revision == before, "a status must not change with time alone"
        await cluster.settle(10, seconds=60)
        await cluster.until_weight(2, 25)
        assert cluster.clock.now() >= datetime(2026, 11, 25, 13, tzinfo=UTC)
        await cluster.until_serves(2)

    async def test_a_window_that_closes_leaves_the_weight_and_the_next_one_goes_on(self, cluster: Cluster) -> None:
        await promoted(cluster, 1, TIMED)
        until_half_past = [{"cron": "*/30 12-13 * * *", "duration": "1m"}]
        windowed = {**TIMED, "windows": until_half_past}
        await cluster.apply(model_uri(2), rollout=windowed)
        await cluster.until_weight(2, 25, rounds=2000)
        began = cluster.clock.now()
        assert began.minute in (0, 30)
        await cluster.settle(25, seconds=60)
        assert await cluster.weights() == {1: 75, 2: 25}
        await cluster.until_serves(2, rounds=600)
        assert (cluster.clock.now() - began) < timedelta(minutes=32)

    async def test_promote_is_refused_outside_and_abort_is_not(self, cluster: Cluster) -> None:
        await promoted(cluster, 1, MANUAL)
        await cluster.roll_out(rollout=MANUAL)
        await cluster.apply(model_uri(2), rollout={**MANUAL, "windows": AT_ONE})
        for command in ("promote revision=2 id=a", "promote revision=2 id=b full=true"):
            assert await cluster.answer(command, rounds=5) == (
                "Rejected",
                "outside its windows; the next opens at 2026-11-25T13:00:00Z. Remove spec.rollout.windows to continue now",
            )
        assert await cluster.weights() == {1: 75, 2: 25}
        await cluster.command("abort revision=2 id=c")
        await cluster.settle(10)
        assert await cluster.weights() == {1: 100}

    async def test_harm_rolls_back_outside(self, cluster: Cluster) -> None:
        cluster.set_traffic(100, Answers(errors=0.01), Answers(errors=1.0))
        judged = {"steps": [{"weight": 25}]}
        await promoted(cluster, 1, judged)
        await cluster.settle(12, seconds=10)
        await cluster.roll_out(rollout=judged)
        await cluster.apply(model_uri(2), rollout={**judged, "windows": AT_ONE})

        async def rolled_back() -> bool:
            return await cluster.weights() == {1: 100}

        assert await cluster.go_on(5, rolled_back)
        assert cluster.clock.now() < datetime(2026, 11, 25, 13, tzinfo=UTC)

    async def test_what_goes_back_waits_for_no_window(self, cluster: Cluster) -> None:
        await history(cluster, 2, RETURNS)
        windowed = {**RETURNS, "windows": AT_ONE}
        await cluster.deploy(rollout=windowed)
        await cluster.apply(model_uri(2), rollout=windowed)
        await cluster.settle(30)
        assert await cluster.weights() == {1: 100, 2: 0}
        await cluster.apply(model_uri(1), rollout=windowed)
        await cluster.settle(30)
        assert await cluster.condition("Promoted") == ("True", "Promoted")

    async def test_a_rollback_by_command_waits_for_no_window(self, cluster: Cluster) -> None:
        await history(cluster, 2, MANUAL)
        await cluster.apply(model_uri(2), rollout={**MANUAL, "windows": AT_ONE})
        await cluster.command("rollback revision=1 id=back")
        await cluster.until_serves(1)

    async def test_recreate_switches_within_a_window(self, cluster: Cluster) -> None:
        recreate = {"strategy": "recreate", "windows": AT_ONE}
        await promoted(cluster, 1, recreate)
        await cluster.apply(model_uri(2), rollout=recreate)
        await cluster.settle(30, seconds=60)
        assert await cluster.weights() == {1: 100, 2: 0}
        assert await cluster.message("Progressing") == (
            "revision 2 is being deployed, outside its windows; the next opens at 2026-11-25T13:00:00Z"
        )
        await cluster.settle(30, seconds=60)
        await cluster.until_serves(2)

    async def test_only_time_within_windows_counts_for_the_progress_deadline(self, cluster: Cluster) -> None:
        windowed = {**MANUAL, "windows": AT_ONE}
        await promoted(cluster, 1, windowed)
        cluster.serve.failures[model_uri(2)] = ("ModelNotFound", "the store is away")
        await cluster.apply(model_uri(2), rollout=windowed)
        await cluster.settle(70, seconds=60)  # ten minutes into the window
        assert await cluster.condition("Stalled") == ("Absent", "")
        await cluster.settle(8, seconds=60)
        assert await cluster.condition("Stalled") == ("True", "Aborted")
        assert "ProgressDeadlineExceeded" in (await cluster.status())["lastRollout"]["reason"]

    async def test_a_candidate_that_is_ready_is_not_late_however_long_it_was_held(self, cluster: Cluster) -> None:
        await promoted(cluster, 1, MANUAL)
        steps = {"steps": [{"pause": {}}, {"weight": 25, "gate": "manual"}]}
        await cluster.apply(model_uri(2), rollout=steps)
        await cluster.settle(20)
        await cluster.settle(30, seconds=60)
        await cluster.apply(model_uri(2), rollout=steps, paused=True)
        await cluster.settle(30, seconds=60)
        await cluster.apply(model_uri(2), rollout=steps)
        await cluster.settle(5)
        assert await cluster.weights() == {1: 100, 2: 0}
        await cluster.command("promote revision=2 id=a")
        await cluster.until_weight(2, 25)

    async def test_a_window_that_nobody_can_follow_is_refused_and_stable_serves(self, cluster: Cluster) -> None:
        await promoted(cluster, 1, MANUAL)
        wrong = {**MANUAL, "windows": [{"cron": "0 9 * * 1-5", "duration": "8h", "tz": "Europe/Pragu"}]}
        await cluster.apply(model_uri(2), rollout=wrong)
        await cluster.settle(10)
        assert await cluster.weights() == {1: 100}
        assert await cluster.condition("SpecAccepted") == ("False", "InvalidSpec")
        assert await cluster.message("SpecAccepted") == (
            "spec.rollout.windows[0].tz: Europe/Pragu is not a time zone; expected one such as UTC or Europe/Prague"
        )


def after_edits(policy: str) -> dict[str, object]:
    return {**MANUAL, "onNewRevision": policy}


async def rolling_out(cluster: Cluster, policy: str) -> None:
    """Revision 2 has a quarter of the traffic, and revision 3 is applied."""
    await promoted(cluster, 1, after_edits(policy))
    await cluster.roll_out(rollout=after_edits(policy))
    await cluster.apply(model_uri(3), rollout=after_edits(policy))


async def phase(cluster: Cluster, experiment: str) -> str:
    return str((await cluster.experiment(experiment))["status"]["phase"])


class TestQueue:
    async def test_an_edit_waits_for_the_rollout_to_end_and_is_shown_meanwhile(self, cluster: Cluster) -> None:
        await rolling_out(cluster, "queue")
        await cluster.settle(20)
        assert await cluster.weights() == {1: 75, 2: 25}
        assert (await cluster.status())["queued"] == 3
        assert await cluster.message("Progressing") == (
            "revision 2, step 1 of 3: waits for promote; revision 3 waits until this rollout has ended"
        )
        await cluster.command("promote revision=2 id=a full=true")
        await cluster.until_weight(3, 25)
        assert await cluster.weights() == {2: 75, 3: 25}
        assert "queued" not in await cluster.status()
        last = (await cluster.status())["lastRollout"]
        assert (last["revision"], last["outcome"]) == (2, "Promoted")
        assert await phase(cluster, "digits-r2") == "Concluded"

    async def test_the_newest_edit_wins(self, cluster: Cluster) -> None:
        await rolling_out(cluster, "queue")
        await cluster.settle(5)
        await cluster.apply(model_uri(4), rollout=after_edits("queue"))
        await cluster.settle(5)
        assert (await cluster.status())["queued"] == 4
        await cluster.command("promote revision=2 id=a full=true")
        await cluster.until_weight(4, 25)
        assert not any("digits-r3" in weights for weights in cluster.edges.weights_seen)

    async def test_it_begins_too_where_the_rollout_before_ended_badly(self, cluster: Cluster) -> None:
        await rolling_out(cluster, "queue")
        await cluster.command("abort revision=2 id=a")
        await cluster.until_weight(3, 25)
        assert await cluster.weights() == {1: 75, 3: 25}
        assert (await cluster.status())["lastRollout"]["outcome"] == "Aborted"

    async def test_it_has_its_own_gates_where_evidence_ended_the_rollout_before(self, cluster: Cluster) -> None:
        judged = {"steps": [{"weight": 25}], "onNewRevision": "queue"}
        fine, bad = Answers(errors=0.01), Answers(errors=1.0)
        cluster.set_traffic(100, fine, bad, fine)
        await promoted(cluster, 1, judged)
        await cluster.settle(12, seconds=10)
        await cluster.roll_out(rollout=judged)
        await cluster.roll_out(3, rollout=judged)
        status = await cluster.status()
        assert (status["lastRollout"]["revision"], status["lastRollout"]["outcome"]) == (2, "RolledBack")
        assert [each["revision"] for each in status["heldBack"]] == [2]
        assert status["experiment"] == "digits-r3"

    async def test_an_edit_back_to_the_candidate_takes_the_waiting_one_away(self, cluster: Cluster) -> None:
        await rolling_out(cluster, "queue")
        await cluster.settle(5)
        await cluster.apply(model_uri(2), rollout=after_edits("queue"))
        await cluster.settle(5)
        assert "queued" not in await cluster.status()
        assert await cluster.weights() == {1: 75, 2: 25}

    async def test_an_edit_back_to_stable_waits_for_nothing(self, cluster: Cluster) -> None:
        await rolling_out(cluster, "queue")
        await cluster.apply(model_uri(1), rollout=after_edits("queue"))
        await cluster.settle(20)
        assert await cluster.weights() == {1: 100}
        assert await phase(cluster, "digits-r2") == "Stopped"

    async def test_a_return_waits_for_nothing(self, cluster: Cluster) -> None:
        queue = {**after_edits("queue"), **WINDOW}
        await history(cluster, 2, queue)
        await cluster.roll_out(3, rollout=queue)
        await cluster.deploy(rollout=queue)

    async def test_a_rollout_whose_record_is_lost_holds_up_nobody(self, cluster: Cluster) -> None:
        await rolling_out(cluster, "queue")
        await cluster.settle(5)
        await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, "digits-r2"))
        await cluster.until_weight(3, 25)
        assert await cluster.weights() == {1: 75, 3: 25}

    async def test_a_candidate_without_steps_has_not_begun_and_is_replaced(self, cluster: Cluster) -> None:
        plainly = {"strategy": "recreate", "onNewRevision": "queue"}
        await promoted(cluster, 1, plainly)
        cluster.serve.failures[model_uri(2)] = ("ModelNotFound", "the store is away")
        await cluster.apply(model_uri(2), rollout=plainly)
        await cluster.settle(5)
        await cluster.deploy(3, rollout=plainly)

    async def test_the_policy_of_the_newest_spec_holds(self, cluster: Cluster) -> None:
        await rolling_out(cluster, "queue")
        await cluster.settle(5)
        await cluster.roll_out(3, rollout=after_edits("replaceCanary"))
        assert await phase(cluster, "digits-r2") == "Stopped"


class TestRestart:
    async def test_the_next_one_starts_once_the_replicas_of_the_one_before_are_gone(self, cluster: Cluster) -> None:
        await promoted(cluster, 1, after_edits("restart"))
        together: list[set[str]] = []
        cluster.after_step = lambda: together.append(
            {app["name"] for app in cluster.serve.puts[-1]["applications"]} if cluster.serve.puts else set()
        )
        await cluster.roll_out(rollout=after_edits("restart"))
        await cluster.apply(model_uri(3), rollout=after_edits("restart"))
        await cluster.settle(2)
        assert await cluster.weights() == {1: 100}
        assert (await cluster.status())["queued"] == 3
        assert await cluster.condition("Progressing") == ("True", "Queued")
        assert await cluster.message("Progressing") == "revision 3 waits until the replicas of revision 2 are gone"
        await cluster.until_weight(3, 25)
        assert {frozenset(names) for names in together} == {
            frozenset({"digits-r1"}),
            frozenset({"digits-r1", "digits-r2"}),
            frozenset({"digits-r1", "digits-r3"}),
        }
        assert await phase(cluster, "digits-r2") == "Stopped"
        assert (await cluster.experiment("digits-r3"))["status"]["step"]["index"] == 1

    async def test_replacing_starts_it_beside_the_one_before(self, cluster: Cluster) -> None:
        await rolling_out(cluster, "replaceCanary")
        await cluster.settle(2)
        deployed = [{app["name"] for app in put["applications"]} for put in cluster.serve.puts]
        assert {"digits-r1", "digits-r2", "digits-r3"} in deployed

    async def test_edits_that_come_faster_than_replicas_drain_wait_while_very_many_do(self, cluster: Cluster) -> None:
        """The API server would reject a status with more entries than allowed, and no pass could continue."""
        await promoted(cluster, 1, MANUAL)
        drained: list[int] = []
        waited: set[int] = set()

        async def count() -> None:
            status = await cluster.status()
            drained.append(len(status.get("retiring", ())))
            waited.update({status["queued"]} if "queued" in status else ())

        cluster.after_step = count
        cluster.edges.in_flight = {f"{NAME}-r{number}": 1 for number in range(2, 16)}
        for number in range(2, 16):
            await cluster.apply(model_uri(number))
            await cluster.settle(4)
        await cluster.until_weight(15, 25)
        assert (max(drained), bool(waited)) == (6, True)

    async def test_one_with_an_experiment_without_a_plan_ends_the_rollout_before(self, cluster: Cluster) -> None:
        """Otherwise that revision would resume where it was, with its traffic and without replicas."""
        await promoted(cluster, 1, MANUAL)
        await cluster.apply(model_uri(2))
        while not await cluster.kube.list(EXPERIMENT, NAMESPACE):
            await reconcile_model_deployment(cluster.world, Key("modeldeployment", NAMESPACE, NAME))
        await cluster.roll_out(3)
        await cluster.roll_out()
        assert await phase(cluster, "digits-r3") == "Stopped"
        assert await phase(cluster, "digits-r2") == "Running"

    async def test_a_first_revision_is_replaced_at_once(self, cluster: Cluster) -> None:
        cluster.serve.failures[model_uri(1)] = ("LoadFailed", "size mismatch")
        await cluster.apply(model_uri(1), rollout=after_edits("restart"))
        await cluster.settle(10)
        await cluster.deploy(2, rollout=after_edits("restart"))


def dry(**rollout: object) -> dict[str, object]:
    return {**rollout, "dryRun": True}


class TestDryRun:
    async def test_nothing_is_started_and_what_would_begin_is_reported(self, cluster: Cluster) -> None:
        await promoted(cluster, 1, dry(**MANUAL))  # a first revision is no rollout
        puts = len(cluster.serve.puts)
        await cluster.apply(model_uri(2), rollout=dry(**MANUAL))
        await cluster.settle(20)
        assert await cluster.condition("Progressing") == ("False", "DryRun")
        assert await cluster.message("Progressing") == (
            "without dryRun: canary of revision 2 beside revision 1: 25 % (manual gate) → 50 % (manual gate) → 100 %"
        )
        assert await cluster.condition("Ready") == ("True", "Serving")
        assert await cluster.condition("Stalled") == ("Absent", "")
        assert await cluster.condition("Promoted") == ("False", "NotPromoted")
        assert await cluster.weights() == {1: 100}
        assert len(cluster.serve.puts) == puts
        assert await cluster.kube.list(EXPERIMENT, NAMESPACE) == []
        before = cluster.kube.store.revision
        await cluster.settle(20, seconds=60)
        assert cluster.kube.store.revision == before

    async def test_without_it_what_was_told_begins(self, cluster: Cluster) -> None:
        await promoted(cluster, 1, MANUAL)
        await cluster.apply(model_uri(2), rollout=dry(**MANUAL))
        await cluster.settle(10)
        await cluster.roll_out(rollout=MANUAL)

    @pytest.mark.parametrize(("rps", "steps"), [(10, "25 % (evidence) → 50 %"), (100, "5 % (evidence) → 25 %")])
    async def test_the_plan_is_that_of_the_traffic_of_stable(self, cluster: Cluster, rps: float, steps: str) -> None:
        cluster.set_traffic(rps, Answers(errors=0.01))
        await promoted(cluster, 1, {})
        await cluster.settle(12, seconds=10)
        await cluster.apply(model_uri(2), rollout=dry())
        await cluster.settle(3)
        expected_message = await cluster.message("Progressing")
        assert expected_message.startswith(f"without dryRun: canary of revision 2 beside revision 1: {steps}")
        assert expected_message.endswith(
            ", by errorRate within 25 %, " + ("latencyP99 within 10 %" if rps == 100 else "latencyP95 within 25 %")
        )

    async def test_what_would_be_refused_is_refused(self, cluster: Cluster) -> None:
        await promoted(cluster, 1, MANUAL)
        await cluster.apply(model_uri(2), rollout=dry(strategy="blueGreen"))
        await cluster.settle(10)
        assert await cluster.condition("SpecAccepted") == ("False", "NotYetSupported")

    @pytest.mark.parametrize(
        ("rollout", "expected_message"),
        [
            ({"strategy": "recreate"}, "without dryRun: revision 1 gets all traffic from revision 2 at once"),
            (RETURNS, "without dryRun: returns to revision 1, within rollbackWindow, without steps"),
        ],
    )
    async def test_a_rollout_without_steps_is_reported_as_one(
        self, cluster: Cluster, rollout: dict[str, object], expected_message: str
    ) -> None:
        await history(cluster, 2, MANUAL)
        await cluster.apply(model_uri(1), rollout=dry(**rollout))
        await cluster.settle(30)
        assert await cluster.message("Progressing") == expected_message
        assert await cluster.weights() == {2: 100}

    @pytest.mark.parametrize(
        ("number", "expected_message"),
        [
            (3, "canary of revision 3 beside revision 1: 25 % (for 30s) → 100 %"),
            (1, "revision 1 keeps all traffic"),
        ],
    )
    async def test_a_rollout_under_way_is_held(self, cluster: Cluster, number: int, expected_message: str) -> None:
        await promoted(cluster, 1, TIMED)
        await cluster.roll_out(rollout=TIMED)
        await cluster.apply(model_uri(number), rollout=dry(**TIMED))
        await cluster.settle(60)
        assert await cluster.weights() == {1: 75, 2: 25}
        assert await cluster.message("Progressing") == (
            "revision 2, step 1 of 2: held by the spec; without dryRun: ends the rollout of revision 2; "
            + expected_message
        )
        await cluster.command("promote revision=2 id=a")
        await cluster.settle(3)
        assert (await cluster.status())["lastCommand"]["message"] == "spec.rollout.dryRun is true"
        await cluster.command("abort revision=2 id=b")
        await cluster.settle(10)
        assert await cluster.weights() == {1: 100}

    @pytest.mark.parametrize(
        ("number", "expected_message"),
        [
            (
                3,
                "once the rollout of revision 2 has ended, canary of revision 3 beside revision 1: 25 % (for 30s) → 100 %",
            ),
            (1, "ends the rollout of revision 2; revision 1 keeps all traffic"),
        ],
    )
    async def test_a_rollout_that_would_wait_ends_nothing(
        self, cluster: Cluster, number: int, expected_message: str
    ) -> None:
        queue = {**TIMED, "onNewRevision": "queue"}
        await promoted(cluster, 1, queue)
        await cluster.roll_out(rollout=queue)
        await cluster.apply(model_uri(number), rollout=dry(**queue))
        await cluster.settle(10)
        assert await cluster.message("Progressing") == (
            f"revision 2, step 1 of 2: held by the spec; without dryRun: {expected_message}"
        )


def keeping(**policy: object) -> dict[str, object]:
    return {**RETURNS, "keepPrevious": {"for": "10m", **policy}}


async def kept(cluster: Cluster) -> list[int]:
    return [each["revision"] for each in (await cluster.status())["kept"]]


def deployed(cluster: Cluster) -> set[str]:
    return {app["name"] for app in cluster.serve.puts[-1]["applications"]}


class TestKeepPrevious:
    async def test_the_revision_before_stays_warm_for_as_long_as_it_says(self, cluster: Cluster) -> None:
        await cluster.deploy(rollout=keeping(), replicas=3)
        await cluster.roll_out(rollout=keeping(), replicas=3)
        await cluster.promote()
        await cluster.settle(20)
        assert (await cluster.status())["retiring"] == []
        assert await kept(cluster) == [1]
        assert (cluster.serve.running("digits-r1"), cluster.serve.running("digits-r2")) == (1, 3)
        assert await cluster.weights() == {2: 100}
        await cluster.settle(9, seconds=60)
        assert await kept(cluster) == [1]
        await cluster.settle(2, seconds=60)
        assert await kept(cluster) == []
        assert deployed(cluster) == {"digits-r2"}

    async def test_a_return_to_it_waits_for_no_start(self, cluster: Cluster) -> None:
        cluster.serve.start_s = 30
        await history(cluster, 2, keeping())
        await cluster.apply(model_uri(1), rollout=keeping())
        await cluster.until_serves(1, rounds=10)
        await cluster.settle(20)
        assert await kept(cluster) == [], "what was gone back from is none to go back to"
        assert deployed(cluster) == {"digits-r1"}

    async def test_as_many_are_kept_as_it_says_the_newest_ones(self, cluster: Cluster) -> None:
        await history(cluster, 3, keeping())
        assert await kept(cluster) == [2]
        await promoted(cluster, 4, keeping(revisions=2))
        assert await kept(cluster) == [3, 2]

    @pytest.mark.parametrize("without", [RETURNS, keeping(replicas=0), keeping(revisions=0)])
    async def test_an_edit_lets_it_go(self, cluster: Cluster, without: dict[str, object]) -> None:
        await history(cluster, 2, keeping())
        assert await kept(cluster) == [1]
        await cluster.apply(model_uri(2), rollout=without)
        await cluster.settle(5)
        assert await kept(cluster) == []
        assert deployed(cluster) == {"digits-r2"}

    async def test_a_spec_that_is_refused_changes_nothing(self, cluster: Cluster) -> None:
        await history(cluster, 2, keeping())
        await cluster.apply(model_uri(2), replicas="three")
        await cluster.settle(20, seconds=60)
        assert await kept(cluster) == [1]

    async def test_a_spec_that_is_refused_while_it_drains_changes_nothing(self, cluster: Cluster) -> None:
        await history(cluster, 1, keeping())
        cluster.edges.in_flight = {"digits-r1": 1}
        await cluster.roll_out(rollout=keeping(), replicas=2)
        await cluster.promote()
        began = cluster.clock.now()
        await cluster.apply(model_uri(2), replicas="three")

        async def is_drained() -> bool:
            return (await cluster.status())["retiring"] == []

        await cluster.until(is_drained)
        # requestTimeout, the time a request may wait before it, and the grace period.
        assert cluster.clock.now() - began >= timedelta(seconds=30 + 5 + 5)
        await cluster.settle(20, seconds=60)
        assert await kept(cluster) == [1], "nobody said that it is not to be kept"
        assert deployed(cluster) == {"digits-r1", "digits-r2"}
        await cluster.apply(model_uri(2), rollout=keeping(**{"for": "1h"}), replicas=2)
        await cluster.settle(5)
        assert await kept(cluster) == [1]
        await cluster.apply(model_uri(2), rollout=RETURNS, replicas=2)
        await cluster.settle(5)
        assert await kept(cluster) == []
        assert deployed(cluster) == {"digits-r2"}

    async def test_without_a_policy_it_goes_once_a_spec_is_accepted(self, cluster: Cluster) -> None:
        await history(cluster, 1, RETURNS)
        await cluster.roll_out(rollout=RETURNS)
        await cluster.promote()
        await cluster.apply(model_uri(2), replicas="three")
        await cluster.settle(20)
        assert await kept(cluster) == [1]
        await cluster.apply(model_uri(2), rollout=RETURNS)
        await cluster.settle(5)
        assert await kept(cluster) == []
        assert deployed(cluster) == {"digits-r2"}

    @pytest.mark.parametrize("is_refused", [False, True], ids=["accepted spec", "refused spec"])
    async def test_a_candidate_that_was_aborted_is_not_kept(self, cluster: Cluster, is_refused: bool) -> None:
        await history(cluster, 1, keeping())
        await cluster.roll_out(rollout=keeping())
        if is_refused:
            await cluster.apply(model_uri(2), replicas="three")
        await cluster.command("abort revision=2 id=a")
        await cluster.settle(20)
        assert await kept(cluster) == []
        assert deployed(cluster) == {"digits-r1"}

    async def test_a_rollback_by_command_uses_it_too(self, cluster: Cluster) -> None:
        cluster.serve.start_s = 30
        await history(cluster, 2, keeping())
        await cluster.command("rollback revision=1 id=a")
        await cluster.until_serves(1, rounds=10)
