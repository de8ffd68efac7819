"""The RayCluster for KubeRay, and which of its fields the administrator, the user and Sundog decide."""

from datetime import timedelta
from typing import Any

import pytest

from sundog_operator.api import ModelDeploymentSpec, find_violations
from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names, references, spot
from sundog_operator.core.kubernetes.pod_requests import OVERHEAD_BYTES
from sundog_operator.core.ray import pods, valkey
from sundog_operator.core.ray.groups import GroupState
from sundog_operator.core.ray.valkey import ValkeyServer
from sundog_operator.core.revisions import Revision

NOBODY = GroupState({}, {}, frozenset())
ADMINISTRATOR = """
runtimeImage: example.com/runtime:1
ray:
  pods:
    serviceAccountName: models
    imagePullPolicy: IfNotPresent
    imagePullSecrets: [{name: registry}]
    nodeSelector: {pool: models, zone: a}
    tolerations: [{key: models, operator: Exists}]
    priorityClassName: batch
    runtimeClassName: gvisor
    labels: {cost-center: vision}
    annotations: {scrape: "yes"}
    env: [{name: HTTPS_PROXY, value: "http://proxy:3128"}, {name: LOG_LEVEL, value: info}]
    volumes: [{name: certificates, configMap: {name: authorities}}]
    volumeMounts: [{name: certificates, mountPath: /etc/ssl/own}]
"""
USER: dict[str, Any] = {
    "model": {"uri": "pvc://models/digits/v1", "credentials": {"secretName": "read", "serviceAccountName": "reader"}},
    "runtime": {
        "env": [
            {"name": "LOG_LEVEL", "value": "debug"},
            {"name": "RAY_AUTH_MODE", "value": "none"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}},
        ],
        "podLabels": {"team": "vision"},
    },
    "resources": {"cpu": "1500m", "memory": "1Gi", "gpu": {"count": 2, "type": ["l4"]}},
    "scheduling": {
        "priorityClassName": "urgent",
        "nodeSelector": {"zone": "b", "disk": "fast"},
        "tolerations": [{"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
    },
}


def installation(text: str = "runtimeImage: example.com/runtime:1") -> Installation:
    return parse_installation(text, "test")


def revision(**spec: Any) -> Revision:
    content = revisions.content_of(ModelDeploymentSpec.from_json({"model": {"uri": "file:///models/v1"}, **spec}))
    return Revision(7, revisions.content_hash(content), content)


def store_of(
    made: dict[str, Any],
    text: str = "runtimeImage: example.com/runtime:1",
    stored: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the StatefulSet of a RayCluster's store."""
    wanted = installation(text).ray
    server = ValkeyServer(wanted.gcs_fault_tolerance.image, wanted.gcs_fault_tolerance.storage)
    return valkey.make_stateful_set(valkey.make_cluster_store(made), server, wanted.pods, stored)


def group(
    made: Revision, text: str = "runtimeImage: example.com/runtime:1", timeout: timedelta = timedelta(seconds=30)
) -> dict[str, Any]:
    return pods.make_worker_group("digits", made, (1, 3), "example.com/runtime:1", installation(text), timeout)


def worker(made: Revision, text: str = "runtimeImage: example.com/runtime:1") -> tuple[Any, Any, Any]:
    """Return (metadata, pod spec, container)."""
    template = group(made, text)["template"]
    return template["metadata"], template["spec"], template["spec"]["containers"][0]


def env_of(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def cluster(text: str = "runtimeImage: example.com/runtime:1", members: int = 1) -> dict[str, Any]:
    owners = [
        {"apiVersion": "v", "kind": "ModelDeployment", "metadata": {"name": f"m{n}", "uid": f"u{n}"}}
        for n in range(members)
    ]
    made = pods.make_ray_cluster("vision", "sundog-x-0", owners, "example.com/runtime:1", installation(text))
    return {**made, "metadata": {**made["metadata"], "uid": "u"}}


def test_a_worker_pod_offers_ray_exactly_one_replica() -> None:
    made = group(revision(resources={"cpu": "1500m", "memory": "1Gi", "gpu": {"count": 2}}))
    assert made["resources"] == {"CPU": "2", "memory": str(2**30), "GPU": "2"}
    container = made["template"]["spec"]["containers"][0]
    assert container["resources"] == {
        "requests": {"cpu": "1500m", "memory": str(2**30 + OVERHEAD_BYTES), "nvidia.com/gpu": "2"},
        "limits": {"memory": str(2**30 + OVERHEAD_BYTES), "nvidia.com/gpu": "2"},
    }
    assert (made["minReplicas"], made["maxReplicas"]) == (1, 3)
    assert made["labels"] == {"sundog.dev/application": "digits-r7"}


@pytest.mark.parametrize(
    ("vendor", "resource", "ray"),
    [
        ("nvidia", "nvidia.com/gpu", "GPU"),
        ("amd", "amd.com/gpu", "GPU"),
        ("intel", "gpu.intel.com/xe", "GPU"),
        ("gaudi", "habana.ai/gaudi", "HPU"),
        ("neuron", "aws.amazon.com/neuroncore", "neuron_cores"),
    ],
)
def test_each_vendor_s_device_is_named_to_kubernetes_and_to_ray(vendor: str, resource: str, ray: str) -> None:
    made = group(revision(resources={"gpu": {"count": 1, "vendor": vendor}}))
    spec = made["template"]["spec"]
    assert made["resources"][ray] == "1"
    assert spec["containers"][0]["resources"]["limits"][resource] == "1"
    assert spec["tolerations"] == [{"key": resource, "operator": "Exists"}]
    assert "NVIDIA_VISIBLE_DEVICES" not in env_of(spec["containers"][0])


@pytest.mark.parametrize(("seconds", "drain", "grace"), [(30, 105, 120), (0.5, 76, 91), (3600, 3675, 3690)])
def test_a_worker_has_time_for_the_longest_request_and_for_its_successor_to_start(
    seconds: float, drain: int, grace: int
) -> None:
    spec = group(revision(), timeout=timedelta(seconds=seconds))["template"]["spec"]
    assert env_of(spec["containers"][0])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == str(drain)
    assert spec["terminationGracePeriodSeconds"] == grace


def test_a_pod_without_devices_is_shown_none() -> None:
    _, spec, container = worker(revision())
    assert env_of(container)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "tolerations" not in spec
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {each["operator"] for each in term["matchExpressions"]} == {"NotIn"}
    assert {each["key"] for each in term["matchExpressions"]} == set(spot.SPOT_LABELS)


def test_replicas_spread_over_zones_unless_nodes_have_an_order_or_a_replica_has_several_pods() -> None:
    known = "gpu: {profiles: [gpu-operator]}"
    for gpu in ({}, {"count": 1}, {"count": 1, "type": ["l4"]}):
        made = group(revision(resources={"gpu": gpu}), known)
        (spread,) = made["template"]["spec"]["topologySpreadConstraints"]
        assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("topology.kubernetes.io/zone", "ScheduleAnyway")
        # KubeRay gives this label to the pods of a group.
        assert spread["labelSelector"] == {"matchLabels": {"ray.io/group": made["groupName"]}}
    for ordered in (
        {"resources": {"gpu": {"count": 1, "topology": {"nodes": 2}}}},
        {"resources": {"gpu": {"count": 1, "type": ["h100", "l4"]}}},
        {"scheduling": {"spot": "prefer"}},
        {"resources": {"gpu": {"count": 1}}, "scheduling": {"spot": "prefer"}},
    ):
        assert "topologySpreadConstraints" not in worker(revision(**ordered), known)[1]


def test_the_administrator_s_template_is_in_every_pod() -> None:
    head = cluster(ADMINISTRATOR)["spec"]["headGroupSpec"]["template"]
    template = group(revision(), ADMINISTRATOR)["template"]
    store = store_of(cluster(), ADMINISTRATOR)["spec"]["template"]
    for pod in (head, template, store):
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert spec["nodeSelector"] == {"pool": "models", "zone": "a"}
        assert spec["tolerations"] == [{"key": "models", "operator": "Exists"}]
        assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("batch", "gvisor")
        assert {"name": "certificates", "configMap": {"name": "authorities"}} in spec["volumes"]
        assert {"name": "certificates", "mountPath": "/etc/ssl/own"} in container["volumeMounts"]
        assert env_of(container)["HTTPS_PROXY"] == "http://proxy:3128"
        assert container["imagePullPolicy"] == "IfNotPresent"
        assert pod["metadata"]["labels"]["cost-center"] == "vision"
        assert pod["metadata"]["annotations"]["scrape"] == "yes"
    assert template["spec"]["serviceAccountName"] == store["spec"]["serviceAccountName"] == "models"
    # KubeRay creates the head's account for its autoscaler.
    assert "serviceAccountName" not in head["spec"]


def test_a_user_s_fields_are_in_the_pods_of_the_revision_and_yield_where_they_must() -> None:
    metadata, spec, container = worker(revision(**USER), ADMINISTRATOR)
    assert metadata["labels"]["team"] == "vision"
    assert metadata["labels"]["serving.sundog.dev/model-deployment"] == "digits"
    assert metadata["labels"]["serving.sundog.dev/revision"] == "7"
    assert spec["nodeSelector"] == {"pool": "models", "zone": "a", "disk": "fast"}
    assert spec["priorityClassName"] == "urgent"
    assert spec["runtimeClassName"] == "gvisor"
    assert [each["key"] for each in spec["tolerations"]] == ["models", "spot", "nvidia.com/gpu"]
    assert spec["serviceAccountName"] == "reader"
    assert spec["automountServiceAccountToken"] is False
    env = env_of(container)
    assert env["LOG_LEVEL"] == "info"
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["KEY"] == {"secretKeyRef": {"name": "keys", "key": "k", "optional": False}}
    assert container["envFrom"] == [{"secretRef": {"name": "read"}}]
    assert {"name": "sundog-model", "mountPath": "/mnt/pvc/models", "readOnly": True} in container["volumeMounts"]
    claim = {"claimName": "models", "readOnly": True}
    assert {"name": "sundog-model", "persistentVolumeClaim": claim} in spec["volumes"]


def test_keys_of_a_secret_replace_no_variable_of_the_administrator() -> None:
    """The keys are variables of the container, unless it has one of the name."""
    text = "{runtimeImage: r, ray: {pods: {env: [{name: SUNDOG_MODEL_MAX_BYTES, value: '5'}]}}}"
    model = {"uri": "s3://models/v1", "credentials": {"secretName": "read"}}
    reserved = dict.fromkeys(references.ADMINISTRATOR_VARIABLES, "")
    env = env_of(worker(revision(model=model), text)[2])
    assert env.items() >= {**reserved, "SUNDOG_MODEL_MAX_BYTES": "5"}.items()
    assert not reserved.keys() & env_of(worker(revision())[2]).keys()


def test_a_folder_of_the_node_may_take_the_place_of_a_pod_s_own_cache() -> None:
    text = """
ray:
  pods:
    volumes: [{name: models, hostPath: {path: /var/lib/sundog}}]
    volumeMounts: [{name: models, mountPath: /var/cache/sundog}]
"""
    _, _, container = worker(revision(), text)
    assert container["volumeMounts"] == [{"name": "models", "mountPath": "/var/cache/sundog"}]
    assert env_of(container)["SUNDOG_CACHE_DIR"] == "/var/cache/sundog"


def test_the_cache_is_a_pod_s_own_unless_an_administrator_names_a_folder_of_the_node() -> None:
    def cache(text: str = "") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        _, spec, container = worker(revision(), text)
        return spec["volumes"], container["volumeMounts"]

    mounts = [{"name": "sundog-cache", "mountPath": "/var/cache/sundog"}]
    assert cache() == ([{"name": "sundog-cache", "emptyDir": {}}], mounts)
    shared = {"name": "sundog-cache", "hostPath": {"path": "/var/lib/sundog", "type": "Directory"}}
    assert cache("ray: {cache: {hostPath: /var/lib/sundog}}") == ([shared], mounts)
    text = "ray: {cache: {hostPath: /var/lib/sundog}}"
    assert "sundog-cache" not in str(cluster(text)), "a head loads no model"


def test_a_user_can_take_no_label_of_the_administrator() -> None:
    text = "runtimeImage: example.com/runtime:1\nray: {pods: {labels: {zone: restricted}}}"
    metadata, _, _ = worker(revision(runtime={"podLabels": {"zone": "open", "team": "vision"}}), text)
    assert (metadata["labels"]["zone"], metadata["labels"]["team"]) == ("restricted", "vision")


def test_a_user_can_take_no_label_of_ours() -> None:
    runtime = {"podLabels": {"app.kubernetes.io/name": "sundog-edge", "ray.io/cluster": "other"}}
    refused = find_violations(
        {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "digits", "namespace": "vision"},
            "spec": {"model": {"uri": "file:///models/v1"}, "runtime": runtime},
        }
    )
    assert [each.path for each in refused] == ["spec.runtime.podLabels"]
    metadata, _, _ = worker(revision(runtime=runtime))
    assert metadata["labels"]["app.kubernetes.io/name"] == "sundog-ray"


def test_the_head_runs_no_model_and_its_token_comes_from_a_secret() -> None:
    spec = cluster()["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    token = {"secretKeyRef": {"name": "sundog-ray", "key": "token"}}
    containers = (
        spec["headGroupSpec"]["template"]["spec"]["containers"][0],
        spec["autoscalerOptions"],
        worker(revision())[2],
    )
    for container in containers:
        assert env_of(container)["RAY_AUTH_TOKEN"] == token
        assert env_of(container)["RAY_AUTH_MODE"] == "token"
        # Otherwise Serve's result of building an application keeps the node that built it from being idle.
        assert int(env_of(container)["RAY_max_direct_call_object_size"]) > 200_000
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["enableInTreeAutoscaling"] is True


def test_the_container_with_the_token_runs_the_administrator_s_image_alone() -> None:
    text = "runtimeImage: example.com/runtime:1"
    made = pods.make_ray_cluster("vision", "sundog-x-0", [], "example.com/a-user-s:1", installation(text))["spec"]
    (head,) = made["headGroupSpec"]["template"]["spec"]["containers"]
    assert (head["image"], made["autoscalerOptions"]["image"]) == ("example.com/a-user-s:1", "example.com/runtime:1")


def test_of_the_head_only_the_autoscaler_mounts_the_token_of_the_api_server() -> None:
    spec = cluster()["spec"]
    pod = spec["headGroupSpec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    (volume,) = (each for each in pod["volumes"] if "serviceAccountToken" in str(each))
    (mount,) = (each for each in spec["autoscalerOptions"]["volumeMounts"] if each["name"] == volume["name"])
    # Ray's autoscaler reads the token and the authority there.
    assert (mount["mountPath"], mount["readOnly"]) == ("/var/run/secrets/kubernetes.io/serviceaccount", True)
    files = [
        file["path"] for each in volume["projected"]["sources"] for file in each.get("configMap", {}).get("items", [])
    ]
    assert files == ["ca.crt"]
    (head,) = pod["containers"]
    assert volume["name"] not in [each["name"] for each in head.get("volumeMounts", ())]


def test_a_null_of_a_security_context_is_left_out() -> None:
    """The API server would drop it, so every pass would apply the object again."""
    text = "ray: {pods: {securityContext: {runAsNonRoot: true, runAsUser: null}}}"
    pod = cluster(text)["spec"]["headGroupSpec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True}


def test_every_member_owns_the_cluster_and_none_controls_it() -> None:
    owners = cluster(members=3)["metadata"]["ownerReferences"]
    assert [owner["uid"] for owner in owners] == ["u0", "u1", "u2"]
    assert not any(owner.get("controller") for owner in owners)


def test_a_redis_of_somebody_else_is_used_with_its_password() -> None:
    text = "ray: {gcsFaultTolerance: {external: {address: 'redis.example.com:6380', passwordSecretName: redis}}}"
    key = {"secretKeyRef": {"name": "redis", "key": "password"}}
    assert cluster(text)["spec"]["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis.example.com:6380",
        "redisPassword": {"valueFrom": key},
    }
    without = "ray: {gcsFaultTolerance: {external: {address: 'redis.example.com:6380'}}}"
    assert "redisPassword" not in cluster(without)["spec"]["gcsFaultToleranceOptions"]


def test_a_redis_of_somebody_else_can_have_a_user_and_keys_for_each_namespace() -> None:
    external = "{address: 'redis.example.com:6380', passwordSecretName: redis, usernameFromSecret: true}"
    text = f"ray: {{gcsFaultTolerance: {{external: {external}}}}}"
    options = {
        "redisAddress": "redis.example.com:6380",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
        "redisUsername": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "username"}}},
    }
    made = cluster(text)
    assert made["spec"]["gcsFaultToleranceOptions"] == options
    named = pods.name_storage(made, "1a2b")
    assert named["spec"]["gcsFaultToleranceOptions"] == {**options, "externalStorageNamespace": "vision.1a2b"}
    assert pods.name_storage(cluster(), "1a2b") == cluster(), "a store of its own"
    off = cluster("ray: {gcsFaultTolerance: {enabled: false}}")
    assert pods.name_storage(off, "1a2b") == off

    # A head of a RayCluster finds its state only under the same prefix, also if it has none of ours.
    assert pods.update_ray_cluster(named, made, [], NOBODY) is None
    for stored, kept in ((named, "vision.1a2b"), (made, None)):
        after = pods.update_ray_cluster(stored, cluster(text.replace("6380", "6381")), [], NOBODY)
        assert after is not None
        assert after["spec"]["gcsFaultToleranceOptions"]["redisAddress"] == "redis.example.com:6381"
        assert after["spec"]["gcsFaultToleranceOptions"].get("externalStorageNamespace") == kept


def test_the_store_has_a_password_of_its_own_that_is_in_no_argument() -> None:
    made = cluster()
    secret = valkey.make_secret(valkey.make_cluster_store(made), {"password": "p4ssw0rd"})
    assert secret["stringData"] == {"password": "p4ssw0rd"}
    stateful_set = store_of(made)
    container = stateful_set["spec"]["template"]["spec"]["containers"][0]
    assert container["env"] == [
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "sundog-x-0-valkey", "key": "password"}}}
    ]
    assert "-a " not in " ".join(container["command"])
    (claim,) = stateful_set["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert stateful_set["spec"]["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Delete",
        "whenScaled": "Delete",
    }


