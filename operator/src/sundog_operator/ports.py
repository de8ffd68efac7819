"""The ports of the application as Protocols. Contract tests check that all adapters behave alike."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from sundog_operator.core.observed import EdgeReport, ExposureLogResult, PrometheusResult, ServeState, WebhookResult

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

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
REPLICA_SET = Kind("apps/v1", "ReplicaSet", "replicasets")
STATEFUL_SET = Kind("apps/v1", "StatefulSet", "statefulsets")
PERSISTENT_VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
POD_DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
NODE = Kind("v1", "Node", "nodes", namespaced=False)
RESOURCE_CLAIM_TEMPLATE = Kind("resource.k8s.io/v1", "ResourceClaimTemplate", "resourceclaimtemplates")
WORKLOAD = Kind("kueue.x-k8s.io/v1beta2", "Workload", "workloads")
OLD_WORKLOAD = Kind("kueue.x-k8s.io/v1beta1", "Workload", "workloads")
RESOURCE_QUOTA = Kind("v1", "ResourceQuota", "resourcequotas")
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
STORAGE_CLASS = Kind("storage.k8s.io/v1", "StorageClass", "storageclasses", namespaced=False)
CUSTOM_RESOURCE_DEFINITION = Kind(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)

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
    REPLICA_SET,
    STATEFUL_SET,
    PERSISTENT_VOLUME_CLAIM,
    POD_DISRUPTION_BUDGET,
    HTTP_ROUTE,
    NETWORK_POLICY,
    LEASE,
    NODE,
    RESOURCE_QUOTA,
    NAMESPACE,
    WORKLOAD,
    OLD_WORKLOAD,
    RESOURCE_CLAIM_TEMPLATE,
    STORAGE_CLASS,
    CUSTOM_RESOURCE_DEFINITION,
)
_BY_TYPE = {(kind.api_version, kind.kind): kind for kind in KINDS}


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """The reference to one object. The namespace is empty for an object of the whole cluster."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind.kind} {self.name}"


def ref_of(obj: Object) -> Ref:
    """Return the reference to a stored object. Raises KeyError for a kind that is not in KINDS."""
    kind, meta = _BY_TYPE[obj["apiVersion"], obj["kind"]], obj["metadata"]
    return Ref(kind, meta["namespace"] if kind.namespaced else "", meta["name"])


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change of one object. `SYNCED` follows the initial list and has no object."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "SYNCED"]
    object: Object


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All objects of a kind at one resourceVersion."""

    objects: list[Object]
    version: str


class Kubernetes(Protocol):
    """The API server. Objects are dictionaries.

    Every method raises `errors.DependencyError` when the server does not answer, NotServed for a kind that it does not serve, and the
    subclasses that the methods name.
    """

    async def get(self, ref: Ref) -> Object | None:
        """Return the stored object; None where it does not exist."""

    async def labels(self, ref: Ref) -> Mapping[str, str] | None:
        """Return the stored object's labels; None where it does not exist. For objects in memory it is cheaper than `get`."""

    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """Return the objects of a kind with these labels in a namespace (None: all), ordered by namespace and name."""

    async def view(self, ref: Ref, of: Callable[[Object], T]) -> T | None:
        """Return the result of a pure function of the stored object; None where the object does not exist.

        For objects in memory the result is computed once for each state of the object and shared, so callers must not change it. `of` must
        be a module-level function, because it is part of the cache key.
        """

    async def views(
        self, kind: Kind, namespace: str | None, of: Callable[[Object], T], labels: Mapping[str, str] | None = None
    ) -> Sequence[T]:
        """Return the results of `view` for all objects that `list` returns."""

    def version(self, namespace: str) -> int | None:
        """Return a number that differs after each change of a namespace's objects in memory; None where not all are in memory."""

    async def scan(self, kind: Kind, of: Callable[[Object], T]) -> Sequence[T]:
        """Return the results of a pure function of each object of a kind in all namespaces, in no order.

        It reads from the server, page by page. Use it for kinds of which a cluster may have very many, most of them foreign.
        """

    async def create(self, obj: Object) -> Object:
        """Create an object. Raises AlreadyExists."""

    async def apply(self, obj: Object) -> Object:
        """Apply an object server-side with Sundog's field manager, forced. Create it where it does not exist. Ignore `status`.

        An apply that changes nothing keeps resourceVersion and generation. But a real server changes the resourceVersion once: the first
        write after the creation stores the defaults that the server only showed before.
        """

    async def replace(self, obj: Object) -> Object:
        """Replace the whole object with the resourceVersion in its metadata. Ignore `status`.

        Use it for a list that is written as a whole while others own parts of its items: read, change, replace. Raises Conflict when the
        object has changed, Conflict or NotFound when it is deleted, and ValueError without a resourceVersion.
        """

    async def patch_status(self, ref: Ref, status: Mapping[str, Any], *, resource_version: str) -> Object:
        """Replace `status` of exactly that resourceVersion. Raises Conflict when the object has changed, NotFound when it is deleted."""

    async def annotate(self, ref: Ref, annotations: Mapping[str, str | None]) -> Object:
        """Merge annotations; None removes one. Only the CLI calls it on a user's object, never the operator."""

    async def delete(self, ref: Ref, *, uid: str | None = None) -> None:
        """Delete an object. With a `uid`, raises Conflict for another object of that name. A missing object is a success."""

    def watch(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[WatchEvent]:
        """Yield ADDED for each existing object, one SYNCED, then changes. Ends or raises DependencyError when the stream breaks."""


class Serve(Protocol):
    """Serve's REST API of a RayCluster, by the base URL of its dashboard."""

    async def read(self, dashboard: str, namespace: str) -> ServeState:
        """Return the state of Serve, with the token of the cluster's namespace. Raises RayUnavailable."""

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        """Replace the whole list of applications. Raises RayUnavailable, and ServeRefused when Serve rejects the document."""


class Edges(Protocol):
    """The edges of a namespace."""

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """Return one report per edge pod, in the given order. Never raises: an edge that does not answer has a report too."""

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        """Return the reports for one service, with its counts by time block, and with `by_unit` also by unit."""


class Webhooks(Protocol):
    """Webhooks whose URLs manifests name."""

    def post(self, url: str, document: Mapping[str, Any], timeout_s: float) -> Coroutine[Any, Any, WebhookResult]:
        """POST a JSON document once, and return the result within the timeout. Never raises.

        It follows no redirect, does not read the response body, and verifies TLS.
        """


class ExposureLogWriter(Protocol):
    """Writes exposure logs of experiments to storage."""

    async def write(
        self,
        experiment: Object,
        pods: Sequence[Object],
        folder_uri: str,
        form: Literal["jsonl.gz", "parquet"],
        at: datetime,
        *,
        final: bool,
    ) -> ExposureLogResult:
        """Write an Experiment's exposures from the edges among these pods into a folder, `plan.json` last. Never raises.

        It replaces the files that a killed process left there.

        Args:
            experiment: the stored Experiment.
            pods: the edge's pods.
            folder_uri: URI of the folder.
            form: file format.
            at: time of the export.
            final: whether no exposures may arrive during the export.
        """


class Prometheus(Protocol):
    """The administrator's Prometheus."""

    def query(self, expression: str) -> Coroutine[Any, Any, PrometheusResult]:
        """Return the current result of a PromQL expression, without its time. Never raises."""


class Clock(Protocol):
    """Time, which tests replace."""

    def now(self) -> datetime:
        """Return the current time in UTC."""

    def monotonic(self) -> float:
        """Return seconds that never decrease, independent of the wall clock."""

    async def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds."""
