"""Objects that a backup brings back while Ray serves something newer: what serves keeps its traffic and its replicas."""

import copy
import functools
from typing import Any

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, Cluster, model_deployment
from doubles.experiments import named_arms, until_phase, user_experiment
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.edge import split_document
from sundog_operator.ports import CONFIG_MAP, CONTROLLER_REVISION, EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref

INSTALLATION = parse_installation("runtimeImage: example.com/runtime:1", "test")
DEPLOYMENT = Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME)
ORDERS = ["modeldeployment", "raycluster", "edge"]
"""The kind of key that the operator reconciles first after the restore: watches promise no order."""


class RestoredCluster(Cluster):
    """Fails after the first pass with which an edge sends requests to an application without a replica."""

    first = "modeldeployment"

    async def keys(self) -> list[Key]:
        return sorted(await super().keys(), key=lambda key: key.kind != self.first)

    async def check_traffic(self) -> None:
        """Check that each application with traffic answers: by the document, and at the edge, which may have an older one."""
        stored = split_document.read_document(await self.kube.get(Ref(CONFIG_MAP, NAMESPACE, "sundog-edge")))
        assert stored is not None
        for document in (stored, *self.edges.in_force()):
            entry = split_document.find_service_entry(document, NAME)
            weights = {arm["application"]: arm["weight"] for arm in (entry or {})["arms"] if arm["weight"]}
            assert weights, "the edge has no arm with traffic"
            answering = {name: self.running(name) for name in weights}
            assert all(answering.values()), f"weights {weights}, running replicas {answering}"

    def running(self, name: str) -> int:
        return (self.serve_apis if self.kuberay else self.serve).running(name)

    async def write_back(self, kept: Object, *, spec: bool = True, status: bool = True) -> None:
        """Restore an object over the stored one, as `kubectl replace` and `kubectl replace --subresource status` do."""
        ref = Ref(EXPERIMENT if kept["kind"] == "Experiment" else MODEL_DEPLOYMENT, NAMESPACE, kept["metadata"]["name"])
        if spec:
            fields = {key: kept[key] for key in ("apiVersion", "kind", "spec")}
            await self.kube.apply({**fields, "metadata": {"name": ref.name, "namespace": NAMESPACE}})
        if status:
            await self.set_status(ref, kept["status"])

    async def make_stable(self, number: int) -> None:
        """Make a revision stable, and let the one before it go."""
        await self.roll_out(number)
        await self.promote(number)
        await self.until(self.has_drained)

    async def has_drained(self) -> bool:
        return not (await self.status()).get("retiring")

    async def is_stable(self, number: int) -> bool:
        status = await self.status()
        return status["stable"]["revision"] == number and not status.get("candidate")


async def started(**options: Any) -> RestoredCluster:
    cluster = RestoredCluster(**options)
    await cluster.deploy()
    await cluster.settle(3)
    cluster.after_step = cluster.check_traffic
    return cluster


async def backed_up(**options: Any) -> tuple[RestoredCluster, Object]:
    """Return a cluster in which revision 2 has replaced revision 1, and the object of before."""
    cluster = await started(**options)
    backup = copy.deepcopy(await cluster.get())
    await cluster.make_stable(2)
    return cluster, backup


@pytest.mark.parametrize(("installation", "first"), [*((None, each) for each in ORDERS), (INSTALLATION, "raycluster")])
async def test_an_older_backup_takes_over_once_its_revision_is_healthy(first: str, installation: Any) -> None:
    cluster, backup = await backed_up(installation=installation)
    assert cluster.running("digits-r1") == 0
    cluster.first = first
    await cluster.write_back(backup)
    await cluster.until(functools.partial(cluster.is_stable, 1))
    await cluster.settle(30)
    assert await cluster.weights() == {1: 100}
    assert await cluster.condition("Ready") == ("True", "Serving")


async def test_a_revision_of_a_backup_that_cannot_start_gets_no_traffic() -> None:
    cluster, backup = await backed_up()
    cluster.first = "edge"
    cluster.serve.failures["file:///models/v1"] = ("ModelNotFound", "/models/v1 does not exist")
    await cluster.write_back(backup)
    await cluster.settle(90)
    assert (await cluster.weights())[2] == 100
    assert await cluster.condition("Ready") == ("True", "Serving")


async def test_a_restored_status_alone_changes_nothing() -> None:
    cluster, backup = await backed_up()
    cluster.first = "edge"
    await cluster.write_back(backup, spec=False)
    await cluster.until(functools.partial(cluster.is_stable, 2))
    await cluster.settle(30)
    assert await cluster.weights() == {2: 100}
    assert (await cluster.status())["stableBefore"] == [1], "a rollback finds the revision that the backup named"


