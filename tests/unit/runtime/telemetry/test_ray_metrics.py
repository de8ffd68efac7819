"""Counts of a replica, and their export to Ray."""

from typing import Any

import pytest

from sundog_runtime.telemetry.ray_metrics import RayMetricsExporter, iterate_samples
from sundog_runtime.telemetry.replica_metrics import END_OTHER, DeviceUse, Histogram, ReplicaMetrics


def test_a_histogram_counts_up_to_its_edges() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 14.0)


def test_the_number_of_series_is_bounded() -> None:
    metrics = ReplicaMetrics()
    for number in range(1000):
        metrics.record_answer(f"Code{number}", 0.1)
    assert len(metrics.answers) == 101
    assert metrics.answers[END_OTHER] == 900


class Recorded:
    """Stands in for Ray's metrics; all of one kind write into one dictionary."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], float] = {}

    def __call__(self, name: str, text: str, tag_keys: tuple[str, ...]) -> Any:
        recorded = self

        class Metric:
            def inc(self, value: float, tags: dict[str, str]) -> None:
                assert set(tags) == set(tag_keys)
                assert value > 0
                key = (name, tags.get(tag_keys[2], "") if len(tag_keys) > 2 else "")
                recorded.values[key] = recorded.values.get(key, 0.0) + value

            def set(self, value: float, tags: dict[str, str]) -> None:
                recorded.values[name, tags.get(tag_keys[2], "") if len(tag_keys) > 2 else ""] = value

        assert text
        return Metric()


MEMORY = {"allocated": 1, "reserved": 2, "used": 3, "total": 4}


def test_growth_is_exported_once() -> None:
    metrics, counters, gauges = ReplicaMetrics(), Recorded(), Recorded()
    metrics.startup = {"load": 2.5}
    exporter = RayMetricsExporter(metrics, "digits", 8, counters, gauges)
    metrics.record_answer("ok", 0.003)
    exporter.export()
    metrics.record_answer("ok", 0.3)
    metrics.record_answer("ModelError", 0.3)
    metrics.record_pass(3, 0.02)
    metrics.record_wait(0.001)
    exporter.export()
    exporter.export()
    assert gauges.values == {("sundog_runtime_startup_seconds", "load"): 2.5}
    found = counters.values
    assert found["sundog_runtime_requests", "ok"] == 2
    assert found["sundog_runtime_requests", "ModelError"] == 1
    assert found["sundog_runtime_request_seconds_bucket", "0.005"] == 1
    assert found["sundog_runtime_request_seconds_bucket", "0.5"] == 3
    assert found["sundog_runtime_request_seconds_bucket", "+Inf"] == 3
    assert found["sundog_runtime_request_seconds_count", ""] == 3
    assert found["sundog_runtime_request_seconds_sum", ""] == pytest.approx(0.603)
    assert found["sundog_runtime_batch_requests_bucket", "4.0"] == 1
    assert ("sundog_runtime_batch_requests_bucket", "2.0") not in found
    assert len(list(iterate_samples(metrics))) < 100


def test_memory_and_load_of_devices_are_exported() -> None:
    gauges = Recorded()
    exporter = RayMetricsExporter(ReplicaMetrics(), "digits", 8, Recorded(), gauges)
    exporter.export()
    assert gauges.values == {}
    memory = {("sundog_runtime_device_memory_bytes", state): size for state, size in MEMORY.items()}
    exporter.export(DeviceUse(*MEMORY.values()))
    assert gauges.values == memory
    exporter.export(DeviceUse(*MEMORY.values(), busy=0.5))
    assert gauges.values == {**memory, ("sundog_runtime_device_busy_ratio", ""): 0.5}
