"""The operator's metrics. The first have controller-runtime's names, so that existing dashboards and alerts work; then come our own."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, get_args
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sundog_operator.api.reasons import EventReason
from sundog_operator.app.controller import Result
from sundog_operator.app.queue.keys import Key, KeyKind
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.ports import Object

QUEUE_NAME: Final = "sundog"
_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
_DECISIONS: Final[Mapping[str, str]] = {
    EventReason.PROMOTED: "promote",
    EventReason.ROLLOUT_STARTED: "start",
    EventReason.TRAFFIC_SHIFTED: "shift",
    EventReason.ROLLOUT_PAUSED: "paused",
    EventReason.ROLLOUT_RESUMED: "resumed",
    EventReason.ROLLOUT_ABORTED: "aborted",
    EventReason.ROLLOUT_ROLLED_BACK: "rolledback",
    EventReason.ROLLOUT_SUPERSEDED: "superseded",
}


class OperatorMetrics:
    """The metrics of one process. It observes passes (`app.controller`), the queue (`app.queue`), requests and events."""

    def __init__(self, workers: int, identity: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._passes = self._counter("controller_runtime_reconcile", "Reconciles by result.", "controller", "result")
        self._errors = self._counter("controller_runtime_reconcile_errors", "Reconciles that failed.", "controller")
        self._terminal = self._counter(
            "controller_runtime_terminal_reconcile_errors",
            "Reconciles that failed without a retry; always 0.",
            "controller",
        )
        self._panics = self._counter(
            "controller_runtime_reconcile_panics", "Reconciles that a bug in the operator ended.", "controller"
        )
        self._seconds = self._histogram(
            "controller_runtime_reconcile_time_seconds", "Duration of a reconcile.", "controller"
        )
        self._active = self._gauge("controller_runtime_active_workers", "Reconciles that run now.", "controller")
        most = self._gauge(
            "controller_runtime_max_concurrent_reconciles", "Maximum of concurrent reconciles.", "controller"
        )
        self._adds = self._counter("workqueue_adds", "Keys that were added to the queue.", "name").labels(QUEUE_NAME)
        self._retries = self._counter("workqueue_retries", "Keys that were retried after a failure.", "name").labels(
            QUEUE_NAME
        )
        self._waited = self._histogram(
            "workqueue_queue_duration_seconds", "Time from when a key is due until a worker takes it.", "name"
        ).labels(QUEUE_NAME)
        self._worked = self._histogram("workqueue_work_duration_seconds", "Duration of a reconcile.", "name").labels(
            QUEUE_NAME
        )
        self._requests = self._counter("rest_client_requests", "Requests to the API server.", "code", "method", "host")
        self._decisions = self._counter("sundog_rollout_decisions", "Decisions about rollouts.", "decision", "reason")
        # A series that begins with 1 is no increase to Prometheus.
        for reason, decision in _DECISIONS.items():
            self._decisions.labels(decision, reason)
        self._missed = self._counter(
            "sundog_watch_missed", "Changed objects that a list found and a watch did not deliver, by kind.", "kind"
        )
        self._abandoned = self._counter("sundog_plans_abandoned", "Plans of a pass that took more than five seconds.")
        self._leads = self._gauge("leader_election_master_status", "1 in the process that leads.", "name")
        # Every program of controller-runtime has the metric above. Alerts find Sundog's processes by this one.
        self._leader = self._gauge("sundog_operator_leader", "1 in the process that leads, 0 in the others.")
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
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def began(self, key: Key) -> None:
        """See the Observer of app.controller."""
        self._running[key] = time.monotonic()
        self._active.labels(key.kind).inc()

    def ended(self, key: Key, result: Result, seconds: float) -> None:
        """See the Observer of app.controller."""
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
        """See the QueueObserver of app.queue."""
        self._adds.inc()

    def taken(self, waited_s: float) -> None:
        """See the QueueObserver of app.queue."""
        self._waited.observe(max(waited_s, 0.0))

    def retried(self) -> None:
        """See the QueueObserver of app.queue."""
        self._retries.inc()

    def asked(self, method: str, host: str, status: int) -> None:
        """Count a request to the API server; status 0 stands for no answer."""
        self._requests.labels(str(status) if status else "<error>", method, urlsplit(host).netloc).inc()

    def count_event(self, event: KubernetesEvent) -> None:
        """Count an event that was recorded for the first time."""
        if (decision := _DECISIONS.get(event.reason)) is not None:
            self._decisions.labels(decision, event.reason).inc()

    def missed(self, kind: str, count: int) -> None:
        """Count changes that a list found and the watch had not delivered."""
        self._missed.labels(kind).inc(count)

    def plan_abandoned(self) -> None:
        """Count a plan that took too long."""
        self._abandoned.inc()

    def set_leading(self, *, leads: bool) -> None:
        """Set whether this process leads now."""
        self._leads.labels(self._identity).set(leads)
        self._leader.set(leads)

    def measure(self, depth: Callable[[], int], cached: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """Report at each scrape the length of the queue, and the number of cached objects by kind."""
        self.registry.register(
            _Computed(
                lambda: [
                    _gauge(
                        "workqueue_depth",
                        "Keys that are due and wait for a worker.",
                        ("name",),
                        [((QUEUE_NAME,), depth())],
                    ),
                    _gauge(
                        "sundog_cached_objects", "Cached objects, by kind.", ("kind",), [((k,), n) for k, n in cached()]
                    ),
                ]
            )
        )

    def describe(self, deployments: Callable[[], Iterable[Object]]) -> None:
        """Report at each scrape the statuses of the ModelDeployments."""
        self.registry.register(_Computed(lambda: _deployment_metrics(deployments())))

    def _unfinished(self) -> list[Metric]:
        now = time.monotonic()
        since = [now - at for at in self._running.values()]
        return [
            _gauge(
                "workqueue_unfinished_work_seconds",
                "Total time of the reconciles that run now.",
                ("name",),
                [((QUEUE_NAME,), sum(since))],
            ),
            _gauge(
                "workqueue_longest_running_processor_seconds",
                "Time of the longest reconcile that runs now.",
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
    """Metrics that are computed at each scrape."""

    def __init__(self, compute: Callable[[], list[Metric]]) -> None:
        self._compute = compute

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        return self._compute()

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration computes nothing."""
        return ()


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _deployment_metrics(deployments: Iterable[Object]) -> list[Metric]:
    known = list(deployments)
    return [
        _gauge(
            "sundog_modeldeployment_condition",
            "1 for the current status of a condition.",
            ("namespace", "name", "type", "status"),
            (sample for obj in known for sample in _conditions(obj)),
        ),
        _gauge(
            "sundog_modeldeployment_canary_weight",
            "Percent of the traffic that the canary gets.",
            ("namespace", "name"),
            ((_name(obj), float((_status(obj).get("candidate") or {}).get("weight") or 0)) for obj in known),
        ),
        _gauge(
            "sundog_modeldeployment_replicas",
            "Replicas of each live revision.",
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
