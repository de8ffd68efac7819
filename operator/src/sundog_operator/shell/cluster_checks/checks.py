"""The findings about a cluster, from an observation. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

from sundog_operator.adapters.local.doctor import Check, parse_version
from sundog_operator.api import API_VERSION
from sundog_operator.api.schema import crd_diff
from sundog_operator.core.kubernetes import accelerators, node_affinity, node_fit, node_profiles
from sundog_operator.ports import RAY_CLUSTER
from sundog_operator.shell.cluster_checks.observation import ClusterObservation, PartUnreadable
from sundog_operator.shell.cluster_checks.planned_release import (
    CRDS,
    CREATE_NAMESPACE,
    GRANT_VERBS,
    POLICIES,
    PlannedRelease,
)

Json = Mapping[str, Any]
Finding = tuple[Literal["ok", "warn", "fail"], str, str]
"""Status, what was found, and what to do, which is empty if all is well."""
CheckCluster = Callable[[ClusterObservation, PlannedRelease], Finding]

KUBERNETES_VERSION: Final = (1, 32)
"""Oldest version with what the CRDs need: CEL rules, ratcheting and selectable fields. The chart refuses earlier ones."""
KUBERAY_VERSION: Final = (1, 5)
DRIVER_BRANCH: Final = 580
"""Oldest branch of NVIDIA's driver for CUDA 13, with which the runtime image's PyTorch is built."""
_RAY_FIELDS: Final = ("autoscalerOptions.version", "gcsFaultToleranceOptions", "headGroupSpec.labels")
"""Fields of a RayCluster's spec, of which CRDs of KubeRay before 1.5 lack one."""
_OPTIONAL: Final = {
    "Gateway API (endpoint.gateway)": {"gateway.networking.k8s.io/v1"},
    "Kueue (scheduling.queue)": {"kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1"},
    "DRA (resources.gpu.allocation)": {"resource.k8s.io/v1"},
    "KEDA": {"keda.sh/v1alpha1"},
    "metrics server (scaling by CPU)": {"metrics.k8s.io/v1beta1"},
}
"""Programs that an installation works without, with what needs them, and the versions of their APIs."""
_DRIVER_LABELS: Final = ("nvidia.com/cuda.driver-version.major", "nvidia.com/cuda.driver.major")
_DEVICES: Final = ("nvidia.com/", *(resource for resource, _ in accelerators.VENDOR_RESOURCES.values()))
_DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
_LISTED: Final = 5


def check_cluster(seen: ClusterObservation, release: PlannedRelease) -> list[Check]:
    """Return all findings, in the order for display."""
    return [Check(name, *_run(check, seen, release)) for name, check in _CHECKS.items()]


def _run(check: CheckCluster, seen: ClusterObservation, release: PlannedRelease) -> Finding:
    try:
        return check(seen, release)
    except PartUnreadable as err:
        return "warn", f"not checked: {err}", "have someone with more permissions run this command"


def _check_version(seen: ClusterObservation, _: PlannedRelease) -> Finding:
    if parse_version(seen.version) >= KUBERNETES_VERSION:
        return "ok", seen.version, ""
    return "fail", seen.version, f"upgrade Kubernetes to {_dotted(KUBERNETES_VERSION)} or later"


def _check_permissions(seen: ClusterObservation, _: PlannedRelease) -> Finding:
    asked = {each: is_held for each, is_held in seen.permissions.read().items() if each != CREATE_NAMESPACE}
    denied = [(verb, resource) for (verb, resource, _), is_held in asked.items() if not is_held]
    missing = [f"{verb} {resource}" for verb, resource in denied if verb not in GRANT_VERBS]
    if missing:
        return "fail", f"you may not {_list(missing)}", "install with an account that may, such as a cluster-admin"
    if denied:
        fix = "install as cluster-admin, or let one create the roles and set rbac.create and rbac.aggregate to false"
        return "warn", "in roles you may grant only what you hold yourself", fix
    return "ok", "you may create all objects of the chart", ""


def _check_namespaces(seen: ClusterObservation, release: PlannedRelease) -> Finding:
    found = seen.namespaces.read()
    missing = [name for name, namespace in found.items() if namespace is None and name != release.namespace]
    if missing:
        return "fail", f"not found: {_list(missing)}", "create them: the chart creates objects there"
    if found[release.namespace] is None and not (seen.permissions.content or {}).get(CREATE_NAMESPACE, True):
        return "fail", f"{release.namespace} does not exist, and you may not create it", "have it created"
    levels = {name: _find_pod_security(namespace) for name, namespace in found.items()}
    strict = [name for name, level in levels.items() if level in ("baseline", "restricted")]
    if strict and seen.installation.ray.cache.host_path:
        fix = "unset installation.ray.cache.hostPath, or serve models in other namespaces"
        return "warn", f"pod security refuses pods with hostPath in {_list(strict)}", fix
    return "ok", _list(f"{name} ({level})" for name, level in levels.items()), ""


