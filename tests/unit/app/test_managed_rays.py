"""RayClusters in a Kubernetes cluster, in a world in memory with stand-ins for KubeRay and Ray."""

import functools
from dataclasses import replace
from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster, model_deployment
from doubles.kuberay import create_with_status
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.keys import Key
from sundog_operator.app.reconcile_ray_cluster import reconcile_ray_cluster
from sundog_operator.core import names, ray_cluster, ray_groups
from sundog_operator.errors import Conflict
from sundog_operator.ports import (
    MODEL_DEPLOYMENT,
    NODE,
    POD,
    RAY_CLUSTER,
    RESOURCE_QUOTA,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    Object,
    Ref,
)

INSTALLATION = parse_installation("runtimeImage: example.com/runtime:1", "test")
RAY = names.ray_cluster(0, "example.com/runtime:1")
RECREATE = {"strategy": "recreate"}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(installation=INSTALLATION)


async def ray(cluster: Cluster, name: str = RAY) -> Object:
    stored = await cluster.kube.get(Ref(RAY_CLUSTER, NAMESPACE, name))
    assert stored is not None
    return stored


async def groups(cluster: Cluster, name: str = RAY) -> dict[str, tuple[int, int, int]]:
    specs = (await ray(cluster, name))["spec"].get("workerGroupSpecs", ())
    return {each["groupName"]: (each["minReplicas"], each["maxReplicas"], each["replicas"]) for each in specs}


async def rays(cluster: Cluster) -> list[str]:
    return [obj["metadata"]["name"] for obj in await cluster.kube.list(RAY_CLUSTER, NAMESPACE)]


async def served(cluster: Cluster, uri: str = "file:///models/v1", revision: int = 1, **spec: Any) -> None:
    await cluster.apply(uri, **spec)
    await cluster.until(functools.partial(cluster.serves, revision))
    await cluster.settle(15)


def application(cluster: Cluster, name: str, ray: str = RAY) -> dict[str, Any]:
    dashboard = f"http://{ray}-head-svc.{NAMESPACE}.svc.cluster.local:8265"
    (found,) = (app for app in cluster.serve_apis.of(dashboard).puts[-1]["applications"] if app["name"] == name)
    return dict(found)


