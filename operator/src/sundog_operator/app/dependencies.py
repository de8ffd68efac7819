"""Everything outside the process that a reconciler uses."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from sundog_operator.api.installation import Installation
from sundog_operator.app.background.requests import BackgroundRequests
from sundog_operator.app.device_inventory import DeviceInventory
from sundog_operator.app.lost_replicas import ReplicaTracker
from sundog_operator.app.queue.idle import IdleKeys
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ExposureLogResult, PrometheusResult, WebhookResult
from sundog_operator.ports import Clock, Edges, ExposureLogWriter, Kubernetes, Prometheus, Serve, Webhooks


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What an installation decides.

    Attributes:
        identity: names this process in events.
        runtime_image: what an empty `runtime.image` stands for.
        edge_image: image of the edge's pods.
        workers: keys at work at the same time.
        installation: of a Kubernetes cluster; None in local mode, where nothing runs in pods.
    """

    identity: str = "sundog"
    runtime_image: str = "sundog/runtime"
    edge_image: str = "sundog/edge"
    workers: int = 4
    installation: Installation | None = None

    @property
    def cluster_domain(self) -> str:
        """The last part of the full names of Services."""
        return self.installation.cluster_domain if self.installation else names.CLUSTER_DOMAIN

    @classmethod
    def of(cls, installation: Installation, identity: str) -> Self:
        """The settings of an installation in a cluster."""
        return cls(
            identity=identity,
            runtime_image=installation.runtime_image,
            edge_image=installation.edge_image,
            workers=installation.workers,
            installation=installation,
        )


class EventDeduplicator:
    """The events told lately, so that telling one again does not even ask the API server."""

    LIFE_S: Final = 600.0

    def __init__(self, heard: Callable[[KubernetesEvent], None] = lambda _: None) -> None:
        """`heard` is called with each event that was not told before."""
        self._at: OrderedDict[str, float] = OrderedDict()
        self.heard = heard

    def lately(self, key: str, now: float) -> bool:
        """Whether it was told within the last ten minutes."""
        at = self._at.get(key)
        return at is not None and now - at < self.LIFE_S

    def note(self, key: str, now: float) -> None:
        """It was told now; what was told long ago is forgotten."""
        self._at[key] = now
        self._at.move_to_end(key)
        while now - next(iter(self._at.values())) >= self.LIFE_S:
            self._at.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The ports, the settings of this installation, the events told lately, the posts, queries and logs that are under way,
    and the replicas that ran at the last pass.

    `prometheus` is None where no administrator named one, `exposure_logs` where nobody can write any. `server` is the API server itself
    where `kube` knows of most kinds our own objects alone; None where `kube` knows all. `devices` are the accelerators of all its nodes,
    `rests` what keys saw that have nothing to do.
    """

    kube: Kubernetes
    serve: Serve
    edges: Edges
    webhooks: Webhooks
    clock: Clock
    settings: OperatorSettings = OperatorSettings()
    told: EventDeduplicator = field(default_factory=EventDeduplicator, compare=False)
    server: Kubernetes | None = None
    devices: DeviceInventory = field(default_factory=DeviceInventory, compare=False)
    rests: IdleKeys = field(default_factory=IdleKeys, compare=False)
    posts: BackgroundRequests[WebhookResult] = field(default_factory=BackgroundRequests, compare=False)
    prometheus: Prometheus | None = None
    queries: BackgroundRequests[PrometheusResult] = field(default_factory=BackgroundRequests, compare=False)
    exposure_logs: ExposureLogWriter | None = None
    logs: BackgroundRequests[ExposureLogResult] = field(default_factory=BackgroundRequests, compare=False)
    replicas: ReplicaTracker = field(default_factory=ReplicaTracker, compare=False)
