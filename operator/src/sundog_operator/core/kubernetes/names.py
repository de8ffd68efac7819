"""Names of everything Sundog creates. Built here and nowhere else."""

import hashlib

GROUP = "serving.sundog.dev"
MANAGER = "sundog"

LABEL_MODEL_DEPLOYMENT = f"{GROUP}/model-deployment"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_EXPERIMENT = f"{GROUP}/experiment"
LABEL_ROLLOUT = f"{GROUP}/rollout"
LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_PART_OF = "app.kubernetes.io/part-of"
PART_OF_SUNDOG = {LABEL_PART_OF: "sundog"}
"""The label of all that Sundog makes."""
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_COMMAND = f"{GROUP}/command"
ANNOTATION_MADE_AS = f"{GROUP}/made-as"
"""Hash of what we asked for: tells that something is to be taken away, which what is stored beside it cannot."""

RAY_LABEL_APPLICATION = "sundog.dev/application"
"""Ray's label of a node, by which the replicas of a revision find the pods of their own group."""

EDGE = "sundog-edge"
EDGE_STORE = "sundog-edge-store"
"""Where the edges of a namespace keep exposures and outcomes; the Secret of that name also has the key that they sign with."""
SIGNING_KEY = "signing-key"
RAY = "sundog-ray"
"""Name of the Secret with Ray's token, one per namespace, and of what runs Ray in labels."""
RAY_TOKEN_KEY = "token"  # noqa: S105 the name of a key
RAY_HEADS = "sundog-ray-heads"
RAY_WORKERS = "sundog-ray-workers"
VALKEY = "sundog-valkey"
PASSWORD_KEY = "password"  # noqa: S105 the name of a key
SPLIT_KEY = "split.json"
CLUSTER_DOMAIN = "cluster.local"
SERVE_DEPLOYMENT = "Model"

STABLE = "stable"
CANARY = "canary"
CONTROL = "control"
STABLE_ARMS = (STABLE, CONTROL)
"""Arms that the stable revision answers for: outside of an Experiment, and within one."""


def application(service: str, revision: int) -> str:
    """Serve application, ControllerRevision and first Experiment of a revision, such as `digits-r8`."""
    return f"{service}-r{revision}"


def stable_attempt(service: str, revision: int, uid: str) -> str:
    """The attempt by which edges count while a revision has all traffic, such as `digits-r8-1f0c9a3e`.

    `uid` is the ModelDeployment's: what edges have counted of an earlier one of its name is no traffic of this one.
    """
    return f"{application(service, revision)}-{uid[:8]}"


def route_prefix(service: str, revision: int) -> str:
    """Serve route prefix, such as `/digits-r8.app`.

    Ray matches prefixes with `startswith`; no name holds a dot, so no prefix of this form is the start of another.
    """
    return f"/{application(service, revision)}.app"


def rollout_experiment(service: str, revision: int, attempt: int) -> str:
    """Experiment of a rollout attempt, counted from 1: `digits-r8`, then `digits-r8-a2`."""
    name = application(service, revision)
    return name if attempt == 1 else f"{name}-a{attempt}"


def is_rollout_experiment(name: str, service: str, revision: int) -> bool:
    """Whether a name is one that `experiment` gives to that revision."""
    first = application(service, revision)
    suffix = name.removeprefix(first)
    return name == first or (name.startswith(first) and suffix.startswith("-a") and suffix[2:].isdecimal())


def ray_cluster(index: int, image: str = "") -> str:
    """RayCluster, counted from 0 within the namespace and, where pods have an image, among those of that image."""
    return f"sundog-{index}" if not image else f"sundog-{_digest(image)}-{index}"


def is_ray_cluster_of(name: str, image: str) -> bool:
    """Whether a name is one that `ray_cluster` gives to that image."""
    prefix, _, index = name.rpartition("-")
    return index.isdecimal() and name == ray_cluster(int(index), image) and bool(prefix)


def _digest(image: str) -> str:
    return hashlib.sha256(image.encode()).hexdigest()[:8]


def head_service(cluster: str) -> str:
    """The Service that KubeRay gives to the head of a RayCluster."""
    return f"{cluster}-head-svc"


def head_address(cluster: str, namespace: str, domain: str) -> str:
    """Where the head of a RayCluster is found, whichever pod it is."""
    return f"{head_service(cluster)}.{namespace}.svc.{domain}"


def valkey(cluster: str) -> str:
    """StatefulSet, Service and Secret of a RayCluster's own store."""
    return f"{cluster}-valkey"


def hosts(service: str, namespace: str, extra: str = "", domain: str = CLUSTER_DOMAIN) -> list[str]:
    """Host names under which the edge answers for a service; `domain` is the cluster's."""
    names = [f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.{domain}", f"{service}.{namespace}"]
    return names if not extra or extra in names else [extra, *names]


def labels(name: str) -> dict[str, str]:
    """Labels that every child carries."""
    return {LABEL_NAME: name, **PART_OF_SUNDOG, LABEL_MANAGED_BY: MANAGER}