async def test_a_first_revision_gets_a_cluster_with_a_store_a_token_and_a_group(cluster: Cluster) -> None:
    await served(cluster, replicas=2)
    assert await rays(cluster) == [RAY]
    assert await groups(cluster) == {"digits-r1": (2, 2, 2)}
    stored = await ray(cluster)
    assert stored["spec"]["gcsFaultToleranceOptions"]["redisAddress"] == f"{RAY}-valkey:6379"
    for kind in (SECRET, SERVICE, STATEFUL_SET):
        owned = await cluster.kube.get(Ref(kind, NAMESPACE, f"{RAY}-valkey"))
        assert owned is not None
        (owner,) = owned["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("RayCluster", stored["metadata"]["uid"], True)
    token = await cluster.kube.get(Ref(SECRET, NAMESPACE, "sundog-ray"))
    assert token is not None
    assert [owner["kind"] for owner in token["metadata"]["ownerReferences"]] == ["ModelDeployment"]
    assert cluster.serve_apis.namespaces == {NAMESPACE}
    pods = await cluster.kube.list(POD, NAMESPACE, {names.LABEL_MODEL_DEPLOYMENT: NAME, names.LABEL_REVISION: "1"})
    assert len(pods) == 2
    (deployment,) = application(cluster, "digits-r1")["deployments"]
    assert deployment["ray_actor_options"]["label_selector"] == {names.RAY_LABEL_APPLICATION: "digits-r1"}


async def test_how_long_the_phases_of_a_start_took_is_told_of_the_newest_revision(cluster: Cluster) -> None:
    dashboard = f"http://{RAY}-head-svc.{NAMESPACE}.svc.cluster.local:8265"
    started_in = cluster.serve_apis.of(dashboard).started_in
    started_in.update(download=0.75, load=0.5, warmup=0.25)
    await served(cluster, rollout=RECREATE)
    told = (await cluster.status())["startup"]
    assert told.items() >= {"revision": 1, "download": "750ms", "load": "500ms", "warmup": "250ms"}.items()

    started_in["load"] = 3.0
    await cluster.settle(60)
    assert (await cluster.status())["startup"] == told, "of each revision once"
    await served(cluster, "file:///models/v2", 2, rollout=RECREATE)
    told = (await cluster.status())["startup"]
    assert (told["revision"], told["load"]) == (2, "3s")


async def test_a_canary_gets_a_group_of_its_own_and_the_old_one_goes_at_zero_pods(cluster: Cluster) -> None:
    await served(cluster, replicas=4)
    cluster.kuberay.stuck = {"digits-r1"}  # type: ignore[union-attr]
    await cluster.apply("file:///models/v2", replicas=4)
    await cluster.until(functools.partial(cluster.at_weight, 2, 25))
    assert await groups(cluster) == {"digits-r1": (4, 4, 4), "digits-r2": (1, 1, 1)}
    await cluster.command("promote revision=2 id=a full=true")
    await cluster.until(functools.partial(cluster.serves, 2))
    await cluster.settle(30)
    # Its pods end slowly: KubeRay would forget them if the group left the list.
    assert (await groups(cluster))["digits-r1"][0] == 0
    cluster.kuberay.stuck = set()  # type: ignore[union-attr]
    await cluster.settle(5)
    assert await groups(cluster) == {"digits-r2": (4, 4, 4)}


async def test_a_pod_that_kuberay_makes_of_a_group_that_was_removed_meanwhile_is_deleted(cluster: Cluster) -> None:
    await served(cluster)
    mine = await cluster.kube.list(POD, NAMESPACE, {ray_groups.LABEL_CLUSTER: RAY})
    (worker,) = (pod for pod in mine if pod["metadata"]["labels"].get(ray_groups.LABEL_NODE_TYPE) == "worker")
    labels = {**worker["metadata"]["labels"], ray_groups.LABEL_GROUP: "digits-r0"}
    late = {**worker, "metadata": {"name": "late", "namespace": NAMESPACE, "labels": labels}}
    await create_with_status(cluster.kube, POD, late, worker.get("status", {}))
    await cluster.settle(15)
    assert await cluster.kube.list(POD, NAMESPACE, {ray_groups.LABEL_CLUSTER: RAY}) == mine


async def head(cluster: Cluster, **autoscaler: Any) -> Object:
    """One that runs, with an autoscaler in this state; KubeRay's stand-in makes none."""
    labels = {ray_groups.LABEL_CLUSTER: RAY, ray_groups.LABEL_NODE_TYPE: "head", **names.labels(names.RAY)}
    meta = {"name": f"{RAY}-head-x", "namespace": NAMESPACE, "labels": labels}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"restartPolicy": "Never"}}
    containers = [{"name": "ray-head", "state": {"running": {}}}, {"name": "autoscaler", "state": autoscaler}]
    await create_with_status(cluster.kube, POD, made, {"phase": "Running", "containerStatuses": containers})
    return made


async def heads(cluster: Cluster) -> int:
    return len(await cluster.kube.list(POD, NAMESPACE, {ray_groups.LABEL_NODE_TYPE: "head"}))


ENDED = {"terminated": {"exitCode": 1}}


async def test_a_head_whose_autoscaler_has_ended_is_replaced(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    await served(cluster)
    await head(cluster, running={})
    await cluster.settle(30)
    assert await heads(cluster) == 1
    await cluster.kube.delete(Ref(POD, NAMESPACE, f"{RAY}-head-x"))
    await head(cluster, **ENDED)
    await cluster.settle(30)
    assert await heads(cluster) == 0
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"Pod {NAMESPACE}/{RAY}-head-x is deleted, for another to come: its container autoscaler has ended"
    ]


