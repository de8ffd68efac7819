"""A RayCluster's own store, where Ray's control plane keeps what a new head needs: one pod with a password of its own.

It goes with its RayCluster, and is never shared: Serve's checkpoints in it are pickles, so who writes to it runs code in the cluster.
"""

from collections.abc import Mapping
from typing import Any, Final

from sundog_operator.api.installation import FaultTolerance, PodTemplate
from sundog_operator.core import names, pods
from sundog_operator.core.pods import Demand
from sundog_operator.core.revisions import owner_reference

PORT: Final = 6379
_USER: Final = 999
_DATA: Final = "data"
_DIRECTORY: Final = "/data"
# Valkey and Redis take the same settings. The password is read from standard input: arguments are seen by all processes of a node.
_COMMAND: Final = (
    'server=$(command -v valkey-server || command -v redis-server) || { echo "no valkey-server, no redis-server" >&2; exit 127; }\n'
    'printf "requirepass %s\\n" "$PASSWORD" | exec "$server" - '
    f"--port {PORT} --dir {_DIRECTORY} --appendonly yes --save '' --maxmemory-policy noeviction"
)
# Answers within a second, or is replaced; with the password, as a server that loads its file is not ready.
_PING: Final = (
    "client=$(command -v valkey-cli || command -v redis-cli) && "
    f'REDISCLI_AUTH="$PASSWORD" "$client" -p {PORT} ping | grep -q PONG'
)

Json = dict[str, Any]


def make_secret(cluster: Json, password: str) -> Json:
    """The Secret with the password. Made once; never changed."""
    return _object(cluster, "v1", "Secret") | {"type": "Opaque", "stringData": {names.PASSWORD_KEY: password}}


def make_service(cluster: Json) -> Json:
    """The Service under whose name the head finds it."""
    name = cluster["metadata"]["name"]
    spec = {
        "selector": selector(name),
        "ports": [{"name": "redis", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
    }
    return _object(cluster, "v1", "Service") | {"spec": spec}


def make_stateful_set(
    cluster: Json, wanted: FaultTolerance, template: PodTemplate, stored: Mapping[str, Any] | None
) -> Json:
    """The one pod, and its claim where it has one. Both go with the RayCluster. A claim cannot be changed: the stored one stays."""
    name = cluster["metadata"]["name"]
    claims = [_claim(wanted)] if wanted.storage.size else []
    if stored is not None:
        claims = stored["spec"].get("volumeClaimTemplates") or []
    claimed = {"volumeClaimTemplates": claims} if claims else {}
    demand = Demand(
        labels={**names.labels(names.VALKEY), **selector(name)},
        volumes=[] if claims else [{"name": _DATA, "emptyDir": {}}],
    )
    pod = pods.make_pod(_with_user(template), demand, [_container(name, wanted, template)])
    spec = {
        "replicas": 1,
        "serviceName": names.valkey(name),
        "selector": {"matchLabels": selector(name)},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        "template": pod,
        **claimed,
    }
    made = _object(cluster, "apps/v1", "StatefulSet")
    told = {**spec, "volumeClaimTemplates": bool(claims)}
    made["metadata"]["annotations"] = {names.ANNOTATION_MADE_AS: pods.fingerprint(told)}
    return made | {"spec": spec}


def is_as(stored: Mapping[str, Any], wanted: Json) -> bool:
    """Whether a stored StatefulSet was made like that; the API server writes quantities its own way, so that they are not compared."""
    annotations = stored["metadata"].get("annotations") or {}
    made = annotations.get(names.ANNOTATION_MADE_AS) == wanted["metadata"]["annotations"][names.ANNOTATION_MADE_AS]
    return bool(made and stored["spec"].get("replicas") == wanted["spec"]["replicas"])


def _container(name: str, wanted: FaultTolerance, template: PodTemplate) -> Json:
    password = {"secretKeyRef": {"name": names.valkey(name), "key": names.PASSWORD_KEY}}
    return pods.make_container(
        template,
        {
            "name": "valkey",
            "image": wanted.image,
            "command": ["/bin/sh", "-c", _COMMAND],
            "env": [{"name": "PASSWORD", "valueFrom": password}],
            "ports": [{"name": "redis", "containerPort": PORT}],
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
            "volumeMounts": [{"name": _DATA, "mountPath": _DIRECTORY}],
            "readinessProbe": {"exec": {"command": ["/bin/sh", "-c", _PING]}, "periodSeconds": 2, "timeoutSeconds": 2},
        },
    )


def _with_user(template: PodTemplate) -> PodTemplate:
    """The images' user is root, who hands over to this one; here it is this one from the start, and may write the claim."""
    if template.security_context is not None:
        return template
    context = {**pods.RESTRICTED_POD, "runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER}
    return template.model_copy(update={"security_context": context})


def _claim(wanted: FaultTolerance) -> Json:
    storage = wanted.storage
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage.size}}}
    return {
        "metadata": {"name": _DATA},
        "spec": {**spec, **({"storageClassName": storage.class_name} if storage.class_name else {})},
    }


def address(cluster: str) -> str:
    """Where a RayCluster's own store answers."""
    return f"{names.valkey(cluster)}:{PORT}"


def is_of(cluster: Mapping[str, Any]) -> bool:
    """Whether a stored RayCluster uses its own store, whatever the installation says today, and not a Redis of somebody else."""
    options = cluster["spec"].get("gcsFaultToleranceOptions") or {}
    return bool(options.get("redisAddress") == address(cluster["metadata"]["name"]))


def selector(cluster: str) -> dict[str, str]:
    """The labels of the pod of a RayCluster's store."""
    return {names.LABEL_NAME: names.VALKEY, names.LABEL_INSTANCE: cluster}


def _object(cluster: Json, api_version: str, kind: str) -> Json:
    meta = cluster["metadata"]
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": names.valkey(meta["name"]),
            "namespace": meta["namespace"],
            "labels": {**names.labels(names.VALKEY), names.LABEL_INSTANCE: meta["name"]},
            "ownerReferences": [owner_reference(cluster, controller=True)],
        },
    }
