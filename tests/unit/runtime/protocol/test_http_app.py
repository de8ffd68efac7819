"""Every valid request is answered, and every invalid one gets problem details that name the reason."""

import logging
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

from problems import problem
from profiles import examples
from small_models import predictor

ROW = [0.5, -1.0, 2.0, 0.25]


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