def _check_crds(seen: ClusterObservation, release: PlannedRelease) -> Finding:
    found, version = seen.crds.read(), API_VERSION.rpartition("/")[2]
    existing = {name: crd for name, crd in found.items() if crd is not None}
    unknown = {each for crd in existing.values() for each in crd["status"].get("storedVersions") or ()} - {version}
    if unknown:
        fix = "install a release of Sundog that knows them, or migrate the objects"
        return "fail", f"objects are stored as {_list(sorted(unknown))}; expected {version}", fix
    is_installing = release.has_resource(CRDS)
    if len(existing) < len(found) and not is_installing:
        return "fail", "missing", "apply helm/sundog/files/crds, or set crds.install to true"
    owners = {name: _find_annotation(crd, "meta.helm.sh/release-namespace") for name, crd in existing.items()}
    foreign = [name for name, owner in owners.items() if owner != release.namespace]
    if foreign and is_installing:
        return "warn", f"not of a Helm release in {release.namespace}: {_list(foreign)}", "give `helm` --take-ownership"
    return "ok", f"{len(existing)} of {len(found)} exist", ""


def _check_kuberay(seen: ClusterObservation, _: PlannedRelease) -> Finding:
    wanted = f"KubeRay {_dotted(KUBERAY_VERSION)} or later"
    if RAY_CLUSTER.api_version not in _find_served(seen):
        return "fail", f"{RAY_CLUSTER.api_version} is not served", f"install {wanted}"
    schema = crd_diff.find_served_schema(seen.ray_schemas.read(), RAY_CLUSTER.group, RAY_CLUSTER.kind)
    lacking = [f"spec.{path}" for path in _RAY_FIELDS if schema and not _has_field(schema, f"spec.{path}")]
    if lacking:
        fix = f"apply the CRDs of {wanted}: `helm upgrade` leaves them as they are"
        return "fail", f"CRD rayclusters.ray.io has no {_list(lacking)}", fix
    images = [image for image in seen.ray_operators.read() if image]
    if not images:
        return "warn", "no Deployment of its operator", f"install {wanted}, unless its operator runs elsewhere"
    old = [
        image for image in images if () < parse_version(image.partition("@")[0].rpartition(":")[2]) < KUBERAY_VERSION
    ]
    return ("fail", _list(old), f"upgrade to {wanted}, the CRDs first") if old else ("ok", _list(images), "")


def _check_storage(seen: ClusterObservation, _: PlannedRelease) -> Finding:
    ray, feedback = seen.installation.ray.gcs_fault_tolerance, seen.installation.feedback.store
    own = {"feedback.store": feedback.storage} if not feedback.external.address else {}
    if ray.enabled and not ray.external.address:
        own["ray.gcsFaultTolerance"] = ray.storage
    claims = {f"installation.{where}.storage.className": each.class_name for where, each in own.items() if each.size}
    if not claims:
        return "ok", "not needed: the stores have no claims", ""
    classes = {each["metadata"]["name"]: each for each in seen.storage_classes.read()}
    defaults = [name for name, each in classes.items() if _find_annotation(each, _DEFAULT_CLASS) == "true"]
    wrong = [where for where, name in claims.items() if not (name in classes if name else defaults)]
    found = f"{_list(classes) or 'none'}; default: {_list(defaults) or 'none'}"
    return ("fail", found, f"mark one as the default, or name one in {_list(wrong)}") if wrong else ("ok", found, "")


def _check_nodes(seen: ClusterObservation, _: PlannedRelease) -> Finding:
    nodes = seen.nodes.read()
    usable = sum(map(node_fit.takes_pods, nodes))
    if not usable:
        return "fail", f"none of {len(nodes)} takes pods", "add a node, or uncordon one"
    devices = {node["metadata"]["name"]: _count_devices(node) for node in nodes}
    counts = sum(devices.values(), Counter[str]())
    found = _list([f"{usable} of {len(nodes)} take pods", *(f"{number} {name}" for name, number in counts.items())])
    typed = {node["metadata"]["name"] for node in nodes if node_affinity.find_type(node["metadata"]["labels"])}
    if untyped := [name for name, counted in devices.items() if counted and name not in typed]:
        fix = "install GPU feature discovery, or leave resources.gpu.type of models empty"
        return "warn", f"{found}; no label names the type of the devices of {_list(untyped)}", fix
    return "ok", found, ""


