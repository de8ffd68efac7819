"""A replica's telemetry: request ids and traces, log lines, counts, start-up phases."""

import json
import logging
import logging.handlers
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sundog_runtime.context import RequestContext, current, deadline_of, joined, working_on
from sundog_runtime.scheduling.cpu_affinity import limit_library_threads
from sundog_runtime.telemetry.logs import (
    JsonLinesFormatter,
    RequestContextFilter,
    disable_request_logs,
    install_json_formatter,
)
from sundog_runtime.telemetry.ray_metrics import RayMetricsExporter, iterate_samples
from sundog_runtime.telemetry.replica_metrics import END_OTHER, DeviceUse, Histogram, ReplicaMetrics
from sundog_runtime.telemetry.startup import StartupPhases

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (PARENT, PARENT),
        (f" {PARENT}\t", PARENT),
        (f"cc-{TRACE}-b7ad6b7169203331-01-what-comes-later", f"cc-{TRACE}-b7ad6b7169203331-01"),
        ("", ""),
        (f"{PARENT}-more", ""),
        (PARENT.upper(), ""),
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE}-b7ad6b7169203331", ""),
        (f"00-{TRACE[:-1]}-b7ad6b7169203331-01", ""),
        ("nonsense", ""),
    ],
)
def test_an_invalid_trace_parent_is_replaced(given: str, kept: str) -> None:
    context = RequestContext({b"traceparent": given.encode(), b"tracestate": b"vendor=1"})
    assert re.fullmatch(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", context.traceparent)
    assert context.traceparent == context.traceparent
    assert (context.traceparent == kept) == bool(kept)
    assert (context.trace_id == TRACE) == bool(kept)
    assert context.tracestate == ("vendor=1" if kept else "")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("1", 0.95), ("30", 29.9), ("0.2", 0.19), ("0", None), ("-1", None), ("nan", None), ("inf", None), ("soon", None)],
)
def test_the_deadline_comes_before_serves(given: str, seconds: float | None) -> None:
    found = deadline_of({b"x-request-timeout-seconds": given.encode()}, 100.0)
    assert found == (float("inf") if seconds is None else pytest.approx(100 + seconds))


@pytest.mark.parametrize(("given", "seconds"), [("1", 1), ("30.5", 30.5), ("0", None), ("nan", None), ("x", None)])
def test_the_edges_deadline_is_taken_as_it_is(given: str, seconds: float | None) -> None:
    found = deadline_of({b"x-sundog-timeout-seconds": given.encode(), b"x-request-timeout-seconds": b"9"}, 100.0)
    assert found == (float("inf") if seconds is None else 100 + seconds)


def test_current_requests() -> None:
    one, two = RequestContext(), RequestContext()
    assert (current(), joined()) == (None, ())
    with working_on(one):
        assert current() is one
        with working_on(one, two):
            assert (current(), joined()) == (None, (one, two))
        assert current() is one
    assert current() is None
    assert one.request_id == one.request_id != two.request_id


