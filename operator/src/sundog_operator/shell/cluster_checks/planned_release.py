"""The release that is to be installed: what the chart creates, where, and with which settings."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode, one_line
from sundog_operator.shell.installation import INSTALLATION_FILE

NAMESPACE: Final = "sundog-system"
CRDS: Final = "customresourcedefinitions.apiextensions.k8s.io"
POLICIES: Final = "networkpolicies.networking.k8s.io"
GRANT_VERBS: Final = ("bind", "escalate")
"""With these a user may grant permissions without holding them."""
_ROLES: Final = ("clusterroles.rbac.authorization.k8s.io", "roles.rbac.authorization.k8s.io")
_CLUSTER_WIDE: Final = (CRDS, _ROLES[0], "clusterrolebindings.rbac.authorization.k8s.io")
_CHART: Final = (
    *("configmaps", "services", "serviceaccounts", "deployments.apps", POLICIES, "poddisruptionbudgets.policy"),
    *("roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io", *_CLUSTER_WIDE),
)
"""Resources that the chart creates by its default values. A test compares them with its rendering."""

Permission = tuple[str, str, str]
"""A verb, a resource such as `deployments.apps`, and a namespace, which is empty for the whole cluster."""
CREATE_NAMESPACE: Final[Permission] = ("create", "namespaces", "")
"""What `helm --create-namespace` needs if the namespace does not exist."""


@dataclass(frozen=True, slots=True)
class ReleaseImage:
    """An image, and the pull policy of its pods, which is empty for Kubernetes' default."""

    name: str
    policy: str = ""


@dataclass(frozen=True, slots=True)
class PlannedRelease:
    """A release of the chart.

    Attributes:
        namespace: its namespace.
        resources: pairs of a resource that the chart creates, such as `deployments.apps`, and a namespace, which is empty for objects of
            the whole cluster.
        installation: its settings; None where they are unknown.
        images: those of its pods and of what it plans, the operator's first; none where they are unknown.
        pull_secrets: names of Secrets for them.
    """

    namespace: str
    resources: frozenset[tuple[str, str]]
    installation: Installation | None = None
    images: tuple[ReleaseImage, ...] = ()
    pull_secrets: tuple[str, ...] = ()

    def has_resource(self, resource: str) -> bool:
        """Report whether the chart creates objects of a resource."""
        return any(resource == each for each, _ in self.resources)

    def find_permissions(self) -> list[Permission]:
        """Return what Helm does in the name of its user, `GRANT_VERBS` for roles, and `CREATE_NAMESPACE`."""
        # Helm reads what exists, and creates by POST (3) or by apply (4), which needs both verbs. Its own record is a Secret, which it
        # lists and updates.
        verbs = {
            each: ("get", "create", "patch", *(GRANT_VERBS if each[0] in _ROLES else ())) for each in self.resources
        }
        record = ("secrets", self.namespace)
        verbs[record] = tuple(dict.fromkeys((*verbs.get(record, ()), "get", "list", "create", "update")))
        return [*((verb, *place) for place in sorted(verbs) for verb in verbs[place]), CREATE_NAMESPACE]


DEFAULT_RELEASE: Final = PlannedRelease(
    NAMESPACE, frozenset((each, "" if each in _CLUSTER_WIDE else NAMESPACE) for each in _CHART)
)
"""The release that the chart's default values make."""


def read_release(text: bytes) -> PlannedRelease:
    """Return the release that `helm template` printed. Raises CommandFailed, and InstallationError for its settings."""
    try:
        # The CRDs have 330 kB, for which the loader in Python takes seconds.
        documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        objects = [
            each for each in documents if each and "helm.sh/hook" not in (each["metadata"].get("annotations") or ())
        ]
        settings = next(each for each in objects if INSTALLATION_FILE in (each.get("data") or ()))
        own = settings["metadata"]["namespace"]
        created = [(_guess_resource(each), each["metadata"].get("namespace", own)) for each in objects]
        pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment"]
        images = [
            ReleaseImage(each["image"], each.get("imagePullPolicy", "")) for pod in pods for each in pod["containers"]
        ]
        keys = [each["name"] for pod in pods for each in pod.get("imagePullSecrets") or ()]
    except (yaml.YAMLError, StopIteration, LookupError, TypeError, AttributeError) as err:
        found = one_line(err) or "no settings of Sundog"
        raise CommandFailed(f"--filename: {found}; expected the output of `helm template`", ExitCode.USAGE) from None
    resources = frozenset((each, "" if each in _CLUSTER_WIDE else namespace) for each, namespace in created)
    installation = parse_installation(settings["data"][INSTALLATION_FILE], INSTALLATION_FILE)
    keys += [
        each.name for each in (*installation.ray.pods.image_pull_secrets, *installation.edge.pods.image_pull_secrets)
    ]
    unique: dict[str, ReleaseImage] = {}
    for each in (*images, *_find_planned_images(installation)):
        unique.setdefault(each.name, each)
    return PlannedRelease(own, resources, installation, tuple(unique.values()), tuple(dict.fromkeys(keys)))


def _find_planned_images(installation: Installation) -> Iterator[ReleaseImage]:
    """Yield the images of the pods that the operator will create."""
    ray, edge = installation.ray, installation.edge
    yield ReleaseImage(installation.edge_image, edge.pods.image_pull_policy)
    yield ReleaseImage(installation.runtime_image, ray.pods.image_pull_policy)
    if ray.gcs_fault_tolerance.enabled and not ray.gcs_fault_tolerance.external.address:
        yield ReleaseImage(ray.gcs_fault_tolerance.image, ray.pods.image_pull_policy)
    if not installation.feedback.store.external.address:
        yield ReleaseImage(installation.feedback.store.image, edge.pods.image_pull_policy)


def _guess_resource(obj: Any) -> str:
    """Return the resource of an object, by the rule that kubectl uses for kinds that it cannot look up."""
    name, group = obj["kind"].lower(), obj["apiVersion"].rpartition("/")[0]
    plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}es" if name.endswith("s") else f"{name}s"
    return f"{plural}.{group}" if group else plural