async def test_a_head_without_a_store_is_left_to_the_workers_that_would_go_with_it() -> None:
    text = "{runtimeImage: 'example.com/runtime:1', ray: {gcsFaultTolerance: {enabled: false}}}"
    cluster = Cluster(installation=parse_installation(text, "test"))
    await served(cluster)
    await head(cluster, **ENDED)
    await cluster.settle(30)
    assert await heads(cluster) == 1


async def test_pods_of_an_aborted_canary_that_found_no_node_go_at_once(cluster: Cluster) -> None:
    await served(cluster)
    cluster.kuberay.unplaced = {"digits-r2"}  # type: ignore[union-attr]
    await cluster.apply("file:///models/v2")
    await cluster.settle(2)
    assert set(await groups(cluster)) == {"digits-r1", "digits-r2"}
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(20)
    assert await groups(cluster) == {"digits-r1": (1, 1, 1)}
    assert await cluster.kube.list(POD, NAMESPACE, {names.LABEL_REVISION: "2"}) == []


async def test_a_pass_that_changes_nothing_writes_nothing(cluster: Cluster) -> None:
    await served(cluster)
    await cluster.settle(10)
    writes = len(cluster.kube.writes)
    puts = sum(len(each.puts) for each in cluster.serve_apis.by_dashboard.values())
    await cluster.settle(20)
    assert len(cluster.kube.writes) == writes
    assert sum(len(each.puts) for each in cluster.serve_apis.by_dashboard.values()) == puts


async def test_what_others_wrote_into_the_cluster_stays(cluster: Cluster) -> None:
    await served(cluster)
    stored = await ray(cluster)
    stored["spec"]["suspend"] = False
    stored["spec"]["headGroupSpec"]["serviceType"] = "ClusterIP"
    stored["metadata"]["annotations"]["other"] = "kept"
    stored["spec"]["workerGroupSpecs"][0]["scaleStrategy"] = {"workersToDelete": ["x"]}
    await cluster.kube.replace(stored)
    await cluster.apply("file:///models/v2")
    await cluster.until(functools.partial(cluster.at_weight, 2, 25))
    stored = await ray(cluster)
    assert stored["spec"]["suspend"] is False
    assert stored["metadata"]["annotations"]["other"] == "kept"
    assert stored["spec"]["workerGroupSpecs"][0]["scaleStrategy"] == {"workersToDelete": ["x"]}


