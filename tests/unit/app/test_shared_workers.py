"""Models that share worker pods (`runtime.placement: shared`), in memory with stand-ins for KubeRay and Ray."""

import functools
from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster, model_deployment
from doubles.nodes import no_node_for, set_quota
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.observe import observe
from sundog_operator.core.kubernetes import names as kubernetes_names
from sundog_operator.core.ray import groups as ray_groups
from sundog_operator.errors import Forbidden, NotServed
from sundog_operator.ports import MODEL_DEPLOYMENT, POD, RAY_CLUSTER, RESOURCE_QUOTA, Object, Ref

IMAGE = "example.com/runtime:1"
INSTALLATION = parse_installation(
    f"{{runtimeImage: '{IMAGE}', ray: {{sharedWorkers: {{cpu: 2, memory: 4Gi, maxPods: 3}}}}}}", "test"
)
RAY = kubernetes_names.ray_cluster(0, IMAGE)
DASHBOARD = f"http://{RAY}-head-svc.{NAMESPACE}.svc.cluster.local:8265"
SHARED = {"placement": "shared"}
SMALL = {"cpu": "500m", "memory": "1Gi"}
"""Four of these fit into a shared pod."""


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(installation=INSTALLATION)
    made.kuberay.node = "n1"  # type: ignore[union-attr]
    return made


async def apply(cluster: Cluster, name: str = NAME, uri: str = "file:///models/v1", **spec: Any) -> None:
    await cluster.kube.apply(model_deployment(uri, name, **{"runtime": SHARED, "resources": SMALL, **spec}))


async def is_ready(cluster: Cluster, *names: str) -> bool:
    return all([await cluster.condition("Ready", name) == ("True", "Serving") for name in names])


async def serve(cluster: Cluster, name: str = NAME, **spec: Any) -> None:
    await apply(cluster, name, **spec)
    await cluster.until(functools.partial(is_ready, cluster, name))
    await cluster.settle(5)


async def groups(cluster: Cluster) -> dict[str, tuple[int, int, int]]:
    stored = await cluster.kube.get(Ref(RAY_CLUSTER, NAMESPACE, RAY))
    specs = stored["spec"]["workerGroupSpecs"] if stored is not None else ()
    return {each["groupName"]: (each["minReplicas"], each["maxReplicas"], each["replicas"]) for each in specs}


async def pods(cluster: Cluster, group: str = "shared") -> list[Object]:
    return await cluster.kube.list(POD, NAMESPACE, {ray_groups.LABEL_GROUP: group})


def selectors(cluster: Cluster) -> dict[str, str]:
    return {
        app["name"]: app["deployments"][0]["ray_actor_options"]["label_selector"][
            kubernetes_names.RAY_LABEL_APPLICATION
        ]
        for app in cluster.serve_apis.of(DASHBOARD).puts[-1]["applications"]
    }


async def test_small_models_share_pods_beside_one_with_pods_of_its_own(cluster: Cluster) -> None:
    await serve(cluster, replicas=2)
    await serve(cluster, "letters", replicas=3)
    await serve(cluster, "large", runtime={}, resources={"cpu": "4"})
    # Five quarters of a pod.
    assert await groups(cluster) == {"shared": (2, 3, 2), "large-r1": (1, 1, 1)}
    assert selectors(cluster) == {"digits-r1": "shared", "letters-r1": "shared", "large-r1": "large-r1"}
    labels = [pod["metadata"]["labels"] for pod in await pods(cluster)]
    assert [each[kubernetes_names.LABEL_NAME] for each in labels] == [kubernetes_names.RAY] * 2
    assert not any(
        {kubernetes_names.LABEL_MODEL_DEPLOYMENT, kubernetes_names.LABEL_REVISION} & set(each) for each in labels
    )
    assert [(await cluster.status(name))["readyReplicas"] for name in (NAME, "letters", "large")] == [2, 3, 1]
    assert await cluster.writes_during(20) == [], "a pass that changes nothing writes nothing"


async def test_rollouts_between_placements_are_promoted_and_taken_back(cluster: Cluster) -> None:
    await serve(cluster, runtime={})
    assert await groups(cluster) == {"digits-r1": (1, 1, 1)}
    await apply(cluster, uri="file:///models/v2")
    await cluster.until_weight(2, 25)
    assert await groups(cluster) == {"digits-r1": (1, 1, 1), "shared": (1, 3, 1)}
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(30)
    assert (await cluster.weights(), await groups(cluster)) == ({1: 100}, {"digits-r1": (1, 1, 1)})
    assert await pods(cluster) == []
    await cluster.command("retry revision=2 id=b")
    await cluster.until_weight(2, 25)
    await cluster.promote()
    await cluster.settle(30)
    assert await groups(cluster) == {"shared": (1, 3, 1)}
    await apply(cluster, uri="file:///models/v3")
    await cluster.until_weight(3, 25)
    assert await groups(cluster) == {"shared": (1, 3, 1)}, "the canary is in the pod of stable"
    await cluster.promote(3)
    await cluster.command("rollback revision=1 id=e")
    await cluster.until_serves(1)
    await cluster.settle(30)
    assert await groups(cluster) == {"digits-r1": (1, 1, 1)}


