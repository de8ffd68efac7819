"""A 3×224×224 float32 image as a binary tensor against JSON, both through the edge and the model server."""

import asyncio
import json
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from measuring import networks
from measuring.deployments import application, arguments, deploy
from measuring.load import Request, Side, compare, ratio
from measuring.record import Record, throughput
from real_edge import Edge
from real_ray import RayServe
from sundog_runtime.replica import Replica

pytestmark = [pytest.mark.bench, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(900)]

SHAPE = [3, 224, 224]
ROUNDS = 4
CONNECTIONS = 4
CALLS = 5
PIECE_BYTES = 64 * 1024
"""What uvicorn takes of a body before it waits until that is read."""


def image() -> Any:
    return np.random.default_rng(1).random(SHAPE, dtype="float32")


def oip_json() -> Request:
    data = [round(float(value), 7) for value in image().ravel()]
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, *SHAPE], "data": data}
    return Request(json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode())


def oip_binary() -> Request:
    raw = image().tobytes()
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, *SHAPE], "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = {"inference-header-content-length": str(len(text))}
    return Request(text + raw, "application/octet-stream", length)


async def peak_of(replica: Replica, request: Request) -> float:
    """Return the peak memory that Python and numpy allocate for one call with its body, in payloads of 600 kB.

    The body comes in pieces, as it does over a connection: each is made when it is asked for, and the server puts them together.
    """
    headers = {"content-type": request.content_type, "content-length": str(len(request.body)), **request.headers}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/bench.app/v2/models/images/infer",
        "root_path": "/bench.app",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200, message

    payload = image().nbytes
    await replica.app(dict(scope), in_pieces(request.body), send)
    tracemalloc.start()
    for _ in range(CALLS):
        await replica.app(dict(scope), in_pieces(request.body), send)
        await nothing_held(payload // 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / payload


async def nothing_held(limit: int) -> None:
    """Wait until the server's threads have released the last request, which they do after the answer."""
    async with asyncio.timeout(30):
        while tracemalloc.get_traced_memory()[0] > limit:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.001)


def in_pieces(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Return the receive function for a client that sends a body and waits for the answer."""
    starts = iter(range(0, len(body), PIECE_BYTES))

    async def receive() -> dict[str, Any]:
        start = next(starts, None)
        if start is None:
            return await asyncio.get_running_loop().create_future()
        piece = bytes(memoryview(body)[start : start + PIECE_BYTES])
        return {"type": "http.request", "body": piece, "more_body": start + PIECE_BYTES < len(body)}

    return receive


async def copies(model: Path, requests: dict[str, Request]) -> dict[str, float]:
    replica = await Replica.start(arguments("images", model))
    await replica.reconfigure({"maxRequestBytes": 64 << 20})
    found = {name: await peak_of(replica, request) for name, request in requests.items()}
    replica.close()
    return found


def test_binary_tensors_against_json(wrk: None, ray_serve: RayServe, edge: Edge, tmp_path: Path) -> None:
    model = networks.save(tmp_path / "images", networks.MEANS, SHAPE, "image")
    deploy(ray_serve, edge, [application("images", model)])
    url = edge.url("images", "/v2/models/images/infer")
    requests = {"binary": oip_binary(), "JSON": oip_json()}
    sides = [Side(name, url, request) for name, request in requests.items()]
    samples = compare(sides, CONNECTIONS, ROUNDS)
    peaks = asyncio.run(copies(model, requests))
    record = Record(
        "tensors",
        f"An image of 3×224×224 float32 by OIP, end to end, {CONNECTIONS} connections",
        ("tensor as", "body, kB", "answers per second", "binary / JSON", "peak memory / payload"),
    )
    record.keep_samples("samples", samples)
    record.raw["peaks"] = peaks
    for name, request in requests.items():
        compared = f"{ratio(samples['binary'], samples['JSON']):.1f}" if name == "binary" else ""
        size = f"{len(request.body) / 1000:.0f}"
        record.add(name, size, throughput(samples[name]), compared, f"{peaks[name]:.2f}")
    record.notes.append(
        "The peak is what Python and numpy allocate in the model server for one request: its body, which comes in pieces of 64 KiB"
        " and is put together as it comes, and all that is made of it."
    )
    record.finish()