def test_an_upgrade_restarts_no_store() -> None:
    made = store_of(
        {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "x", "namespace": "v", "uid": "u"}}
    )
    assert made["metadata"]["annotations"] == {names.ANNOTATION_MADE_AS: "e2b8d3930cb24d46"}


def test_a_stored_claim_stays_as_it_is() -> None:
    smaller = "ray: {gcsFaultTolerance: {storage: {size: ''}}}"
    before = store_of(cluster())
    after = store_of(cluster(), smaller, before)
    assert after["spec"]["volumeClaimTemplates"] == before["spec"]["volumeClaimTemplates"]
    assert valkey.is_up_to_date(before, after)
    anew = store_of(cluster(), smaller)
    assert "volumeClaimTemplates" not in anew["spec"]
    assert anew["spec"]["template"]["spec"]["volumes"] == [{"name": "data", "emptyDir": {}}]
    assert not valkey.is_up_to_date(before, anew)


def test_what_an_administrator_takes_away_is_noticed_and_what_nobody_changed_is_left() -> None:
    stored = {**cluster(ADMINISTRATOR), "spec": {**cluster(ADMINISTRATOR)["spec"], "suspend": False}}
    assert pods.update_ray_cluster(stored, cluster(ADMINISTRATOR), [], NOBODY) is None
    after = pods.update_ray_cluster(stored, cluster(), [], NOBODY)
    assert after is not None
    assert "nodeSelector" not in after["spec"]["headGroupSpec"]["template"]["spec"]
    assert after["spec"]["suspend"] is False


def test_a_renewed_cluster_keeps_the_ray_that_its_pods_have() -> None:
    after = pods.update_ray_cluster(cluster(), cluster("ray: {version: 2.61.0, idleTimeout: 5m}"), [], NOBODY)
    assert after is not None
    assert after["spec"]["rayVersion"] == "2.60.0"
    assert after["spec"]["autoscalerOptions"]["idleTimeoutSeconds"] == 300


def test_pods_are_of_the_restricted_standard() -> None:
    stateful_set = store_of(cluster())
    for template in (
        cluster()["spec"]["headGroupSpec"]["template"],
        group(revision())["template"],
        stateful_set["spec"]["template"],
    ):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        context = spec["containers"][0]["securityContext"]
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_cluster_s_name_follows_from_the_image() -> None:
    first = names.ray_cluster(0, "example.com/runtime:1")
    assert first != names.ray_cluster(0, "example.com/runtime:2")
    assert names.is_ray_cluster_of(first, "example.com/runtime:1")
    assert not names.is_ray_cluster_of(first, "example.com/runtime:2")
