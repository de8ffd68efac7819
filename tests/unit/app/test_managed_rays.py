"""RayClusters in a Kubernetes cluster, in memory with stand-ins for KubeRay and Ray."""

import functools
import re
from dataclasses import replace
from typing import Any

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, Cluster, model_deployment
from doubles.experiments import condition, message, named_arms, status, user_experiment
from doubles.kuberay import create_with_status
from doubles.nodes import GPU, find_no_node, offer, place, set_quota
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.observe import observe
from sundog_operator.app.queue.keys import Key, keys_for
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.app.reconcile_ray_cluster import reconcile_ray_cluster
from sundog_operator.core.kubernetes import names as kubernetes_names
from sundog_operator.core.observed import ReplicaStart
from sundog_operator.core.ray import clusters
from sundog_operator.core.ray import groups as ray_groups
from sundog_operator.core.revisions import owner_reference
from sundog_operator.errors import Conflict, DependencyError, Forbidden, Invalid
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    EVENT,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    RAY_CLUSTER,
    RESOURCE_QUOTA,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    Kind,
    Object,
    Ref,
    ref_of,
)
from sundog_operator.shell.preview.model_deployment import preview_model_deployment

INSTALLATION = parse_installation("runtimeImage: example.com/runtime:1", "test")
RAY = kubernetes_names.ray_cluster(0, "example.com/runtime:1")
NODES_COME = parse_installation("{runtimeImage: 'example.com/runtime:1', gpu: {nodesCome: true}}", "test")
RECREATE = {"strategy": "recreate"}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(installation=INSTALLATION)


async def ray(cluster: Cluster, name: str = RAY) -> Object:
    return await cluster.read(Ref(RAY_CLUSTER, NAMESPACE, name))


async def groups(cluster: Cluster, name: str = RAY) -> dict[str, tuple[int, int, int]]:
    specs = (await ray(cluster, name))["spec"].get("workerGroupSpecs", ())
    return {each["groupName"]: (each["minReplicas"], each["maxReplicas"], each["replicas"]) for each in specs}


async def rays(cluster: Cluster) -> list[str]:
    return [obj["metadata"]["name"] for obj in await cluster.kube.list(RAY_CLUSTER, NAMESPACE)]


async def served(cluster: Cluster, uri: str = "file:///models/v1", revision: int = 1, **spec: Any) -> None:
    await cluster.apply(uri, **spec)
    await cluster.until_serves(revision)
    await cluster.settle(15)


