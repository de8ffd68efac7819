"""RayClusters whose head and workers are pods: what we ask of KubeRay v1.5 and later.

The head is scheduled no model, but a model holds Ray's token and can run a task there. So only the autoscaler's container mounts a token of
the API server. Autoscaler v2 and its wiring are asked for by name, since KubeRay otherwise guesses. Ray's token is in the environment,
because KubeRay v1.5.0 has no `authOptions`.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from sundog_operator.api import parse_bytes, parse_cpu_cores
from sundog_operator.api.installation import Installation
from sundog_operator.core.kubernetes import accelerators, grace_periods, names, pods, references
from sundog_operator.core.kubernetes.pods import PodRequirements
from sundog_operator.core.kubernetes.subset import contains
from sundog_operator.core.ray import valkey
from sundog_operator.core.ray.clusters import make_ray_cluster_object
from sundog_operator.core.ray.groups import OBJECT_STORE_BYTES, GroupState, make_group, merge_groups
from sundog_operator.core.revisions import Revision, spec_of

AGENT_PORT: Final = 52365
GCS_PORT: Final = 6379
CONTAINER_PORTS: Final[Mapping[str, int]] = {
    "gcs-server": GCS_PORT,
    "dashboard": 8265,
    "client": 10001,
    "serve": 8000,
    "serve-grpc": 9000,
}
"""Ports of the head. KubeRay finds the dashboard's by its name, and makes a Service of all of them."""

OVERHEAD_BYTES: Final = 512 * 2**20
"""What Ray's own processes and its object store take beside a model, in each worker pod."""

MAX_GRPC_BYTES: Final = 2**30
MAX_INLINE_BYTES: Final = 1_000_000
"""Results of tasks up to this size travel in messages.

What Serve keeps of building an application has 116 kB. In the object store of the node that built it, it would keep that node's pod from
ever being idle.
"""

DRAIN_S: Final = 5
DRAIN_ENV_VAR: Final = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""After SIGTERM Ray tells Serve that the node ends, and waits so many seconds for its replicas to have gone."""
CACHE_DIRECTORY: Final = "/var/cache/sundog"
_CACHE: Final = "sundog-cache"
_ACCOUNT: Final = "sundog-account"

Json = dict[str, Any]


def ray_environment() -> list[Json]:
    """Variables of every Ray process, replicas included; local mode sets the same beside its own ports and paths."""
    plain = {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
        "RAY_max_direct_call_object_size": str(MAX_INLINE_BYTES),
        # A gRPC server holds a whole message before anybody can refuse it.
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_GRPC_BYTES),
    }
    token = {"secretKeyRef": {"name": names.RAY, "key": names.RAY_TOKEN_KEY}}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        {"name": "RAY_AUTH_TOKEN", "valueFrom": token},
    ]


NO_DEVICES_ENV: Final[Json] = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
"""Else a container without a GPU of its own sees all of its node's, where the node's runtime hands them out by default."""


def make_ray_cluster(
    namespace: str, name: str, members: Iterable[Json], image: str, installation: Installation
) -> Json:
    """The RayCluster without its worker groups. One owner reference per member lets it go after the last."""
    spec = {
        "rayVersion": installation.ray.version,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": _autoscaler(installation),
        **_fault_tolerance(name, installation),
        "headGroupSpec": {
            "rayStartParams": {
                "num-cpus": "0",
                "num-gpus": "0",
                "dashboard-host": "0.0.0.0",  # noqa: S104 a pod's own network, behind the token
                "object-store-memory": str(OBJECT_STORE_BYTES),
            },
            "template": _head(installation, image),
        },
    }
    made = make_ray_cluster_object(namespace, name, members, spec)
    made["metadata"]["annotations"] = {names.ANNOTATION_MADE_AS: pods.fingerprint(spec)}
    return made


def _head(installation: Installation, image: str) -> Json:
    template = installation.ray.pods
    container = pods.make_container(
        template,
        {
            "name": "ray-head",
            "image": image,
            "ports": [{"name": name, "containerPort": port} for name, port in CONTAINER_PORTS.items()],
            "env": [*ray_environment(), NO_DEVICES_ENV],
            "resources": installation.ray.head.resources.to_json(),
            **_probes("/api/gcs_healthz", CONTAINER_PORTS["dashboard"]),
        },
    )
    # The head keeps the account that KubeRay makes for its autoscaler, with permissions for just this RayCluster.
    own = template.model_copy(update={"service_account_name": ""})
    demand = PodRequirements(names.labels(names.RAY), volumes=[pods.make_account_volume(_ACCOUNT)])
    return pods.make_pod(own, demand, [container])


def _probes(path: str, port: int) -> Json:
    """KubeRay would ask by wget, which an image need not have. Nothing looks at Serve's port: a worker without a replica is fine."""
    get = {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5, "periodSeconds": 5}
    return {
        "readinessProbe": {**get, "initialDelaySeconds": 3, "failureThreshold": 10},
        "livenessProbe": {**get, "initialDelaySeconds": 30, "failureThreshold": 120},
    }


def _autoscaler(installation: Installation) -> Json:
    own = {"env": ray_environment(), "volumeMounts": [pods.make_account_mount(_ACCOUNT)]}
    container = pods.make_container(installation.ray.pods, own)
    return {
        "version": "v2",
        "idleTimeoutSeconds": math.ceil(installation.ray.idle_timeout.total_seconds()),
        "resources": installation.ray.autoscaler.resources.to_json(),
        **container,
    }


