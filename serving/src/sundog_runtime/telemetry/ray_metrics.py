"""Export the counters of one replica through Ray's metrics agent of the node, for Prometheus.

Ray's counters and histograms cost microseconds for every value, and a histogram takes one value at a time. So values are
counted in the process (`replica_metrics`), and their growth is exported every few seconds, as counters. A histogram becomes a
counter `…_bucket` with the label `le`, cumulative as in Prometheus, and two more for `_sum` and `_count`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from sundog_runtime.telemetry.logs import LOGGER_NAME
from sundog_runtime.telemetry.replica_metrics import DeviceUse, Histogram, ReplicaMetrics

EXPORT_INTERVAL_SECONDS = 5.0
PREFIX = "sundog_runtime_"

_LABELS = ("service", "revision")
_logger = logging.getLogger(LOGGER_NAME)

Sample = tuple[str, str, str, float]
"""Name without prefix, name and value of one more label (empty: none), and the total since the start."""


def iterate_samples(metrics: ReplicaMetrics) -> Iterator[Sample]:
    """Yield every value that only grows."""
    for end, count in metrics.answers.items():
        yield "requests", "end", end, count
    yield "requests_at_once", "", "", metrics.fast_path_answers
    for name, histogram in (
        ("request_seconds", metrics.latency),
        ("queue_wait_seconds", metrics.queue_wait),
        ("pass_seconds", metrics.pass_time),
        ("batch_requests", metrics.batch_size),
    ):
        yield from _histogram(name, histogram)


def _histogram(name: str, histogram: Histogram) -> Iterator[Sample]:
    counts = list(accumulate(histogram.counts))
    for edge, count in zip((*map(str, histogram.edges), "+Inf"), counts, strict=True):
        yield f"{name}_bucket", "le", edge, count
    yield f"{name}_sum", "", "", histogram.total
    yield f"{name}_count", "", "", counts[-1]


class RayMetricsExporter:
    """Export the growth of `metrics`. `counter` and `gauge` create Ray's metrics; they take name, text and labels."""

    def __init__(
        self,
        metrics: ReplicaMetrics,
        service: str,
        revision: int,
        counter: Callable[..., Any],
        gauge: Callable[..., Any],
    ) -> None:
        self._metrics = metrics
        self._tags = {"service": service, "revision": str(revision)}
        self._makers = {"counter": counter, "gauge": gauge}
        self._made: dict[str, Any] = {}
        self._exported: dict[tuple[str, str], float] = {}

    def export(self, device: DeviceUse | None = None) -> None:
        """Export once. Values that did not grow are skipped. `device` is None if it is unknown or there is none."""
        for phase, seconds in self._metrics.startup.items():
            self._set("startup_seconds", seconds, "phase", phase)
        if device is not None:
            self._set("device_memory_bytes", device.allocated_bytes, "state", "allocated")
            self._set("device_memory_bytes", device.reserved_bytes, "state", "reserved")
            self._set("device_memory_bytes", device.used_bytes, "state", "used")
            self._set("device_memory_bytes", device.total_bytes, "state", "total")
            if device.busy is not None:
                self._set("device_busy_ratio", device.busy)
        for name, label, value, total in iterate_samples(self._metrics):
            grown = total - self._exported.get((name, value), 0.0)
            if grown > 0:
                self._metric("counter", name, label).inc(grown, tags=self._tagged(label, value))
                self._exported[name, value] = total

    async def export_forever(self) -> None:
        """Export every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(EXPORT_INTERVAL_SECONDS)
            try:
                # Another thread reads: a busy driver must not block the event loop.
                self.export(await asyncio.to_thread(self._metrics.read_device))
            except Exception:
                # The replica serves without metrics too.
                _logger.exception("metrics export failed")

    def _set(self, name: str, number: float, label: str = "", value: str = "") -> None:
        self._metric("gauge", name, label).set(number, tags=self._tagged(label, value))

    def _tagged(self, label: str, value: str) -> dict[str, str]:
        return self._tags | ({label: value} if label else {})

    def _metric(self, kind: str, name: str, label: str) -> Any:
        """Return a metric of Ray, which is made at its first value."""
        if name not in self._made:
            keys = (*_LABELS, label) if label else _LABELS
            self._made[name] = self._makers[kind](f"{PREFIX}{name}", _TEXTS[name], tag_keys=keys)
        return self._made[name]


_TEXTS = {
    "startup_seconds": "Duration of a phase of the start.",
    "device_memory_bytes": "Memory of the replica's accelerators.",
    "device_busy_ratio": "Share of the time in which the replica's accelerators compute for any process, 0 to 1.",
    "requests": "Requests by result: ok, the code of a problem, or ClientGone.",
    "requests_at_once": "Requests among them that were answered in the call that received them.",
} | {
    f"{name}_{part}": text
    for name, text in {
        "request_seconds": "Time from the first byte of a request to the last of its answer, in the replica.",
        "queue_wait_seconds": "Time that requests waited for the model.",
        "pass_seconds": "Time of one call of the model.",
        "batch_requests": "Requests in one call of the model.",
    }.items()
    for part in ("bucket", "sum", "count")
}
