"""The ports, settings and shared memory that reconcilers use."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from sundog_operator.api.installation import Installation
from sundog_operator.app.background.requests import BackgroundRequests
from sundog_operator.app.device_inventory import DeviceInventory
from sundog_operator.app.lost_replicas import ReplicaTracker
from sundog_operator.app.plan_threads import MakePlan, plan_here
from sundog_operator.app.queue.idle import IdleKeys
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ExposureLogResult, PrometheusResult, WebhookResult
from sundog_operator.ports import Clock, Edges, ExposureLogWriter, Kubernetes, Prometheus, Serve, Webhooks


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """Settings of the operator.

    Attributes:
        identity: name of this process in events.
        runtime_image: image of revisions with an empty `runtime.image`.
        edge_image: image of the edge's pods.
        workers: number of keys that are reconciled at the same time.
        installation: settings of a Kubernetes cluster; None in local mode, where nothing runs in pods.
    """

    identity: str = "sundog"
    runtime_image: str = "sundog/runtime"
    edge_image: str = "sundog/edge"
    workers: int = 4
    installation: Installation | None = None

    @property
    def cluster_domain(self) -> str:
        """The cluster's DNS domain, the last part of the full names of Services."""
        return self.installation.cluster_domain if self.installation else names.CLUSTER_DOMAIN

    @classmethod
    def of(cls, installation: Installation, identity: str) -> Self:
        """Return the settings of an installation in a cluster."""
        return cls(
            identity=identity,
            runtime_image=installation.runtime_image,
            edge_image=installation.edge_image,
            workers=installation.workers,
            installation=installation,
        )


class EventDeduplicator:
    """Remembers recent events, so that a repeated event causes no request to the API server."""

    LIFE_S: Final = 600.0

    def __init__(self, on_new: Callable[[KubernetesEvent], None] = lambda _: None) -> None:
        """`on_new` is called with each event that was written for the first time."""
        self._at: OrderedDict[str, float] = OrderedDict()
        self.on_new = on_new

    def has(self, key: str, now: float) -> bool:
        """Return whether an event was added within the last ten minutes."""
        at = self._at.get(key)
        return at is not None and now - at < self.LIFE_S

    def add(self, key: str, now: float) -> None:
        """Add an event, and forget those older than ten minutes."""
        self._at[key] = now
        self._at.move_to_end(key)
        while now - next(iter(self._at.values())) >= self.LIFE_S:
            self._at.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The ports, the settings, and the memory that passes share.

    Attributes:
        recent_events: events that were written lately.
        server: the API server itself, where `kube` has only Sundog's objects of most kinds; None where `kube` has all objects.
        devices: the accelerators of the cluster.
        idle_keys: the observed state of idle keys.
        webhook_requests: posts to webhooks and their last answers.
        prometheus: None where the administrator configured none.
        prometheus_requests: queries and their last answers.
        exposure_logs: None where exposure logs cannot be written.
        exposure_log_requests: writes of exposure logs and their last results.
        make_plan: plans a pass of a ModelDeployment.
        find_excess: why the objects of a namespace do not fit into the operator's memory; empty where they do.
        replica_sets: the uid of the Deployment of a ReplicaSet, empty for none, and the monotonic time of its read, by uid.
        replicas: the applications at the last pass.
        rejected_clusters: why the API server rejected the last write of a RayCluster, and the groups that it would have enlarged, by
            (namespace, name).
    """

    kube: Kubernetes
    serve: Serve
    edges: Edges
    webhooks: Webhooks
    clock: Clock
    settings: OperatorSettings = OperatorSettings()
    recent_events: EventDeduplicator = field(default_factory=EventDeduplicator, compare=False)
    server: Kubernetes | None = None
    devices: DeviceInventory = field(default_factory=DeviceInventory, compare=False)
    idle_keys: IdleKeys = field(default_factory=IdleKeys, compare=False)
    webhook_requests: BackgroundRequests[WebhookResult] = field(default_factory=BackgroundRequests, compare=False)
    prometheus: Prometheus | None = None
    prometheus_requests: BackgroundRequests[PrometheusResult] = field(default_factory=BackgroundRequests, compare=False)
    exposure_logs: ExposureLogWriter | None = None
    exposure_log_requests: BackgroundRequests[ExposureLogResult] = field(
        default_factory=BackgroundRequests, compare=False
    )
    make_plan: MakePlan = plan_here
    find_excess: Callable[[str], str] = lambda _: ""
    replica_sets: dict[str, tuple[str, float]] = field(default_factory=dict, compare=False)
    replicas: ReplicaTracker = field(default_factory=ReplicaTracker, compare=False)
    rejected_clusters: dict[tuple[str, str], tuple[str, frozenset[str]]] = field(default_factory=dict, compare=False)