def _fault_tolerance(cluster: str, installation: Installation) -> Json:
    wanted = installation.ray.gcs_fault_tolerance
    if not wanted.enabled:
        return {}
    secret = wanted.external.password_secret_name
    address = wanted.external.address or valkey.store_address(names.valkey(cluster))
    if not wanted.external.address:
        secret = names.valkey(cluster)
    key = {"name": secret, "key": names.PASSWORD_KEY}
    password = {"redisPassword": {"valueFrom": {"secretKeyRef": key}}} if secret else {}
    return {"gcsFaultToleranceOptions": {"redisAddress": address, **password}}


def make_worker_group(
    service: str,
    revision: Revision,
    bounds: tuple[int, int],
    image: str,
    installation: Installation,
    request_timeout: timedelta,
) -> Json:
    """The worker group of a revision: a pod per replica. Pods that run keep the time to drain that they were started with."""
    application = names.application(service, revision.number)
    spec = spec_of(revision)
    memory = parse_bytes(spec.resources.memory)
    devices = accelerators.replica_devices(spec.resources.gpu)
    ray_resources = {
        "CPU": str(math.ceil(parse_cpu_cores(spec.resources.cpu))),
        # Exactly one replica's: this is what makes it a pod per replica.
        "memory": str(memory),
        **({devices.ray_name: str(devices.count)} if devices else {}),
    }
    template = _worker(service, revision, image, installation, request_timeout)
    return make_group(application, bounds, ray_resources, template)


def _worker(
    service: str, revision: Revision, image: str, installation: Installation, request_timeout: timedelta
) -> Json:
    spec, template = spec_of(revision), installation.ray.pods
    devices = accelerators.replica_devices(spec.resources.gpu)
    limits = {"memory": str(parse_bytes(spec.resources.memory) + OVERHEAD_BYTES)}
    given = {devices.resource: str(devices.count)} if devices else {}
    mounted = references.make_mounts(spec)
    own = [
        {"name": "SUNDOG_CACHE_DIR", "value": CACHE_DIRECTORY},
        {"name": DRAIN_ENV_VAR, "value": str(grace_periods.node_grace_s(request_timeout))},
    ]
    # A user's variables first: neither ours nor an administrator's can be replaced by them.
    env = pods.merge_env(
        references.make_env(spec), mounted.env, [*own, *ray_environment(), *([] if devices else [NO_DEVICES_ENV])]
    )
    container = pods.make_container(
        template,
        {
            "name": "ray-worker",
            "image": image,
            "env": env,
            "envFrom": references.make_env_from(spec),
            "resources": {"requests": {"cpu": spec.resources.cpu, **limits, **given}, "limits": {**limits, **given}},
            "volumeMounts": [{"name": _CACHE, "mountPath": CACHE_DIRECTORY}, *mounted.mounts],
            **_probes("/api/local_raylet_healthz", AGENT_PORT),
        },
    )
    demand = PodRequirements(
        labels={
            **spec.runtime.pod_labels,
            **names.labels(names.RAY),
            names.LABEL_MODEL_DEPLOYMENT: service,
            names.LABEL_REVISION: str(revision.number),
        },
        volumes=[_cache(installation.ray.cache.host_path), *mounted.volumes],
        scheduling=spec.scheduling,
        tolerations=accelerators.device_tolerations(devices),
        affinity=accelerators.make_node_affinity(spec.resources.gpu, installation.gpu.aliases),
        service_account=spec.model.credentials.service_account_name,
    )
    made = pods.make_pod(template, demand, [container])
    made["spec"]["terminationGracePeriodSeconds"] = grace_periods.worker_pod_termination_grace_s(request_timeout)
    return made


def _cache(folder: str) -> Json:
    """The volume of models and compiled code. A folder of the node has to be there: one that the kubelet made could not be written to."""
    return {"name": _CACHE, **({"hostPath": {"path": folder, "type": "Directory"}} if folder else {"emptyDir": {}})}


def update_ray_cluster(stored: Json, wanted: Json, groups: list[Json], seen: GroupState) -> Json | None:
    """The RayCluster to put in place of the stored one; None where it says all of it already.

    Everything that KubeRay, its autoscaler and the API server added stays. The Ray version stays as it was made: its pods have that image.
    """
    spec = {**wanted["spec"], "rayVersion": stored["spec"].get("rayVersion", wanted["spec"]["rayVersion"])}
    merged = merge_groups(stored["spec"].get("workerGroupSpecs") or [], groups, seen)
    meta, asked = stored["metadata"], wanted["metadata"]
    same = {
        "annotations": _has(meta.get("annotations"), asked["annotations"]),
        "labels": _has(meta.get("labels"), asked["labels"]),
        "ownerReferences": _owners(meta) == _owners(asked),
        "groups": merged == (stored["spec"].get("workerGroupSpecs") or []),
        "spec": _has(stored["spec"], spec),
    }
    if all(same.values()):
        return None
    kept = {key: value for key, value in stored["spec"].items() if key not in _DECIDED_HERE}
    return {
        **stored,
        "metadata": {
            **meta,
            "labels": {**(meta.get("labels") or {}), **asked["labels"]},
            "annotations": {**(meta.get("annotations") or {}), **asked["annotations"]},
            "ownerReferences": asked["ownerReferences"],
        },
        "spec": {**kept, **spec, "workerGroupSpecs": merged},
    }


_DECIDED_HERE: Final = ("headGroupSpec", "autoscalerOptions", "gcsFaultToleranceOptions", "enableInTreeAutoscaling")


def _has(found: Any, wanted: Mapping[str, Any]) -> bool:
    return contains(found or {}, wanted)


def _owners(meta: Mapping[str, Any]) -> set[str]:
    return {str(ref["uid"]) for ref in meta.get("ownerReferences") or ()}