async def test_a_first_revision_gets_a_cluster_with_a_store_a_token_and_a_group(cluster: Cluster) -> None:
    await served(cluster, replicas=2)
    assert await rays(cluster) == [RAY]
    assert await groups(cluster) == {"digits-r1": (2, 2, 2)}
    stored = await ray(cluster)
    assert stored["spec"]["gcsFaultToleranceOptions"]["redisAddress"] == f"{RAY}-valkey:6379"
    for kind in (SECRET, SERVICE, STATEFUL_SET):
        owned = await cluster.read(Ref(kind, NAMESPACE, f"{RAY}-valkey"))
        (owner,) = owned["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("RayCluster", stored["metadata"]["uid"], True)
    token = await cluster.read(Ref(SECRET, NAMESPACE, "sundog-ray"))
    assert [owner["kind"] for owner in token["metadata"]["ownerReferences"]] == ["ModelDeployment"]
    assert cluster.serve_apis.namespaces == {NAMESPACE}
    pods = await cluster.kube.list(
        POD, NAMESPACE, {kubernetes_names.LABEL_MODEL_DEPLOYMENT: NAME, kubernetes_names.LABEL_REVISION: "1"}
    )
    assert len(pods) == 2
    deployment = applications(cluster)["digits-r1"]
    assert deployment["ray_actor_options"]["label_selector"] == {kubernetes_names.RAY_LABEL_APPLICATION: "digits-r1"}


EXTERNAL_STORE = parse_installation(
    "runtimeImage: example.com/runtime:1\nray: {gcsFaultTolerance: {external: {address: 'redis.example.com:6379'}}}",
    "test",
)


async def test_a_cluster_that_moves_to_a_redis_of_somebody_else_has_a_prefix_there(cluster: Cluster) -> None:
    await served(cluster)
    cluster.install(EXTERNAL_STORE)
    await cluster.settle(5)
    options = (await ray(cluster))["spec"]["gcsFaultToleranceOptions"]
    assert re.fullmatch(r"vision\.[0-9a-f]{16}", options["externalStorageNamespace"])
    await cluster.settle(5)
    assert (await ray(cluster))["spec"]["gcsFaultToleranceOptions"] == options


async def test_a_cluster_in_an_external_redis_has_a_prefix_and_keeps_it() -> None:
    cluster = Cluster(installation=EXTERNAL_STORE)
    await served(cluster)
    options = (await ray(cluster))["spec"]["gcsFaultToleranceOptions"]
    assert re.fullmatch(r"vision\.[0-9a-f]{16}", options["externalStorageNamespace"])
    cluster.install(INSTALLATION)
    await cluster.settle(5)
    assert (await ray(cluster))["spec"]["gcsFaultToleranceOptions"] == {
        **options,
        "redisAddress": f"{RAY}-valkey:6379",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": f"{RAY}-valkey", "key": "password"}}},
    }


async def test_the_durations_of_the_phases_of_a_start_are_reported_for_the_newest_revision(cluster: Cluster) -> None:
    serve = cluster.serve_of(RAY)
    began = cluster.clock.now()
    serve.started = ReplicaStart({"download": 0.75, "load": 0.5, "warmup": 0.25, "more": 1.0}, began)
    await served(cluster, rollout=RECREATE)
    startup = (await cluster.status())["startup"]
    assert startup.items() >= {"revision": 1, "download": "750ms", "load": "500ms", "warmup": "250ms"}.items()
    assert startup["total"] != "0s"
    assert "more" not in startup

    serve.started = ReplicaStart({"load": 3.0})
    await cluster.settle(60)
    assert (await cluster.status())["startup"] == startup, "of each revision once"
    await served(cluster, "file:///models/v2", 2, rollout=RECREATE)
    startup = (await cluster.status())["startup"]
    assert (startup["revision"], startup["load"]) == (2, "3s")


async def test_a_canary_gets_a_group_of_its_own_and_the_old_one_goes_at_zero_pods(cluster: Cluster) -> None:
    await served(cluster, replicas=4)
    cluster.kuberay.stuck = {"digits-r1"}  # type: ignore[union-attr]
    await cluster.roll_out(replicas=4)
    assert await groups(cluster) == {"digits-r1": (4, 4, 4), "digits-r2": (1, 1, 1)}
    await cluster.promote()
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


def applications(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Return the one deployment of each application that Serve was asked for last."""
    deployed = cluster.serve_of(RAY).puts[-1]["applications"]
    return {app["name"]: app["deployments"][0] for app in deployed}


async def head(cluster: Cluster, **autoscaler: Any) -> Object:
    """A running head with an autoscaler in this state; KubeRay's stand-in creates none."""
    labels = {
        ray_groups.LABEL_CLUSTER: RAY,
        ray_groups.LABEL_NODE_TYPE: "head",
        **kubernetes_names.labels(kubernetes_names.RAY),
    }
    meta = {"name": f"{RAY}-head-x", "namespace": NAMESPACE, "labels": labels}
    options = (await ray(cluster))["spec"].get("gcsFaultToleranceOptions")
    env = [{"name": "RAY_REDIS_ADDRESS", "value": options["redisAddress"]}] if options else []
    spec = {"restartPolicy": "Never", "containers": [{"name": "ray-head", "env": env}]}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    containers = [{"name": "ray-head", "state": {"running": {}}}, {"name": "autoscaler", "state": autoscaler}]
    await create_with_status(cluster.kube, POD, made, {"phase": "Running", "containerStatuses": containers})
    return made


async def heads(cluster: Cluster) -> int:
    return len(await cluster.kube.list(POD, NAMESPACE, {ray_groups.LABEL_NODE_TYPE: "head"}))


ENDED = {"terminated": {"exitCode": 1}}


async def test_a_head_with_an_ended_autoscaler_is_replaced(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    await served(cluster)
    await head(cluster, running={})
    await cluster.settle(30)
    assert await heads(cluster) == 1
    await cluster.kube.delete(Ref(POD, NAMESPACE, f"{RAY}-head-x"))
    await head(cluster, **ENDED)
    await cluster.settle(30)
    assert await heads(cluster) == 0
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"Pod {NAMESPACE}/{RAY}-head-x: container autoscaler has ended; the head is replaced"
    ]
    [event] = [each for each in await cluster.kube.list(EVENT, NAMESPACE) if each["reason"] == "HeadReplaced"]
    assert (event["type"], event["regarding"]["kind"], event["regarding"]["name"]) == ("Warning", "RayCluster", RAY)
    assert event["note"] == f"Pod {RAY}-head-x: container autoscaler has ended; the head is replaced"


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
    assert await cluster.kube.list(POD, NAMESPACE, {kubernetes_names.LABEL_REVISION: "2"}) == []


async def test_what_others_wrote_into_the_cluster_stays(cluster: Cluster) -> None:
    await served(cluster)
    stored = await ray(cluster)
    stored["spec"]["suspend"] = False
    stored["spec"]["headGroupSpec"]["serviceType"] = "ClusterIP"
    stored["metadata"]["annotations"]["other"] = "kept"
    stored["spec"]["workerGroupSpecs"][0]["scaleStrategy"] = {"workersToDelete": ["x"]}
    await cluster.kube.replace(stored)
    await cluster.roll_out()
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


async def test_a_head_of_an_unknown_image_stays_as_an_earlier_release_made_it(cluster: Cluster) -> None:
    await served(cluster)
    stored = await ray(cluster)
    del stored["spec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    del stored["spec"]["autoscalerOptions"]["volumeMounts"]
    await cluster.kube.replace(stored)
    for revision in await cluster.kube.list(CONTROLLER_REVISION, NAMESPACE):
        await cluster.kube.delete(Ref(CONTROLLER_REVISION, NAMESPACE, revision["metadata"]["name"]))
    await reconcile_ray_cluster(cluster.world, Key("raycluster", NAMESPACE, RAY))
    spec = (await ray(cluster))["spec"]
    volumes = spec["headGroupSpec"]["template"]["spec"].get("volumes", [])
    mounted = {mount["name"] for mount in spec["autoscalerOptions"].get("volumeMounts", [])}
    assert mounted <= {volume["name"] for volume in volumes}


async def test_another_image_is_another_cluster_and_the_first_goes_once_nothing_is_on_it(cluster: Cluster) -> None:
    await served(cluster)
    other = kubernetes_names.ray_cluster(0, "example.com/other:2")
    await cluster.apply("file:///models/v1", runtime={"image": "example.com/other:2"})
    await cluster.until_weight(2, 25)
    assert sorted(await rays(cluster)) == sorted([RAY, other])
    (document,) = cluster.edges.in_force()
    (service,) = document["services"]
    arms = {arm["application"]: arm.get("cluster", service["cluster"]) for arm in service["arms"]}
    assert arms == {"digits-r1": RAY, "digits-r2": other}
    assert set(document["clusters"]) == {RAY, other}
    image = (await ray(cluster, other))["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "example.com/other:2"
    await cluster.promote()
    await cluster.settle(40)
    assert await rays(cluster) == [other]
    status = await cluster.status()
    assert (status["cluster"], status["stable"]["cluster"]) == (other, "")


async def test_an_aborted_candidate_of_another_image_leaves_its_cluster_behind(cluster: Cluster) -> None:
    await served(cluster)
    await cluster.apply("file:///models/v1", runtime={"image": "example.com/other:2"})
    await cluster.until_weight(2, 25)
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(40)
    assert await cluster.weights() == {1: 100}
    assert await rays(cluster) == [RAY]
    assert (await cluster.status())["cluster"] == RAY


async def test_a_candidate_of_another_image_that_never_started_leaves_its_cluster_behind(cluster: Cluster) -> None:
    await served(cluster)
    image = "example.com/other:2"
    other = kubernetes_names.ray_cluster(0, image)
    cluster.serve_of(other).failures["file:///models/v2"] = ("ModelNotFound", "/models/v2 does not exist")
    await cluster.apply("file:///models/v2", runtime={"image": image})
    await cluster.settle(10)
    assert "retryAt" in (await cluster.status())["candidate"]
    assert sorted(await rays(cluster)) == sorted([RAY, other])
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(20)
    assert await rays(cluster) == [RAY]
    status = await cluster.status()
    assert (status["cluster"], status["stable"]["cluster"]) == (RAY, "")


async def test_an_upgrade_rolls_nothing_and_new_revisions_run_its_image() -> None:
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
    await upgraded.roll_out()
    assert kubernetes_names.ray_cluster(0, "example.com/runtime:2") in await rays(upgraded)


async def test_a_status_that_was_lost_deletes_no_cluster_that_serves(cluster: Cluster) -> None:
    await served(cluster)
    await cluster.outside(cluster.lose_status)
    await reconcile_ray_cluster(cluster.world, Key("raycluster", NAMESPACE, RAY))
    assert await rays(cluster) == [RAY]
    await cluster.until_serves(1)
    assert await rays(cluster) == [RAY]


def foreign_secret(name: str) -> Object:
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"token": "theirs"}}


@pytest.mark.parametrize("name", ["sundog-ray", "sundog-edge"])
async def test_a_foreign_secret_is_named_in_each_service_that_it_blocks(cluster: Cluster, name: str) -> None:
    theirs = await cluster.kube.create(foreign_secret(name))
    await cluster.apply()
    await cluster.kube.create(model_deployment("file:///models/v1", name="other"))
    await cluster.settle(5)
    for service in (NAME, "other"):
        assert await cluster.condition("SpecAccepted", service) == ("False", "NotOwned")
        stored = await cluster.read(Ref(MODEL_DEPLOYMENT, NAMESPACE, service))
        (message,) = (each["message"] for each in stored["status"]["conditions"] if each["type"] == "SpecAccepted")
        assert message == f"Secret {name}: exists and was not made by Sundog; rename or delete it"
    assert await rays(cluster) == []
    assert await cluster.kube.get(Ref(SECRET, NAMESPACE, name)) == theirs

    await cluster.kube.delete(Ref(SECRET, NAMESPACE, name))
    await cluster.until_serves(1)
    assert await cluster.condition("SpecAccepted") == ("True", "Accepted")


async def test_a_foreign_secret_is_named_once_the_service_is_edited(
    cluster: Cluster,
) -> None:
    await served(cluster)
    ref = Ref(SECRET, NAMESPACE, "sundog-edge")
    await cluster.kube.delete(ref)
    await cluster.kube.create(foreign_secret(ref.name))
    await cluster.settle(5)
    assert await cluster.condition("SpecAccepted") == ("True", "Accepted"), "it waits for nothing"
    await cluster.apply(replicas=2)
    await cluster.settle(60)
    assert await cluster.condition("SpecAccepted") == ("False", "NotOwned")
    await cluster.kube.delete(ref)
    await cluster.settle(60)
    assert await cluster.condition("SpecAccepted") == ("True", "Accepted")


async def test_a_foreign_token_is_left_alone(cluster: Cluster) -> None:
    await cluster.apply()
    await cluster.round()
    for ray_cluster_name in await rays(cluster):
        await cluster.kube.delete(Ref(RAY_CLUSTER, NAMESPACE, ray_cluster_name))
    await cluster.kube.delete(Ref(SECRET, NAMESPACE, "sundog-ray"))
    await cluster.kube.create(foreign_secret("sundog-ray"))
    with pytest.raises(Conflict, match="vision/sundog-ray: exists and was not made by Sundog"):
        await reconcile_ray_cluster(cluster.world, Key("raycluster", NAMESPACE, RAY))
    assert await rays(cluster) == []


@pytest.mark.parametrize(
    ("store", "kept"),
    [
        ({"redisAddress": f"{RAY}-valkey:6379"}, ["other"]),
        # Made with an external Redis, which nothing else cleans up. The current settings do not matter.
        ({"redisAddress": "redis.example.com:6379"}, None),
        # The store was switched off later. KubeRay removes its finalizer only from a RayCluster with a store.
        (None, ["other"]),
    ],
    ids=["own", "external", "none"],
)
async def test_a_cluster_on_its_way_out_is_let_go_without_the_clean_up_of_its_own_store(
    cluster: Cluster, store: Object | None, kept: list[str] | None
) -> None:
    await served(cluster)
    stored = await ray(cluster)
    del stored["spec"]["gcsFaultToleranceOptions"]
    stored["spec"] |= {"gcsFaultToleranceOptions": store} if store else {}
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


def left_over(kind: Kind, *owners: Object) -> Object:
    """An object of the store of a deleted RayCluster with the same name."""
    meta: Object = {
        "name": f"{RAY}-valkey",
        "namespace": NAMESPACE,
        "labels": kubernetes_names.labels(kubernetes_names.VALKEY),
    }
    meta["ownerReferences"] = [owner_reference(owner, controller=True) for owner in owners]
    content: Object = {"data": {"password": "b2xk"}} if kind == SECRET else {"spec": {"replicas": 1}}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, **content}


async def password(cluster: Cluster) -> str | None:
    stored = await cluster.kube.get(Ref(SECRET, NAMESPACE, f"{RAY}-valkey"))
    return None if stored is None else str(stored["data"]["password"])


@pytest.mark.parametrize("kind", [SECRET, STATEFUL_SET], ids=lambda kind: kind.kind)
async def test_a_new_cluster_waits_until_the_store_of_the_one_before_is_gone(cluster: Cluster, kind: Kind) -> None:
    # The API server in memory collects garbage at once. An existing owner of the former store delays that.
    meta = {"name": "before", "namespace": NAMESPACE}
    before = await cluster.kube.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    await cluster.kube.create(left_over(kind, before))
    await cluster.apply()
    await cluster.settle(5)
    assert await rays(cluster) == []
    message = f"{kind.kind} vision/{RAY}-valkey: belongs to another owner with uid {before['metadata']['uid']}"
    with pytest.raises(DependencyError, match=message):
        await reconcile_ray_cluster(cluster.world, Key("raycluster", NAMESPACE, RAY))
    await cluster.kube.delete(Ref(CONFIG_MAP, NAMESPACE, "before"))
    await cluster.until_serves(1)
    assert await password(cluster) not in {None, "b2xk"}
    for each in (SECRET, SERVICE, STATEFUL_SET):
        owned = await cluster.read(Ref(each, NAMESPACE, f"{RAY}-valkey"))
        assert [owner["uid"] for owner in owned["metadata"]["ownerReferences"]] == [
            (await ray(cluster))["metadata"]["uid"]
        ]


async def test_a_store_that_was_left_without_owners_is_taken_over_with_its_password(cluster: Cluster) -> None:
    for kind in (SECRET, STATEFUL_SET):
        await cluster.kube.create(left_over(kind))
    await cluster.deploy()
    assert await password(cluster) == "b2xk"


async def test_a_store_with_a_password_that_is_gone_is_started_anew(cluster: Cluster) -> None:
    await served(cluster)
    before = await password(cluster)
    labels = {kubernetes_names.LABEL_NAME: kubernetes_names.VALKEY, kubernetes_names.LABEL_INSTANCE: RAY}
    meta = {"name": f"{RAY}-valkey-0", "namespace": NAMESPACE, "labels": labels}
    await cluster.kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}})
    await cluster.kube.delete(Ref(SECRET, NAMESPACE, f"{RAY}-valkey"))
    cluster.kuberay.heads_down = {RAY}  # type: ignore[union-attr]
    await cluster.settle(3)
    assert await password(cluster) not in {None, before}
    assert await cluster.kube.list(POD, NAMESPACE, labels) == []
    made = [(write.verb, write.ref.kind) for write in cluster.kube.writes if write.ref.kind in {POD, SECRET}]
    assert made[-2:] == [("delete", POD), ("create", SECRET)], "an operator that dies in between sees it again"


