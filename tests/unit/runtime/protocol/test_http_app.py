"""Every valid request is answered, and every invalid one gets problem details that name the reason."""

import asyncio
import gzip
import json
import logging
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profiles import examples
from small_models import predictor
from waiting import PATIENCE_S

ROW = [0.5, -1.0, 2.0, 0.25]


@pytest.fixture
async def client(torch_model: Path, args: Any, serve: Any) -> httpx.AsyncClient:
    """Start a replica of the declared torch model."""
    found: httpx.AsyncClient = await serve(args(torch_model))
    return found


def problem(answer: httpx.Response, status: int, code: str) -> str:
    """Check that problem details conform to RFC 9457, and return their detail."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code), document
    assert document["title"] == {413: "Content Too Large"}.get(status, HTTPStatus(status).phrase)
    assert set(document) == {"type", "title", "status", "detail", "code", "requestId", "error"}
    error = document["error"]
    assert (error["message"] if isinstance(error, dict) else error) == document["detail"]
    assert document["requestId"]
    assert "Traceback" not in answer.text
    detail: str = document["detail"]
    return detail


def tensor(data: Any, **change: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": data} | change]}


async def test_plain_json(client: httpx.AsyncClient, network: torch.nn.Module) -> None:
    answer = await client.post("/", json={"inputs": [ROW, ROW]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    expected = network(torch.tensor([ROW, ROW])).tolist()
    np.testing.assert_allclose(answer.json()["outputs"], expected, rtol=1e-5)


async def test_a_list_of_rows(client: httpx.AsyncClient) -> None:
    whole = await client.post("/", json={"inputs": [ROW, ROW]})
    assert (await client.post("/", json=[ROW, ROW])).json() == whole.json()


@pytest.mark.parametrize("path", ["/digits-r8.app", "/digits-r8.app/"])
async def test_the_prefix_needs_no_slash_and_gives_no_redirect(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(f"http://replica{path}", json={"inputs": {"x": [ROW]}})
    assert answer.status_code == 200


@pytest.mark.parametrize("data", [ROW, [ROW]])
async def test_open_inference_protocol(client: httpx.AsyncClient, network: torch.nn.Module, data: Any) -> None:
    answer = await client.post("/v2/models/digits/infer", json=tensor(data) | {"id": "one"})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    [output] = document.pop("outputs")
    assert document == {"model_name": "digits", "model_version": "1", "id": "one"}
    np.testing.assert_allclose(output.pop("data"), network(torch.tensor([ROW])).flatten().tolist(), rtol=1e-5)
    assert output == {"name": "scores", "datatype": "FP32", "shape": [1, 3]}


async def test_metadata_and_health(client: httpx.AsyncClient) -> None:
    async def get(path: str) -> Any:
        answer = await client.get(path)
        assert answer.status_code == 200
        return answer.json()

    server = await get("/v2")
    assert (server["name"], server["extensions"]) == ("sundog", ["binary_tensor_data"])
    assert await get("/v2/models/digits/versions/1") == await get("/v2/models/digits")
    assert await get("/v2/models/digits/versions/1/ready") == {"name": "digits", "ready": True}
    assert await get("/v2/health/live") == {"live": True}
    assert await get("/v2/health/ready") == {"ready": True}
    assert await get("/v2/models/digits/ready") == {"name": "digits", "ready": True}
    assert await get("/v2/models/digits") == {
        "name": "digits",
        "versions": ["1"],
        "platform": "pytorch",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert (await client.head("/v2/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 405, "MethodNotAllowed"),
        ("PUT", "/", 405, "MethodNotAllowed"),
        ("POST", "/v2/health/live", 405, "MethodNotAllowed"),
        ("GET", "/v2/models/digits/infer", 405, "MethodNotAllowed"),
        ("POST", "/nothing", 404, "NotFound"),
        ("GET", "/v2/models", 404, "NotFound"),
        ("GET", "/v2/models/digits/versions", 404, "NotFound"),
        ("GET", "/v2/models/digits/versions/8", 404, "VersionNotFound"),
        ("POST", "/v2/models/digits/versions/8/infer", 404, "VersionNotFound"),
        ("GET", "/v2/models/digits/versions/1/infer", 405, "MethodNotAllowed"),
        ("GET", "/v2/models/digits/nothing", 404, "NotFound"),
        ("GET", "/v2/models/other", 404, "ModelNotFound"),
        ("POST", "/v2/models/other/infer", 404, "ModelNotFound"),
        ("GET", "/v2/models/%2e%2e", 404, "ModelNotFound"),
    ],
)
async def test_paths_and_methods(client: httpx.AsyncClient, method: str, path: str, status: int, code: str) -> None:
    answer = await client.request(method, path)
    problem(answer, status, code)
    assert ("allow" in answer.headers) == (status == 405)


async def test_a_longer_name_is_not_below_the_prefix(client: httpx.AsyncClient) -> None:
    problem(await client.post("http://replica/digits-r8.appx", json={"inputs": [ROW]}), 404, "NotFound")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("", "EmptyBody", "empty"),
        ("{", "MalformedJson", "not JSON"),
        ("\xff", "MalformedJson", "UTF-8"),
        ("[1]", "WrongShape", "'x' has the shape [1]"),
        ("[]", "WrongShape", "'x' has the shape [0]"),
        ("[[1, 2, 3, true]]", "WrongType", "holds boolean values"),
        ("7", "WrongType", "number; expected an object or an array"),
        ("null", "WrongType", "null; expected an object or an array"),
        ("{}", "MissingInputs", '"inputs"'),
        ('{"inputs": [[1, 2, 3, NaN]]}', "MalformedJson", "not JSON"),
        ('{"inputs": [[1, 2, 3, Infinity]]}', "MalformedJson", "not JSON"),
        ('{"inputs": [[1, 2, 3, 1e999]]}', "MalformedJson", "infinity"),
        ('{"inputs": [[1, 2, 3, 1e300]]}', "OutOfRange", "'x'"),
        ('{"inputs": ' + "[" * 5000 + "]" * 5000 + "}", "MalformedJson", "depth"),
        ('{"inputs": ' + "[" * 500 + "1" + "]" * 500 + "}", "WrongShape", "more than 32 dimensions"),
        ('{"inputs": [[1, 2, 3]]}', "WrongShape", "'x' has the shape [1, 3]; expected [-1, 4]"),
        ('{"inputs": [1, 2, 3, 4]}', "WrongShape", "[4]; expected [-1, 4]"),
        ('{"inputs": []}', "WrongShape", "[0]"),
        ('{"inputs": 7}', "WrongShape", "[]"),
        ('{"inputs": [[1, 2, 3, 4], [1]]}', "RaggedInput", "lengths 1 to 4"),
        ('{"inputs": [[1, 2, 3, 4], 5]}', "RaggedInput", "mixes"),
        ('{"inputs": [[1, 2, 3, "4"]]}', "WrongType", "holds string values; expected float32"),
        ('{"inputs": [[1, 2, 3, true]]}', "WrongType", "holds boolean values"),
        ('{"inputs": [[1, 2, 3, null]]}', "WrongType", "holds null values"),
        ('{"inputs": [[1, 2, 3, {}]]}', "WrongType", "holds object values"),
        ('{"inputs": {"y": [[1, 2, 3, 4]]}}', "WrongInputs", "'y'; expected 'x'"),
        ('{"inputs": {}}', "WrongInputs", "nothing; expected 'x'"),
        ('{"inputs": [[1, 2, 3, 4]], "instances": []}', "UnknownField", "'instances'"),
    ],
)
async def test_plain_bodies_that_are_wrong(client: httpx.AsyncClient, body: str, code: str, message: str) -> None:
    answer = await client.post("/", content=body.encode("latin-1"))
    assert message in problem(answer, 400, code)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, "MissingInputs", "inputs"),
        ({"inputs": []}, "MissingInputs", "inputs"),
        ({"inputs": [1]}, "WrongType", "inputs[0]"),
        ({"inputs": [{}]}, "WrongType", "inputs[0].name"),
        (tensor(ROW, name=""), "WrongType", "inputs[0].name"),
        (tensor(ROW, datatype="FP33"), "WrongType", "datatype is 'FP33'; expected one of BOOL"),
        (tensor(ROW, datatype="F" * 99), "WrongType", f"datatype is '{'F' * 60}'; expected one of BOOL"),
        (tensor(ROW, datatype=7), "WrongType", "datatype is a JSON number; expected one of BOOL"),
        (tensor(ROW, datatype="FP64"), "WrongType", "FP64; expected FP32"),
        (tensor(ROW, datatype="BYTES"), "WrongType", "BYTES; expected FP32"),
        (tensor(ROW, shape=[4]), "WrongShape", "[4]; expected [-1, 4]"),
        (tensor([1.0], shape=[]), "WrongShape", "'x' has the shape []; expected [-1, 4]"),
        (tensor(ROW, shape=[2, 4]), "WrongShape", "data has the shape [4]; expected [2, 4]"),
        (tensor(ROW, shape=[10**12, 4]), "WrongShape", "data has the shape [4]"),
        (tensor(ROW, shape=[-1, 4]), "WrongShape", "not an array of sizes"),
        (tensor(ROW, shape=[True, 4]), "WrongShape", "not an array of sizes"),
        (tensor(ROW, shape="1,4"), "WrongShape", "not an array of sizes"),
        (tensor(ROW, shape=[1] * 40), "WrongShape", "more than 32"),
        (tensor(["1", "2", "3", "4"]), "WrongType", "string values; expected float32"),
        (tensor(ROW, name="y"), "WrongInputs", "'y'; expected 'x'"),
        ({"inputs": tensor(ROW)["inputs"] * 2}, "WrongInputs", "twice"),
        (tensor(ROW) | {"id": 5}, "WrongType", "id"),
        (tensor(ROW, extra=5), "UnknownField", "'extra'"),
        (tensor(ROW) | {"outputs": "scores"}, "WrongType", "outputs"),
    ],
)
async def test_protocol_bodies_that_are_wrong(client: httpx.AsyncClient, body: Any, code: str, message: str) -> None:
    answer = await client.post("/v2/models/digits/infer", json=body)
    assert message in problem(answer, 400, code)


async def test_the_repository_holds_the_model(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v2/repository/index", json={"ready": True})
    assert answer.json() == [{"name": "digits", "version": "1", "state": "READY", "reason": ""}]
    problem(await client.get("/v2/repository/index"), 405, "MethodNotAllowed")


async def test_version_1_of_kserve_s_protocol(client: httpx.AsyncClient, network: torch.nn.Module) -> None:
    assert (await client.get("/v1/models")).json() == {"models": ["digits"], "object": "list", "data": []}
    assert (await client.get("/v1/models/digits")).json() == {"name": "digits", "ready": True}
    expected = network(torch.tensor([ROW, ROW])).tolist()
    for instances in ([ROW, ROW], [{"x": ROW}, {"x": ROW}]):
        answer = await client.post("/v1/models/digits:predict", json={"instances": instances, "signature_name": "x"})
        assert set(answer.json()) == {"predictions"}
        np.testing.assert_allclose(answer.json()["predictions"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/files/a", "/chat/completions"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_of_openai_learns_in_its_form_what_the_service_speaks(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, path)
    detail = problem(answer, 404, "NotFound")
    error = answer.json()["error"]
    assert error == {"message": detail, "type": "invalid_request_error", "param": None, "code": "unknown_url"}
    for spoken in ("/v2/models/digits/infer", "/v1/models/digits:predict", "/openapi.json"):
        assert spoken in detail


@pytest.mark.parametrize("path", ["/v1/models/letters:predict", "/v1/models/digits:explain"])
async def test_version_1_of_another_model(client: httpx.AsyncClient, path: str) -> None:
    problem(await client.post(path, json={"instances": [ROW]}), 404, "ModelNotFound")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, "MissingInputs", "instances"),
        ({"instances": []}, "MissingInputs", "instances"),
        ({"instances": {"x": [ROW]}}, "MissingInputs", "instances"),
        ([ROW], "WrongType", "the body is a JSON array"),
        ({"instances": [{"x": ROW}, ROW]}, "WrongType", "instances[1] is a JSON array"),
        ({"instances": [{"x": ROW}, {"y": ROW}]}, "WrongInputs", "instances[1] has other names"),
        ({"instances": [{"y": ROW}]}, "WrongInputs", "'y'; expected 'x'"),
        ({"instances": [[1, 2]]}, "WrongShape", "[1, 2]"),
    ],
)
async def test_version_1_bodies_that_are_wrong(client: httpx.AsyncClient, body: Any, code: str, message: str) -> None:
    assert message in problem(await client.post("/v1/models/digits:predict", json=body), 400, code)


@pytest.mark.parametrize(
    ("output", "predictions"),
    [
        ("{'a': numpy.array([[1, 2], [3, 4]]), 'b': ['x', 'y']}", [{"a": [1, 2], "b": "x"}, {"a": [3, 4], "b": "y"}]),
        ("{'a': numpy.array([1, 2]), 'b': numpy.array([1])}", {"a": [1, 2], "b": [1]}),
        ("{'a': 1}", {"a": 1}),
        ("numpy.array([1, 2])", [1, 2]),
        ("batch", [{"free": 1}, {"free": 2}]),
    ],
)
async def test_version_1_answers_in_rows(serve_predictor: Any, output: str, predictions: Any) -> None:
    client = await serve_predictor(predictor(f"return {output}", imports="import numpy"))
    answer = await client.post("/v1/models/digits:predict", json={"instances": [{"free": 1}, {"free": 2}]})
    assert answer.json() == {"predictions": predictions}


async def test_unknown_members_of_a_request_are_ignored(client: httpx.AsyncClient) -> None:
    """KServe's own client always sends `model_name`."""
    expected = await client.post("/v2/models/digits/infer", json=tensor(ROW) | {"id": "one"})
    sent = {"id": "one", "model_name": "digits", "extra": [5], **tensor(ROW)}
    answer = await client.post("/v2/models/digits/infer", json=sent)
    assert (answer.status_code, answer.json()) == (200, expected.json())