async def test_the_group_stays_while_serve_has_a_replica_of_it_and_goes_with_the_last(cluster: Cluster) -> None:
    await serve(cluster, replicas=4)
    await serve(cluster, "letters")
    await serve(cluster, "large", runtime={})
    assert await groups(cluster) == {"shared": (2, 3, 2), "large-r1": (1, 1, 1)}
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, "letters"))
    await cluster.settle(5)
    assert await groups(cluster) == {"shared": (1, 3, 1), "large-r1": (1, 1, 1)}
    assert len(await pods(cluster)) == 1
    # While Serve does not answer, it still has the application.
    cluster.serve_apis.of(DASHBOARD).down = True
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    await cluster.settle(5)
    assert (await groups(cluster))["shared"] == (1, 3, 1)
    cluster.serve_apis.of(DASHBOARD).down = False
    await cluster.settle(5)
    assert await groups(cluster) == {"large-r1": (1, 1, 1)}
    assert await is_ready(cluster, "large")
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, "large"))
    await cluster.settle(5)
    assert await cluster.kube.get(Ref(RAY_CLUSTER, NAMESPACE, RAY)) is None


async def test_the_last_shared_application_keeps_its_pods_until_it_has_drained(cluster: Cluster) -> None:
    await serve(cluster)
    await serve(cluster, "large", runtime={})
    (pod,) = await pods(cluster)
    cluster.serve_apis.of(DASHBOARD).drain_s = 10.0
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    await cluster.settle(8)
    assert [each["metadata"]["uid"] for each in await pods(cluster)] == [pod["metadata"]["uid"]]
    await cluster.settle(8)
    assert await groups(cluster) == {"large-r1": (1, 1, 1)}
    assert await pods(cluster) == []


@pytest.mark.parametrize("error", [Forbidden("rayclusters is forbidden (403)"), NotServed("no rayclusters (404)")])
async def test_a_first_revision_needs_no_list_of_rayclusters(cluster: Cluster, error: Exception) -> None:
    def refuse(verb: str, ref: Ref) -> Exception | None:
        return error if (verb, ref.kind) == ("list", RAY_CLUSTER) else None

    await apply(cluster)
    cluster.kube.faults = refuse
    assert (await observe(cluster.world, await cluster.get())).taken == ()


@pytest.mark.parametrize("before", [SHARED, {}])
async def test_a_namesake_with_other_pods_leaves_the_old_ones_to_drain(cluster: Cluster, before: Object) -> None:
    await serve(cluster, "large", runtime={})
    await serve(cluster, runtime=before)
    old, new = ("shared", "digits-r2") if before else ("digits-r1", "shared")
    (pod,) = await pods(cluster, old)
    cluster.serve_apis.of(DASHBOARD).drain_s = 10.0
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    await apply(cluster, runtime=SHARED if not before else {})
    # The edges still send requests to the old application until the new one is ready.
    await cluster.until_serves(2)
    assert [each["metadata"]["uid"] for each in await pods(cluster, old)] == [pod["metadata"]["uid"]]
    await cluster.settle(20)
    assert set(await groups(cluster)) == {"large-r1", new}
    assert await pods(cluster, old) == []


async def test_a_replica_larger_than_a_shared_pod_is_refused_and_stable_serves(cluster: Cluster) -> None:
    await serve(cluster)
    await apply(cluster, uri="file:///models/v2", resources={"cpu": "2500m", "memory": "5Gi"})
    await cluster.settle(5)
    fix = "the size of a shared pod. Ask for less, or use runtime.placement: dedicated"
    assert (await cluster.read_condition("SpecAccepted"))[1:] == (
        "InvalidSpec",
        f"spec.resources.cpu: 2500m with runtime.placement: shared; expected at most 2 CPU, {fix};"
        f" spec.resources.memory: 5Gi with runtime.placement: shared; expected at most 4Gi memory, {fix}",
    )
    assert await cluster.weights() == {1: 100}
    assert await groups(cluster) == {"shared": (1, 3, 1)}


async def test_a_refused_spec_does_not_raise_the_fewest_replicas_of_a_model_that_scales(cluster: Cluster) -> None:
    scaling = {"minReplicas": 1, "maxReplicas": 8, "targetOngoingRequests": 2}
    await serve(cluster, autoscaling=scaling)
    cluster.serve_apis.of(DASHBOARD).load("digits-r1", 8)
    await cluster.settle(5)
    assert await groups(cluster) == {"shared": (1, 3, 2)}
    await apply(cluster, autoscaling=scaling, resources={"cpu": "9", "memory": "1Gi"})
    await cluster.settle(5)
    assert (await cluster.read_condition("SpecAccepted"))[1] == "InvalidSpec"
    assert await groups(cluster) == {"shared": (1, 3, 2)}


