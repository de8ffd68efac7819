"""RayClusters whose head and workers are pods, for KubeRay v1.5 and later.

The head runs no model, but a model holds Ray's token and can run a task there. So only the autoscaler's container mounts a token of the API
server. The spec names autoscaler v2 explicitly, because KubeRay otherwise guesses. Ray's token is in the environment, because KubeRay
v1.5.0 has no `authOptions`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from sundog_operator.api import ModelDeploymentSpec, Resources, parse_bytes
from sundog_operator.api.installation import Installation
from sundog_operator.api.quantities import parse_quantity
from sundog_operator.core.kubernetes import (
    accelerators,
    device_claims,
    grace_periods,
    kueue,
    names,
    node_affinity,
    pods,
    references,
    shared_pods,
    spot,
)
from sundog_operator.core.kubernetes.pod_requests import CPU, MEMORY, OVERHEAD_BYTES
from sundog_operator.core.kubernetes.pods import PodRequirements
from sundog_operator.core.kubernetes.subset import contains
from sundog_operator.core.ray import valkey
from sundog_operator.core.ray.clusters import make_ray_cluster_object
from sundog_operator.core.ray.groups import LABEL_GROUP, OBJECT_STORE_BYTES, GroupState, make_group, merge_groups
from sundog_operator.core.revisions import Revision, owner_uids, spec_of

AGENT_PORT: Final = 52365
GCS_PORT: Final = 6379
CONTAINER_PORTS: Final[Mapping[str, int]] = {
    "gcs-server": GCS_PORT,
    "dashboard": 8265,
    "client": 10001,
    "serve": 8000,
    "serve-grpc": 9000,
}
"""Ports of the head. KubeRay finds the dashboard's port by its name, and creates a Service with all of them."""

MAX_GRPC_BYTES: Final = 2**30
MAX_INLINE_BYTES: Final = 1_000_000
"""Task results up to this size travel in messages.

Serve keeps a result of 116 kB from building an application. In the object store of the node that built it, that result would keep the
node's pod from ever being idle.
"""

DRAIN_S: Final = 5
DRAIN_ENV_VAR: Final = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""Seconds that Ray waits after SIGTERM for the node's replicas to end. It reports the drain to Serve first."""
CACHE_DIRECTORY: Final = "/var/cache/sundog"
_CACHE: Final = "sundog-cache"
_ACCOUNT: Final = "sundog-account"
_FAULT_TOLERANCE: Final = "gcsFaultToleranceOptions"
_STORAGE_NAMESPACE: Final = "externalStorageNamespace"

Json = dict[str, Any]


def ray_environment() -> list[Json]:
    """Return the variables of every Ray process, replicas included. Local mode sets the same beside its own ports and paths."""
    plain = {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
        "RAY_max_direct_call_object_size": str(MAX_INLINE_BYTES),
        # A gRPC server reads a whole message before a handler can reject it.
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_GRPC_BYTES),
    }
    token = {"secretKeyRef": {"name": names.RAY, "key": names.RAY_TOKEN_KEY}}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        {"name": "RAY_AUTH_TOKEN", "valueFrom": token},
    ]


NO_DEVICES_ENV: Final[Json] = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
"""Hides the node's GPUs from a container without one. Some nodes' runtimes would show it all of them."""


def make_ray_cluster(namespace: str, name: str, owners: Iterable[Json], image: str, installation: Installation) -> Json:
    """Return the RayCluster without its worker groups."""
    spec = {
        "rayVersion": installation.ray.version,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": _make_autoscaler(installation),
        **_make_fault_tolerance(name, installation),
        "headGroupSpec": {
            "rayStartParams": {
                "num-cpus": "0",
                "num-gpus": "0",
                "dashboard-host": "0.0.0.0",  # noqa: S104 a pod's own network, behind the token
                "object-store-memory": str(OBJECT_STORE_BYTES),
            },
            "template": _make_head(installation, image),
        },
    }
    made = make_ray_cluster_object(namespace, name, owners, spec)
    made["metadata"]["annotations"] = {names.ANNOTATION_MADE_AS: pods.fingerprint(spec)}
    return made


