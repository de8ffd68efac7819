"""A store of Sundog's own: one Valkey in one pod, with a password. A RayCluster has one, and the edges of a namespace may have another.

That of a RayCluster is where Ray's control plane keeps what a new head needs. It goes with its RayCluster, and is never shared: Serve's
checkpoints in it are pickles, so who writes to it runs code in the cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api.installation import PodTemplate, StorageClaim
from sundog_operator.core.kubernetes import names, pods
from sundog_operator.core.kubernetes.pods import PodRequirements
from sundog_operator.core.revisions import owner_reference, owner_uids

PORT: Final = 6379
_USER: Final = 999
"""The images start as root and change to this user. The pod has it from the start, and may write the claim."""
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


@dataclass(frozen=True, slots=True)
class ValkeyStore:
    """Which store it is.

    Attributes:
        name: of its StatefulSet and its Service, and of the Secret with its password.
        labels: of its objects and its pod.
        selector: those of them by which the pod is found, and no other.
        owners: owner references of all its objects.
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    selector: Mapping[str, str]
    owners: Sequence[Json]


@dataclass(frozen=True, slots=True)
class ValkeyServer:
    """How it runs.

    Attributes:
        memory: the container's limit, a quantity.
        most_bytes: of what is stored; beyond, writes are refused and nothing is forgotten. 0 is no limit but the container's.
    """

    image: str
    storage: StorageClaim
    memory: str = "512Mi"
    most_bytes: int = 0


def make_cluster_store(cluster: Json) -> ValkeyStore:
    """The store of a RayCluster."""
    meta = cluster["metadata"]
    return ValkeyStore(
        name=names.valkey(meta["name"]),
        namespace=meta["namespace"],
        labels={**names.labels(names.VALKEY), names.LABEL_INSTANCE: meta["name"]},
        selector=store_selector(meta["name"]),
        owners=[owner_reference(cluster, controller=True)],
    )


def make_secret(store: ValkeyStore, values: Mapping[str, str]) -> Json:
    """The Secret with the password, and with what else is secret beside it. Made once; never changed."""
    return _object(store, "v1", "Secret") | {"type": "Opaque", "stringData": dict(values)}


def make_service(store: ValkeyStore) -> Json:
    """The Service under whose name it is found."""
    spec = {
        "selector": dict(store.selector),
        "ports": [{"name": "redis", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
    }
    return _object(store, "v1", "Service") | {"spec": spec}


def make_stateful_set(
    store: ValkeyStore, server: ValkeyServer, template: PodTemplate, stored: Mapping[str, Any] | None
) -> Json:
    """The one pod, and its claim where it has one. Both go with the owners. A claim cannot be changed: the stored one stays."""
    claims = [_claim(server.storage)] if server.storage.size else []
    if stored is not None:
        claims = stored["spec"].get("volumeClaimTemplates") or []
    claimed = {"volumeClaimTemplates": claims} if claims else {}
    demand = PodRequirements(labels=store.labels, volumes=[] if claims else [{"name": _DATA, "emptyDir": {}}])
    pod = pods.make_pod(pods.set_default_user(template, _USER), demand, [_container(store, server, template)])
    spec = {
        "replicas": 1,
        "serviceName": store.name,
        "selector": {"matchLabels": dict(store.selector)},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        "template": pod,
        **claimed,
    }
    made = _object(store, "apps/v1", "StatefulSet")
    told = {**spec, "volumeClaimTemplates": bool(claims)}
    made["metadata"]["annotations"] = {names.ANNOTATION_MADE_AS: pods.fingerprint(told)}
    return made | {"spec": spec}


def is_up_to_date(stored: Json, wanted: Json) -> bool:
    """Whether a stored StatefulSet was made like that; the API server writes quantities its own way, so that they are not compared."""
    found, meta = stored["metadata"], wanted["metadata"]
    made = (found.get("annotations") or {}).get(names.ANNOTATION_MADE_AS) == meta["annotations"][
        names.ANNOTATION_MADE_AS
    ]
    return (
        made
        and stored["spec"].get("replicas") == wanted["spec"]["replicas"]
        and set(owner_uids(stored)) == set(owner_uids(wanted))
    )


def _container(store: ValkeyStore, server: ValkeyServer, template: PodTemplate) -> Json:
    password = {"secretKeyRef": {"name": store.name, "key": names.PASSWORD_KEY}}
    limit = f" --maxmemory {server.most_bytes}" if server.most_bytes else ""
    return pods.make_container(
        template,
        {
            "name": "valkey",
            "image": server.image,
            "command": ["/bin/sh", "-c", _COMMAND + limit],
            "env": [{"name": "PASSWORD", "valueFrom": password}],
            "ports": [{"name": "redis", "containerPort": PORT}],
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": server.memory}},
            "volumeMounts": [{"name": _DATA, "mountPath": _DIRECTORY}],
            "readinessProbe": {"exec": {"command": ["/bin/sh", "-c", _PING]}, "periodSeconds": 2, "timeoutSeconds": 2},
        },
    )


def _claim(storage: StorageClaim) -> Json:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage.size}}}
    return {
        "metadata": {"name": _DATA},
        "spec": {**spec, **({"storageClassName": storage.class_name} if storage.class_name else {})},
    }


def store_address(name: str) -> str:
    """Where the store of that name answers pods of its namespace."""
    return f"{name}:{PORT}"


def has_own_store(cluster: Mapping[str, Any]) -> bool:
    """Whether a stored RayCluster uses its own store, whatever the installation says today, and not a Redis of somebody else."""
    options = cluster["spec"].get("gcsFaultToleranceOptions") or {}
    return bool(options.get("redisAddress") == store_address(names.valkey(cluster["metadata"]["name"])))


def has_other_owner(obj: Json, cluster_uid: str) -> bool:
    """Whether an object of a store goes with other owners than the RayCluster of that uid. One without owners stays, and is taken over."""
    owners = owner_uids(obj)
    return bool(owners) and cluster_uid not in owners


def store_selector(cluster: str) -> dict[str, str]:
    """The labels of the pod of a RayCluster's store."""
    return {names.LABEL_NAME: names.VALKEY, names.LABEL_INSTANCE: cluster}


def _object(store: ValkeyStore, api_version: str, kind: str) -> Json:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": store.name,
            "namespace": store.namespace,
            "labels": dict(store.labels),
            "ownerReferences": list(store.owners),
        },
    }