@pytest.mark.parametrize("end", ["promote", "abort"])
async def test_a_backup_of_a_rollout_moves_no_traffic_to_replicas_that_are_gone(
    end: str,
) -> None:
    cluster = await started()
    await cluster.roll_out()
    await cluster.settle(3)
    backup, rollout = copy.deepcopy(await cluster.get()), copy.deepcopy(await cluster.experiment("digits-r2"))
    await cluster.command(f"{end} revision=2 id=x" + (" full=true" if end == "promote" else ""))
    await cluster.settle(5)
    await cluster.until(cluster.has_drained)
    cluster.first = "edge"
    await cluster.write_back(rollout, spec=False)
    await cluster.write_back(backup)
    await cluster.settle(60)
    expected = {2: 100} if end == "promote" else {1: 75, 2: 25}
    assert await cluster.weights() == expected


async def test_a_backup_moves_nothing_while_a_later_rollout_has_traffic() -> None:
    cluster, backup = await backed_up()
    await cluster.roll_out(3)
    await cluster.settle(3)
    cluster.first = "edge"
    await cluster.write_back(backup)
    await cluster.until(functools.partial(cluster.is_stable, 1))
    await cluster.settle(30)
    assert (await cluster.experiment("digits-r3"))["status"]["phase"] == "Stopped"


@pytest.mark.parametrize("first", ORDERS)
async def test_an_unknown_stable_revision_takes_no_traffic(first: str) -> None:
    cluster = await started()
    status = copy.deepcopy(await cluster.get())
    status["status"]["stable"]["revision"] = 99
    cluster.first = first
    await cluster.write_back(status, spec=False)
    await cluster.settle(30)
    assert await cluster.weights() == {1: 100}
    assert await cluster.condition("Ready") == ("True", "Serving")


@pytest.mark.parametrize(("installation", "first"), [(None, "raycluster"), (INSTALLATION, "raycluster")])
async def test_a_number_with_other_content_leaves_the_running_application_alone(first: str, installation: Any) -> None:
    cluster = await started(installation=installation)
    ref = Ref(CONTROLLER_REVISION, NAMESPACE, "digits-r1")
    stored = await cluster.read(ref)
    await cluster.apply("file:///models/v9", name="other")
    await cluster.until(functools.partial(_serves, cluster, "other"))
    other = await cluster.read(Ref(CONTROLLER_REVISION, NAMESPACE, "other-r1"))
    await cluster.kube.delete(ref)
    meta = {key: stored["metadata"][key] for key in ("name", "namespace", "labels", "ownerReferences")}
    await cluster.kube.create({**stored, "metadata": meta, "data": other["data"]})
    cluster.first = first
    await cluster.apply("file:///models/v9")
    await cluster.until_weight(2, 25)
    assert cluster.running("digits-r1") == 1
    await cluster.promote()


async def _serves(cluster: Cluster, name: str) -> bool:
    return await cluster.condition("Ready", name) == ("True", "Serving")


@pytest.mark.parametrize(
    ("installation", "version", "first"),
    [(None, 2, "edge"), (None, 1, "raycluster"), (INSTALLATION, 2, "raycluster"), (INSTALLATION, 3, "edge")],
)
async def test_a_deployment_that_is_made_again_keeps_what_runs(first: str, version: int, installation: Any) -> None:
    """Its ControllerRevisions go with it, as garbage collection removes them. Another service keeps RayCluster and edge."""
    cluster = await started(installation=installation)
    await cluster.kube.apply(model_deployment(name="words"))
    await cluster.make_stable(2)
    cluster.first = first
    await cluster.kube.delete(DEPLOYMENT)
    await cluster.apply(f"file:///models/v{version}")
    revision = 2 if version == 2 else 3
    await cluster.until_serves(revision)
    await cluster.settle(30)
    assert await cluster.weights() == {revision: 100}


@pytest.mark.parametrize("experiment", [False, True], ids=["stable", "experiment"])
async def test_a_replaced_deployment_without_status_keeps_its_replicas(experiment: bool) -> None:
    cluster = await started()
    if experiment:
        await cluster.kube.create(user_experiment("mine", named_arms("wide")))
        await until_phase(cluster, "Running", "mine")
        await cluster.settle(5)
    cluster.first = "edge"
    await cluster.write_back({**await cluster.get(), "status": {}}, spec=False)
    await cluster.settle(30)
    assert (await cluster.status())["stable"]["revision"] == 1
    assert len((await cluster.status()).get("arms") or ()) == experiment
    assert await cluster.condition("Ready") == ("True", "Serving")


async def test_the_spec_of_a_backup_without_its_status_rolls_out() -> None:
    cluster, backup = await backed_up()
    await cluster.write_back(backup, status=False)
    await cluster.until_weight(1, 25)
    assert MANUAL["steps"][0]["weight"] == 25