def _make_head(installation: Installation, image: str) -> Json:
    template = installation.ray.pods
    container = pods.make_container(
        template,
        {
            "name": "ray-head",
            "image": image,
            "ports": [{"name": name, "containerPort": port} for name, port in CONTAINER_PORTS.items()],
            "env": [*ray_environment(), NO_DEVICES_ENV],
            "resources": installation.ray.head.resources.to_json(),
            **_make_probes("/api/gcs_healthz", CONTAINER_PORTS["dashboard"]),
        },
    )
    # The head keeps the account that KubeRay creates for its autoscaler. It may change all pods and RayClusters of the namespace.
    own = template.model_copy(update={"service_account_name": ""})
    requirements = PodRequirements(names.labels(names.RAY), volumes=[pods.make_account_volume(_ACCOUNT)])
    return pods.make_pod(own, requirements, [container])


def _make_probes(path: str, port: int) -> Json:
    """Return HTTP probes. KubeRay's default uses wget, which an image may lack.

    They do not test Serve's port, because a worker without a replica is healthy.
    """
    get = {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5, "periodSeconds": 5}
    return {
        "readinessProbe": {**get, "initialDelaySeconds": 3, "failureThreshold": 10},
        "livenessProbe": {**get, "initialDelaySeconds": 30, "failureThreshold": 120},
    }


def _make_autoscaler(installation: Installation) -> Json:
    # KubeRay would take the head's image, which may be a user's. Only this container has the token of the head's account.
    own = {
        "image": installation.runtime_image,
        "env": ray_environment(),
        "volumeMounts": [pods.make_account_mount(_ACCOUNT)],
    }
    container = pods.make_container(installation.ray.pods, own)
    return {
        "version": "v2",
        "idleTimeoutSeconds": math.ceil(installation.ray.idle_timeout.total_seconds()),
        "resources": installation.ray.autoscaler.resources.to_json(),
        **container,
    }