async def test_an_edit_of_the_head_by_hand_is_taken_back(cluster: Cluster) -> None:
    await served(cluster)
    stored = await ray(cluster)
    stored["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = "8"
    await cluster.kube.replace(stored)
    await cluster.settle(2)
    assert (await ray(cluster))["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


async def test_another_image_is_another_cluster_and_the_first_goes_once_nothing_is_on_it(cluster: Cluster) -> None:
    await served(cluster)
    other = names.ray_cluster(0, "example.com/other:2")
    await cluster.apply("file:///models/v1", runtime={"image": "example.com/other:2"})
    await cluster.until(functools.partial(cluster.at_weight, 2, 25))
    assert sorted(await rays(cluster)) == sorted([RAY, other])
    (document,) = cluster.edges.in_force()
    (service,) = document["services"]
    arms = {arm["application"]: arm.get("cluster", service["cluster"]) for arm in service["arms"]}
    assert arms == {"digits-r1": RAY, "digits-r2": other}
    assert set(document["clusters"]) == {RAY, other}
    image = (await ray(cluster, other))["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "example.com/other:2"
    await cluster.command("promote revision=2 id=a full=true")
    await cluster.until(functools.partial(cluster.serves, 2))
    await cluster.settle(40)
    assert await rays(cluster) == [other]
    status = await cluster.status()
    assert (status["cluster"], status["stable"]["cluster"]) == (other, "")


async def test_an_aborted_candidate_of_another_image_leaves_its_cluster_behind(cluster: Cluster) -> None:
    await served(cluster)
    await cluster.apply("file:///models/v1", runtime={"image": "example.com/other:2"})
    await cluster.until(functools.partial(cluster.at_weight, 2, 25))
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(40)
    assert await cluster.weights() == {1: 100}
    assert await rays(cluster) == [RAY]
    assert (await cluster.status())["cluster"] == RAY


async def test_an_upgrade_of_the_installation_rolls_nothing_and_new_revisions_run_its_image() -> None:
    cluster = Cluster(installation=INSTALLATION)
    await served(cluster)
    newer = parse_installation("{runtimeImage: 'example.com/runtime:2', ray: {version: 2.61.0}}", "test")
    upgraded = Cluster(cluster.kube, installation=newer)
    upgraded.clock = cluster.clock
    upgraded.serve_apis = cluster.serve_apis
    upgraded.world = replace(cluster.world, settings=upgraded.world.settings)
    upgraded.kuberay = cluster.kuberay
    await upgraded.settle(20)
    assert await rays(upgraded) == [RAY]
    assert (await upgraded.status())["stable"]["revision"] == 1
    stored = await ray(upgraded)
    assert stored["spec"]["rayVersion"] == "2.60.0"
    head = stored["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["image"] == "example.com/runtime:1"
    await upgraded.apply("file:///models/v2")
    await upgraded.until(functools.partial(upgraded.at_weight, 2, 25))
    assert names.ray_cluster(0, "example.com/runtime:2") in await rays(upgraded)


async def test_a_status_that_was_lost_deletes_no_cluster_that_serves(cluster: Cluster) -> None:
    await served(cluster)
    stored = await cluster.get()
    await cluster.outside(
        lambda: cluster.kube.patch_status(
            Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME), {}, resource_version=stored["metadata"]["resourceVersion"]
        )
    )
    await reconcile_ray_cluster(cluster.world, Key("raycluster", NAMESPACE, RAY))
    assert await rays(cluster) == [RAY]
    await cluster.until(functools.partial(cluster.serves, 1))
    assert await rays(cluster) == [RAY]


async def test_a_foreign_token_is_left_alone(cluster: Cluster) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "sundog-ray", "namespace": NAMESPACE},
        "stringData": {"token": "theirs"},
    }
    await cluster.kube.create(foreign)
    await cluster.apply()
    await cluster.round()
    with pytest.raises(Conflict, match="vision/sundog-ray exists and was not made by Sundog"):
        await reconcile_ray_cluster(cluster.world, Key("raycluster", NAMESPACE, RAY))
    assert await rays(cluster) == []


@pytest.mark.parametrize(("address", "kept"), [("", ["other"]), ("redis.example.com:6379", None)])
async def test_a_cluster_on_its_way_out_is_let_go_without_the_clean_up_of_its_own_store(
    cluster: Cluster, address: str, kept: list[str] | None
) -> None:
    await served(cluster)
    stored = await ray(cluster)
    if address:
        # Made with a Redis of somebody else, which nobody else cleans up, whatever the installation says by now.
        stored["spec"]["gcsFaultToleranceOptions"]["redisAddress"] = address
    stored["metadata"]["finalizers"] = ["ray.io/gcs-ft-redis-cleanup-finalizer", "other"]
    stored["metadata"]["deletionTimestamp"] = "2026-11-25T13:00:00Z"
    calls: list[Object] = []

    async def get(ref: Ref) -> Object:
        assert ref.kind == RAY_CLUSTER
        return stored

    async def replace(obj: Object) -> Object:
        calls.append(obj)
        return obj

    cluster.kube.get, cluster.kube.replace = get, replace  # type: ignore[method-assign]
    await reconcile_ray_cluster(cluster.world, Key("raycluster", NAMESPACE, RAY))
    assert [call["metadata"]["finalizers"] for call in calls] == ([kept] if kept else [])


async def test_pods_are_asked_for_although_serve_does_not_answer(cluster: Cluster) -> None:
    await served(cluster)
    dashboard = next(iter(cluster.serve_apis.by_dashboard))
    cluster.serve_apis.of(dashboard).down = True
    await cluster.apply("file:///models/v2")
    await cluster.settle(3)
    assert set(await groups(cluster)) == {"digits-r1", "digits-r2"}
    # Nobody knows whether the application still runs, so nothing of it is taken away.
    await cluster.apply("file:///models/v1")
    await cluster.settle(20)
    assert set(await groups(cluster)) == {"digits-r1", "digits-r2"}


async def test_a_document_that_was_lost_is_put_again(cluster: Cluster) -> None:
    await served(cluster)
    dashboard = next(iter(cluster.serve_apis.by_dashboard))
    lost = cluster.serve_apis.of(dashboard)
    del cluster.serve_apis.by_dashboard[dashboard]
    assert cluster.serve_apis.applications(dashboard) == set()
    await cluster.settle(3)
    assert cluster.serve_apis.applications(dashboard) == {app["name"] for app in lost.puts[-1]["applications"]}


async def test_members_share_a_cluster_and_one_that_goes_leaves_the_other_alone(cluster: Cluster) -> None:
    await served(cluster)
    await cluster.kube.apply(model_deployment(name="words"))
    await cluster.until(lambda: serves(cluster, "words"))
    assert await rays(cluster) == [RAY]
    assert set(await groups(cluster)) == {"digits-r1", "words-r1"}
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, "words"))
    await cluster.settle(20)
    assert set(await groups(cluster)) == {"digits-r1"}
    assert [owner["name"] for owner in (await ray(cluster))["metadata"]["ownerReferences"]] == [NAME]