TWO_INPUTS = """
import torch

class Net(torch.nn.Module):
    def forward(self, left, right):
        return left + right
"""


@pytest.mark.parametrize(("batchable", "status"), [("", 400), ("batchable: false\n", 200)])
@pytest.mark.parametrize("path", ["/", "/v2/models/digits/infer"])
async def test_inputs_have_as_many_rows_as_each_other(
    torch_model: Path, args: Any, serve: Any, batchable: str, status: int, path: str
) -> None:
    (torch_model / "net.py").write_text(TWO_INPUTS)
    safetensors.torch.save_file({}, torch_model / "model.safetensors")
    (torch_model / "model.yaml").write_text(
        "inputs:\n- {name: left, dtype: float32, shape: [-1, 2]}\n- {name: right, dtype: float32, shape: [-1, 2]}\n"
        + batchable
    )
    client = await serve(args(torch_model))
    rows = {"left": [[1.0, 2.0], [3.0, 4.0]], "right": [[1.0, 1.0]]}
    tensors = [{"name": name, "datatype": "FP32", "shape": [len(data), 2], "data": data} for name, data in rows.items()]
    answer = await client.post(path, json={"inputs": rows if path == "/" else tensors})
    assert answer.status_code == status
    if status == 400:
        message = "input 'right' has the size 1 in dimension 0; expected 2, as input 'left' has in dimension 0"
        assert problem(answer, 400, "WrongShape") == message