async def test_pods_are_asked_for_although_serve_does_not_answer(cluster: Cluster) -> None:
    await served(cluster)
    dashboard = next(iter(cluster.serve_apis.by_dashboard))
    cluster.serve_apis.of(dashboard).down = True
    await cluster.apply("file:///models/v2")
    await cluster.settle(3)
    assert set(await groups(cluster)) == {"digits-r1", "digits-r2"}
    # It is unknown whether the application still runs, so nothing of it is removed.
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


async def test_a_store_that_is_turned_on_under_a_ready_head_has_its_secret() -> None:
    without = "ray: {gcsFaultTolerance: {enabled: false}}\nruntimeImage: example.com/runtime:1"
    cluster = Cluster(installation=parse_installation(without, "test"))
    await served(cluster)
    cluster.install(INSTALLATION)
    await cluster.settle(20)
    assert await cluster.kube.get(Ref(STATEFUL_SET, NAMESPACE, f"{RAY}-valkey")) is not None
    assert await password(cluster) is not None


async def test_a_store_whose_stateful_set_is_deleted_gets_the_new_claim(
    cluster: Cluster,
) -> None:
    await served(cluster)
    cluster.kuberay.heads_down = {RAY}  # type: ignore[union-attr]
    fast = "ray: {gcsFaultTolerance: {storage: {className: fast}}}\nruntimeImage: example.com/runtime:1"
    cluster.install(parse_installation(fast, "test"))
    before = await password(cluster)
    await cluster.settle(3)
    store = Ref(STATEFUL_SET, NAMESPACE, f"{RAY}-valkey")
    assert await claim_classes(cluster, store) == [None], "a claim cannot change"
    await cluster.kube.delete(store)
    await cluster.settle(3)
    assert await claim_classes(cluster, store) == ["fast"]
    assert await password(cluster) == before


async def claim_classes(cluster: Cluster, store: Ref) -> list[str | None]:
    found = await cluster.read(store)
    assert found["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data", "its claim is data-STORE-0"
    return [each["spec"].get("storageClassName") for each in found["spec"]["volumeClaimTemplates"]]


async def replicas_after_refusal(cluster: Cluster, refusal: Exception) -> int:
    """Ask for two replicas; the pass of the RayCluster ends with the refusal. Return how many Serve was asked for."""
    await cluster.apply(replicas=2)
    await reconcile_model_deployment(cluster.world, Key("modeldeployment", NAMESPACE, NAME))
    with pytest.raises(type(refusal)):
        await reconcile_ray_cluster(cluster.world, Key("raycluster", NAMESPACE, RAY))
    deployment = applications(cluster)["digits-r1"]
    return int(deployment["num_replicas"])


@pytest.mark.parametrize(
    ("error", "replicas"),
    [
        (Invalid("RayCluster x", ["spec: Too long"]), 2),
        (DependencyError("etcdserver: request is too large"), 2),
        (Conflict("the autoscaler changed it"), 1),
    ],
    ids=["invalid", "too large", "conflict"],
)
async def test_models_are_deployed_to_a_cluster_whose_change_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, error: Exception, replicas: int
) -> None:
    await served(cluster)

    async def refuse(_: Object) -> Object:
        raise error

    monkeypatch.setattr(cluster.kube, "replace", refuse)
    assert await replicas_after_refusal(cluster, error) == replicas