async def test_smaller_shared_pods_still_hold_the_replicas_that_serve(cluster: Cluster) -> None:
    await serve(cluster, resources={"cpu": "1500m", "memory": "3Gi"})
    small = parse_installation(
        f"{{runtimeImage: '{IMAGE}', ray: {{sharedWorkers: {{cpu: 1, memory: 1Gi, maxPods: 3}}}}}}", "test"
    )
    changed = Cluster(cluster.kube, installation=small)
    changed.serve_apis, changed.kuberay, changed.world = cluster.serve_apis, cluster.kuberay, cluster.world
    object.__setattr__(changed.world, "settings", Cluster(installation=small).world.settings)
    await changed.settle(5)
    assert (await changed.read_condition("SpecAccepted"))[1] == "InvalidSpec"
    stored = await changed.read(Ref(RAY_CLUSTER, NAMESPACE, RAY))
    (group,) = stored["spec"]["workerGroupSpecs"]
    assert group["resources"] == {"CPU": "2", "memory": str(3 * 2**30)}


async def limit(cluster: Cluster, cpu: str) -> None:
    await set_quota(cluster, {"requests.cpu": cpu}, {"requests.cpu": "2"})


async def test_a_quota_holds_back_only_a_candidate_that_needs_another_pod(cluster: Cluster) -> None:
    await serve(cluster, replicas=2)
    await limit(cluster, "3")
    await apply(cluster, uri="file:///models/v2", replicas=2)
    await cluster.until_weight(2, 25)
    await cluster.promote()
    await cluster.settle(5)
    await serve(cluster, "letters")
    await apply(cluster, uri="file:///models/v3", replicas=2, rollout={"capacity": "surge"})
    await cluster.settle(5)
    assert (await cluster.read_condition("Stalled"))[1:] == (
        "InsufficientQuota",
        "2 CPU needed by 1 more pod, 1 CPU left by requests.cpu of ResourceQuota team. Raise the quota, or ask for less",
    )
    await cluster.kube.delete(Ref(RESOURCE_QUOTA, NAMESPACE, "team"))
    await cluster.settle(5)
    assert 3 in await cluster.weights()


async def test_the_most_pods_hold_back_a_candidate_that_needs_another(cluster: Cluster) -> None:
    await serve(cluster, replicas=10)
    assert await groups(cluster) == {"shared": (3, 3, 3)}
    await apply(cluster, uri="file:///models/v2", replicas=10, rollout={"capacity": "surge"})
    await cluster.settle(5)
    assert (await cluster.read_condition("Stalled"))[1:] == (
        "InsufficientQuota",
        "2 more shared pods needed for 10 replicas, and 3 of at most 3 exist. Raise"
        " installation.ray.sharedWorkers.maxPods, or use runtime.placement: dedicated",
    )
    await apply(
        cluster,
        uri="file:///models/v2",
        replicas=10,
        rollout={"capacity": "auto", "steps": [{"weight": 20, "gate": "manual"}]},
    )
    await cluster.until_weight(2, 20)
    assert (await cluster.status())["capacity"]["mode"] == "inPlace"
    assert await groups(cluster) == {"shared": (3, 3, 3)}


async def test_what_a_shared_pod_waits_for_is_told_by_the_revision_that_lacks_replicas(cluster: Cluster) -> None:
    await serve(cluster)
    kuberay, serve_api = cluster.kuberay, cluster.serve_apis.of(DASHBOARD)
    assert kuberay is not None
    serve_api.room = {"letters-r1": 0}
    kuberay.refusals[RAY] = "exceeded quota: cpu"
    await apply(cluster, "letters", replicas=4)
    await cluster.settle(5)
    reason, message = (await cluster.read_condition("RevisionReady", "letters"))[1:]
    assert (reason, message) == (
        "PodRefused",
        f"revision 1: KubeRay could not create its pods in RayCluster {RAY}: exceeded quota: cpu. Raise the quota, or ask for less",
    )
    kuberay.refusals = {}
    kuberay.node = ""
    await cluster.settle(3)
    *_, waiting = await pods(cluster)
    await no_node_for(cluster, waiting)
    await cluster.settle(3)
    reason, message = (await cluster.read_condition("RevisionReady", "letters"))[1:]
    assert (reason, message.startswith("revision 1: a shared pod: ")) == ("Unschedulable", True)
    assert await is_ready(cluster, NAME)
    assert (await cluster.read_condition("RevisionReady"))[1] == "Ready"
