"""Render the reference of Prometheus metrics from the objects that export them."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn, get_args

from prometheus_client.metrics_core import Metric as Family

from reference.markdown import GENERATED, cell, table
from sundog_edge.agent.metrics import metric_families
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.log_lines import ENDS, SERVICE_REFUSALS
from sundog_edge.feedback.intake import FeedbackIntake
from sundog_edge.feedback.join import ACCEPTED, REJECTED_RESULTS
from sundog_operator.adapters.metrics import QUEUE_NAME, OperatorMetrics
from sundog_operator.app.controller import Result
from sundog_operator.app.queue.keys import KeyKind
from sundog_runtime.telemetry.ray_metrics import RayMetricsExporter
from sundog_runtime.telemetry.replica_metrics import DeviceUse, ReplicaMetrics

_LABEL_NAMES: Final = "_labelnames"
"""Attribute of Prometheus' client; it has no public name."""
_UNITS: Final = {"_seconds": "seconds", "_weight": "percent", "_bytes": "bytes", "_ratio": "ratio"}


def _codes(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values)


OPERATOR_LABELS: Final = {
    "code": "HTTP status of the response; `<error>` if none arrived.",
    "controller": f"What was reconciled: {_codes(get_args(KeyKind))}. `resting` checks idle objects every 15 s.",
    "decision": "`start`, `shift`, `promote`, or how the rollout ended, such as `rolledback`.",
    "host": "Address of the API server.",
    "kind": "Kind of the objects, such as `RayCluster`.",
    "method": "HTTP method.",
    "name": f"Of a queue `{QUEUE_NAME}`; of the leader election the process; else the ModelDeployment.",
    "namespace": "Namespace of the ModelDeployment.",
    "reason": "Reason of the event, such as [`TrafficShifted`](condition-reasons.md#trafficshifted).",
    "result": f"{_codes(tuple(each for each in get_args(Result) if each != 'panic'))}.",
    "revision": "Number of the revision.",
    "state": "`desired` or `ready`.",
    "status": "`True`, `False` or `Unknown`.",
    "type": "Type of the [condition](condition-reasons.md).",
}
EDGE_LABELS: Final = {
    "arm": "`stable` or `canary`; in an Experiment `control` or the name of an arm.",
    "comparator": "Name of the comparison of a shadow, such as `argmax $.outputs[0].data`.",
    "end": f"How the request ended: {_codes(ENDS)}.",
    "kind": f"Why the request got no arm: {_codes((*SERVICE_REFUSALS, 'unknown', 'unfinished', 'source'))}."
    " `source`: one address had too many requests at once.",
    "outcome": "`paired`, `errors`, `timeouts`, `lost`, `dropped`, or why the request was not copied: `method`, `size`,"
    " `streaming`, `grpc`, `failed`, `rate`, `noReplica`, `ended`.",
    "phase": "`process`: until the replica's process began, with its pod, node, image and Ray. Those of the model server: `list`,"
    " `download`, `verify`, `load`, `warmup`. `answers`: from there until HAProxy had the replica. `total`: all of it.",
    "result": f"{_codes((ACCEPTED, *REJECTED_RESULTS))}.",
    "revision": "Number of the arm's revision.",
    "service": "Name of the ModelDeployment.",
    "state": "`up`, `down` or `draining`.",
    "status": "HTTP status of the answer.",
    "threshold": "`2` or `3`: the position of the latency threshold.",
    "verdict": "`agree`, `disagree` or `incomparable`.",
}
RUNTIME_LABELS: Final = {
    "end": "`ok`, the code of a problem such as `ModelError`, `OutOfMemory`, `DeadlineExceeded` or `WrongShape`, or `ClientGone`.",
    "le": "Upper limit of a bucket, cumulative as in a Prometheus histogram.",
    "phase": "Phase of the start: `list`, `download`, `verify`, `load` or `warmup`. Only phases that ran are present.",
    "revision": "Number of the revision.",
    "service": "Name of the ModelDeployment.",
    "state": "`allocated`: the replica's tensors. `reserved`: what torch holds for it. `used`: all processes on the device."
    " `total`: the device.",
}