def _make_fault_tolerance(cluster: str, installation: Installation) -> Json:
    wanted = installation.ray.gcs_fault_tolerance
    if not wanted.enabled:
        return {}
    secret = wanted.external.password_secret_name
    address = wanted.external.address or valkey.store_address(names.valkey(cluster))
    if not wanted.external.address:
        secret = names.valkey(cluster)
    keys = {"redisPassword": names.PASSWORD_KEY} if secret else {}
    if wanted.external.username_from_secret:
        keys["redisUsername"] = names.USERNAME_KEY
    credentials = {field: {"valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for field, key in keys.items()}
    return {_FAULT_TOLERANCE: {"redisAddress": address, **credentials}}


def has_external_store(cluster: Json) -> bool:
    """Return whether a RayCluster keeps its state in a Redis that others operate."""
    return _FAULT_TOLERANCE in cluster["spec"] and not valkey.has_own_store(cluster)


def name_storage(cluster: Json, unique: str) -> Json:
    """Return a RayCluster that is new in its external store with a prefix of its keys there, `RAY<namespace>.<unique>@`.

    KubeRay would take the uid, which is unknown when an administrator writes the rule for the keys of a namespace. No namespace's name has
    a dot, so none is the beginning of another's prefix.
    """
    if not has_external_store(cluster):
        return cluster
    named = {**cluster["spec"][_FAULT_TOLERANCE], _STORAGE_NAMESPACE: f"{cluster['metadata']['namespace']}.{unique}"}
    return {**cluster, "spec": {**cluster["spec"], _FAULT_TOLERANCE: named}}


def _keep_storage_name(stored: Json, spec: Json) -> Json:
    """Return the spec with the stored prefix. With another one, the next head would not find its state."""
    name = (stored["spec"].get(_FAULT_TOLERANCE) or {}).get(_STORAGE_NAMESPACE)
    if not name or _FAULT_TOLERANCE not in spec:
        return spec
    return {**spec, _FAULT_TOLERANCE: {**spec[_FAULT_TOLERANCE], _STORAGE_NAMESPACE: name}}


def make_worker_group(
    service: str,
    revision: Revision,
    bounds: tuple[int, int],
    image: str,
    installation: Installation,
    request_timeout: timedelta,
) -> Json:
    """Return the worker group of a revision. Running pods keep the drain time that they started with.

    A pod has one replica, as many as share its device, or a part of one. `bounds` are numbers of pods.
    """
    application = names.application(service, revision.number)
    spec = spec_of(revision)
    devices = accelerators.replica_devices(spec.resources.gpu)
    shared = devices.replicas_per_pod if devices else 1
    ray_resources = {
        "CPU": str(math.ceil(parse_quantity(spec.resources.cpu) * shared)),
        # Exactly the memory of the pod's replicas, so that it gets no more of them.
        "memory": str(parse_bytes(spec.resources.memory) * shared),
        **({devices.ray_name: str(devices.count)} if devices else {}),
    }
    template = _make_worker(service, revision, image, installation, request_timeout)
    return make_group(application, bounds, ray_resources, template)


def _make_worker(
    service: str, revision: Revision, image: str, installation: Installation, request_timeout: timedelta
) -> Json:
    spec = spec_of(revision)
    devices = accelerators.replica_devices(spec.resources.gpu)
    cpu, memory = _pod_resources(spec.resources, devices.replicas_per_pod if devices else 1)
    limits = {"memory": str(memory + OVERHEAD_BYTES)}
    application = names.application(service, revision.number)
    is_claimed = devices is not None and devices.is_claimed
    given = {devices.resource: str(devices.count)} if devices and not is_claimed else {}
    claims = device_claims.make_pod_claims(application) if is_claimed else []
    mounted, queue = references.make_mounts(spec), spec.scheduling.queue
    container: Json = {
        "env": pods.merge_env(references.make_env(spec), mounted.env),
        "envFrom": references.make_env_from(spec),
        "resources": {
            "requests": {"cpu": cpu, **limits, **given},
            "limits": {**limits, **given},
            **({"claims": [{"name": each["name"]} for each in claims]} if claims else {}),
        },
        "volumeMounts": mounted.mounts,
    }
    requirements = PodRequirements(
        labels={
            # Policies may select pods by the administrator's labels.
            **{key: value for key, value in spec.runtime.pod_labels.items() if key not in installation.ray.pods.labels},
            **names.labels(names.RAY),
            names.LABEL_MODEL_DEPLOYMENT: service,
            names.LABEL_REVISION: str(revision.number),
            **({kueue.QUEUE_LABEL: queue} if queue else {}),
        },
        volumes=mounted.volumes,
        scheduling=spec.scheduling,
        tolerations=[
            *accelerators.device_tolerations(spec.resources.gpu),
            *spot.make_tolerations(spec.scheduling.spot, installation.spot.labels),
        ],
        affinity=node_affinity.make_node_affinity(node_affinity.make_demand(spec, installation)),
        service_account=spec.model.credentials.service_account_name,
        gates=(kueue.ADMISSION_GATE,) if queue else (),
        claims=claims,
    )
    return _make_worker_pod(
        container,
        requirements,
        image,
        installation,
        request_timeout,
        application,
        has_devices=bool(devices),
        is_part=spec.resources.gpu.topology.nodes > 1,
    )


def _make_worker_pod(
    own: Json,
    requirements: PodRequirements,
    image: str,
    installation: Installation,
    request_timeout: timedelta,
    group: str,
    *,
    has_devices: bool = False,
    is_part: bool = False,
) -> Json:
    """Return the pod template of a worker group, whose pods may be parts of replicas. `own` are fields of its container."""
    template = installation.ray.pods
    variables = [
        {"name": "SUNDOG_CACHE_DIR", "value": CACHE_DIRECTORY},
        {"name": DRAIN_ENV_VAR, "value": str(grace_periods.node_grace_s(request_timeout))},
    ]
    container = pods.make_container(
        template,
        {
            "name": "ray-worker",
            "image": image,
            **own,
            # The user's variables come first, so that they cannot replace Sundog's or the administrator's.
            "env": pods.merge_env(
                own.get("env", ()), [*variables, *ray_environment(), *([] if has_devices else [NO_DEVICES_ENV])]
            ),
            "volumeMounts": [{"name": _CACHE, "mountPath": CACHE_DIRECTORY}, *own.get("volumeMounts", ())],
            **_make_probes("/api/local_raylet_healthz", AGENT_PORT),
        },
    )
    cache = _make_cache_volume(installation.ray.cache.host_path)
    made = pods.make_pod(template, replace(requirements, volumes=[cache, *requirements.volumes]), [container])
    made["spec"]["terminationGracePeriodSeconds"] = grace_periods.worker_pod_termination_grace_s(request_timeout)
    # Karpenter gives up the order of types and the wish for spot capacity before this one. Pods of one replica stay together.
    if not node_affinity.is_ordered(requirements.affinity) and not is_part:
        made["spec"]["topologySpreadConstraints"] = pods.make_zone_spread({LABEL_GROUP: group})
    return made


def make_shared_group(
    specs: Sequence[ModelDeploymentSpec],
    replicas: Sequence[int],
    image: str,
    installation: Installation,
    request_timeout: timedelta,
) -> Json:
    """Return the worker group whose pods several models share. Ray's autoscaler adds pods as replicas need them.

    Args:
        specs: the revisions' specs.
        replicas: the fewest replicas of each.
        image: the image of the pods.
        installation: the administrator's settings.
        request_timeout: the longest of the services.
    """
    settings = installation.ray.shared_workers
    sizes = [shared_pods.replica_amounts(spec.resources) for spec in specs]
    # A replica that serves must fit into a new pod, also after the administrator made the pods smaller.
    cpu = max(settings.cpu, *(math.ceil(size[CPU] / 1000) for size in sizes))
    memory = max(parse_bytes(settings.memory), *(size[MEMORY] for size in sizes))
    fewest = max(
        math.ceil(sum(size[resource] * count for size, count in zip(sizes, replicas, strict=True)) / amount)
        for resource, amount in ((CPU, cpu * 1000), (MEMORY, memory))
    )
    limits = {"memory": str(memory + OVERHEAD_BYTES)}
    container = {"resources": {"requests": {"cpu": str(cpu), **limits}, "limits": limits}}
    affinity = node_affinity.make_node_affinity(node_affinity.make_demand(specs[0], installation))
    requirements = PodRequirements(names.labels(names.RAY), affinity=affinity)
    template = _make_worker_pod(container, requirements, image, installation, request_timeout, names.SHARED_WORKERS)
    bounds = (min(fewest, settings.max_pods), settings.max_pods)
    return make_group(names.SHARED_WORKERS, bounds, {"CPU": str(cpu), "memory": str(memory)}, template)


def _pod_resources(resources: Resources, replicas: int) -> tuple[str, int]:
    """Return the CPU and the bytes of memory of so many replicas."""
    cpu = f"{math.ceil(parse_quantity(resources.cpu) * replicas * 1000)}m" if replicas > 1 else resources.cpu
    return cpu, parse_bytes(resources.memory) * replicas


def _make_cache_volume(folder: str) -> Json:
    """Return the volume for models and compiled code.

    A directory on the node must exist, because the container could not write to one that the kubelet creates.
    """
    return {"name": _CACHE, **({"hostPath": {"path": folder, "type": "Directory"}} if folder else {"emptyDir": {}})}


def update_ray_cluster(stored: Json, desired: Json, groups: list[Json], state: GroupState) -> Json | None:
    """Return the RayCluster that replaces the stored one; None where nothing changes.

    The fields that KubeRay, its autoscaler and the API server added stay. The Ray version stays too, because the pods have its image.
    """
    spec = {**desired["spec"], "rayVersion": stored["spec"].get("rayVersion", desired["spec"]["rayVersion"])}
    spec = _keep_storage_name(stored, spec)
    stored_groups = stored["spec"].get("workerGroupSpecs") or []
    merged = merge_groups(stored_groups, groups, state)
    meta, wanted_meta = stored["metadata"], desired["metadata"]
    if (
        contains(meta.get("annotations") or {}, wanted_meta["annotations"])
        and contains(meta.get("labels") or {}, wanted_meta["labels"])
        and set(owner_uids(stored)) == set(owner_uids(desired))
        and merged == stored_groups
        and contains(stored["spec"], spec)
    ):
        return None
    kept = {key: value for key, value in stored["spec"].items() if key not in _REPLACED_FIELDS}
    return {
        **stored,
        "metadata": {
            **meta,
            "labels": {**(meta.get("labels") or {}), **wanted_meta["labels"]},
            "annotations": {**(meta.get("annotations") or {}), **wanted_meta["annotations"]},
            "ownerReferences": wanted_meta["ownerReferences"],
        },
        "spec": {**kept, **spec, "workerGroupSpecs": merged},
    }


_REPLACED_FIELDS: Final = ("headGroupSpec", "autoscalerOptions", _FAULT_TOLERANCE, "enableInTreeAutoscaling")
