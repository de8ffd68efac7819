"""KServe's Python client through the edge: byte for byte what its `InferenceRESTClient` of version 0.21 sends, and what it reads.

Source: kserve/inference_client.py and kserve/protocol/infer_type.py (`InferRequest.to_rest`, `InferResponse.from_bytes`) of that version.
Where kserve is installed, the client itself is asked as well.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from aiohttp import web

from sundog_runtime.replica import Replica
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

APPLICATION = "digits-r7"
ROWS = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)
SUMS = [-0.5, 2.25]
DESCRIPTION = """
inputs:
- {name: x, dtype: float32, shape: [-1, 2]}
outputs:
- {name: total, dtype: float32, shape: [-1]}
"""
PREDICTOR = """
class Predictor:
    def load(self, path, config): pass
    def predict(self, batch): return batch.sum(axis=1)
"""


@pytest.fixture
async def base_url(edge, serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Where service `digits` answers, from a model server without Ray behind the edge."""
    monkeypatch.setenv("SUNDOG_CACHE_DIR", str(tmp_path / "cache"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "predictor.py").write_text(PREDICTOR)
    (model / "model.yaml").write_text(DESCRIPTION)
    replica = await Replica.start(
        {
            "version": 1,
            "namespace": "vision",
            "service": "digits",
            "revision": 7,
            "revisionHash": "5f0c",
            "model": {"uri": f"file://{model}", "format": "auto", "entrypoint": "predictor:Predictor", "config": {}},
            "batching": {"maxSize": 1, "maxDelaySeconds": 0.002},
            "warmup": {"requests": 0, "timeoutSeconds": 60.0},
            "cpu": 1.0,
        }
    )
    await replica.reconfigure(None)
    transport = httpx.ASGITransport(replica.app, root_path=f"/{APPLICATION}.app")
    async with httpx.AsyncClient(transport=transport, base_url="http://replica") as model_server:

        async def answer(request: web.Request) -> web.Response:
            if request.path == "/-/routes":
                return web.json_response({f"/{APPLICATION}.app": APPLICATION})
            found = await model_server.request(
                request.method, request.path_qs, content=await request.read(), headers=list(request.headers.items())
            )
            return web.Response(status=found.status_code, body=found.content, headers=found.headers)

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            serve.targets = {APPLICATION: [f"127.0.0.1:{runner.addresses[0][1]}"]}
            await edge.apply(edge.service("digits", [edge.arm("stable", APPLICATION, [[0, 10_000]])]))
            await edge.up("digits", stable=1)
            yield f"{edge.url}/digits"
        finally:
            await runner.cleanup()
            replica.close()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """With the headers that httpx sends of itself, as KServe's client does."""
    async with httpx.AsyncClient(timeout=PATIENCE_S) as made:
        yield made


def request_v2(**tensor: Any) -> dict[str, Any]:
    """`InferRequest.to_rest`, its members in its order."""
    given = {"name": "x", "shape": [2, 2], "datatype": "FP32", **tensor}
    return {"id": "4a3c1f0e-6b1d-4d1c-9f0e-8a1d2c3b4e5f", "model_name": "digits", "inputs": [given]}


def tensors(answer: httpx.Response) -> dict[str, np.ndarray]:
    """`InferResponse.from_bytes`: the members that it needs, read as it reads them."""
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    document = orjson.loads(answer.content[:length])
    assert document["model_name"] == "digits"
    assert document["id"] == request_v2()["id"]
    found, start = {}, length
    for output in document["outputs"]:
        name, shape, datatype = output["name"], output["shape"], output["datatype"]
        assert datatype == "FP32"
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            values = np.array(output["data"], np.float32)
        else:
            values = np.frombuffer(answer.content[start : start + size], np.float32)
            start += size
        found[name] = values.reshape(shape)
    return found


async def test_version_2_as_json(base_url, client):
    body = orjson.dumps(request_v2(data=ROWS.ravel().tolist()))
    headers = {"content-type": "application/json"}
    answer = await client.post(f"{base_url}/v2/models/digits/infer", content=body, headers=headers)
    assert answer.is_success, answer.text
    np.testing.assert_allclose(tensors(answer)["total"], SUMS)


@pytest.mark.parametrize("outputs", [None, {"binary_data": True}, {"binary_data": False}])
async def test_version_2_as_binary_tensors(base_url, client, outputs):
    raw = ROWS.tobytes()
    asked = request_v2(parameters={"binary_data_size": len(raw)})
    if outputs is not None:
        asked["outputs"] = [{"name": "total", "parameters": outputs}]
    head = orjson.dumps(asked)
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    answer = await client.post(f"{base_url}/v2/models/digits/infer", content=head + raw, headers=headers)
    assert answer.is_success, answer.text
    assert ("inference-header-content-length" in answer.headers) == (outputs == {"binary_data": True})
    np.testing.assert_allclose(tensors(answer)["total"], SUMS)


async def test_version_1(base_url, client):
    body = orjson.dumps({"instances": ROWS.tolist()})
    headers = {"content-type": "application/json"}
    answer = await client.post(f"{base_url}/v1/models/digits:predict", content=body, headers=headers)
    assert answer.is_success, answer.text
    assert orjson.loads(answer.content)["predictions"] == SUMS


async def test_what_it_asks_beside_predictions(base_url, client):
    assert (await client.get(f"{base_url}/v2/health/ready")).json().get("ready") is True
    assert (await client.get(f"{base_url}/v2/health/live")).json().get("live") is True
    assert (await client.get(f"{base_url}/v2/models/digits/ready")).is_success
    assert (await client.get(f"{base_url}/v1/models/digits")).json().get("ready") is True
    assert not (await client.get(f"{base_url}/v2/models/other/ready")).is_success


async def test_kserve_itself(base_url):
    kserve = pytest.importorskip("kserve", reason="kserve is not installed; what it sends is written above")
    tensor = kserve.InferInput("x", [2, 2], "FP32")
    for binary in (False, True):
        tensor.set_data_from_numpy(ROWS, binary_data=binary)
        asked = kserve.InferRequest("digits", [tensor], request_id=request_v2()["id"])
        async with kserve.InferenceRESTClient(kserve.inference_client.RESTConfig(protocol="v2")) as rest:
            answer = await rest.infer(base_url, asked, model_name="digits")
            assert await rest.is_model_ready(base_url, "digits")
        np.testing.assert_allclose(answer.outputs[0].as_numpy(), SUMS)
    async with kserve.InferenceRESTClient(kserve.inference_client.RESTConfig(protocol="v1")) as rest:
        answer = await rest.infer(base_url, {"instances": ROWS.tolist()}, model_name="digits")
    assert answer["predictions"] == SUMS