async def test_autoscaling_bounds_group_and_application(cluster: Cluster) -> None:
    await served(cluster, autoscaling={"minReplicas": 2, "maxReplicas": 5}, replicas=9)
    assert await groups(cluster) == {"digits-r1": (2, 5, 2)}
    deployment = applications(cluster)["digits-r1"]
    assert "num_replicas" not in deployment
    config = deployment["autoscaling_config"]
    assert (config["min_replicas"], config["max_replicas"], config["target_ongoing_requests"]) == (2, 5, 1)
    assert (config["upscale_delay_s"], config["downscale_delay_s"]) == (20.0, 300.0)
    status = await cluster.status()
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)
    assert status["selector"] == "serving.sundog.dev/model-deployment=digits"
    await cluster.roll_out(autoscaling={"minReplicas": 2, "maxReplicas": 5})
    assert await groups(cluster) == {"digits-r1": (2, 5, 2), "digits-r2": (1, 3, 1)}


@pytest.mark.parametrize("answers", [True, False], ids=["Serve answers", "Serve is away"])
async def test_a_refused_spec_keeps_scaling_by_load_within_its_bounds(cluster: Cluster, answers: bool) -> None:
    bounds = {"minReplicas": 2, "maxReplicas": 5}
    await served(cluster, autoscaling=bounds)
    serve = cluster.serve_of(RAY)
    serve.down = not answers
    await cluster.apply(autoscaling=bounds, replicas="three")
    await cluster.settle(15)
    assert (await cluster.condition("SpecAccepted"))[0] == "False"
    assert await groups(cluster) == {"digits-r1": (2, 5, 2)}


async def test_a_rollback_under_a_refused_spec_gets_the_replicas_that_load_needs(
    cluster: Cluster,
) -> None:
    spec = {"autoscaling": {"minReplicas": 1, "maxReplicas": 9}, "rollout": {"strategy": "recreate"}}
    await served(cluster, **spec)
    await served(cluster, "file:///models/v2", 2, **spec)
    await cluster.apply("file:///models/v2", **spec, replicas="three")
    (serve,) = cluster.serve_apis.by_dashboard.values()
    serve.load("digits-r2", 6)
    await cluster.settle(5)
    assert (await cluster.status())["stable"]["replicas"] == 6
    await cluster.command("rollback revision=1 id=a")
    await cluster.until_serves(1)
    assert serve.running("digits-r1") == 6


async def test_a_draining_revision_keeps_the_replicas_that_load_gave_it(
    cluster: Cluster,
) -> None:
    scaling = {"minReplicas": 1, "maxReplicas": 9}
    await cluster.start_canary(autoscaling=scaling)
    (serve,) = cluster.serve_apis.by_dashboard.values()
    serve.load("digits-r2", 5)
    await cluster.settle(5)
    await cluster.command("abort revision=2 id=a")
    ran = []
    for _ in range(4):
        await cluster.round()
        ran.append(serve.running("digits-r2"))
    assert [each["revision"] for each in (await cluster.status())["retiring"]] == [2]
    assert ran == [5] * 4
    await cluster.settle(20)
    assert serve.running("digits-r2") == 0


NODES_FIX = "Free some, add nodes, or ask for less"
QUOTA_FIX = "Raise the quota, or ask for less"


async def offer_gpus(cluster: Cluster, devices: int) -> None:
    await offer(cluster, "node", {GPU: str(devices)})


async def with_gpus(cluster: Cluster, devices: int, count: int = 1) -> None:
    await offer_gpus(cluster, devices)
    await served(cluster, replicas=2, resources={"gpu": {"count": count}})
    await place(cluster, "node")
    await cluster.settle(20)


async def test_replicas_with_a_fraction_share_pods_and_make_room_only_beside_stable(cluster: Cluster) -> None:
    half = {"gpu": {"count": 1, "sharing": {"mode": "fraction", "fraction": "0.5"}}}
    await offer_gpus(cluster, 3)
    await served(cluster, replicas=3, resources=half)
    await place(cluster, "node")
    await cluster.settle(20)
    assert await groups(cluster) == {"digits-r1": (2, 2, 2)}
    deployment = applications(cluster)["digits-r1"]
    assert (deployment["num_replicas"], deployment["ray_actor_options"]["num_gpus"]) == (3, 0.5)
    fits = f"1 {GPU} for every 2 replicas, which share it without isolation"
    assert await cluster.read_condition("CapacityAvailable") == ("True", "Fits", fits)
    assert (await cluster.status())["capacity"] == {"gpusRequested": 2, "gpusAllocated": 2, "mode": "surge"}
    await cluster.apply("file:///models/v2", replicas=3, resources=half)
    await cluster.settle(5)
    assert await cluster.read_condition("Stalled") == (
        "True",
        "InsufficientCapacity",
        f"2 {GPU} needed (2 × 1), 1 of 3 free on 1 node. {NODES_FIX}",
    )
    assert set(await groups(cluster)) == {"digits-r1"}
    await offer_gpus(cluster, 4)
    await cluster.until_weight(2, 25)


async def shared(cluster: Cluster) -> dict[str, Any]:
    capacity = (await cluster.status())["capacity"]
    return {name: capacity.get(name) for name in ("mode", "neededReplicas", "spareReplicas")}


@pytest.mark.parametrize(
    ("devices", "way"), [(4, ("surge", None, None)), (3, ("inPlace", 2, 1)), (2, ("inPlace", 2, 0))]
)
async def test_auto_is_in_place_where_there_is_no_room_beside_stable(
    cluster: Cluster, devices: int, way: tuple[str, int | None, int | None]
) -> None:
    await with_gpus(cluster, devices)
    await cluster.roll_out(replicas=2, resources={"gpu": {"count": 1}})
    assert await shared(cluster) == dict(zip(("mode", "neededReplicas", "spareReplicas"), way, strict=True))
    assert await cluster.condition("CapacityAvailable") == ("True", "Fits")
    asked = {name: each["num_replicas"] for name, each in applications(cluster).items()}
    # With a spare replica, stable keeps what 75 % need, rounded up.
    assert asked == {"digits-r1": 1 if devices == 2 else 2, "digits-r2": 1}
    # Devices that become free later change no running rollout.
    await offer_gpus(cluster, 16)
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 50)
    assert (await shared(cluster))["mode"] == way[0]
    await cluster.command("promote revision=2 id=b")
    await cluster.until_serves(2)
    await cluster.settle(20)
    assert await shared(cluster) == {"mode": "surge", "neededReplicas": None, "spareReplicas": None}


async def test_a_pod_that_waits_for_one_that_goes_is_not_called_unschedulable(cluster: Cluster) -> None:
    """Ray's autoscaler removes the pod of an ended replica later, and the scheduler reports what it sees until then."""
    await with_gpus(cluster, 2)
    kuberay = cluster.kuberay
    assert kuberay is not None
    kuberay.stuck, kuberay.unplaced = {"digits-r1"}, {"digits-r2"}
    serve = cluster.serve_of(RAY)
    serve.room["digits-r2"] = 0
    half = {"steps": [{"weight": 50, "gate": "manual"}]}
    await cluster.apply("file:///models/v2", replicas=2, rollout=half, resources={"gpu": {"count": 1}})
    await cluster.settle(5)
    await find_no_node(cluster, 2)
    await cluster.settle(2)
    message = "revision 2: waits for 1 pod of revision 1 to terminate"
    assert await cluster.read_condition("RevisionReady") == ("False", "Deploying", message)
    assert await cluster.read_condition("Ready") == ("True", "Serving", "revision 1 serves")

    # Another pod took the place of the ended one, not this one.
    last = (await cluster.kube.list(POD, NAMESPACE, {kubernetes_names.LABEL_REVISION: "1"}))[-1]["metadata"]
    ended = {"phase": "Failed"}
    await cluster.kube.patch_status(Ref(POD, NAMESPACE, last["name"]), ended, resource_version=last["resourceVersion"])
    await cluster.settle(3)
    assert await cluster.condition("RevisionReady") == ("False", "Unschedulable")
    assert f"0 of 1 nodes: 1 without enough free {GPU}" in (await cluster.read_condition("Ready"))[2]