def _check_gpu_labels(seen: ClusterObservation, _: PlannedRelease) -> Finding:
    guessed = node_profiles.guess_profiles(map(node_profiles.find_node_profile, seen.nodes.read()))
    text = node_profiles.describe_profiles(seen.installation, guessed)
    if seen.installation.gpu.profiles or guessed:
        return "ok", text, ""
    return "warn", text, "set installation.gpu.profiles of the chart to the labels of your nodes, such as [karpenter]"


def _check_driver(seen: ClusterObservation, _: PlannedRelease) -> Finding:
    labels = [node["metadata"]["labels"] for node in seen.nodes.read()]
    branches = sorted({int(each[key]) for each in labels for key in _DRIVER_LABELS if each.get(key, "").isdecimal()})
    if branches and branches[0] < DRIVER_BRANCH:
        fix = f"upgrade it to {DRIVER_BRANCH} or later, or build the runtime image with PyTorch for an older CUDA"
        return "warn", f"branch {branches[0]}, too old for CUDA 13", fix
    return "ok", f"branch {_list(map(str, branches))}" if branches else "no node shows one", ""


def _check_policies(seen: ClusterObservation, release: PlannedRelease) -> Finding:
    policies = {each["metadata"]["name"]: each["spec"].get("podSelector") or {} for each in seen.policies.read()}
    isolating = [name for name, selector in policies.items() if not any(selector.values())]
    is_enforced, enforcement = _find_enforcement(seen)
    found = f"{_list(isolating) or 'none'} for all pods of {release.namespace}; {enforcement}"
    if isolating and not release.has_resource(POLICIES):
        return "warn", found, "set networkPolicy.enabled to true, so that the operator reaches what it needs"
    if is_enforced:
        return "ok", found, ""
    if is_enforced is None:
        return "warn", found, "see that a foreign pod gets no answer from port 8265 of a Ray head once a model serves"
    return "warn", found, "use a network plugin that enforces them: every pod of the cluster may ask Ray and the stores"


def _find_enforcement(seen: ClusterObservation) -> tuple[bool | None, str]:
    if seen.probe is None:
        return None, "enforcement is not checked without --probe"
    if seen.probe.content is None or seen.probe.content.is_isolated is None:
        return (
            None,
            f"enforcement is not known: {seen.probe.content.reason if seen.probe.content else seen.probe.reason}",
        )
    return seen.probe.content.is_isolated, "enforced" if seen.probe.content.is_isolated else "not enforced"


def _check_registry(seen: ClusterObservation, release: PlannedRelease) -> Finding:
    if seen.probe is None:
        return "warn", "not checked", "add --probe, or run a pod with each image, to see that the nodes can pull it"
    images = seen.probe.read().images
    errors = [f"{name} ({error})" for name, error in images.items() if error]
    if errors:
        fix = f"push what is missing, and name Secrets of {release.namespace} for registries that need a login"
        return "fail", f"not pulled: {_list(errors)}", fix
    return "ok", f"a node pulled {_list(images)}", ""


def _check_optional(seen: ClusterObservation, _: PlannedRelease) -> Finding:
    missing = [name for name, versions in _OPTIONAL.items() if versions.isdisjoint(_find_served(seen))]
    found = [name for name in _OPTIONAL if name not in missing]
    return "ok", f"{_list(found) or 'none'}; not installed: {_list(missing) or 'none'}", ""


_CHECKS: Final[Mapping[str, CheckCluster]] = {
    "Kubernetes": _check_version,
    "permissions": _check_permissions,
    "namespaces": _check_namespaces,
    "Sundog's CRDs": _check_crds,
    "KubeRay": _check_kuberay,
    "StorageClass": _check_storage,
    "nodes": _check_nodes,
    "GPU labels": _check_gpu_labels,
    "NVIDIA driver": _check_driver,
    "network policies": _check_policies,
    "registry": _check_registry,
    "optional programs": _check_optional,
}


def _find_served(seen: ClusterObservation) -> set[str]:
    return {version["groupVersion"] for group in seen.api_groups.read()["groups"] for version in group["versions"]}


def _find_pod_security(namespace: Json | None) -> str:
    if namespace is None:
        return "does not exist yet: give `helm` --create-namespace"
    return str((namespace["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce", "privileged"))


def _find_annotation(obj: Json, name: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def _has_field(schema: Json, path: str) -> bool:
    for name in path.split("."):
        schema = schema.get("properties", {}).get(name, {})
    return bool(schema)


def _count_devices(node: Json) -> Counter[str]:
    return Counter({name: number for name, number in node_fit.allocatable(node).items() if name.startswith(_DEVICES)})


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


def _list(names: Iterable[str]) -> str:
    given = list(names)
    return ", ".join(given[:_LISTED]) + (f" and {len(given) - _LISTED} more" if len(given) > _LISTED else "")
