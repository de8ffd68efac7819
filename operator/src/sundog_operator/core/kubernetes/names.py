"""Names of all objects that Sundog creates. No other module builds them."""

import hashlib

from sundog_operator.api import ROLLOUT_LABEL

GROUP = "serving.sundog.dev"
MANAGER = "sundog"

LABEL_MODEL_DEPLOYMENT = f"{GROUP}/model-deployment"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_ROLLOUT = ROLLOUT_LABEL
LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_PART_OF = "app.kubernetes.io/part-of"
PART_OF_SUNDOG = {LABEL_PART_OF: "sundog"}
"""The label of all objects that Sundog creates."""
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_COMMAND = f"{GROUP}/command"
ANNOTATION_MADE_AS = f"{GROUP}/made-as"
ANNOTATION_MODEL_FILES = f"{GROUP}/model-files"
"""Digest of the files at `spec.model.uri`, as the client that applies the manifest sees them. Local mode writes it."""

"""Hash of the wanted spec. It shows that a field must be removed, which a comparison with the stored object cannot show."""

RAY_LABEL_APPLICATION = "sundog.dev/application"
"""Ray's node label that places the replicas of a revision on the pods of their worker group."""
SHARED_WORKERS = "shared"
"""The worker group of models that share pods. No application has this name, because all end with a revision."""

EDGE = "sundog-edge"
EDGE_STORE = "sundog-edge-store"
"""The store in which edges keep exposures and outcomes. The Secret of that name also holds the edges' signing key."""
SIGNING_KEY = "signing-key"
RAY = "sundog-ray"
"""Name of the Secret with Ray's token, one per namespace, and label value of the pods that run Ray."""
RAY_TOKEN_KEY = "token"  # noqa: S105 the name of a key
RAY_HEADS = "sundog-ray-heads"
RAY_WORKERS = "sundog-ray-workers"
VALKEY = "sundog-valkey"
PASSWORD_KEY = "password"  # noqa: S105 the name of a key
USERNAME_KEY = "username"
SPLIT_KEY = "split.json"
CLUSTER_DOMAIN = "cluster.local"
SERVE_DEPLOYMENT = "Model"

STABLE = "stable"
CANARY = "canary"
CONTROL = "control"
STABLE_ARMS = (STABLE, CONTROL)
"""The arms that the stable revision serves: outside of an Experiment, and in one."""


def application(service: str, revision: int) -> str:
    """Return the name of a revision's Serve application, ControllerRevision and first Experiment, such as `digits-r8`."""
    return f"{service}-r{revision}"


def stable_attempt(service: str, revision: int, uid: str) -> str:
    """Return the attempt under which edges count while a revision has all traffic, such as `digits-r8-1f0c9a3e`.

    The ModelDeployment's uid separates it from the counts of an earlier ModelDeployment of the same name.
    """
    return f"{application(service, revision)}-{uid[:8]}"


def route_prefix(service: str, revision: int) -> str:
    """Return a revision's Serve route prefix, such as `/digits-r8.app`.

    Ray matches prefixes with `startswith`. No name contains a dot, so no prefix of this form is the start of another.
    """
    return f"/{application(service, revision)}.app"


def rollout_experiment(service: str, revision: int, attempt: int) -> str:
    """Return the Experiment of a rollout attempt, counted from 1: `digits-r8`, then `digits-r8-a2`."""
    name = application(service, revision)
    return name if attempt == 1 else f"{name}-a{attempt}"


def is_rollout_experiment(name: str, service: str, revision: int) -> bool:
    """Return whether `rollout_experiment` may give a name to a revision."""
    first = application(service, revision)
    suffix = name.removeprefix(first)
    return name == first or (name.startswith(first) and suffix.startswith("-a") and suffix[2:].isdecimal())


def rollout_attempt(name: str) -> int:
    """Return the number of the attempt that `rollout_experiment` named, counted from 1."""
    number = name.rpartition("-a")[2]
    return int(number) if number.isdecimal() else 1


def ray_cluster(index: int, image: str = "") -> str:
    """Return a RayCluster's name. `index` counts from 0 in the namespace, per image where pods have one."""
    return f"sundog-{index}" if not image else f"sundog-{_digest(image)}-{index}"


def is_ray_cluster_of(name: str, image: str) -> bool:
    """Return whether `ray_cluster` may give a name to an image."""
    prefix, _, index = name.rpartition("-")
    return index.isdecimal() and name == ray_cluster(int(index), image) and bool(prefix)


def _digest(image: str) -> str:
    return hashlib.sha256(image.encode()).hexdigest()[:8]


def head_service(cluster: str) -> str:
    """Return the name of the Service that KubeRay creates for a RayCluster's head."""
    return f"{cluster}-head-svc"


def head_address(cluster: str, namespace: str, domain: str) -> str:
    """Return the DNS name of a RayCluster's head. It stays when the pod changes."""
    return f"{head_service(cluster)}.{namespace}.svc.{domain}"


def valkey(cluster: str) -> str:
    """Return the name of the StatefulSet, Service and Secret of a RayCluster's own store."""
    return f"{cluster}-valkey"


def hosts(service: str, namespace: str, extra: str = "", domain: str = CLUSTER_DOMAIN) -> list[str]:
    """Return the host names under which the edge serves a service. `extra` comes first; `domain` is the cluster's."""
    names = [f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.{domain}", f"{service}.{namespace}"]
    return names if not extra or extra in names else [extra, *names]


def labels(name: str) -> dict[str, str]:
    """Return the labels of an object that Sundog creates."""
    return {LABEL_NAME: name, **PART_OF_SUNDOG, LABEL_MANAGED_BY: MANAGER}