async def test_texts_have_as_many_rows_as_what_comes_with_them(serve_predictor: Any) -> None:
    declared = "inputs:\n- {name: text, dtype: string, shape: [-1]}\n- {name: weight, dtype: float32, shape: [-1]}\n"
    client = await serve_predictor(predictor("return [1]"), declared)
    answer = await client.post("/", json={"inputs": {"text": ["a", "b"], "weight": [1.0]}})
    assert "'weight' has the size 1" in problem(answer, 400, "WrongShape")


async def test_plain_json_without_values_is_taken_for_a_mistake(torch_model: Path, args: Any, serve: Any) -> None:
    (torch_model / "model.yaml").write_text("inputs: [{name: x, dtype: float32, shape: [-1]}]")
    client = await serve(args(torch_model, warmup={"requests": 0}))
    problem(await client.post("/", json={"inputs": []}), 400, "EmptyInput")


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "GZIP": gzip.compress,
    "identity": bytes,
}


@pytest.mark.parametrize("encoding", PACKED)
async def test_compressed_bodies(client: httpx.AsyncClient, encoding: str) -> None:
    body = json.dumps({"inputs": [ROW]}).encode()
    wanted = (await client.post("/", content=body)).json()
    answer = await client.post("/", content=PACKED[encoding](body), headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()) == (200, wanted)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "code", "message"),
    [
        ("br", b"x", 415, "ContentEncoding", "the content encoding 'br'; expected gzip, x-gzip, deflate or none"),
        ("gzip, gzip", b"x", 415, "ContentEncoding", "'gzip, gzip'"),
        ("gzip", b"\x1f\x8b\x08", 400, "MalformedBody", "the body ends within its gzip data"),
        ("gzip", b"{}", 400, "MalformedBody", "the body is not gzip"),
        ("gzip", gzip.compress(b"{}") + b"{}", 400, "MalformedBody", "has bytes after its gzip data"),
        ("deflate", gzip.compress(b"{}"), 400, "MalformedBody", "the body is not deflate"),
    ],
)
async def test_compressed_bodies_that_are_wrong(
    client: httpx.AsyncClient, encoding: str, body: bytes, status: int, code: str, message: str
) -> None:
    answer = await client.post("/", content=body, headers={"content-encoding": encoding})
    assert message in problem(answer, status, code)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_small_body_does_not_unpack_to_more_than_a_body_may_have(
    torch_model: Path, args: Any, serve: Any, encoding: str
) -> None:
    limit = 1_000_000
    client = await serve(args(torch_model), {"maxRequestBytes": limit})
    packed = PACKED[encoding](bytes(100 * limit))
    tracemalloc.start()
    answer = await client.post("/", content=packed, headers={"content-encoding": encoding})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert problem(answer, 413, "BodyTooLarge") == f"the body is larger than {limit} bytes"
    assert peak < 10 * limit


