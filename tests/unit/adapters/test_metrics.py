"""The operator's metrics: names that dashboards use, and values from statuses."""

import logging
import sys

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from doubles.clock import FakeClock
from doubles.cluster import NAME, NAMESPACE, Cluster
from sundog_operator.adapters.metrics import OperatorMetrics
from sundog_operator.app.controller import Controller, Result
from sundog_operator.app.dependencies import Dependencies, EventDeduplicator
from sundog_operator.app.event_recorder import record_events
from sundog_operator.app.queue.keys import Key
from sundog_operator.core import events
from sundog_operator.errors import DependencyError
from sundog_operator.ports import EVENT, MODEL_DEPLOYMENT, Object
from sundog_operator.shell.json_logs import JsonFormatter

KEY = Key("modeldeployment", NAMESPACE, NAME)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: OperatorMetrics) -> Samples:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def of(metrics: OperatorMetrics, name: str, /, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


@pytest.fixture
def metrics() -> OperatorMetrics:
    return OperatorMetrics(4, "a")


@pytest.mark.parametrize(
    ("result", "label", "errors", "panics"),
    [
        ("success", "success", 0, 0),
        ("requeue_after", "requeue_after", 0, 0),
        ("requeue", "requeue", 0, 0),
        ("error", "error", 1, 0),
        ("panic", "error", 1, 1),
    ],
)
def test_passes(metrics: OperatorMetrics, result: Result, label: str, errors: int, panics: int) -> None:
    metrics.began(KEY)
    assert of(metrics, "controller_runtime_active_workers", controller="modeldeployment") == 1
    assert of(metrics, "workqueue_longest_running_processor_seconds", name="sundog") >= 0
    metrics.ended(KEY, result, 0.25)
    assert of(metrics, "controller_runtime_active_workers", controller="modeldeployment") == 0
    assert of(metrics, "controller_runtime_reconcile_total", controller="modeldeployment", result=label) == 1
    assert of(metrics, "controller_runtime_reconcile_errors_total", controller="modeldeployment") == errors
    assert of(metrics, "controller_runtime_reconcile_panics_total", controller="modeldeployment") == panics
    assert of(metrics, "controller_runtime_reconcile_time_seconds_sum", controller="modeldeployment") == 0.25
    assert of(metrics, "controller_runtime_max_concurrent_reconciles", controller="edge") == 4


async def test_a_working_controller_reports_all_metrics(metrics: OperatorMetrics) -> None:
    cluster = Cluster()
    await cluster.apply()
    operator = Controller(cluster.world, observer=metrics)
    metrics.measure(lambda: operator.queue.depth, lambda: [("Pod", 3)])
    operator.queue.add(KEY)
    operator.queue.add(KEY)
    cluster.clock.advance(2)
    assert of(metrics, "workqueue_depth", name="sundog") == 1
    await operator.step(await operator.queue.take())
    assert of(metrics, "workqueue_adds_total", name="sundog") == 2, "asked for once, and once more by the pass itself"
    assert of(metrics, "workqueue_queue_duration_seconds_sum", name="sundog") == 2
    assert of(metrics, "sundog_cached_objects", kind="Pod") == 3
    cluster.kube.faults = lambda verb, ref: DependencyError("away")
    cluster.clock.advance(20)
    await operator.step(await operator.queue.take())
    assert of(metrics, "workqueue_retries_total", name="sundog") == 1


async def test_metrics_of_statuses(metrics: OperatorMetrics) -> None:
    cluster = Cluster()
    await cluster.apply(replicas=2)
    await cluster.until(lambda: cluster.serves(1))
    found: list[Object] = await cluster.kube.list(MODEL_DEPLOYMENT)
    metrics.describe(lambda: found)
    who = {"namespace": NAMESPACE, "name": NAME}
    assert of(metrics, "sundog_modeldeployment_condition", **who, type="Ready", status="True") == 1
    assert of(metrics, "sundog_modeldeployment_replicas", **who, revision="1", state="ready") == 2
    assert of(metrics, "sundog_modeldeployment_canary_weight", **who) == 0
    found.clear()
    assert not [name for name, _ in samples(metrics) if name.startswith("sundog_modeldeployment_")]


def test_requests_leadership_and_gaps(metrics: OperatorMetrics) -> None:
    metrics.asked("GET", "https://10.0.0.1:443", 200)
    metrics.asked("GET", "https://10.0.0.1:443", 0)
    metrics.missed("Pod", 2)
    host = {"method": "GET", "host": "10.0.0.1:443"}
    assert of(metrics, "rest_client_requests_total", code="200", **host) == 1
    assert of(metrics, "rest_client_requests_total", code="<error>", **host) == 1
    assert of(metrics, "sundog_watch_missed_total", kind="Pod") == 2
    for leads in (False, True):
        metrics.set_leading(leads=leads)
        assert of(metrics, "leader_election_master_status", name="a") == leads
        assert of(metrics, "sundog_operator_leader") == leads


async def test_an_event_is_recorded_once_and_decisions_are_counted(metrics: OperatorMetrics) -> None:
    cluster = Cluster()
    clock: FakeClock = cluster.clock
    await cluster.apply()
    world = Dependencies(
        cluster.kube,
        cluster.serve,
        cluster.edges,
        cluster.webhooks,
        clock,
        recent_events=EventDeduplicator(metrics.count_event),
    )
    decisions = [
        events.revision_promoted(2, 1, "digits-r2"),
        events.revision_created(2),
        events.rollout_ended("Aborted", "digits-r2", "asked"),
    ]
    asked: list[str] = []
    cluster.kube.faults = lambda verb, ref: asked.append(verb)
    for _ in range(3):
        await record_events(world, await cluster.get(), decisions)
        clock.advance(60)
    assert asked.count("create") == 3
    assert len(await cluster.kube.list(EVENT)) == 3
    assert (await cluster.kube.list(EVENT))[0]["eventTime"] == "2026-11-25T12:00:00.000000Z", "a MicroTime"
    assert of(metrics, "sundog_rollout_decisions_total", decision="promote", reason="Promoted") == 1
    assert of(metrics, "sundog_rollout_decisions_total", decision="aborted", reason="RolloutAborted") == 1
    clock.advance(EventDeduplicator.LIFE_S)
    await record_events(world, await cluster.get(), decisions[:1])
    assert asked.count("create") == 4, "after a while the API server is asked again"
    assert of(metrics, "sundog_rollout_decisions_total", decision="promote", reason="Promoted") == 1


def test_a_log_line_is_one_object_without_the_values_of_an_exception() -> None:
    try:
        raise ValueError("hunter2")
    except ValueError:
        record_ = logging.LogRecord("sundog.x", logging.ERROR, __file__, 1, "%s:\nfailed", ("a",), sys.exc_info())
    record_.key, record_.reason = "modeldeployment a/b", "ValueError"
    text = JsonFormatter().format(record_)
    line = orjson.loads(text)
    assert "\n" not in text
    assert "hunter2" not in text
    assert (line["level"], line["logger"], line["message"]) == ("error", "sundog.x", "a: failed")
    assert (line["key"], line["reason"], line["error"]) == ("modeldeployment a/b", "ValueError", "ValueError")
    assert line["where"][-1].startswith(__file__)
    plain = orjson.loads(JsonFormatter().format(logging.LogRecord("x", logging.INFO, "", 1, "hello", (), None)))
    assert plain.keys() == {"time", "level", "logger", "message"}