async def serves(cluster: Cluster, name: str) -> bool:
    return await cluster.condition("Ready", name) == ("True", "Serving")


async def test_without_fault_tolerance_there_is_no_store() -> None:
    installation = parse_installation("ray: {gcsFaultTolerance: {enabled: false}}", "test")
    cluster = Cluster(installation=installation)
    await served(cluster)
    (name,) = await rays(cluster)
    assert "gcsFaultToleranceOptions" not in (await ray(cluster, name))["spec"]
    assert await cluster.kube.list(STATEFUL_SET, NAMESPACE) == []


async def test_autoscaling_bounds_group_and_application(cluster: Cluster) -> None:
    await served(cluster, autoscaling={"minReplicas": 2, "maxReplicas": 5}, replicas=9)
    assert await groups(cluster) == {"digits-r1": (2, 5, 2)}
    (deployment,) = application(cluster, "digits-r1")["deployments"]
    assert "num_replicas" not in deployment
    config = deployment["autoscaling_config"]
    assert (config["min_replicas"], config["max_replicas"], config["target_ongoing_requests"]) == (2, 5, 2)
    assert (config["upscale_delay_s"], config["downscale_delay_s"]) == (10.0, 300.0)
    status = await cluster.status()
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)
    assert status["selector"] == "serving.sundog.dev/model-deployment=digits"
    await cluster.apply("file:///models/v2", autoscaling={"minReplicas": 2, "maxReplicas": 5})
    await cluster.until(functools.partial(cluster.at_weight, 2, 25))
    assert await groups(cluster) == {"digits-r1": (2, 5, 2), "digits-r2": (1, 5, 1)}


GPU = "nvidia.com/gpu"


async def offer(cluster: Cluster, devices: int) -> None:
    """A node with so many devices."""
    status = {"allocatable": {GPU: str(devices)}, "conditions": [{"type": "Ready", "status": "True"}]}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}, "spec": {}}
    await create_with_status(cluster.kube, NODE, node, status)


async def said(cluster: Cluster, type_: str) -> tuple[str, str, str]:
    conditions = {each["type"]: each for each in (await cluster.status())["conditions"]}
    found = conditions.get(type_, {})
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


async def place(cluster: Cluster) -> None:
    """What the scheduler does with every pod, whatever it asks for."""
    for pod in await cluster.kube.list(POD, NAMESPACE, {names.LABEL_MODEL_DEPLOYMENT: NAME}):
        if "nodeName" not in pod["spec"]:
            pod["spec"] = {**pod["spec"], "nodeName": "node"}
            await cluster.kube.replace(pod)