async def test_a_client_that_goes_away_gets_no_answer(client: httpx.AsyncClient) -> None:
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    await client.replica.app(scope, receive, send)  # type: ignore[attr-defined]
    assert sent == []


class Pieces:
    """One request from a server, whose body arrives piece by piece, one at each turn of the loop or when `go` is set."""

    def __init__(
        self, body: bytes, timeout: str = "", *, piece: int = 1, asked: tuple[str, str] = ("POST", "/")
    ) -> None:
        headers = [(b"content-length", b"%d" % len(body))]
        if timeout:
            headers.append((b"x-sundog-timeout-seconds", timeout.encode()))
        self.scope = {"type": "http", "method": asked[0], "path": asked[1], "headers": headers}
        self.go = asyncio.Event()
        self.go.set()
        self.taken = 0
        self.sent: list[Any] = []
        self._body = body
        self._piece = piece

    async def receive(self) -> Any:
        await asyncio.sleep(0)
        await self.go.wait()
        piece = self._body[self.taken : self.taken + self._piece]
        self.taken += len(piece)
        return {"type": "http.request", "body": piece, "more_body": self.taken < len(self._body)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def response(self) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
        """Return status, headers and document of a complete answer."""
        start, body = self.sent
        assert not body["more_body"]
        return start["status"], dict(start["headers"]), json.loads(body["body"])


@pytest.mark.parametrize("silent", [False, True], ids=["drop by drop", "silent"])
async def test_a_body_that_does_not_arrive_in_time_is_a_timeout(client: httpx.AsyncClient, silent: bool) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 10_000_000, timeout="0.5")
    if silent:
        request.go.clear()
    async with asyncio.timeout(PATIENCE_S):
        await replica.app(request.scope, request.receive, request.send)
    status, headers, document = request.response()
    assert (status, headers[b"content-type"]) == (408, b"application/problem+json")
    assert headers[b"connection"] == b"close", "what still comes holds a place at the edge"
    assert (document["code"], document["detail"]) == (
        "RequestTimeout",
        f"the request's deadline passed when {request.taken} of 10000000 bytes of its body had arrived",
    )
    assert (request.taken == 0) == silent
    assert replica.metrics.answers == {"RequestTimeout": 1}
    assert replica._scheduler._arriving == 0, "others are held for company that never comes"
    assert (await client.post("/", json={"inputs": [ROW]})).status_code == 200