async def test_what_was_promoted_in_place_lacks_no_devices_while_the_last_ones_go(cluster: Cluster) -> None:
    await with_gpus(cluster, 2)
    half = {"steps": [{"weight": 50, "gate": "manual"}]}
    await cluster.roll_out(2, 50, replicas=2, rollout=half, resources={"gpu": {"count": 1}})
    await cluster.settle(2)
    await place(cluster, "node")
    kuberay = cluster.kuberay
    assert kuberay is not None
    kuberay.stuck, kuberay.unplaced = {"digits-r1"}, {"digits-r2"}
    serve = cluster.serve_of(RAY)
    serve.room["digits-r2"] = 1
    await cluster.command("promote revision=2 id=a")
    await cluster.until_serves(2)
    await cluster.settle(3)
    await find_no_node(cluster, 2)
    await cluster.settle(2)
    assert len(await cluster.kube.list(POD, NAMESPACE, {kubernetes_names.LABEL_REVISION: "1"})) == 2
    assert await cluster.condition("CapacityAvailable") == ("True", "Fits")
    message = "revision 2: waits for 2 pods of revision 1 to terminate"
    assert await cluster.read_condition("RevisionReady") == ("False", "Deploying", message)


@pytest.mark.parametrize(
    "change",
    [
        {"rollout": {**MANUAL, "capacity": "surge"}},
        {"rollout": {**MANUAL, "bake": {}}},
        {"rollout": {**MANUAL, "keepPrevious": {}}},
        {"rollout": {"strategy": "shadow"}},
        {"rollout": {"strategy": "shadow", "bake": {}}},
        {"rollout": {"steps": [{"scale": {"percent": 50}}, {"weight": 50}]}},
        {"resources": {"gpu": {"count": 1, "vendor": "amd"}}},
    ],
    ids=["surge", "bake", "keepPrevious", "shadow", "bake after shadow", "scale", "vendor"],
)
async def test_what_cannot_be_in_place_waits_for_capacity(cluster: Cluster, change: dict[str, Any]) -> None:
    await with_gpus(cluster, 2)
    await cluster.apply("file:///models/v2", **{"replicas": 2, "resources": {"gpu": {"count": 1}}, **change})
    await cluster.settle(5)
    resource = "amd.com/gpu" if "resources" in change else GPU
    status, reason, message = await cluster.read_condition("CapacityAvailable")
    assert (status, reason) == ("False", "InsufficientCapacity")
    assert message.startswith(f"revision 2: 2 {resource} needed (2 × 1), 0 of ")
    assert await cluster.weights() == {1: 100}


async def test_a_candidate_with_other_accelerators_cannot_come_in_place(cluster: Cluster) -> None:
    await with_gpus(cluster, 2)
    asked = {"replicas": 2, "rollout": {**MANUAL, "capacity": "inPlace"}}
    await cluster.apply("file:///models/v2", resources={"gpu": {"count": 2}}, **asked)
    await cluster.settle(5)
    message = (
        "spec.rollout.capacity: replicas of revision 1 have other accelerators or nodes than the new ones need,"
        " and cannot free capacity for them. Set capacity: surge"
    )
    assert await cluster.read_condition("CapacityAvailable") == (
        "False",
        "InsufficientCapacity",
        f"revision 2: {message}",
    )
    assert await cluster.weights() == {1: 100}


async def test_where_pods_bring_nodes_auto_is_surge() -> None:
    cluster = Cluster(installation=NODES_COME)
    await with_gpus(cluster, 2)
    await cluster.roll_out(replicas=2, resources={"gpu": {"count": 1}})
    assert (await shared(cluster))["mode"] == "surge"


async def test_a_rollback_without_room_names_the_way_in_place(cluster: Cluster) -> None:
    await with_gpus(cluster, 2)
    await cluster.roll_out(replicas=2, resources={"gpu": {"count": 1}})
    await cluster.promote()
    await place(cluster, "node")
    await cluster.settle(30)
    await place(cluster, "node")
    assert await cluster.answer("rollback revision=1 id=b") == (
        "Rejected",
        f"2 {GPU} needed (2 × 1), 0 of 2 free on 1 node. {NODES_FIX}. Apply the spec of revision 1 to roll it out in place",
    )
    await cluster.roll_out(1, replicas=2, resources={"gpu": {"count": 1}})


@pytest.mark.parametrize(
    ("installation", "may_list_nodes", "on_nodes"),
    [(INSTALLATION, False, ""), (NODES_COME, True, ", 0 of 2 free on 1 node")],
    ids=["nodes may not be listed", "pods bring nodes"],
)
async def test_a_quota_alone_holds_a_canary_back(installation: Any, may_list_nodes: bool, on_nodes: str) -> None:
    """One replica has two devices, in a namespace with a quota for one more."""
    cluster = Cluster(installation=installation)
    await offer_gpus(cluster, 2)
    await served(cluster, resources={"gpu": {"count": 2}})
    await place(cluster, "node")
    await cluster.settle(20)
    await set_quota(cluster, {f"requests.{GPU}": "3"}, {f"requests.{GPU}": "2"})
    if not may_list_nodes:
        cluster.kube.faults = lambda _, ref: Forbidden("may not list nodes") if ref.kind == NODE else None
    await cluster.apply("file:///models/v2", resources={"gpu": {"count": 2}})
    await cluster.settle(5)
    message = f"2 {GPU} needed (1 × 2){on_nodes}, 1 left by the namespace's quota. {QUOTA_FIX}"
    assert await cluster.read_condition("Stalled") == ("True", "InsufficientQuota", message)
    await cluster.kube.delete(Ref(RESOURCE_QUOTA, NAMESPACE, "team"))
    await cluster.until_weight(2, 25)


def comparing(arms: list[str], **spec: Any) -> Object:
    """An Experiment with other models, which request what stable requests; by default with the default exposure."""
    made = user_experiment("compared", named_arms(*arms), **spec)
    if "exposure" not in spec:
        del made["spec"]["exposure"]
    return made


async def experiment_said(cluster: Cluster) -> tuple[str, str, str]:
    compared = await status(cluster, "compared")
    return *condition(compared, "Running"), message(compared, "Running")


async def test_an_experiment_whose_arms_find_no_gpus_begins_only_once_there_are_some(cluster: Cluster) -> None:
    await with_gpus(cluster, 3)
    revisions = len(await cluster.kube.list(CONTROLLER_REVISION, NAMESPACE))
    await cluster.kube.apply(comparing(["wide", "deep"], exposure="90%"))
    await cluster.settle(5)
    # With a third of nine tenths each arm needs as many replicas as stable, which has four tenths.
    message = f"4 {GPU} needed (4 × 1), 1 of 3 free on 1 node. {NODES_FIX}"
    assert await experiment_said(cluster) == ("False", "InsufficientCapacity", message)
    assert set(await groups(cluster)) == {"digits-r1"}
    assert len(await cluster.kube.list(CONTROLLER_REVISION, NAMESPACE)) == revisions, "nothing is made of what waits"
    await offer_gpus(cluster, 6)
    await cluster.settle(15)
    assert set(await groups(cluster)) == {"digits-r1", "digits-r2", "digits-r3"}
    await place(cluster, "node")
    await cluster.settle(20)
    assert (await experiment_said(cluster))[:2] == ("True", "Running"), "its own pods take the room that it waited for"


async def test_who_waits_for_gpus_is_overtaken_by_none_that_is_younger(cluster: Cluster) -> None:
    await with_gpus(cluster, 3)
    await cluster.kube.apply(comparing(["wide", "deep"], exposure="90%"))
    await cluster.settle(5)
    later = comparing(["slim"], exposure="20%")
    await cluster.kube.apply({**later, "metadata": {**later["metadata"], "name": "a-later-one"}})
    await cluster.settle(5)
    later_status = await status(cluster, "a-later-one")
    assert condition(later_status, "Running")[1] == "Queued"
    assert message(later_status, "Running") == "waits for Experiment compared, which is older"
    assert set(await groups(cluster)) == {"digits-r1"}
    await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, "compared"))
    await cluster.settle(5)
    assert "digits-r2" in await groups(cluster)


