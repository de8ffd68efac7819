"""The operator's metrics: controller-runtime's names, so that existing dashboards and alerts work, then our own."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, get_args
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sundog_operator.app.controller import Result
from sundog_operator.app.queue.keys import Key, KeyKind
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.ports import Object

QUEUE_NAME: Final = "sundog"
_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
_DECISIONS: Final = {"Promoted": "promote", "RolloutStarted": "start", "TrafficShifted": "shift"}
_OF_A_ROLLOUT: Final = "Rollout"


class OperatorMetrics:
    """One process's metrics. It hears of passes and of the queue (`app.loop.Observer`), of requests and of events."""

    def __init__(self, workers: int, identity: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._passes = self._counter(
            "controller_runtime_reconcile", "Passes by how they ended.", "controller", "result"
        )
        self._errors = self._counter("controller_runtime_reconcile_errors", "Passes that failed.", "controller")
        self._terminal = self._counter(
            "controller_runtime_terminal_reconcile_errors", "Passes that failed for good: none do.", "controller"
        )
        self._panics = self._counter(
            "controller_runtime_reconcile_panics", "Passes that an error in our own code ended.", "controller"
        )
        self._seconds = self._histogram("controller_runtime_reconcile_time_seconds", "Time of a pass.", "controller")
        self._active = self._gauge("controller_runtime_active_workers", "Passes that run now.", "controller")
        most = self._gauge("controller_runtime_max_concurrent_reconciles", "Passes at a time.", "controller")
        self._adds = self._counter("workqueue_adds", "Keys that came into the line.", "name").labels(QUEUE_NAME)
        self._retries = self._counter("workqueue_retries", "Keys that came back after a failure.", "name").labels(
            QUEUE_NAME
        )
        self._waited = self._histogram(
            "workqueue_queue_duration_seconds", "From when a key was due until a worker took it.", "name"
        ).labels(QUEUE_NAME)
        self._worked = self._histogram("workqueue_work_duration_seconds", "Time of a pass.", "name").labels(QUEUE_NAME)
        self._requests = self._counter("rest_client_requests", "Requests to the API server.", "code", "method", "host")
        self._told = self._counter("sundog_rollout_decisions", "What was decided about rollouts.", "decision", "reason")
        self._missed = self._counter("sundog_watch_missed", "Objects whose change only a list told, by kind.", "kind")
        self._leads = self._gauge("leader_election_master_status", "1 in the process that leads.", "name")
        self._identity = identity
        self._running: dict[Key, float] = {}
        for kind in get_args(KeyKind):
            most.labels(kind).set(workers)
            self._active.labels(kind).set(0)
            self._errors.labels(kind)
            self._terminal.labels(kind)
            self._panics.labels(kind)
        self.set_leading(leads=False)
        self.registry.register(_Computed(self._unfinished))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def began(self, key: Key) -> None:
        """See app.loop.Observer."""
        self._running[key] = time.monotonic()
        self._active.labels(key.kind).inc()

    def ended(self, key: Key, result: Result, seconds: float) -> None:
        """See app.loop.Observer."""
        self._running.pop(key, None)
        self._active.labels(key.kind).dec()
        self._passes.labels(key.kind, "error" if result == "panic" else result).inc()
        self._seconds.labels(key.kind).observe(seconds)
        self._worked.observe(seconds)
        if result in {"error", "panic"}:
            self._errors.labels(key.kind).inc()
        if result == "panic":
            self._panics.labels(key.kind).inc()

    def added(self) -> None:
        """See app.work_queue.QueueObserver."""
        self._adds.inc()

    def taken(self, waited_s: float) -> None:
        """See app.work_queue.QueueObserver."""
        self._waited.observe(max(waited_s, 0.0))

    def retried(self) -> None:
        """See app.work_queue.QueueObserver."""
        self._retries.inc()

    def asked(self, method: str, host: str, status: int) -> None:
        """A request to the API server was answered; status 0: it was not."""
        self._requests.labels(str(status) if status else "<error>", method, urlsplit(host).netloc).inc()

    def told(self, event: KubernetesEvent) -> None:
        """An event was told for the first time."""
        if event.reason in _DECISIONS or event.reason.startswith(_OF_A_ROLLOUT):
            decision = _DECISIONS.get(event.reason) or event.reason.removeprefix(_OF_A_ROLLOUT).lower()
            self._told.labels(decision, event.reason).inc()

    def missed(self, kind: str, count: int) -> None:
        """A list told of so many changes that a watch should have told of."""
        self._missed.labels(kind).inc(count)

    def set_leading(self, *, leads: bool) -> None:
        """Whether this process leads now."""
        self._leads.labels(self._identity).set(leads)

    def measure(self, depth: Callable[[], int], kept: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """Ask at each scrape for the length of the line, and by kind for the number of objects in memory."""
        self.registry.register(
            _Computed(
                lambda: [
                    _gauge(
                        "workqueue_depth",
                        "Keys that are due and that no worker has taken yet.",
                        ("name",),
                        [((QUEUE_NAME,), depth())],
                    ),
                    _gauge(
                        "sundog_cached_objects", "Objects kept in memory.", ("kind",), [((k,), n) for k, n in kept()]
                    ),
                ]
            )
        )

    def describe(self, deployments: Callable[[], Iterable[Object]]) -> None:
        """Ask at each scrape for the ModelDeployments, and tell what their statuses say."""
        self.registry.register(_Computed(lambda: _of_deployments(deployments())))

    def _unfinished(self) -> list[Metric]:
        now = time.monotonic()
        since = [now - at for at in self._running.values()]
        return [
            _gauge(
                "workqueue_unfinished_work_seconds",
                "Time of all passes that run now.",
                ("name",),
                [((QUEUE_NAME,), sum(since))],
            ),
            _gauge(
                "workqueue_longest_running_processor_seconds",
                "Time of the longest pass that runs now.",
                ("name",),
                [((QUEUE_NAME,), max(since, default=0.0))],
            ),
        ]

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=_BUCKETS)


class _Computed(Collector):
    """Metrics that are computed when they are asked for."""

    def __init__(self, compute: Callable[[], list[Metric]]) -> None:
        self._compute = compute

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        return self._compute()

    def describe(self) -> Iterable[Metric]:
        """Nothing is computed only to be registered."""
        return ()


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _of_deployments(deployments: Iterable[Object]) -> list[Metric]:
    known = list(deployments)
    return [
        _gauge(
            "sundog_modeldeployment_condition",
            "1 for the status that a condition has.",
            ("namespace", "name", "type", "status"),
            (sample for obj in known for sample in _conditions(obj)),
        ),
        _gauge(
            "sundog_modeldeployment_canary_weight",
            "Percent of the traffic that the candidate gets.",
            ("namespace", "name"),
            ((_name(obj), float((_status(obj).get("candidate") or {}).get("weight") or 0)) for obj in known),
        ),
        _gauge(
            "sundog_modeldeployment_replicas",
            "Replicas of each revision that is live.",
            ("namespace", "name", "revision", "state"),
            (sample for obj in known for sample in _replicas(obj)),
        ),
    ]


def _name(obj: Object) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _status(obj: Object) -> Object:
    return obj.get("status") or {}


def _conditions(obj: Object) -> Iterator[tuple[tuple[str, ...], float]]:
    for condition in _status(obj).get("conditions") or ():
        yield (*_name(obj), condition["type"], condition["status"]), 1.0


def _replicas(obj: Object) -> Iterator[tuple[tuple[str, ...], float]]:
    for role in ("stable", "candidate"):
        revision = _status(obj).get(role) or {}
        for state, field in (("desired", "replicas"), ("ready", "readyReplicas")):
            if field in revision:
                yield (*_name(obj), str(revision.get("revision")), state), float(revision[field])