@pytest.mark.parametrize("size", [20, 100_000], ids=["its end", "a good part"])
async def test_a_body_that_lies_unread_when_the_time_is_over_is_the_replica_s_fault(
    client: httpx.AsyncClient, size: int
) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * size, timeout="0.0000001", piece=16_384)
    await replica.app(request.scope, request.receive, request.send)
    status, headers, document = request.response()
    assert (status, headers[b"connection"], document["code"]) == (504, b"close", "DeadlineExceeded")
    assert document["detail"] == "the request's deadline passed before its body was read"


async def test_a_client_that_leaves_while_its_body_is_late_gets_no_answer(client: httpx.AsyncClient) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 100, timeout="0.0000001")

    async def receive() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    await replica.app(request.scope, receive, request.send)
    assert (request.sent, replica.metrics.answers) == ([], {"ClientGone": 1})


EARLY = [(("POST", "/nothing"), 404), (("GET", "/"), 405), (("GET", "/v2/health/live"), 200)]
"""Requests that are answered without a look at the body, and their statuses."""


@pytest.mark.parametrize(("asked", "status"), EARLY)
async def test_a_client_may_send_the_rest_until_the_deadline(
    client: httpx.AsyncClient, asked: tuple[str, str], status: int
) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 10_000_000, timeout="0.5", asked=asked)
    async with asyncio.timeout(PATIENCE_S):
        await replica.app(request.scope, request.receive, request.send)
    start, body = request.sent
    assert (start["status"], body["more_body"]) == (status, True), "the server must cut the connection"
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])
    assert b"connection" not in dict(start["headers"])
    assert 0 < request.taken < 10_000_000


@pytest.mark.parametrize(("asked", "status"), EARLY)
async def test_a_client_that_sends_the_rest_in_time_keeps_its_connection(
    client: httpx.AsyncClient, asked: tuple[str, str], status: int
) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 100, timeout="30", asked=asked)
    await replica.app(request.scope, request.receive, request.send)
    start, body, end = request.sent
    assert (start["status"], body["more_body"]) == (status, True)
    assert (end, request.taken) == ({"type": "http.response.body"}, 100)