STOP = {**MANUAL, "duringExperiment": "stop"}
OF_CPU = {"gpu": {"count": 0}}


def one_of(name: str, **arm: Any) -> Object:
    """An Experiment of that name with one arm."""
    arms = [{"name": "other", "model": {"uri": f"file:///models/{name}"}, **arm}]
    return user_experiment(name, arms, exposure="50%")


async def phases(cluster: Cluster, *names: str) -> dict[str, str]:
    return {name: (await status(cluster, name)).get("phase", "") for name in names}


async def in_phases(cluster: Cluster, **wanted: str) -> bool:
    return await phases(cluster, *wanted) == wanted


async def queue_up(cluster: Cluster, devices: int, **arm: Any) -> None:
    """One of three Experiments runs, beside two replicas with a device each."""
    await offer_gpus(cluster, devices)
    await served(cluster, replicas=2, rollout=STOP, resources={"gpu": {"count": 1}})
    await place(cluster, "node")
    await cluster.settle(20)
    for name in "abc":
        await cluster.kube.apply(one_of(name, **arm))
        cluster.clock.advance(1)
    await cluster.until(functools.partial(in_phases, cluster, a="Running", b="Queued", c="Queued"))
    await place(cluster, "node")
    await cluster.settle(2)


async def wants_more(cluster: Cluster) -> None:
    """A revision whose replicas have two devices each, which none of stable's can free."""
    await cluster.apply("file:///models/v9", replicas=2, rollout=STOP, resources={"gpu": {"count": 2}})


async def planned(cluster: Cluster, **spec: Any) -> list[str]:
    """Return `sundog plan` of another model, without the revision and the changed fields."""
    manifest, stored = model_deployment("file:///models/v10", **spec), await cluster.get()
    seen = await observe(cluster.world, {**stored, "spec": manifest["spec"]})
    lines = preview_model_deployment(manifest, stored, seen, cluster.clock.now()).lines
    return [line for line in lines if not line.startswith(("creates ", "changes "))]


async def test_a_revision_that_finds_no_gpus_ends_no_experiment_that_has_none(cluster: Cluster) -> None:
    await queue_up(cluster, 5, resources=OF_CPU)
    await wants_more(cluster)
    await cluster.settle(20)
    assert await phases(cluster, *"abc") == {"a": "Running", "b": "Queued", "c": "Queued"}
    message = f"4 {GPU} needed (2 × 2), 3 of 5 free on 1 node. {NODES_FIX}"
    assert await cluster.read_condition("Progressing") == ("False", "InsufficientCapacity", message)
    assert await cluster.condition("Stalled") == ("True", "InsufficientCapacity")
    asked = {"replicas": 2, "rollout": STOP, "resources": {"gpu": {"count": 2}}}
    assert await planned(cluster, **asked) == [
        "Experiment a continues until the cluster has capacity for revision 4",
        f"revision 4: {message}",
    ]
    waiting = {**asked, "rollout": {**STOP, "duringExperiment": "wait"}}
    assert await planned(cluster, **waiting) == ["waits for the end of Experiment a first"]
    await offer_gpus(cluster, 8)
    cluster.clock.advance(10)
    assert await planned(cluster, **asked) == ["ends Experiment a first"]
    await cluster.until_weight(3, 25)
    assert await phases(cluster, *"abc") == {"a": "Stopped", "b": "Queued", "c": "Queued"}


@pytest.mark.parametrize(("devices", "first"), [(6, "Stopped"), (5, "Running")], ids=["enough-ends", "too few-goes on"])
async def test_a_revision_without_gpus_ends_only_an_experiment_that_has_enough(
    cluster: Cluster, devices: int, first: str
) -> None:
    await queue_up(cluster, devices)
    await wants_more(cluster)
    await cluster.settle(40)
    assert await phases(cluster, *"abc") == {"a": first, "b": "Queued", "c": "Queued"}
    assert (await cluster.weights()).get(3) == (25 if first == "Stopped" else None)


async def test_a_revision_that_is_to_come_in_place_and_cannot_ends_no_experiment(cluster: Cluster) -> None:
    await queue_up(cluster, 6)
    rollout = {**STOP, "capacity": "inPlace"}
    await cluster.apply("file:///models/v9", replicas=2, rollout=rollout, resources={"gpu": {"count": 2}})
    await cluster.settle(20)
    assert await phases(cluster, *"abc") == {"a": "Running", "b": "Queued", "c": "Queued"}
    await cluster.apply("file:///models/v10", replicas=2, rollout=rollout, resources={"gpu": {"count": 1}})
    await cluster.until_weight(4, 25)
    assert await phases(cluster, *"abc") == {"a": "Stopped", "b": "Queued", "c": "Queued"}


async def test_while_a_revision_waits_for_gpus_the_next_experiment_waits_too(cluster: Cluster) -> None:
    """With `duringExperiment: stop` each would end right after its start."""
    await queue_up(cluster, 5, resources=OF_CPU)
    await wants_more(cluster)
    await cluster.command("stop revision=1 id=s")
    await cluster.settle(30)
    assert await phases(cluster, *"abc") == {"a": "Stopped", "b": "Queued", "c": "Queued"}
    assert message(await status(cluster, "b"), "Running") == "waits until there is capacity for revision 3"
    key = Key("modeldeployment", NAMESPACE, NAME)
    assert await reconcile_model_deployment(cluster.world, key) == 15, "nodes that come are looked for in no hurry"
    await offer_gpus(cluster, 8)
    await cluster.until_weight(3, 25)
    await cluster.command("promote revision=3 id=p full=true")
    await cluster.until(functools.partial(in_phases, cluster, b="Running", c="Queued"))
    assert (await cluster.status())["stable"]["revision"] == 3


@pytest.mark.parametrize("rollout", [{**STOP, "dryRun": True}, {**STOP, "duringExperiment": "wait"}])
async def test_no_experiment_waits_for_a_revision_that_is_held(cluster: Cluster, rollout: dict[str, Any]) -> None:
    await queue_up(cluster, 5, resources=OF_CPU)
    await cluster.apply("file:///models/v9", replicas=2, rollout=rollout, resources={"gpu": {"count": 2}})
    await cluster.command("stop revision=1 id=s")
    await cluster.until(functools.partial(in_phases, cluster, a="Stopped", b="Running", c="Queued"))


async def test_arms_that_came_where_such_a_candidate_was_stay_there(cluster: Cluster) -> None:
    await served(cluster, rollout=RECREATE)
    image = "example.com/other:2"
    other = kubernetes_names.ray_cluster(0, image)
    cluster.serve_of(other).failures["file:///models/v2"] = ("ModelNotFound", "/models/v2 does not exist")
    await cluster.apply("file:///models/v2", rollout=RECREATE, runtime={"image": image})
    await cluster.settle(10)
    await cluster.kube.apply(one_of("a", runtime={"image": image}))
    await cluster.settle(2)
    assert await in_phases(cluster, a="Queued")
    await cluster.command("abort revision=2 id=a")
    await cluster.until(functools.partial(in_phases, cluster, a="Running"))
    await cluster.settle(5)
    assert set(await groups(cluster, RAY)) == {"digits-r1"}
    assert set(await groups(cluster, other)) == {"digits-r3"}
    await cluster.command("stop revision=1 id=s")
    await cluster.settle(30)
    assert await rays(cluster) == [RAY]
    status = await cluster.status()
    assert (status["cluster"], status["stable"]["cluster"]) == (RAY, "")


