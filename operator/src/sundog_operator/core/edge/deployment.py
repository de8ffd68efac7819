"""The Deployment of a namespace's edge, with HAProxy and its agent in separate containers.

Edge pods are replaced only
- at an upgrade, or when an administrator changes settings or restarts them;
- when the namespace's first Experiment with outcome metrics appears, and after the last one is gone;
- when the longest `requestTimeout` of the services needs another drain time: 120 s, 240 s, 480 s and so on. One that was needed only
  because `replicas` were 0 is kept.

No field depends on a revision or on a Secret of the namespace.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sundog_operator.api import canonical_quantity
from sundog_operator.api.installation import HaproxySettings, Installation, PodTemplate, ResourceRequirements
from sundog_operator.core.edge import feedback_store, objects
from sundog_operator.core.edge.objects import AGENT_PORT, HTTP_PORT, HTTPS_PORT
from sundog_operator.core.kubernetes import grace_periods, names, pods
from sundog_operator.core.kubernetes.pods import PodRequirements

HTTP: Final = "http"
HTTPS: Final = "https"
AGENT: Final = "agent"

DRAIN_DELAY_S: Final = 15
"""How long a terminating edge still accepts connections: long enough for every node to learn of its end, even on a busy cluster."""
LINGER_S: Final = 3
"""How long a terminating agent still reports counts after HAProxy has ended."""
SETTLE_S: Final = 30
"""How long an agent waits for replicas before it is ready without them. On a busy node, Ray's next head listed none 20 s after it began."""
_GRACE_MARGIN_S: Final = 22
"""Time for probes and slow starts of processes."""

_USER: Final = 65532
"""User of both containers, whatever the user of the image is. They share a socket and a pipe that no other user may open."""
_STATE: Final = "/run/sundog"
_RAY_TOKEN: Final = "/var/run/secrets/sundog-ray"  # noqa: S105 a directory
_FEEDBACK: Final = "/var/run/secrets/sundog-feedback"
_FEEDBACK_VOLUME: Final = "sundog-feedback"
_ACCOUNT_VOLUME: Final = "account"
_AGENT_RESOURCES: Final[Mapping[str, Mapping[str, str]]] = {
    "requests": {"cpu": "50m", "memory": "128Mi"},
    "limits": {"memory": "1Gi"},
}

Json = dict[str, Any]


def termination_grace_s(drain_s: int) -> int:
    """Return the termination grace period, in seconds, of an edge pod whose HAProxy may drain for `drain_s` seconds."""
    return DRAIN_DELAY_S + drain_s + LINGER_S + _GRACE_MARGIN_S


def make_deployment(
    namespace: str,
    owners: Iterable[Json],
    installation: Installation,
    *,
    feedback: bool = False,
    drain_s: int = grace_periods.DEFAULT_EDGE_DRAIN_S,
) -> Json:
    """Return the Deployment. During an update, a new pod is ready before an old one terminates.

    Args:
        namespace: the edge's namespace.
        owners: the ModelDeployments that own the edge.
        installation: the administrator's settings.
        feedback: whether agents write exposures and outcomes to the store of the edges.
        drain_s: how long a terminating HAProxy may finish its requests, in seconds.
    """
    edge = installation.edge
    spec = {
        "replicas": edge.replicas,
        "revisionHistoryLimit": 2,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "selector": {"matchLabels": objects.EDGE_SELECTOR},
        "template": _make_template(namespace, installation, drain_s, feedback=feedback),
    }
    meta = objects.make_shared_metadata(namespace, owners)
    meta["annotations"] = {names.ANNOTATION_MADE_AS: pods.fingerprint(spec)}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def find_drain_s(stored: Mapping[str, Any]) -> int:
    """Return the `drain_s` of a stored Deployment."""
    grace_s = stored["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 0)
    return max(0, int(grace_s) - termination_grace_s(0))


def service_account_name(installation: Installation) -> str:
    """Return the name of the pods' ServiceAccount: the one in the administrator's settings, else Sundog's own."""
    return installation.edge.pods.service_account_name or names.EDGE


def has_feedback_store(deployment: Mapping[str, Any]) -> bool:
    """Return whether a stored Deployment was made with `feedback`."""
    volumes = deployment["spec"]["template"]["spec"].get("volumes") or ()
    return any(volume["name"] == _FEEDBACK_VOLUME for volume in volumes)


def _make_template(namespace: str, installation: Installation, drain_s: int, *, feedback: bool) -> Json:
    template = pods.set_default_user(installation.edge.pods, _USER)
    containers = [
        _make_haproxy(installation, template, drain_s),
        _make_agent(namespace, installation, template, feedback=feedback),
    ]
    volumes = [*_make_volumes(), *([_make_feedback_volume(installation)] if feedback else [])]
    requirements = PodRequirements(
        labels=names.labels(names.EDGE),
        volumes=volumes,
        affinity=pods.make_node_spread(objects.EDGE_SELECTOR),
        service_account=service_account_name(installation),
    )
    made = pods.make_pod(template, requirements, containers)
    made["metadata"].setdefault("annotations", {})["kubectl.kubernetes.io/default-container"] = "haproxy"
    made["spec"] |= {
        # Otherwise each container gets environment variables for every Service of the namespace.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": termination_grace_s(drain_s),
        "topologySpreadConstraints": pods.make_zone_spread(objects.EDGE_SELECTOR),
    }
    return made


def _make_haproxy(installation: Installation, template: PodTemplate, drain_s: int) -> Json:
    probe = {"tcpSocket": {"port": HTTP}}
    return _make_container(
        template,
        {
            "name": "haproxy",
            "image": installation.edge_image,
            "command": ["sundog-edge", "haproxy"],
            "args": [
                f"--state-dir={_STATE}",
                f"--http-bind=*:{HTTP_PORT}",
                f"--https-bind=*:{HTTPS_PORT}",
                f"--drain-seconds={drain_s}",
                *_haproxy_options(installation.edge.haproxy),
            ],
            "ports": [_make_port(HTTP, HTTP_PORT), _make_port(HTTPS, HTTPS_PORT)],
            "resources": _make_resources(installation.edge.resources),
            "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": 60},
            "readinessProbe": {**probe, "periodSeconds": 2},
            "livenessProbe": {**probe, "periodSeconds": 10},
            # SIGTERM alone would abort running requests.
            "lifecycle": {
                "preStop": {"exec": {"command": ["sundog-edge", "drain", f"--delay-seconds={DRAIN_DELAY_S}"]}}
            },
            "volumeMounts": [_make_mount("state", _STATE)],
        },
    )


