"""After a rollback of the operator: status fields of a newer release are kept for its next start."""

from doubles.cluster import NAME, NAMESPACE, Cluster
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Kind, Object, Ref

LATER = {"forecast": {"at": "noon", "of": [1, 2]}}


async def add_of_later(cluster: Cluster, kind: Kind, name: str) -> None:
    """The fields that a newer release would have written."""
    ref = Ref(kind, NAMESPACE, name)
    stored = await cluster.read(ref)
    status, version = {**stored["status"], **LATER}, stored["metadata"]["resourceVersion"]
    await cluster.outside(lambda: cluster.kube.patch_status(ref, status, resource_version=version))


def later(obj: Object) -> object:
    return obj["status"].get("forecast")


async def test_a_rollout_keeps_the_fields_of_a_newer_release() -> None:
    cluster = Cluster()
    await cluster.deploy()
    await add_of_later(cluster, MODEL_DEPLOYMENT, NAME)
    await cluster.roll_out()
    rollout = (await cluster.status())["experiment"]
    await add_of_later(cluster, EXPERIMENT, rollout)
    await cluster.promote()
    assert later(await cluster.get()) == LATER["forecast"]
    assert later(await cluster.experiment(rollout)) == LATER["forecast"]


async def test_such_fields_alone_are_no_reason_to_write() -> None:
    cluster = Cluster()
    await cluster.deploy()
    await cluster.settle(20)
    await add_of_later(cluster, MODEL_DEPLOYMENT, NAME)
    assert await cluster.writes_during(20) == []