async def test_where_pods_bring_nodes_an_experiment_begins() -> None:
    cluster = Cluster(installation=NODES_COME)
    await with_gpus(cluster, 2)
    await cluster.kube.apply(comparing(["wide"]))
    await cluster.settle(5)
    (own,) = await rays(cluster)
    assert "digits-r2" in await groups(cluster, own)


@pytest.mark.parametrize("allocation", [{}, {"allocation": {"mode": "thompson"}}], ids=["fixed", "thompson"])
async def test_weights_that_move_need_room_for_all_that_is_exposed(cluster: Cluster, allocation: Object) -> None:
    await with_gpus(cluster, 3)
    metrics = {"success": [{"name": "bought", "feedback": "bought"}]}
    await cluster.kube.apply(comparing(["wide"], exposure="60%", metrics=metrics, **allocation))
    await cluster.settle(5)
    if not allocation:
        assert "digits-r2" in await groups(cluster), "three tenths, beside seven on two replicas, need one"
        return
    message = f"2 {GPU} needed (2 × 1), 1 of 3 free on 1 node. {NODES_FIX}"
    assert (await experiment_said(cluster))[1:] == ("InsufficientCapacity", message)


async def test_a_first_revision_is_started_although_its_gpus_are_not_there_yet(cluster: Cluster) -> None:
    await offer_gpus(cluster, 1)
    cluster.kuberay.unplaced = {"digits-r1"}  # type: ignore[union-attr]
    await cluster.apply(resources={"gpu": {"count": 2}})
    await cluster.settle(3)
    message = f"revision 1: 2 {GPU} needed (1 × 2), 1 of 1 free on 1 node. {NODES_FIX}"
    assert await cluster.read_condition("CapacityAvailable") == ("False", "InsufficientCapacity", message)
    assert set(await groups(cluster)) == {"digits-r1"}


async def test_a_secret_that_pods_need_is_waited_for(cluster: Cluster) -> None:
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]
    await cluster.apply(runtime={"env": env})
    serve = cluster.serve_apis
    await cluster.settle(1)
    for dashboard in list(serve.by_dashboard):
        serve.of(dashboard).start_s = 1000
    await cluster.settle(2)
    message = f"revision 1: spec.runtime.env[0].valueFrom.secretKeyRef: Secret {NAMESPACE}/keys does not exist"
    assert await cluster.read_condition("RevisionReady") == ("False", "SecretNotFound", message)
    assert (await cluster.read_condition("Ready"))[1] == "SecretNotFound"
    meta = {"name": "keys", "namespace": NAMESPACE}
    await cluster.kube.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"other": ""}})
    await cluster.settle(2)
    assert (await cluster.read_condition("RevisionReady"))[1] == "SecretIncomplete"


async def test_a_store_that_finds_no_volume_is_reported(cluster: Cluster) -> None:
    await cluster.apply()
    await cluster.settle(2)
    cluster.kuberay.heads_down = {RAY}  # type: ignore[union-attr]
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    }
    labels = {kubernetes_names.LABEL_NAME: kubernetes_names.VALKEY, kubernetes_names.LABEL_INSTANCE: RAY}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{RAY}-valkey-0", "namespace": NAMESPACE, "labels": labels},
        "spec": {"containers": [{"name": "valkey"}]},
    }
    await create_with_status(cluster.kube, POD, pod, {"phase": "Pending", "conditions": [condition]})
    await cluster.settle(2)
    message = f"the store of Ray: pod {RAY}-valkey-0: 0 of 1 nodes: a PersistentVolumeClaim of the pod is not bound"
    message += ". Check the claim and its StorageClass"
    assert await cluster.read_condition("RevisionReady") == ("False", "Unschedulable", message)


NO_QUOTA = "forbidden: exceeded quota: team, requested: limits.memory=2560Mi, used: 8Gi, limited: 10Gi"


def refusal(pod: str) -> dict[str, str]:
    return {RAY: f'pods "{pod}" is {NO_QUOTA}'}


async def test_a_pod_that_kuberay_may_not_make_is_reported_in_the_api_servers_words(cluster: Cluster) -> None:
    serve = cluster.serve_of(RAY)
    serve.room["digits-r2"] = 0
    await cluster.deploy(rollout=MANUAL)
    cluster.kuberay.refusals = refusal("digits-r2-worker-x7k2p")  # type: ignore[union-attr]
    await cluster.settle(2)
    assert await cluster.read_condition("RevisionReady") == ("True", "Ready", "revision 1: 1 replica running")
    await cluster.apply("file:///models/v2", rollout=MANUAL)
    await cluster.settle(5)
    message = f"revision 2: KubeRay could not create its pods in RayCluster {RAY}: {NO_QUOTA}. Raise the quota, or ask for less"
    assert await cluster.read_condition("RevisionReady") == ("False", "PodRefused", message)
    before = (await cluster.get())["metadata"]["resourceVersion"]
    cluster.kuberay.refusals = refusal("digits-r2-worker-b9n4c")  # type: ignore[union-attr]
    await cluster.settle(2)
    assert (await cluster.get())["metadata"]["resourceVersion"] == before, "each attempt of KubeRay's has another name"
    assert await cluster.condition("Ready") == ("True", "Serving")
    cluster.kuberay.refusals = {}  # type: ignore[union-attr]
    await cluster.settle(2)
    assert await cluster.condition("RevisionReady") == ("False", "Deploying")


