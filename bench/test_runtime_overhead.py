"""Cost of the model server per request, beside the forward pass: by phase, with a profile.

An MLP of 256 floats as plain JSON, through the application as Serve calls it, and by the fast path that most small requests take; without
Serve and without sockets.
Nothing is asserted. `make bench ONLY=runtime_overhead` prints it.
"""

import asyncio
import contextlib
import cProfile
import pstats
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import safetensors.torch
import torch

from measuring.record import Record
from sundog_runtime.context import RequestContext
from sundog_runtime.protocol.body import read_body
from sundog_runtime.replica import Replica
from sundog_runtime.scheduling.execution_mode import PassDurations
from sundog_runtime.signature import check_outputs
from sundog_runtime.telemetry.replica_metrics import ReplicaMetrics
from sundog_runtime.tensors import to_plain

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

REQUESTS = 2000
ROUNDS = 7
FUNCTIONS = 10

NET = """
import torch

def Net(hidden=512):
    return torch.nn.Sequential(torch.nn.Linear(256, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, hidden),
                               torch.nn.ReLU(), torch.nn.Linear(hidden, 10))
"""

HEADERS = [
    (b"host", b"digits.vision.svc"),
    (b"accept", b"*/*"),
    (b"user-agent", b"bench"),
    (b"content-type", b"application/json"),
    (b"content-length", b"2000"),
    (b"x-request-id", b"5f0c5f0c5f0c5f0c"),
    (b"x-request-timeout-seconds", b"30"),
    (b"x-forwarded-for", b"10.0.0.1"),
]


def write_model(path: Path, hidden: int) -> Path:
    """The MLP of docs/benchmarks/archive.md, 256 → hidden → hidden → 10."""
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    torch.manual_seed(3)
    (path / "net.py").write_text(NET)
    (path / "model.yaml").write_text("inputs:\n- {name: x, dtype: float32, shape: [-1, 256]}\n")
    safetensors.torch.save_file(namespace["Net"](hidden).state_dict(), path / "model.safetensors")
    return path


def arguments(model: Path, max_size: int, hidden: int = 512) -> dict[str, Any]:
    return {
        "version": 1,
        "namespace": "vision",
        "service": "digits",
        "revision": 8,
        "model": {"uri": f"file://{model}", "entrypoint": "net:Net", "config": {"hidden": hidden}},
        "batching": {"maxSize": max_size, "maxDelaySeconds": 0.002},
        "cpu": 1.0,
    }


def body_of() -> bytes:
    row = np.random.default_rng(3).random(256, dtype="float32").round(6).astype("float64").tolist()
    return orjson.dumps({"inputs": [row]})


def scope() -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": "/digits-r8.app",
        "root_path": "/digits-r8.app",
        "headers": HEADERS,
    }


def receiver(message: dict[str, Any], wait: bool) -> Callable[[], Awaitable[Any]]:
    """Return the receive function of one request whose client stays connected."""
    given = False

    async def receive() -> Any:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        if wait:
            # Like Serve, whose application call waits until it has the body.
            await asyncio.sleep(0)
        return message

    return receive


async def requests(replica: Replica, body: bytes, connections: int, count: int = REQUESTS) -> float:
    """Return µs per request over closed-loop connections."""
    app = replica.app
    message = {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    async def connection() -> None:
        for _ in range(count // connections):
            await app(scope(), receiver(message, connections > 1), send)

    begun = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(connections)))
    return (time.perf_counter() - begun) / count * 1e6


def microseconds(call: Callable[[], Any]) -> float:
    """Return the median of some rounds."""

    def once() -> float:
        begun = time.perf_counter()
        for _ in range(REQUESTS):
            call()
        return (time.perf_counter() - begun) / REQUESTS * 1e6

    return statistics.median(once() for _ in range(ROUNDS))


def phases(replica: Replica, body: bytes) -> dict[str, float]:
    """Measure each step separately."""
    headers = dict(HEADERS)
    decode = replica.app._routes.find("/").decode
    assert decode is not None
    query = decode(headers, body)
    predict = replica._model.predict
    output = predict(query.batch)
    converted = to_plain(output)
    message = {"type": "http.request", "body": body}

    async def receive() -> Any:
        return message

    def read() -> None:
        coroutine = read_body(headers, receive, 10**7)
        with contextlib.suppress(StopIteration):
            coroutine.send(None)

    metrics, pace = ReplicaMetrics(), PassDurations()

    def count() -> None:
        metrics.record_answer("ok", 0.001)
        metrics.record_pass(1, 0.001)
        pace.observe(0.001)

    return {
        "read body": microseconds(read),
        "parse JSON": microseconds(lambda: orjson.loads(body)),
        "parse and convert": microseconds(lambda: decode(headers, body)),
        "context": microseconds(lambda: RequestContext(dict(HEADERS))),
        "forward": microseconds(lambda: predict(query.batch)),
        "tensor to numpy": microseconds(lambda: to_plain(output)),
        "conform and encode": microseconds(lambda: query.encode(check_outputs((), converted))),
        "count": microseconds(count),
    }