async def with_gpus(cluster: Cluster, devices: int, count: int = 1) -> None:
    await offer(cluster, devices)
    await served(cluster, replicas=2, resources={"gpu": {"count": count}})
    await place(cluster)
    await cluster.settle(20)


async def test_a_canary_that_finds_no_gpus_moves_nothing_and_says_how_many_are_missing(cluster: Cluster) -> None:
    await with_gpus(cluster, 3)
    assert await said(cluster, "CapacityAvailable") == ("True", "Fits", f"1 {GPU} for each replica")
    assert (await cluster.status())["capacity"] == {"gpusRequested": 2, "gpusAllocated": 2, "mode": "surge"}
    await cluster.apply("file:///models/v2", replicas=2, resources={"gpu": {"count": 1}})
    await cluster.settle(5)
    told = f"2 {GPU} needed (2 × 1), 1 of 3 free on 1 node"
    assert await said(cluster, "CapacityAvailable") == ("False", "InsufficientCapacity", f"revision 2: {told}")
    assert await said(cluster, "Stalled") == ("True", "InsufficientCapacity", told)
    assert (await said(cluster, "Ready"))[0] == "True"
    assert set(await groups(cluster)) == {"digits-r1"}
    assert await cluster.weights() == {1: 100}
    await cluster.kube.delete(Ref(NODE, "", "node"))
    await offer(cluster, 4)
    await cluster.until(functools.partial(cluster.at_weight, 2, 25))


async def test_where_pods_bring_nodes_quotas_alone_hold_a_canary_back() -> None:
    cluster = Cluster(installation=parse_installation("gpu: {nodesCome: true}", "test"))
    await offer(cluster, 2)
    await served(cluster, resources={"gpu": {"count": 2}})
    await place(cluster)
    await cluster.settle(20)
    hard = {"hard": {f"requests.{GPU}": "3"}, "used": {f"requests.{GPU}": "2"}}
    meta = {"name": "gpus", "namespace": NAMESPACE}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta}
    await create_with_status(cluster.kube, RESOURCE_QUOTA, quota, hard)
    await cluster.apply("file:///models/v2", resources={"gpu": {"count": 2}})
    await cluster.settle(5)
    told = f"2 {GPU} needed (1 × 2), 0 of 2 free on 1 node, 1 left by the namespace's quota"
    assert await said(cluster, "Stalled") == ("True", "InsufficientQuota", told)
    await cluster.kube.delete(Ref(RESOURCE_QUOTA, NAMESPACE, "gpus"))
    await cluster.until(functools.partial(cluster.at_weight, 2, 25))


async def test_a_first_revision_is_started_although_its_gpus_are_not_there_yet(cluster: Cluster) -> None:
    await offer(cluster, 1)
    cluster.kuberay.unplaced = {"digits-r1"}  # type: ignore[union-attr]
    await cluster.apply(resources={"gpu": {"count": 2}})
    await cluster.settle(3)
    told = f"revision 1: 2 {GPU} needed (1 × 2), 1 of 1 free on 1 node, not 2 of them on one node"
    assert await said(cluster, "CapacityAvailable") == ("False", "InsufficientCapacity", told.partition(", not")[0])
    assert set(await groups(cluster)) == {"digits-r1"}


async def test_a_secret_that_pods_need_is_waited_for(cluster: Cluster) -> None:
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]
    await cluster.apply(runtime={"env": env})
    serve = cluster.serve_apis
    await cluster.settle(1)
    for dashboard in list(serve.by_dashboard):
        serve.of(dashboard).start_s = 1000
    await cluster.settle(2)
    told = f"revision 1: spec.runtime.env[0].valueFrom.secretKeyRef: Secret {NAMESPACE}/keys does not exist"
    assert await said(cluster, "RevisionReady") == ("False", "SecretNotFound", told)
    assert (await said(cluster, "Ready"))[1] == "SecretNotFound"
    meta = {"name": "keys", "namespace": NAMESPACE}
    await cluster.kube.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"other": ""}})
    await cluster.settle(2)
    assert (await said(cluster, "RevisionReady"))[1] == "SecretIncomplete"