def test_lines_are_json_and_serves_lines_stay(caplog: pytest.LogCaptureFixture) -> None:
    parent = logging.Logger("a parent")
    target, others = logging.StreamHandler(), logging.Formatter("plain %(message)s")
    target.setFormatter(others)
    buffering = logging.handlers.MemoryHandler(100, target=target)
    parent.addHandler(buffering)
    install_json_formatter("digits", 8, parent)
    install_json_formatter("digits", 8, parent)
    written = target.formatter
    assert isinstance(written, JsonLinesFormatter)

    def record(name: str, **extra: Any) -> logging.LogRecord:
        made = logging.makeLogRecord({"name": name, "levelname": "ERROR", "msg": "line\n%s", "args": ("two",), **extra})
        RequestContextFilter().filter(made)
        return made

    assert written.format(record("ray.serve")) == "plain line\ntwo"
    line = written.format(record("ray.serve.sundog"))
    document = json.loads(line)
    assert "\n" not in line
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", document.pop("time"))
    assert document == {"level": "error", "message": "line\ntwo", "service": "digits", "revision": 8}
    with working_on(RequestContext({b"x-request-id": b"find-me", b"traceparent": PARENT.encode()})):
        made = record("ray.serve.sundog")
    document = json.loads(written.format(made))
    assert (document["request_id"], document["trace_id"]) == ("find-me", TRACE)
    try:
        raise ValueError("wrong")
    except ValueError as error:
        made = record("ray.serve.sundog", exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: wrong" in json.loads(written.format(made))["exception"]


def test_no_record_waits_for_others(tmp_path: Path) -> None:
    parent = logging.Logger("a parent")
    target = logging.FileHandler(tmp_path / "replica.log")
    parent.addHandler(logging.handlers.MemoryHandler(1000, target=target))
    parent.info("before")
    install_json_formatter("digits", 8, parent)
    parent.info("after")
    target.close()
    lines = [json.loads(line) for line in (tmp_path / "replica.log").read_text().splitlines()]
    assert [line["message"] for line in lines] == ["before", "after"]


@pytest.mark.parametrize("name", ["ray.serve", "ray.serve.sundog"])
def test_a_traceback_is_whole_although_serve_replaces_print(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = print

    def of_serve(*objects: Any, file: Any = None, **more: Any) -> None:
        printed(objects, file=file, **more)

    try:
        raise ValueError("wrong")
    except ValueError as error:
        found = (type(error), error, error.__traceback__)
    record = logging.makeLogRecord({"name": name, "levelname": "ERROR", "msg": "it raised", "exc_info": found})
    monkeypatch.setattr("builtins.print", of_serve)
    line = JsonLinesFormatter("digits", 8, logging.Formatter("%(message)s")).format(record)
    trace = line.partition("\n")[2] if name == "ray.serve" else json.loads(line)["exception"]
    assert trace.startswith("Traceback (most recent call last):\n  File ")
    assert trace.endswith("\nValueError: wrong")


@pytest.fixture
def loggers() -> Iterator[tuple[logging.Logger, logging.Logger]]:
    """Serve's logger and this package's, restored afterwards."""
    pair = logging.getLogger("ray.serve"), logging.getLogger("ray.serve.sundog")
    levels = [logger.level for logger in pair]
    yield pair
    for logger, level in zip(pair, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize(("level", "serve_says"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_serve_logs_no_requests_and_this_package_still_logs(
    loggers: tuple[logging.Logger, logging.Logger], level: int, serve_says: bool
) -> None:
    serve, ours = loggers
    serve.setLevel(level)
    disable_request_logs(serve)
    assert serve.isEnabledFor(logging.INFO) is serve_says
    assert serve.isEnabledFor(logging.WARNING)
    assert ours.isEnabledFor(logging.INFO)


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


@pytest.mark.parametrize(
    ("before", "cpu", "threads"),
    [({}, 2.0, "2"), ({"OMP_NUM_THREADS": "1"}, 1.2, "2"), ({"OMP_NUM_THREADS": "1"}, 0.5, "1")],
)
def test_libraries_get_their_share_of_threads(before: dict[str, str], cpu: float, threads: str) -> None:
    limit_library_threads(cpu, before)
    assert set(before.values()) == {threads}


def test_values_that_the_user_set_stay() -> None:
    environment = {"OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "3"}
    limit_library_threads(2.0, environment)
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == ("7", "3")


ASKING = """
from sundog_runtime.context import current

class Predictor:
    def load(self, path, config): pass
    def configure(self, user_config): self.config = user_config
    def example(self): return "x"
    def predict(self, batch):
        request = current()
        if request is None:
            assert self.config == {"ready": True}, "warmed up before it was configured"
            return None
        return [request.request_id, request.traceparent, request.deadline < float("inf")]
"""


async def test_a_predictor_asks_about_its_request(python_model: Callable[[str], Path], args: Any, serve: Any) -> None:
    client: httpx.AsyncClient = await serve(
        args(python_model(ASKING), "predictor:Predictor"), {"userConfig": {"ready": True}}
    )
    headers = {"x-request-id": "find-me", "traceparent": PARENT, "x-request-timeout-seconds": "30"}
    assert (await client.post("/", json={"inputs": "x"}, headers=headers)).json()["outputs"] == [
        "find-me",
        PARENT,
        True,
    ]
    assert (await client.get("/nowhere")).status_code == 404
    # A probe is not counted, because it does not reach the model.
    assert (await client.get("/v2/health/ready")).status_code == 200
    metrics: ReplicaMetrics = client.replica.metrics  # type: ignore[attr-defined]
    assert metrics.answers == {"ok": 1, "NotFound": 1}
    assert sum(metrics.latency.counts) == 2


async def test_the_phases_of_the_start_can_be_read(torch_model: Path, args: Any, serve: Any) -> None:
    before = time.time()
    client: httpx.AsyncClient = await serve(args(torch_model))
    document = (await client.get("/-/startup")).json()
    assert document["version"] == 1
    assert before - 0.001 <= document["beganAt"] <= time.time()
    assert list(document["phases"]) == ["download", "load", "warmup"]
    assert all(seconds >= 0 for seconds in document["phases"].values())
    assert client.replica.metrics.startup.keys() == document["phases"].keys()  # type: ignore[attr-defined]


def test_the_parts_of_a_phase_replace_it() -> None:
    startup = StartupPhases(iter((1.0, 6.0, 6.0, 7.0)).__next__)
    for name in ("download", "load"):
        with startup.phase(name):
            pass
    startup.detail("load", {})
    assert startup.phases == {"download": 5.0, "load": 1.0}
    startup.detail("download", {"list": 1.0, "verify": 4.0})
    assert list(startup.phases.items()) == [("list", 1.0), ("verify", 4.0), ("load", 1.0)]


async def test_without_user_config_the_first_health_check_ends_the_start(torch_model: Path, args: Any) -> None:
    from sundog_runtime.replica import Replica

    replica = await Replica.start(args(torch_model))
    assert "warmup" not in replica.startup.phases
    await replica.check_health()
    assert "warmup" in replica.startup.phases
    replica.close()


@pytest.mark.parametrize(
    ("declared", "joins", "message"),
    [
        ("[-1, 4]", True, ""),
        ("[1, 4]", False, "input 'x' has the shape [1, 4]; expected a first size of -1, the batch axis"),
    ],
)
async def test_the_warm_up_tries_the_largest_batch(
    torch_model: Path, args: Any, serve: Any, caplog: pytest.LogCaptureFixture, declared: str, joins: bool, message: str
) -> None:
    text = (torch_model / "model.yaml").read_text()
    (torch_model / "model.yaml").write_text(text.split("outputs:")[0].replace("[-1, 4]", declared))
    source = (torch_model / "net.py").read_text()
    (torch_model / "net.py").write_text(
        source.replace("return self", "self.seen.append(len(x)); return self").replace(
            "super().__init__()", "super().__init__(); self.seen = []"
        )
    )
    client = await serve(args(torch_model) | {"batching": {"maxSize": 8, "maxDelaySeconds": 0.001}})
    predict = client.replica._model.module
    assert predict.seen == [1, 1, 1, 1, *([8, 8] if joins else [])]
    assert client.replica._scheduler.is_batching is joins
    assert message in caplog.text


async def test_a_model_that_fails_on_many_rows_serves_one_at_a_time(
    torch_model: Path, args: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source = (torch_model / "net.py").read_text().replace("return self", "assert len(x) == 1; return self")
    (torch_model / "net.py").write_text(source)
    client = await serve(args(torch_model) | {"batching": {"maxSize": 8, "maxDelaySeconds": 0.001}})
    assert "requests are not batched: the model cannot take several at once: 8 rows at once raised" in caplog.text
    assert (await client.post("/", json={"inputs": [[1.0] * 4]})).status_code == 200
