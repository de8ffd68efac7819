"""Serve's configuration: one application per live revision, one document per RayCluster."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sundog_operator.api import (
    CAPACITY_IN_PLACE,
    Autoscaling,
    Gpu,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    parse_bytes,
    parse_cpu_cores,
    parse_percent,
)
from sundog_operator.core.kubernetes import accelerators, grace_periods, names
from sundog_operator.core.kubernetes.accelerators import Devices
from sundog_operator.core.kubernetes.shared_pods import is_shared
from sundog_operator.core.kubernetes.subset import contains
from sundog_operator.core.ray import load
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.scaling import find_scaling
from sundog_operator.core.revisions import Revision, own_user_config, spec_of

ARGS_VERSION = 1
IMPORT_PATH = "sundog_runtime.serve:build"
GRPC_SERVICER = "sundog_runtime.protocol.grpc_service.add_to_server"
"""With this function every replica also listens for gRPC. Serve's proxy and the replicas import it, so the base image must have it."""

METRICS_INTERVAL_S = 2.0
AT_ZERO_METRICS_INTERVAL_S = 1.0
"""The same for a revision that may scale to zero. Serve's proxy reports the first request with its next periodic report: the report that it
sends at once has the queue of the last one. So a wake waits for half of this time on average."""

LOOK_BACK_PERIOD_S = 10.0
"""Serve's defaults are 10 s and 30 s, which would make an `upscaleDelay` of seconds meaningless."""

_IDLE_DELAY: Final = timedelta(minutes=1)
"""Time after which Serve stops the last replica of a rollout that has had no request for `scaleToZeroDelay`."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplicaScale:
    """The replicas of a revision: a fixed number, or `scaling` by load between `fewest` and `most`."""

    fewest: int
    most: int
    scaling: Autoscaling | None = None


def resolve_scale(
    status: ModelDeploymentStatus, number: int, current: ModelDeploymentSpec, replicas: int
) -> ReplicaScale:
    """Return the scale of a live revision that needs `replicas` now.

    A revision scales by load alone while it has all traffic, from the minimum or from what the requests at the edges need. During a
    rollout or an Experiment, every arm keeps at least `replicas`. So does stable until the others have drained: after an abort it must
    have its capacity, and Serve reacts to load with a delay. A candidate's maximum is in proportion to its replicas, so that a slow one
    with a small share does not take the replicas of all traffic. Retiring revisions, and revisions that share a fixed number of
    replicas, have a fixed scale. The revisions of a rollout without requests may scale to zero.
    """
    scaling = find_scaling(current)
    stable = {status.stable.revision} if status.stable else set()
    others = {each.revision for each in (status.candidate, *(status.arms or ())) if each is not None}
    shares = status.capacity is not None and status.capacity.mode == CAPACITY_IN_PLACE
    if scaling is None or shares or number not in stable | others:
        return ReplicaScale(replicas, replicas)
    is_alone = not others and not status.retiring
    if status.idle is not None and status.idle.state == "AtZero":
        delay = min(scaling.scale_to_zero_delay, _IDLE_DELAY)
        most = max(1, _most_replicas(status, number, scaling))
        return ReplicaScale(0, most, scaling.model_copy(update={"scale_to_zero_delay": delay}))
    by_load = load.within_bounds(load.replicas_in_force(status), scaling)
    fewest = by_load if is_alone else max(1, min(replicas, scaling.max_replicas))
    return ReplicaScale(fewest, max(_most_replicas(status, number, scaling), fewest), scaling)


def _most_replicas(status: ModelDeploymentStatus, number: int, scaling: Autoscaling) -> int:
    """Return the maximum of a revision: for a candidate, the share that its replicas are of those for all traffic."""
    candidate, stable = status.candidate, status.stable
    if candidate is None or candidate.revision != number or stable is None or not stable.replicas:
        return scaling.max_replicas
    return min(scaling.max_replicas, math.ceil(scaling.max_replicas * candidate.replicas / stable.replicas))


def make_application(
    namespace: str,
    service: str,
    revision: Revision,
    current: ModelDeploymentSpec,
    scale: ReplicaScale,
    attempt: int = 0,
    *,
    in_pods: bool = False,
) -> Json:
    """Return one Serve application.

    `args` depend on the revision alone, because a change of them restarts every replica. The fields that may change in place come from the
    current spec. An arm may have a `userConfig` of its own.

    Args:
        namespace: the ModelDeployment's namespace.
        service: the ModelDeployment's name.
        revision: the revision.
        current: the current spec.
        scale: its replicas.
        attempt: a higher number restarts every replica.
        in_pods: whether its replicas run in the pods of a worker group.
    """
    fixed = spec_of(revision)
    return {
        "name": names.application(service, revision.number),
        "route_prefix": names.route_prefix(service, revision.number),
        "import_path": IMPORT_PATH,
        "args": {**_make_args(namespace, service, revision, fixed), **({"attempt": attempt} if attempt else {})},
        "logging_config": {"enable_access_log": False},
        "deployments": [
            _make_deployment(
                fixed,
                current,
                scale,
                _find_group(service, revision) if in_pods else "",
                current.runtime.user_config if (own := own_user_config(revision)) is None else own,
            )
        ],
    }


def _find_group(service: str, revision: Revision) -> str:
    """Return the worker group in whose pods a revision's replicas run."""
    return names.SHARED_WORKERS if is_shared(spec_of(revision)) else names.application(service, revision.number)