async def test_a_too_large_cluster_is_reported_and_stable_serves(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.deploy(rollout=MANUAL)

    async def refuse(_: Object) -> Object:
        raise DependencyError("RayCluster x: etcdserver:\nrequest is too large (500)")

    cluster.serve_of(RAY).room["digits-r2"] = 0
    with monkeypatch.context() as patched:
        patched.setattr(cluster.kube, "replace", refuse)
        await cluster.apply("file:///models/v2", rollout=MANUAL)
        await cluster.settle(5)
        status, reason, message = await cluster.read_condition("RevisionReady")
        assert (status, reason) == ("False", "PodRefused")
        prefix = (
            f"revision 2: its pods could not be added to RayCluster {RAY}: RayCluster x: etcdserver: request is too"
        )
        assert message.startswith(prefix)
        assert "Shorten the values" in message
        assert await cluster.condition("Ready") == ("True", "Serving")
        (_, ungrown) = cluster.world.rejected_clusters[NAMESPACE, RAY]
        assert ungrown == {"digits-r2"}, "the node of a pod of stable may be lost meanwhile"
    await cluster.settle(10)
    assert await cluster.condition("RevisionReady") == ("False", "Deploying")


async def test_the_refusal_of_a_cluster_is_forgotten_with_its_last_model_deployment(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = cluster.kube.create

    async def refuse(obj: Object) -> Object:
        if obj["kind"] == RAY_CLUSTER.kind:
            raise DependencyError("RayCluster x: request is too large (500)")
        return await create(obj)

    monkeypatch.setattr(cluster.kube, "create", refuse)
    await cluster.apply()
    await cluster.settle(5)
    assert (await cluster.read_condition("RevisionReady"))[1] == "PodRefused"
    ref = Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME)
    deleted = await cluster.read(ref)
    await cluster.kube.delete(ref)
    for key in keys_for(deleted):
        if key.kind == "raycluster":
            await reconcile_ray_cluster(cluster.world, key)
    assert cluster.world.rejected_clusters == {}


async def test_a_head_that_kuberay_may_not_make_is_reported_likewise(cluster: Cluster) -> None:
    await cluster.apply()
    cluster.kuberay.heads_down = {RAY}  # type: ignore[union-attr]
    cluster.kuberay.refusals = refusal("digits-r2-worker-x7k2p")  # type: ignore[union-attr]
    await cluster.settle(5)
    status, reason, message = await cluster.read_condition("Ready")
    assert (status, reason) == ("False", "PodRefused")
    assert message.endswith(f"{NO_QUOTA}. Raise the quota, or ask for less")
    assert clusters.parse_cluster_view(RAY, await ray(cluster), "").problem.endswith(f"is not ready: {NO_QUOTA}")


def test_a_hundred_share_a_cluster_and_the_next_one_goes_to_another() -> None:
    image = "example.com/runtime:1"
    first, second = kubernetes_names.ray_cluster(0, image), kubernetes_names.ray_cluster(1, image)
    assert clusters.assign_cluster([first] * 99, image) == first
    assert clusters.assign_cluster([first] * 100, image) == second
    assert clusters.assign_cluster([first] * 100 + [second] * 100, image) == kubernetes_names.ray_cluster(2, image)
    assert clusters.assign_cluster([second] * 100, image) == first
    assert clusters.assign_cluster([kubernetes_names.ray_cluster(0, "example.com/other:1")] * 100, image) == first


KEEPING = {**RECREATE, "keepPrevious": {"for": "1h"}}


async def test_a_revision_that_is_only_kept_gives_its_gpus_to_a_candidate(cluster: Cluster) -> None:
    await offer_gpus(cluster, 4)
    gpus: dict[str, Any] = {"replicas": 2, "rollout": KEEPING, "resources": {"gpu": {"count": 1}}}
    await served(cluster, **gpus)
    await place(cluster, "node")
    await served(cluster, "file:///models/v2", 2, **gpus)
    await place(cluster, "node")
    await cluster.settle(20)
    assert [each["revision"] for each in (await cluster.status())["kept"]] == [1]
    assert (await cluster.status())["capacity"]["gpusRequested"] == 3
    await served(cluster, "file:///models/v3", 3, **gpus)


async def test_a_kept_revision_keeps_the_raycluster_of_its_image(cluster: Cluster) -> None:
    await served(cluster, rollout=KEEPING, runtime={"image": "example.com/a:1"})
    await served(cluster, "file:///models/v2", 2, rollout=KEEPING, runtime={"image": "example.com/b:1"})
    await cluster.settle(20)
    first, second = (kubernetes_names.ray_cluster(0, f"example.com/{each}:1") for each in "ab")
    (kept,) = (await cluster.status())["kept"]
    assert (kept["revision"], kept["cluster"]) == (1, first)
    assert set(await rays(cluster)) == {first, second}
    assert set(await groups(cluster, first)) == {"digits-r1"}
    await cluster.settle(65, seconds=60)
    assert (await cluster.status())["kept"] == []
    await cluster.settle(30)
    assert await rays(cluster) == [second]


async def test_a_kept_revision_stays_where_it_is_when_the_next_one_has_another_raycluster(cluster: Cluster) -> None:
    first, second = (kubernetes_names.ray_cluster(0, f"example.com/{each}:1") for each in "ab")
    for number in (1, 2):
        image = {"image": "example.com/a:1"}
        await served(cluster, f"file:///models/v{number}", number, rollout=KEEPING, runtime=image)
    await cluster.settle(20)
    canary = {"steps": [{"weight": 25, "gate": "manual"}], "keepPrevious": {"for": "1h"}}
    await cluster.roll_out(3, rollout=canary, runtime={"image": "example.com/b:1"})
    assert [each["revision"] for each in (await cluster.status())["kept"]] == [1]
    assert set(await groups(cluster, first)) == {"digits-r1", "digits-r2"}
    assert set(await groups(cluster, second)) == {"digits-r3"}


async def budgets(cluster: Cluster) -> dict[str, int]:
    """The number of pods that each disruption budget of a worker group keeps."""
    found = await cluster.kube.list(POD_DISRUPTION_BUDGET, NAMESPACE, {kubernetes_names.LABEL_NAME: "sundog-ray"})
    return {
        each["spec"]["selector"]["matchLabels"][ray_groups.LABEL_GROUP]: each["spec"]["minAvailable"] for each in found
    }


async def test_a_node_drain_may_evict_one_pod_of_each_group_at_a_time(cluster: Cluster) -> None:
    await served(cluster, replicas=4)
    assert await budgets(cluster) == {"digits-r1": 3}
    (budget,) = await cluster.kube.list(POD_DISRUPTION_BUDGET, NAMESPACE, {kubernetes_names.LABEL_NAME: "sundog-ray"})
    selected = await cluster.kube.list(POD, NAMESPACE, budget["spec"]["selector"]["matchLabels"])
    workers = await cluster.kube.list(POD, NAMESPACE, {kubernetes_names.LABEL_MODEL_DEPLOYMENT: NAME})
    assert selected == workers
    assert [each["kind"] for each in budget["metadata"]["ownerReferences"]] == ["RayCluster"]

    await cluster.roll_out(2, 50, replicas=4, rollout={"steps": [{"weight": 50, "gate": "manual"}]})
    assert await budgets(cluster) == {"digits-r1": 3, "digits-r2": 1}
    await cluster.promote()
    await cluster.settle(30)
    assert await budgets(cluster) == {"digits-r2": 3}


async def test_a_single_pod_has_no_budget_which_would_block_drains(cluster: Cluster) -> None:
    autoscaling = {"minReplicas": 1, "maxReplicas": 3}
    await served(cluster, autoscaling=autoscaling)
    for replicas, wanted in ((3, {"digits-r1": 2}), (2, {"digits-r1": 1}), (1, {})):
        scaled = await ray(cluster)
        scaled["spec"]["workerGroupSpecs"][0]["replicas"] = replicas  # as Ray's autoscaler does
        await cluster.kube.replace(scaled)
        await cluster.settle(20)
        assert await budgets(cluster) == wanted


async def test_a_budget_that_is_deleted_comes_back(cluster: Cluster) -> None:
    await served(cluster, replicas=2)
    (budget,) = await cluster.kube.list(POD_DISRUPTION_BUDGET, NAMESPACE, {ray_groups.LABEL_CLUSTER: RAY})
    assert keys_for(budget) == [Key("raycluster", NAMESPACE, RAY)]
    await cluster.kube.delete(ref_of(budget))
    await cluster.settle(20)
    assert await budgets(cluster) == {"digits-r1": 1}


async def test_an_administrator_who_has_budgets_of_their_own_turns_them_off() -> None:
    without = parse_installation("runtimeImage: example.com/runtime:1\nray: {disruptionBudgets: false}", "test")
    cluster = Cluster(installation=INSTALLATION)
    await served(cluster, replicas=2)
    assert await budgets(cluster) == {"digits-r1": 1}
    cluster.install(without)
    await cluster.settle(20)
    assert await budgets(cluster) == {}


async def test_a_budget_of_others_stays_as_it_is(cluster: Cluster) -> None:
    meta = {"name": f"{RAY}-digits-r1", "namespace": NAMESPACE}
    theirs = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": {"minAvailable": 7}}
    created = await cluster.kube.create(theirs)
    await served(cluster, replicas=2)
    assert await cluster.kube.get(ref_of(created)) == created


@pytest.mark.parametrize("refusal", [Forbidden("no role"), Invalid("budget", ["a policy"])])
async def test_models_are_deployed_to_a_cluster_whose_budget_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    await served(cluster)
    apply = cluster.kube.apply

    async def refuse_budgets(obj: Object) -> Object:
        if obj["kind"] == "PodDisruptionBudget":
            raise refusal
        return await apply(obj)

    monkeypatch.setattr(cluster.kube, "apply", refuse_budgets)
    assert await replicas_after_refusal(cluster, refusal) == 2


async def test_pods_are_placed_by_the_labels_that_the_nodes_show(
    cluster: Cluster,
) -> None:
    meta = {"name": "cpu", "labels": {"cloud.google.com/gke-nodepool": "a"}}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {}}
    await create_with_status(cluster.kube, NODE, node, {})
    await cluster.apply(resources={"gpu": {"count": 1, "type": ["l4"]}})
    await cluster.settle(5)
    (group,) = (await ray(cluster))["spec"]["workerGroupSpecs"]
    affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["key"] == "cloud.google.com/gke-accelerator"
    assert group["groupName"] == f"{NAME}-r1"
