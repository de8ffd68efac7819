"""The Serve documents: one application per live revision, one document per cluster."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sundog_operator.api import ModelDeploymentSpec, cpu_cores, memory_bytes
from sundog_operator.core import names
from sundog_operator.core.contains import contains
from sundog_operator.core.ray_cluster import ClusterView
from sundog_operator.core.revisions import Revision, spec_of

ARGS_VERSION = 1
IMPORT_PATH = "sundog_runtime.serve:build"
GRPC_SERVICER = "sundog_runtime.protocol.grpc_service.add_to_server"
"""With it every replica also listens for gRPC. Serve's proxy and the replicas import it; the base image must have it."""

Json = dict[str, Any]


def make_application(
    namespace: str, service: str, revision: Revision, current: ModelDeploymentSpec, replicas: int, attempt: int = 0
) -> Json:
    """One Serve application.

    `args` come from the revision alone, for a change of them restarts every replica; `attempt` is raised for just that. What may change
    in place comes from the current spec.
    """
    fixed = spec_of(revision)
    return {
        "name": names.application(service, revision.number),
        "route_prefix": names.route_prefix(service, revision.number),
        "import_path": IMPORT_PATH,
        "args": {**_args(namespace, service, revision, fixed), **({"attempt": attempt} if attempt else {})},
        "logging_config": {"enable_access_log": False},
        "deployments": [_deployment(fixed, current, replicas)],
    }


def _args(namespace: str, service: str, revision: Revision, fixed: ModelDeploymentSpec) -> Json:
    model, runtime = fixed.model, fixed.runtime
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
        "cpu": cpu_cores(fixed.resources.cpu),
    }


def _deployment(fixed: ModelDeploymentSpec, current: ModelDeploymentSpec, replicas: int) -> Json:
    return {
        "name": names.SERVE_DEPLOYMENT,
        "num_replicas": replicas,
        "max_ongoing_requests": fixed.runtime.max_ongoing_requests,
        "max_surge_percent": 100,
        "user_config": {
            "userConfig": dict(current.runtime.user_config),
            "maxRequestBytes": memory_bytes(current.endpoint.max_request_bytes),
        },
        "ray_actor_options": {
            "num_cpus": cpu_cores(fixed.resources.cpu),
            "memory": memory_bytes(fixed.resources.memory),
        },
    }


def make_document(applications: Iterable[Json], cluster: ClusterView) -> Json:
    """The whole document of one cluster: a PUT deletes what it does not name."""
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": cluster.bind_host, "port": int(cluster.serve_port)},
        "grpc_options": {
            "port": int(cluster.grpc_port),
            "grpc_servicer_functions": [GRPC_SERVICER],
            # It would tell of the methods of everybody's application, beside the edge.
            "enable_reflection": False,
        },
        "applications": sorted(applications, key=lambda app: str(app["name"])),
    }


def differs(wanted: Sequence[Mapping[str, Any]], deployed: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the applications that Serve echoes are other than those wanted.

    Serve echoes what was submitted and may add fields of its own, so only the fields we set are compared; but in what a
    user configures, a key that is gone is a change too.
    """
    if {app["name"] for app in wanted} != set(deployed):
        return True
    pairs = [(deployed[app["name"]], app) for app in wanted]
    return any(not contains(found, app) or _configured(found) != _configured(app) for found, app in pairs)


def _configured(app: Mapping[str, Any]) -> list[str]:
    """As text, for 1 and true are equal in Python."""
    return [json.dumps(each.get("user_config"), sort_keys=True) for each in app.get("deployments") or ()]