@pytest.mark.parametrize(("asked", "status"), EARLY)
async def test_without_a_deadline_the_rest_of_a_body_is_left_to_the_server(
    client: httpx.AsyncClient, asked: tuple[str, str], status: int
) -> None:
    request = Pieces(b" " * 100, asked=asked)
    await client.replica.app(request.scope, request.receive, request.send)  # type: ignore[attr-defined]
    assert (request.response()[0], request.taken) == (status, 0)


@pytest.mark.parametrize("timeout", ["", "30"], ids=["no deadline", "in time"])
async def test_a_slow_body_that_arrives_in_time_is_answered(client: httpx.AsyncClient, timeout: str) -> None:
    request = Pieces(json.dumps({"inputs": [ROW]}).encode(), timeout)
    await client.replica.app(request.scope, request.receive, request.send)  # type: ignore[attr-defined]
    assert request.sent[0]["status"] == 200
    assert b"connection" not in dict(request.sent[0]["headers"])


async def test_a_request_cancelled_during_its_body_gets_no_answer(client: httpx.AsyncClient) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 100, timeout="30")
    request.go.clear()
    task = asyncio.create_task(replica.app(request.scope, request.receive, request.send))
    while not replica._scheduler._arriving:  # noqa: ASYNC110 (it is the loop's turns that are waited for)
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (request.sent, replica.metrics.answers) == ([], {"ClientGone": 1})


async def test_lifespan_and_websockets(client: httpx.AsyncClient) -> None:
    sent: list[str] = []
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    app = client.replica.app  # type: ignore[attr-defined]
    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


class Body:
    """A body in pieces, which counts the pieces that were read."""

    def __init__(self, piece: bytes, count: int) -> None:
        self.piece, self.count, self.taken = piece, count, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.count):
            self.taken += 1
            yield self.piece


async def test_bodies_that_are_too_large(torch_model: Path, args: Any, serve: Any) -> None:
    client = await serve(args(torch_model), {"maxRequestBytes": 100})
    fits = json.dumps({"inputs": [ROW]}).encode().ljust(100)
    assert (await client.post("/", content=fits)).status_code == 200
    assert "100 bytes" in problem(await client.post("/", content=fits + b" "), 413, "BodyTooLarge")
    assert (await client.post("/", content=Body(fits, 1))).status_code == 200
    assert "100 bytes" in problem(await client.post("/", content=Body(fits + b" ", 1)), 413, "BodyTooLarge")
    body = Body(b" " * 40, 1000)
    assert "100 bytes" in problem(await client.post("/", content=body), 413, "BodyTooLarge")
    assert body.taken == 3, "a body is not read beyond the limit"
    huge = {"content-length": "9" * 30}
    problem(await client.post("/", content=b"", headers=huge), 413, "BodyTooLarge")