def _haproxy_options(settings: HaproxySettings) -> list[str]:
    """Return the options that differ from their defaults. Arguments with default values would replace existing edge pods without need."""
    wanted, defaults = _option_values(settings), _option_values(HaproxySettings())
    return [f"--{name}={value}" for name, value in wanted.items() if value != defaults[name]]


def _option_values(haproxy: HaproxySettings) -> dict[str, int | str]:
    return {
        "buffer-bytes": haproxy.buffer_bytes,
        "request-seconds": math.ceil(haproxy.request_timeout.total_seconds()),
        "client-seconds": math.ceil(haproxy.client_timeout.total_seconds()),
        "source-connections": haproxy.source_connections,
        "trusted-proxies": ",".join(haproxy.trusted_proxies),
    }


def _make_agent(namespace: str, installation: Installation, template: PodTemplate, *, feedback: bool) -> Json:
    def probe(path: str) -> Json:
        return {"httpGet": {"path": path, "port": AGENT}, "timeoutSeconds": 5}

    return _make_container(
        template,
        {
            "name": AGENT,
            "image": installation.edge_image,
            "command": ["sundog-edge", "agent"],
            "args": [
                f"--state-dir={_STATE}",
                f"--config-map={names.EDGE}",
                f"--namespace={namespace}",
                "--edge-name=$(POD_NAME)",
                f"--listen=0.0.0.0:{AGENT_PORT}",
                f"--ray-token-file={_RAY_TOKEN}/{names.RAY_TOKEN_KEY}",
                f"--settle-seconds={SETTLE_S}",
                f"--linger-seconds={LINGER_S}",
                *(_feedback_options(installation) if feedback else ()),
            ],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "ports": [_make_port(AGENT, AGENT_PORT)],
            "resources": {kind: dict(amounts) for kind, amounts in _AGENT_RESOURCES.items()},
            "startupProbe": {**probe("/livez"), "periodSeconds": 1, "failureThreshold": 60},
            "readinessProbe": {**probe("/readyz"), "periodSeconds": 2},
            "livenessProbe": {**probe("/livez"), "periodSeconds": 10},
            "volumeMounts": [
                _make_mount("state", _STATE),
                pods.make_account_mount(_ACCOUNT_VOLUME),
                _make_mount("ray-token", _RAY_TOKEN, read_only=True),
                *([_make_mount(_FEEDBACK_VOLUME, _FEEDBACK, read_only=True)] if feedback else []),
            ],
        },
    )


def _make_volumes() -> list[Json]:
    """Return the volumes of the pod.

    The state is in memory because it holds certificates and keys. Only the agent's container mounts the token of the API server.
    """
    return [
        {"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
        pods.make_account_volume(_ACCOUNT_VOLUME),
        # A namespace's first edge may start before Ray's token exists.
        {"name": "ray-token", "secret": {"secretName": names.RAY, "optional": True}},
    ]


def _feedback_options(installation: Installation) -> list[str]:
    _, keys = feedback_store.credentials(installation)
    return [
        f"--signing-key={_FEEDBACK}/{names.SIGNING_KEY}",
        f"--store={feedback_store.store_url(installation)}",
        *(f"--store-{key}-file={_FEEDBACK}/{key}" for key in keys),
    ]


def _make_feedback_volume(installation: Installation) -> Json:
    """Return one volume with the signing key and, if there are any, the store's credentials. Only the agent mounts it."""
    secret, keys = feedback_store.credentials(installation)
    sources = [
        _make_secret_source(names.EDGE_STORE, names.SIGNING_KEY),
        *(_make_secret_source(secret, key) for key in keys),
    ]
    return {"name": _FEEDBACK_VOLUME, "projected": {"sources": sources}}


def _make_secret_source(name: str, key: str) -> Json:
    return {"secret": {"name": name, "items": [{"key": key, "path": key}]}}


def _make_container(template: PodTemplate, container: Mapping[str, Any]) -> Json:
    made = pods.make_container(template, container)
    if template.container_security_context is None:
        made["securityContext"] = {**made["securityContext"], "readOnlyRootFilesystem": True}
    return made


def _make_resources(wanted: ResourceRequirements) -> Json:
    return {
        kind: {name: canonical_quantity(amount) for name, amount in amounts.items()}
        for kind, amounts in (("requests", wanted.requests), ("limits", wanted.limits))
        if amounts
    }


def _make_port(name: str, port: int) -> Json:
    return {"name": name, "containerPort": port, "protocol": "TCP"}


def _make_mount(volume: str, path: str, *, read_only: bool = False) -> Json:
    return {"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})}