def _make_args(namespace: str, service: str, revision: Revision, fixed: ModelDeploymentSpec) -> Json:
    model, runtime, gpu = fixed.model, fixed.runtime, fixed.resources.gpu
    return {
        "version": ARGS_VERSION,
        "namespace": namespace,
        "service": service,
        "revision": revision.number,
        "revisionHash": revision.hash,
        "model": {
            "uri": model.uri,
            "digest": model.digest,
            "format": str(model.format),
            "entrypoint": model.entrypoint,
            "config": dict(model.config),
            "trustCode": model.trust_code,
        },
        "batching": {
            "maxSize": runtime.batching.max_size,
            "maxDelaySeconds": runtime.batching.max_delay.total_seconds(),
        },
        "warmup": {"requests": runtime.warmup.requests, "timeoutSeconds": runtime.warmup.timeout.total_seconds()},
        "cpu": parse_cpu_cores(fixed.resources.cpu),
        # Omitted without devices, so that revisions of older releases keep their `args`. The process of a replica that is spread over
        # pods has none of its own.
        **({"gpu": _make_gpu_args(gpu)} if gpu.count and gpu.topology.nodes == 1 else {}),
    }


def _make_gpu_args(gpu: Gpu) -> Json:
    devices = accelerators.replica_devices(gpu)
    fraction = devices.fraction if devices else None
    limit = {} if fraction is None else {"memoryFraction": fraction}
    return {"count": gpu.count, "vendor": str(gpu.vendor), **limit}


def _make_deployment(
    fixed: ModelDeploymentSpec,
    current: ModelDeploymentSpec,
    scale: ReplicaScale,
    group: str,
    user_config: Mapping[str, Any],
) -> Json:
    selector = {names.RAY_LABEL_APPLICATION: group} if group else {}
    devices = accelerators.replica_devices(fixed.resources.gpu)
    cpu, memory = parse_cpu_cores(fixed.resources.cpu), parse_bytes(fixed.resources.memory)
    return {
        "name": names.SERVE_DEPLOYMENT,
        **_make_scaling(scale, fixed.runtime.batching.max_size),
        "max_ongoing_requests": fixed.runtime.max_ongoing_requests,
        "max_surge_percent": 100,
        "graceful_shutdown_timeout_s": grace_periods.replica_grace_s(current.endpoint.request_timeout),
        "user_config": {
            "userConfig": dict(user_config),
            "maxRequestBytes": parse_bytes(current.endpoint.max_request_bytes),
        },
        "ray_actor_options": {
            "num_cpus": cpu,
            "memory": memory,
            **accelerators.actor_options(devices),
            **({"label_selector": selector} if selector else {}),
        },
        **_make_placement_group(devices, {"CPU": cpu, "memory": memory}, selector),
    }


def _make_placement_group(devices: Devices | None, others: Json, selector: Json) -> Json:
    """Return the placement group of each replica; empty unless a replica is spread over pods.

    Serve puts the replica's process into the first bundle, where it takes the CPU and the memory. Its actors and tasks are in the group
    too, and take the devices.
    """
    if devices is None or devices.pods_per_replica == 1:
        return {}
    return {
        "placement_group_bundles": accelerators.make_bundles(devices, others),
        "placement_group_strategy": "PACK",
        # One selector counts for all bundles. Serve does not apply the selector of the process to the others.
        **({"placement_group_bundle_label_selector": [selector]} if selector else {}),
    }


def _make_scaling(scale: ReplicaScale, max_batch_size: int) -> Json:
    scaling = scale.scaling
    if scaling is None:
        return {"num_replicas": scale.fewest}
    return {
        "autoscaling_config": {
            "min_replicas": scale.fewest,
            "max_replicas": scale.most,
            "target_ongoing_requests": scaling.target_requests(max_batch_size),
            "upscale_delay_s": scaling.upscale_delay.total_seconds(),
            "downscale_delay_s": scaling.downscale_delay.total_seconds(),
            **_make_zero_delay(scale.fewest, scaling),
            # Serve's own defaults of 1 remove all of the surplus at once. A moment without a queue then halves the replicas of a model
            # that is near its capacity, and the next queue doubles them.
            "upscaling_factor": parse_percent(scaling.upscale_factor),
            "downscaling_factor": parse_percent(scaling.downscale_factor),
            "metrics_interval_s": METRICS_INTERVAL_S if scale.fewest else AT_ZERO_METRICS_INTERVAL_S,
            "look_back_period_s": LOOK_BACK_PERIOD_S,
        }
    }


def _make_zero_delay(fewest: int, scaling: Autoscaling) -> Json:
    """Return the delay of the last step, which Serve takes from one replica to none; empty where it never takes it."""
    return {"downscale_to_zero_delay_s": scaling.scale_to_zero_delay.total_seconds()} if fewest == 0 else {}


def make_document(applications: Iterable[Json], cluster: ClusterView) -> Json:
    """Return the whole document of one cluster. A PUT deletes the applications that it does not name."""
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": cluster.bind_host, "port": int(cluster.serve_port)},
        "grpc_options": {
            "port": int(cluster.grpc_port),
            "grpc_servicer_functions": [GRPC_SERVICER],
            # Reflection would show the methods of every application to callers who bypass the edge.
            "enable_reflection": False,
        },
        "applications": sorted(applications, key=lambda app: str(app["name"])),
    }


def needs_update(desired: Sequence[Mapping[str, Any]], deployed: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the deployed applications differ from the wanted ones.

    Serve returns the submitted fields and may add its own, so only the wanted fields are compared. In `user_config` a removed key is a
    change too.
    """
    if {app["name"] for app in desired} != set(deployed):
        return True
    pairs = [(deployed[app["name"]], app) for app in desired]
    return any(not contains(found, app) or _user_configs(found) != _user_configs(app) for found, app in pairs)


def _user_configs(app: Mapping[str, Any]) -> list[str]:
    """Return the `user_config` of each deployment as JSON text, because 1 equals True in Python."""
    return [json.dumps(each.get("user_config"), sort_keys=True) for each in app.get("deployments") or ()]
