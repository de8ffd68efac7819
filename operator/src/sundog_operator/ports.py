"""What the application needs of the world, as Protocols; contract tests hold every adapter to the same behaviour."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from sundog_operator.core.observed import EdgeReport, ServeState

Object = dict[str, Any]
"""A Kubernetes object as plain JSON."""


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """A namespaced resource type."""

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]


MODEL_DEPLOYMENT = Kind("serving.sundog.dev/v1alpha1", "ModelDeployment", "modeldeployments")
EXPERIMENT = Kind("serving.sundog.dev/v1alpha1", "Experiment", "experiments")
CONTROLLER_REVISION = Kind("apps/v1", "ControllerRevision", "controllerrevisions")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SECRET = Kind("v1", "Secret", "secrets")
POD = Kind("v1", "Pod", "pods")
RAY_CLUSTER = Kind("ray.io/v1", "RayCluster", "rayclusters")
EVENT = Kind("events.k8s.io/v1", "Event", "events")

KINDS = (MODEL_DEPLOYMENT, EXPERIMENT, CONTROLLER_REVISION, DEPLOYMENT, CONFIG_MAP, SECRET, POD, RAY_CLUSTER, EVENT)


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Names one object."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}"


def ref_of(obj: Object) -> Ref:
    """The reference of a stored object. Raises KeyError for a kind that is not in KINDS."""
    by_type = {(kind.api_version, kind.kind): kind for kind in KINDS}
    meta = obj["metadata"]
    return Ref(by_type[obj["apiVersion"], obj["kind"]], meta["namespace"], meta["name"])


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change of one object. `SYNCED` follows the initial list and carries no object."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "SYNCED"]
    object: Object


class Kubernetes(Protocol):
    """The API server: dictionaries in, dictionaries out.

    Every method raises `errors.DependencyError` when the server cannot be reached, and the named subclasses below.
    """

    async def get(self, ref: Ref) -> Object | None:
        """The stored object, or None where there is none."""

    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """All objects of a kind, by namespace (None: all) and equality of labels, ordered by namespace and name."""

    async def create(self, obj: Object) -> Object:
        """Create. Raises AlreadyExists."""

    async def apply(self, obj: Object) -> Object:
        """Server-side apply with our field manager, forced. Creates where absent. Leaves `status` alone.

        An apply that changes nothing leaves resourceVersion and generation as they are.
        """

    async def patch_status(self, ref: Ref, status: Mapping[str, Any], *, resource_version: str) -> Object:
        """Replace `status` of exactly that resourceVersion. Raises Conflict when the object moved on, NotFound when it is gone."""

    async def annotate(self, ref: Ref, annotations: Mapping[str, str | None]) -> Object:
        """Merge annotations (None removes one). For the CLI: the operator itself never calls it on a user's object."""

    async def delete(self, ref: Ref, *, uid: str | None = None) -> None:
        """Delete, with a uid only that very object (else Conflict). Gone already is success."""

    def watch(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[WatchEvent]:
        """ADDED for what exists, one SYNCED, then changes as they come; ends or raises DependencyError when the stream breaks."""


class Serve(Protocol):
    """Serve's REST API of one Ray cluster, by the base URL of its dashboard."""

    async def read(self, dashboard: str) -> ServeState:
        """What is deployed. Raises RayUnavailable."""

    async def put(self, dashboard: str, document: Mapping[str, Any]) -> None:
        """Replace the whole application list. Raises RayUnavailable, or ServeRefused when Serve rejects the document."""


class Edges(Protocol):
    """The edges of a namespace."""

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """One report per edge pod, in the order given. Never raises: an edge that is silent is a fact to report."""


class Clock(Protocol):
    """Time, so that tests can be hours ahead."""

    def now(self) -> datetime:
        """The current instant, in UTC."""

    def monotonic(self) -> float:
        """Seconds that only ever grow, however the wall clock is set."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
