"""What the application needs of the world, as Protocols; contract tests hold every adapter to the same behaviour."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from sundog_operator.core.observed import EdgeReport, ExposureLogResult, PrometheusResult, ServeState, WebhookResult

Object = dict[str, Any]
"""A Kubernetes object as plain JSON."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """A resource type, of a namespace or of the whole cluster."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

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
SERVICE = Kind("v1", "Service", "services")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
ROLE = Kind("rbac.authorization.k8s.io/v1", "Role", "roles")
ROLE_BINDING = Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
STATEFUL_SET = Kind("apps/v1", "StatefulSet", "statefulsets")
PERSISTENT_VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
POD_DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
NODE = Kind("v1", "Node", "nodes", namespaced=False)
RESOURCE_QUOTA = Kind("v1", "ResourceQuota", "resourcequotas")
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)

KINDS = (
    MODEL_DEPLOYMENT,
    EXPERIMENT,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    CONFIG_MAP,
    SECRET,
    POD,
    RAY_CLUSTER,
    EVENT,
    SERVICE,
    SERVICE_ACCOUNT,
    ROLE,
    ROLE_BINDING,
    STATEFUL_SET,
    PERSISTENT_VOLUME_CLAIM,
    POD_DISRUPTION_BUDGET,
    HTTP_ROUTE,
    NETWORK_POLICY,
    LEASE,
    NODE,
    RESOURCE_QUOTA,
    NAMESPACE,
)
_BY_TYPE = {(kind.api_version, kind.kind): kind for kind in KINDS}


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Names one object; the namespace is empty for an object of the whole cluster."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind.kind} {self.name}"


def ref_of(obj: Object) -> Ref:
    """The reference of a stored object. Raises KeyError for a kind that is not in KINDS."""
    kind, meta = _BY_TYPE[obj["apiVersion"], obj["kind"]], obj["metadata"]
    return Ref(kind, meta["namespace"] if kind.namespaced else "", meta["name"])


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change of one object. `SYNCED` follows the initial list and carries no object."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "SYNCED"]
    object: Object


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All objects of a kind at one resourceVersion."""

    objects: list[Object]
    version: str


class Kubernetes(Protocol):
    """The API server: dictionaries in, dictionaries out.

    Every method raises `errors.DependencyError` when the server cannot be reached, NotServed for a kind that the server does not know, and
    the named subclasses below.
    """

    async def get(self, ref: Ref) -> Object | None:
        """The stored object, or None where there is none."""

    async def labels(self, ref: Ref) -> Mapping[str, str] | None:
        """The labels of the stored object, or None where there is none. Where objects are kept in memory, cheaper than `get`."""

    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """All objects of a kind, by namespace (None: all) and equality of labels, ordered by namespace and name."""

    async def view(self, ref: Ref, of: Callable[[Object], T]) -> T | None:
        """What a pure function makes of the stored object, or None where there is none.

        Where objects are kept in memory it is computed once for each state of the object, and all who ask get the same: nobody may change
        it. `of` is a function of its module, by which what it made is found again.
        """

    async def views(
        self, kind: Kind, namespace: str | None, of: Callable[[Object], T], labels: Mapping[str, str] | None = None
    ) -> Sequence[T]:
        """Likewise of all objects of a kind, as `list` gives them."""

    def version(self, namespace: str) -> int | None:
        """A number that is another one after each change of what is kept in memory of a namespace; None where not all of it is kept."""

    async def scan(self, kind: Kind, of: Callable[[Object], T]) -> Sequence[T]:
        """What a pure function makes of each object of a kind in all namespaces, in no order; read from the server, a page at a time.

        For kinds of which a cluster may have very many, most of them not ours.
        """

    async def create(self, obj: Object) -> Object:
        """Create. Raises AlreadyExists."""

    async def apply(self, obj: Object) -> Object:
        """Server-side apply with our field manager, forced. Creates where absent. Leaves `status` alone.

        An apply that changes nothing leaves resourceVersion and generation as they are. But a real server moves the
        resourceVersion once with the first write after creation, when it stores the defaults that it only showed before.
        """

    async def replace(self, obj: Object) -> Object:
        """Put a whole object in the place of the resourceVersion in its metadata. Leaves `status` alone.

        For an object whose list is written whole while others own parts of its items: read, change, replace. Raises
        Conflict when it moved on, Conflict or NotFound when it is gone, ValueError without a resourceVersion.
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

    async def read(self, dashboard: str, namespace: str) -> ServeState:
        """What is deployed on a cluster of that namespace, whose token counts. Raises RayUnavailable."""

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        """Replace the whole application list. Raises RayUnavailable, or ServeRefused when Serve rejects the document."""


class Edges(Protocol):
    """The edges of a namespace."""

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """One report per edge pod, in the order given. Never raises: an edge that is silent is a fact to report."""

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        """The same of one service alone, with what was counted in each block of time, and by unit if that is asked for."""


class Webhooks(Protocol):
    """Addresses outside that manifests name."""

    def post(self, url: str, document: Mapping[str, Any], timeout_s: float) -> Coroutine[Any, Any, WebhookResult]:
        """POST a JSON document once, and give what came of it within so many seconds. Never raises.

        No redirect is followed, the body of the answer is not read, and TLS is verified.
        """


class ExposureLogWriter(Protocol):
    """Places outside that hold exposure logs of experiments."""

    async def write(
        self,
        experiment: Object,
        pods: Sequence[Object],
        place: str,
        form: Literal["parquet"],
        at: datetime,
        *,
        final: bool,
    ) -> ExposureLogResult:
        """Write what the edges among these pods keep of an Experiment into a folder, `plan.json` last. Never raises.

        `at` is the time of it. With `final` nothing may come while it is read. What a killed process has left there is replaced.
        """


class Prometheus(Protocol):
    """The Prometheus of the administrator."""

    def query(self, expression: str) -> Coroutine[Any, Any, PrometheusResult]:
        """What an expression of PromQL gives now, without the time of asking. Never raises."""


class Clock(Protocol):
    """Time, so that tests can be hours ahead."""

    def now(self) -> datetime:
        """The current instant, in UTC."""

    def monotonic(self) -> float:
        """Seconds that only ever grow, however the wall clock is set."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