async def test_the_request_id_is_the_client_s_where_it_can_be_printed(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", headers={"x-request-id": "abc-1"})
    assert answer.json()["requestId"] == "abc-1"
    answer = await client.post("/", headers={"x-request-id": "a\tb<script>"})
    assert len(answer.json()["requestId"]) == 32


@pytest.fixture
async def evaluator(serve_predictor: Any) -> httpx.AsyncClient:
    """A predictor whose output comes from the request."""
    found: httpx.AsyncClient = await serve_predictor(predictor("return eval(batch['code'])"))
    return found


@pytest.mark.parametrize("error", ["MemoryError()", "__import__('torch').OutOfMemoryError('CUDA out of memory')"])
async def test_a_model_that_runs_out_of_memory_is_reported_as_such(
    evaluator: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    code = f"(_ for _ in ()).throw({error})"
    with caplog.at_level(logging.ERROR, "ray.serve.sundog"):
        answer = await evaluator.post("/", json={"inputs": {"code": code}}, headers={"x-request-id": "find-me"})
    assert problem(answer, 500, "OutOfMemory").startswith("the model ran out of memory on this request")
    assert "find-me" in caplog.text


@pytest.mark.parametrize(
    "code",
    [
        "1 / 0",
        "(_ for _ in ()).throw(ConnectionResetError)",
        "exit()",
        "open('/nothing')",
        "(_ for _ in ()).throw(KeyboardInterrupt)",
        "next(iter([]))",
        "eval('x' * 9)",
    ],
)
async def test_a_model_that_raises(evaluator: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, code: str) -> None:
    with caplog.at_level(logging.ERROR, "ray.serve.sundog"):
        answer = await evaluator.post("/", json={"inputs": {"code": code}}, headers={"x-request-id": "find-me"})
    detail = problem(answer, 500, "ModelError")
    assert detail == "the model raised an error; see the replica's log for this request id"
    assert answer.json()["requestId"] == "find-me"
    assert "request find-me: the model raised" in caplog.text
    assert "Traceback" in caplog.text
    assert (await evaluator.post("/", json={"inputs": {"code": "7"}})).json() == {"outputs": 7}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("float('nan')", "OutputNotFinite"),
        ("{'a': [1.0, float('inf')]}", "OutputNotFinite"),
        ("__import__('numpy').array([1.0, float('nan')])", "OutputNotFinite"),
        ("__import__('numpy').float32('inf')", "OutputNotFinite"),
        ("__import__('torch').tensor([float('-inf')])", "OutputNotFinite"),
        ("object()", "OutputUnusable"),
        ("{1: 2}", "OutputUnusable"),
        ("b'bytes'", "OutputUnusable"),
        ("1j", "OutputUnusable"),
        ("__import__('numpy').array([1j])", "OutputUnusable"),
        ("2 ** 70", "OutputUnusable"),
        ("'\\ud800'", "OutputUnusable"),
        ("(lambda x: (x.append(x), x)[1])([])", "OutputUnusable"),
    ],
)
async def test_an_unusable_output_is_a_problem_and_in_the_log(
    evaluator: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, code: str, kind: str
) -> None:
    answer = await evaluator.post("/", json={"inputs": {"code": code}}, headers={"x-request-id": "find-me"})
    detail = problem(answer, 500, kind)
    assert "output" in detail
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == f"request find-me: {kind}: {detail}"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("None", None),
        ("'text'", "text"),
        ("(1, [True, 2.5])", [1, [True, 2.5]]),
        (
            "{'a': __import__('numpy').arange(3), 'b': __import__('torch').ones(1, 2)}",
            {"a": [0, 1, 2], "b": [[1.0, 1.0]]},
        ),
        ("__import__('torch').tensor([1.5], dtype=__import__('torch').bfloat16)", [1.5]),
        ("__import__('torch').tensor(4)", 4),
        ("__import__('numpy').arange(6).reshape(2, 3).T", [[0, 3], [1, 4], [2, 5]]),
        ("__import__('numpy').array(['a', 'b'])", ["a", "b"]),
        ("__import__('numpy').float32(0.5)", 0.5),
    ],
)
async def test_outputs_of_all_kinds(evaluator: httpx.AsyncClient, code: str, expected: Any) -> None:
    answer = await evaluator.post("/", json={"inputs": {"code": code}})
    assert answer.json() == {"outputs": expected}


ECHO = predictor("""kind = f"{type(batch).__name__} {getattr(batch, 'dtype', '')}".strip()
return {"kind": kind, "batch": batch}""")


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        ([[1.5, 2]], "ndarray float64"),
        ([1, 2], "ndarray int64"),
        ([True], "ndarray bool"),
        (["a", "b"], "list"),
        ([{"a": 1}], "list"),
        ([[1, "a"], [None]], "list"),
        ({"a": [1]}, "dict"),
        ("text", "str"),
        (3, "int"),
        (None, "NoneType"),
    ],
)
async def test_inputs_of_an_undeclared_predictor(serve_predictor: Any, inputs: Any, kind: str) -> None:
    answer = await (await serve_predictor(ECHO)).post("/", json={"inputs": inputs})
    assert answer.json() == {"outputs": {"kind": kind, "batch": inputs}}


@pytest.mark.parametrize("inputs", [[[1, 2], [3]], [1, True], [], {}])
async def test_refused_inputs_of_an_undeclared_predictor(serve_predictor: Any, inputs: Any) -> None:
    answer = await (await serve_predictor(ECHO)).post("/", json={"inputs": inputs})
    assert answer.status_code == 400


async def test_several_inputs_are_keyword_arguments(torch_model: Path, args: Any, serve: Any) -> None:
    (torch_model / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.first = torch.nn.Linear(4, 8)\n"
        "        self.second = torch.nn.Linear(8, 3)\n"
        "    def forward(self, *, left, right):\n        return {'difference': left - right}\n"
    )
    (torch_model / "model.yaml").write_text(
        "inputs:\n- {name: left, dtype: int64, shape: [-1]}\n- {name: right, dtype: int64, shape: [-1]}\n"
    )
    client = await serve(args(torch_model))
    answer = await client.post("/", json={"inputs": {"right": [1, 1], "left": [5, 4]}})
    assert answer.json() == {"outputs": {"difference": [4, 3]}}
    both = [
        {"name": name, "datatype": "INT64", "shape": [1], "data": [value]}
        for name, value in (("right", 1), ("left", 5))
    ]
    answer = await client.post("/v2/models/digits/infer", json={"inputs": both})
    assert answer.json()["outputs"][0]["data"] == [4]
    assert "expected an object with 'left', 'right'" in problem(
        await client.post("/", json={"inputs": [1]}), 400, "WrongType"
    )
    assert "integers" not in problem(
        await client.post("/", json={"inputs": {"left": [1.5], "right": [1]}}), 400, "WrongType"
    )