_TOP: Final = f"""# Metrics

{GENERATED.format("the operator, the edge and the model server")}

Three programs export Prometheus metrics. The number of time series depends on your objects, never
on what clients send. [Alerts](../../helm/sundog/files/alerts.yaml) and a
[dashboard](../../helm/sundog/files/dashboard.json) are part of the chart.

| program | where |
|---|---|
| [operator](#operator) | `GET /metrics` at the operator's pod |
| [edge](#edge) | `GET /metrics` at the agent of each edge |
| [model server](#model-server) | the metrics port of Ray on each node, under Ray's prefix `ray_` |

A histogram `NAME` consists of the series `NAME_bucket` with the label `le`, `NAME_sum` and
`NAME_count`.
"""
_OPERATOR: Final = """
## Operator

The first metrics have the names of controller-runtime, so that existing dashboards work.
"""
_EDGE: Final = """
## Edge

Health checks and metadata requests are in `sundog_edge_probes_total` only. Feedback is in
`sundog_edge_feedback_requests_total` only. Look-ups of arms are in
`sundog_edge_ofrep_requests_total` only. Requests while an arm of their service has no replica are
in `sundog_edge_held_total` only. Shadow copies are in no counter of an arm.
"""
_RUNTIME: Final = """
## Model server

Each replica exports every five seconds, and Ray adds its own interval. Histograms are exported as
counters, which Ray names with `_total` at the end. So the 99th percentile of five minutes is
`histogram_quantile(0.99, sum by (le) (rate(ray_sundog_runtime_request_seconds_bucket_total[5m])))`.
"""


class MetricText(NamedTuple):
    """One metric as Prometheus stores it."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str


def render_page() -> str:
    """Return the page, as Markdown."""
    return "".join(
        (
            *(_TOP, _OPERATOR, _section(operator_metrics(), OPERATOR_LABELS)),
            *(_EDGE, _section(edge_metrics(), EDGE_LABELS)),
            *(_RUNTIME, _section(runtime_metrics(), RUNTIME_LABELS)),
        )
    )


def _section(metrics: list[MetricText], labels: Mapping[str, str]) -> str:
    rows = ((f"`{each.name}`", each.type, _codes(each.labels), _unit(each), cell(each.meaning)) for each in metrics)
    used = sorted({label for each in metrics for label in each.labels})
    meanings = ((f"`{label}`", cell(labels[label])) for label in used)
    return (
        "\n"
        + table(("metric", "type", "labels", "unit", "meaning"), rows)
        + "\n"
        + table(("label", "values"), meanings)
    )


def _unit(metric: MetricText) -> str:
    if metric.name.endswith(("_count_total", "_bucket_total")):
        return "count"
    return next((unit for part, unit in _UNITS.items() if part in metric.name), "count")


def operator_metrics() -> list[MetricText]:
    """Return the metrics of the operator."""
    exported = OperatorMetrics(1, "")
    exported.measure(lambda: 0, lambda: ())
    exported.describe(lambda: ())
    collectors = vars(exported.registry)["_collector_to_names"]
    return [_of(family, collector) for collector in collectors for family in collector.collect()]


def edge_metrics() -> list[MetricText]:
    """Return the metrics of the edge's agent."""
    intake = FeedbackIntake(None, _unused, _unused, _unused)
    return [_of(family, family) for family in metric_families(Ledger(), None, {}, "", {}, intake)]


def _unused() -> NoReturn:
    raise NotImplementedError


def _of(family: Family, labelled: object) -> MetricText:
    """`labelled` is the family, or the metric object that collected it."""
    labels = getattr(family, _LABEL_NAMES, None) or getattr(labelled, _LABEL_NAMES, None) or ()
    suffix = "_total" if family.type == "counter" else ""
    return MetricText(family.name + suffix, family.type, tuple(labels), family.documentation)


def runtime_metrics() -> list[MetricText]:
    """Return the metrics of a replica under the names that Ray gives them."""
    found: list[MetricText] = []
    counts = ReplicaMetrics()
    counts.record_answer("ok", 1.0)
    counts.record_pass(1, 1.0)
    counts.record_wait(1.0)
    counts.fast_path_answers = 1
    counts.startup = {"load": 1.0}
    exporter = RayMetricsExporter(counts, "", 0, _Recorder(found, "counter", "_total"), _Recorder(found, "gauge", ""))
    exporter.export(DeviceUse(1, 1, 1, 1, 1.0))
    return found


class _Recorder:
    """Stands in for Ray's classes of metrics, and records what is created."""

    def __init__(self, found: list[MetricText], kind: str, suffix: str) -> None:
        self._found, self._kind, self._suffix = found, kind, suffix

    def __call__(self, name: str, text: str, tag_keys: tuple[str, ...]) -> "_Recorder":
        self._found.append(MetricText(f"ray_{name}{self._suffix}", self._kind, tag_keys, text))
        return self

    def inc(self, value: float, tags: Any) -> None:
        """Ignore the value."""

    def set(self, value: float, tags: Any) -> None:
        """Ignore the value."""
