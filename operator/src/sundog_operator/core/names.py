"""Names of everything Sundog creates. Built here and nowhere else."""

GROUP = "serving.sundog.dev"
MANAGER = "sundog"

LABEL_MODEL_DEPLOYMENT = f"{GROUP}/model-deployment"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_EXPERIMENT = f"{GROUP}/experiment"
LABEL_ROLLOUT = f"{GROUP}/rollout"
LABEL_NAME = "app.kubernetes.io/name"
LABEL_PART_OF = "app.kubernetes.io/part-of"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_COMMAND = f"{GROUP}/command"

EDGE = "sundog-edge"
SPLIT_KEY = "split.json"
SERVE_DEPLOYMENT = "Model"

STABLE = "stable"
CANARY = "canary"


def application(service: str, revision: int) -> str:
    """Serve application, ControllerRevision and first Experiment of a revision, such as `digits-r8`."""
    return f"{service}-r{revision}"


def route_prefix(service: str, revision: int) -> str:
    """Serve route prefix, such as `/digits-r8.app`.

    Ray matches prefixes with `startswith`; no name holds a dot, so no prefix of this form is the start of another.
    """
    return f"/{application(service, revision)}.app"


def experiment(service: str, revision: int, attempt: int) -> str:
    """Experiment of a rollout attempt, counted from 1: `digits-r8`, then `digits-r8-a2`."""
    name = application(service, revision)
    return name if attempt == 1 else f"{name}-a{attempt}"


def is_rollout(name: str, service: str, revision: int) -> bool:
    """Whether a name is one that `experiment` gives to that revision."""
    first = application(service, revision)
    suffix = name.removeprefix(first)
    return name == first or (name.startswith(first) and suffix.startswith("-a") and suffix[2:].isdecimal())


def ray_cluster(index: int) -> str:
    """RayCluster, counted from 0 within the namespace."""
    return f"sundog-{index}"


def hosts(service: str, namespace: str, extra: str = "") -> list[str]:
    """Host names under which the edge answers for a service."""
    names = [f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local", f"{service}.{namespace}"]
    return names if not extra or extra in names else [extra, *names]


def labels(name: str) -> dict[str, str]:
    """Labels that every child carries."""
    return {LABEL_NAME: name, LABEL_PART_OF: "sundog", LABEL_MANAGED_BY: MANAGER}