async def test_a_store_that_finds_no_volume_is_told(cluster: Cluster) -> None:
    await cluster.apply()
    await cluster.settle(1)
    cluster.kuberay.heads_down = {RAY}  # type: ignore[union-attr]
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    }
    labels = {names.LABEL_NAME: names.VALKEY, names.LABEL_INSTANCE: RAY}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{RAY}-valkey-0", "namespace": NAMESPACE, "labels": labels},
        "spec": {"containers": [{"name": "valkey"}]},
    }
    await create_with_status(cluster.kube, POD, pod, {"phase": "Pending", "conditions": [condition]})
    await cluster.settle(2)
    told = f"the store of Ray: pod {RAY}-valkey-0: {condition['message']}"
    assert await said(cluster, "RevisionReady") == ("False", "Unschedulable", told)


def test_a_hundred_share_a_cluster_and_the_next_one_goes_to_another() -> None:
    image = "example.com/runtime:1"
    first, second = names.ray_cluster(0, image), names.ray_cluster(1, image)
    assert ray_cluster.assign([first] * 99, image) == first
    assert ray_cluster.assign([first] * 100, image) == second
    assert ray_cluster.assign([first] * 100 + [second] * 100, image) == names.ray_cluster(2, image)
    assert ray_cluster.assign([second] * 100, image) == first
    assert ray_cluster.assign([names.ray_cluster(0, "example.com/other:1")] * 100, image) == first


KEEPING = {**RECREATE, "keepPrevious": {"for": "1h"}}


async def test_a_revision_that_is_only_kept_gives_its_gpus_to_a_candidate(cluster: Cluster) -> None:
    await offer(cluster, 4)
    gpus: dict[str, Any] = {"replicas": 2, "rollout": KEEPING, "resources": {"gpu": {"count": 1}}}
    await served(cluster, **gpus)
    await place(cluster)
    await served(cluster, "file:///models/v2", 2, **gpus)
    await place(cluster)
    await cluster.settle(20)
    assert [each["revision"] for each in (await cluster.status())["kept"]] == [1]
    assert (await cluster.status())["capacity"]["gpusRequested"] == 3
    await served(cluster, "file:///models/v3", 3, **gpus)


async def test_a_kept_revision_keeps_the_raycluster_of_its_image(cluster: Cluster) -> None:
    await served(cluster, rollout=KEEPING, runtime={"image": "example.com/a:1"})
    await served(cluster, "file:///models/v2", 2, rollout=KEEPING, runtime={"image": "example.com/b:1"})
    await cluster.settle(20)
    first, second = (names.ray_cluster(0, f"example.com/{each}:1") for each in "ab")
    (kept,) = (await cluster.status())["kept"]
    assert (kept["revision"], kept["cluster"]) == (1, first)
    assert set(await rays(cluster)) == {first, second}
    assert set(await groups(cluster, first)) == {"digits-r1"}
    await cluster.settle(65, seconds=60)
    assert (await cluster.status())["kept"] == []
    await cluster.settle(30)
    assert await rays(cluster) == [second]


async def test_a_kept_revision_stays_where_it_is_when_the_next_one_has_another_raycluster(cluster: Cluster) -> None:
    first, second = (names.ray_cluster(0, f"example.com/{each}:1") for each in "ab")
    for number in (1, 2):
        image = {"image": "example.com/a:1"}
        await served(cluster, f"file:///models/v{number}", number, rollout=KEEPING, runtime=image)
    await cluster.settle(20)
    canary = {"steps": [{"weight": 25, "gate": "manual"}], "keepPrevious": {"for": "1h"}}
    await cluster.apply("file:///models/v3", rollout=canary, runtime={"image": "example.com/b:1"})
    await cluster.until(functools.partial(cluster.at_weight, 3, 25))
    assert [each["revision"] for each in (await cluster.status())["kept"]] == [1]
    assert set(await groups(cluster, first)) == {"digits-r1", "digits-r2"}
    assert set(await groups(cluster, second)) == {"digits-r3"}