async def test_undeclared_whole_numbers_fit_a_network_of_floats(torch_model: Path, args: Any, serve: Any) -> None:
    (torch_model / "model.yaml").unlink()
    client = await serve(args(torch_model))
    assert (await client.post("/", json={"inputs": [[1, 2, 3, 4]]})).status_code == 200


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("shape: [-1, 2]", "'scores' is float32 [1, 3]; expected float32 [-1, 2]"),
        ("shape: [-1, 3, 1]", "expected float32 [-1, 3, 1]"),
    ],
)
async def test_outputs_are_as_declared(torch_model: Path, args: Any, serve: Any, declared: str, message: str) -> None:
    text = (torch_model / "model.yaml").read_text().replace("shape: [-1, 3]", declared)
    (torch_model / "model.yaml").write_text(text)
    client = await serve(args(torch_model, warmup={"requests": 0}))
    for path, body in (("/", {"inputs": [ROW]}), ("/v2/models/digits/infer", tensor(ROW))):
        assert message in problem(await client.post(path, json=body), 500, "OutputNotAsDeclared")


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(["GET", "POST", "DELETE", "OPTIONS"]), path=st.text(max_size=30))
async def test_any_path_gets_an_answer_or_a_problem(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, f"http://replica/digits-r8.app/{quote(path)}")
    assert answer.status_code in (200, 400, 404, 405)


@pytest.mark.parametrize(
    ("value", "status", "expected"),
    [
        ("[[1, 2.5]]", 200, [[1.0, 2.5]]),
        ("{'scores': [[1, 2]]}", 200, {"scores": [[1.0, 2.0]]}),
        ("[[1, 2], [3]]", 500, "OutputUnusable"),
        ("[['1', '2']]", 500, "OutputUnusable"),
        ("[[1e300, 0]]", 500, "OutputUnusable"),
        ("[[1, 2, 3]]", 500, "OutputNotAsDeclared"),
        ("{'other': [[1, 2]]}", 500, "OutputNotAsDeclared"),
        ("__import__('numpy').zeros((1, 2))", 500, "OutputNotAsDeclared"),
    ],
)
async def test_lists_become_arrays_of_the_declared_type(
    serve_predictor: Any, value: str, status: int, expected: Any
) -> None:
    declared = "outputs: [{name: scores, dtype: float32, shape: [-1, 2]}]"
    client = await serve_predictor(predictor(f"return {value}"), declared)
    plain = await client.post("/", json={"inputs": [1]})
    one = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [1]}]}
    protocol = await client.post("/v2/models/digits/infer", json=one)
    if status == 200:
        assert plain.json() == {"outputs": expected}
        assert protocol.json()["outputs"][0]["datatype"] == "FP32"
    else:
        problem(plain, 500, expected)
        problem(protocol, 500, expected)


@pytest.mark.parametrize("datatype", ["FP64", "FP16", "INT32", "FP32"])
async def test_undeclared_tensors_get_the_network_s_types(
    torch_model: Path, args: Any, serve: Any, datatype: str
) -> None:
    (torch_model / "model.yaml").unlink()
    client = await serve(args(torch_model))
    answer = await client.post("/v2/models/digits/infer", json=tensor([1, 2, 3, 4], datatype=datatype))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["datatype"] == "FP32"


async def test_undeclared_names_are_parameters_of_forward(torch_model: Path, args: Any, serve: Any) -> None:
    (torch_model / "model.yaml").unlink()
    client = await serve(args(torch_model))
    assert (await client.post("/", json={"inputs": {"x": [ROW]}})).status_code == 200
    assert "'y'" in problem(await client.post("/", json={"inputs": {"y": [ROW]}}), 400, "WrongInputs")
    two = {"inputs": [tensor(ROW)["inputs"][0], tensor(ROW, name="y")["inputs"][0]]}
    assert "'y'" in problem(await client.post("/v2/models/digits/infer", json=two), 400, "WrongInputs")
    text = tensor(["a"], datatype="BYTES", shape=[1])
    assert "BYTES" in problem(await client.post("/v2/models/digits/infer", json=text), 400, "WrongType")
    problem(await client.post("/", json={"inputs": "text"}), 400, "WrongType")
    problem(await client.post("/", json={"inputs": [["text"]]}), 400, "WrongType")