def at_once(replica: Replica, body: bytes) -> float:
    """Return µs per request on the fast path."""
    headers = dict(HEADERS)
    assert replica.app.try_answer("/", headers, body) is not None
    return microseconds(lambda: replica.app.try_answer("/", headers, body))


def profile_of(replica: Replica, body: bytes) -> Record:
    """Profile the fast path by function. The profiler makes calls slower than they are."""
    headers, profile = dict(HEADERS), cProfile.Profile()
    profile.enable()
    for _ in range(REQUESTS):
        replica.app.try_answer("/", headers, body)
    profile.disable()
    # typeshed does not know of the table that `print_stats` reads.
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    record = Record(
        "runtime_profile", "A request answered at once, by function, under the profiler", ("function", "own µs")
    )
    own = sorted(((spent, place) for place, (_, _, spent, _, _) in stats.items()), reverse=True)
    for spent, (file, line, function) in own[:FUNCTIONS]:
        where = f"{Path(file).parent.name}/{Path(file).name}:{line} " if line else ""
        record.add(f"`{where}{function}`", f"{spent / REQUESTS * 1e6:.1f}")
    return record


async def test_overhead_by_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body, model = body_of(), write_model(tmp_path, 512)
    replica = await Replica.start(arguments(model, 1))
    batching = await Replica.start(arguments(model, 32))
    for each in (replica, batching):
        await each.reconfigure({})
        await requests(each, body, 1)
    found = phases(replica, body)
    short = at_once(replica, body)
    whole: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, each in (("", replica), (", batching on", batching)):
            for connections in (1, 16):
                whole.setdefault(f"{connections} connections{name}", []).append(await requests(each, body, connections))
    profile = profile_of(replica, body)
    for each in (replica, batching):
        each.close()
    record = Record(
        "runtime_overhead",
        "The model server by itself, MLP of 256 floats as plain JSON, µs per request",
        ("step or whole call", "µs", "without the forward pass"),
    )
    record.raw |= {"phases": found, "at once": short, "whole": whole}
    for name, value in found.items():
        record.add(name, f"{value:.1f}", "")
    record.add("answered at once", f"{short:.1f}", f"{short - found['forward']:.1f}")
    for name, values in whole.items():
        value = statistics.median(values)
        # Where requests are joined, a request's share of a pass over many rows is not that of a pass over one.
        joined = name == "16 connections, batching on"
        record.add(f"Serve's way, {name}", f"{value:.1f}", "" if joined else f"{value - found['forward']:.1f}")
    with capsys.disabled():
        record.finish()
        profile.finish()


async def test_batching_where_it_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Measure 16 connections with a network whose weights exceed the cache: a pass over many rows reads them once."""
    body, hidden, count = body_of(), 4096, 320
    model = write_model(tmp_path, hidden)
    found: dict[int, list[float]] = {}
    alone: dict[int, list[float]] = {}
    replicas = {size: await Replica.start(arguments(model, size, hidden) | {"cpu": 2.0}) for size in (1, 32)}
    for replica in replicas.values():
        await replica.reconfigure({})
        await requests(replica, body, 16, count)
    for _ in range(ROUNDS):
        for size, replica in replicas.items():
            found.setdefault(size, []).append(await requests(replica, body, 16, count))
            alone.setdefault(size, []).append(await requests(replica, body, 1, 32))
    for replica in replicas.values():
        replica.close()
    counts = replicas[32].metrics.batch_size.counts
    ratios = [plain / batched for plain, batched in zip(found[1], found[32], strict=True)]
    with capsys.disabled():
        sys.stdout.write(
            f"\nbatching, 16 connections: {statistics.median(ratios):.2f} × the throughput"
            f" ({min(ratios):.2f} to {max(ratios):.2f}); requests per pass, powers of two: {counts[:6]}"
            f"\n1 connection: {statistics.median(alone[32]) / statistics.median(alone[1]):.2f} × the time\n"
        )
