"""A store of Sundog's own: one Valkey server in one pod, with a password. RayClusters and a namespace's edges may have one each.

Ray's control plane keeps in its store the state that a new head needs. The store is deleted with its RayCluster, and never shared: it
holds Serve's checkpoints as pickles, so any writer could run code in the cluster.
"""

import shlex
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
# Valkey and Redis accept the same settings. The password comes from standard input, because arguments are visible to all processes.
_COMMAND: Final = (
    'server=$(command -v valkey-server || command -v redis-server) || { echo "no valkey-server, no redis-server" >&2; exit 127; }\n'
    'printf "requirepass %s\\n" "$PASSWORD" | exec "$server" - '
)
# Uses the password, because a server that still loads its file must not count as ready.
_PING: Final = (
    "client=$(command -v valkey-cli || command -v redis-cli) && "
    f'REDISCLI_AUTH="$PASSWORD" "$client" -p {PORT} ping | grep -q PONG'
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ValkeyStore:
    """Identity of a store.

    Attributes:
        name: name of its StatefulSet, its Service and the Secret with its password.
        labels: labels of its objects and its pod.
        selector: the labels that select exactly its pod.
        owners: owner references of all its objects.
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    selector: Mapping[str, str]
    owners: Sequence[Json]


@dataclass(frozen=True, slots=True)
class ValkeyServer:
    """Settings of a store's server.

    Attributes:
        memory: the container's limit, a quantity.
        most_bytes: limit of the data. Beyond it the server rejects writes and evicts nothing. 0 means only the container's limit.
        sync_writes: whether the server answers a write only once it is on disk. Otherwise it writes to disk once a second.
    """

    image: str
    storage: StorageClaim
    memory: str = "512Mi"
    most_bytes: int = 0
    sync_writes: bool = False


def make_cluster_store(cluster: Json) -> ValkeyStore:
    """Return the store of a RayCluster."""
    meta = cluster["metadata"]
    return ValkeyStore(
        name=names.valkey(meta["name"]),
        namespace=meta["namespace"],
        labels={**names.labels(names.VALKEY), names.LABEL_INSTANCE: meta["name"]},
        selector=store_selector(meta["name"]),
        owners=[owner_reference(cluster, controller=True)],
    )


def make_secret(store: ValkeyStore, values: Mapping[str, str]) -> Json:
    """Return the Secret with the password and other secret values. It is created once and never changes."""
    return _make_object(store, "v1", "Secret") | {"type": "Opaque", "stringData": dict(values)}


def make_service(store: ValkeyStore) -> Json:
    """Return the Service of the store."""
    spec = {
        "selector": dict(store.selector),
        "ports": [{"name": "redis", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
    }
    return _make_object(store, "v1", "Service") | {"spec": spec}


def make_stateful_set(
    store: ValkeyStore, server: ValkeyServer, template: PodTemplate, stored: Mapping[str, Any] | None
) -> Json:
    """Return the StatefulSet with one pod, and a claim if it has storage. Both are deleted with the owners.

    A claim cannot change, so the claim of the `stored` StatefulSet stays.
    """
    claims = [_make_claim(server.storage)] if server.storage.size else []
    if stored is not None:
        claims = stored["spec"].get("volumeClaimTemplates") or []
    claimed = {"volumeClaimTemplates": claims} if claims else {}
    requirements = PodRequirements(labels=store.labels, volumes=[] if claims else [{"name": _DATA, "emptyDir": {}}])
    pod = pods.make_pod(
        pods.set_default_user(template, _USER), requirements, [_make_container(store, server, template)]
    )
    spec = {
        "replicas": 1,
        "serviceName": store.name,
        "selector": {"matchLabels": dict(store.selector)},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        "template": pod,
        **claimed,
    }
    made = _make_object(store, "apps/v1", "StatefulSet")
    hashed = {**spec, "volumeClaimTemplates": bool(claims)}
    made["metadata"]["annotations"] = {names.ANNOTATION_MADE_AS: pods.fingerprint(hashed)}
    return made | {"spec": spec}


def make_command(server: ValkeyServer, port: int = PORT, directory: str = _DIRECTORY) -> list[str]:
    """Return the command of a store's server. It takes the password from the environment variable PASSWORD."""
    arguments = ["--port", str(port), "--dir", directory, "--appendonly", "yes", "--save", ""]
    arguments += ["--maxmemory-policy", "noeviction"]
    if server.sync_writes:
        arguments += ["--appendfsync", "always"]
    if server.most_bytes:
        arguments += ["--maxmemory", str(server.most_bytes)]
    return ["/bin/sh", "-c", _COMMAND + shlex.join(arguments)]


def is_up_to_date(stored: Json, desired: Json) -> bool:
    """Return whether a stored StatefulSet was made from the wanted spec, with an unchanged scale and the same owners."""
    return (
        pods.is_made_alike(stored, desired)
        and stored["spec"].get("replicas") == desired["spec"]["replicas"]
        and set(owner_uids(stored)) == set(owner_uids(desired))
    )


def _make_container(store: ValkeyStore, server: ValkeyServer, template: PodTemplate) -> Json:
    password = {"secretKeyRef": {"name": store.name, "key": names.PASSWORD_KEY}}
    return pods.make_container(
        template,
        {
            "name": "valkey",
            "image": server.image,
            "command": make_command(server),
            "env": [{"name": "PASSWORD", "valueFrom": password}],
            "ports": [{"name": "redis", "containerPort": PORT}],
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": server.memory}},
            "volumeMounts": [{"name": _DATA, "mountPath": _DIRECTORY}],
            "readinessProbe": {"exec": {"command": ["/bin/sh", "-c", _PING]}, "periodSeconds": 2, "timeoutSeconds": 2},
        },
    )


def _make_claim(storage: StorageClaim) -> Json:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage.size}}}
    return {
        "metadata": {"name": _DATA},
        "spec": {**spec, **({"storageClassName": storage.class_name} if storage.class_name else {})},
    }


def store_address(name: str) -> str:
    """Return the address of the store of that name for pods of its namespace."""
    return f"{name}:{PORT}"


def has_own_store(cluster: Mapping[str, Any]) -> bool:
    """Return whether a stored RayCluster uses its own store and not an external Redis. The current settings do not matter."""
    options = cluster["spec"].get("gcsFaultToleranceOptions") or {}
    return bool(options.get("redisAddress") == store_address(names.valkey(cluster["metadata"]["name"])))


def has_other_owner(obj: Json, cluster_uid: str) -> bool:
    """Return whether an object of a store has owners, but not the RayCluster of that uid. An object without owners is adopted."""
    owners = owner_uids(obj)
    return bool(owners) and cluster_uid not in owners


def store_selector(cluster: str) -> dict[str, str]:
    """Return the labels that select the pod of a RayCluster's store."""
    return {names.LABEL_NAME: names.VALKEY, names.LABEL_INSTANCE: cluster}


def _make_object(store: ValkeyStore, api_version: str, kind: str) -> Json:
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
