"""Clients' parameters reach the model in every protocol. Requests with different parameters are never batched together."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from small_models import predictor
from sundog_runtime.context import NO_PARAMETERS, RequestContext, parameters, parameters_of, working_on
from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.grpc_messages import decode_infer
from sundog_runtime.protocol.inference_pb2 import ModelInferRequest
from sundog_runtime.protocol.messages import DecodedRequest
from sundog_runtime.protocol.oip import decode_oip
from sundog_runtime.protocol.plain_json import decode_plain, encode_json
from sundog_runtime.signature import Signature
from sundog_runtime.tensors import TensorSpec

MODEL = LoadedModel("python", "", lambda batch: batch, Signature((TensorSpec("x", "float32", (-1, 2)),)))
GIVEN = {"language": "de", "seed": 7, "classification_threshold": 0.5, "verbose": True, "stop": None}


def model_parameters_of(query: DecodedRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    assert query.parameters is not None
    return dict(query.parameters.request), {name: dict(found) for name, found in query.parameters.inputs.items()}


def rest(parameters: Any = None, of_input: Any = None, of_output: Any = None) -> DecodedRequest:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    document = {"inputs": [tensor | ({} if of_input is None else {"parameters": of_input})]}
    document |= {} if parameters is None else {"parameters": parameters}
    document |= {} if of_output is None else {"outputs": [{"name": "y", "parameters": of_output}]}
    return decode_oip("m", MODEL, {}, encode_json(document))


def grpc(parameters: Any = None, of_input: Any = None) -> DecodedRequest:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": of_input}
    raw = [np.zeros(2, np.float32).tobytes()]
    request = ModelInferRequest(model_name="m", parameters=parameters, inputs=[tensor], raw_input_contents=raw)
    return decode_infer("m", MODEL, request.SerializeToString())


def plain(parameters: Any = None) -> DecodedRequest:
    document = {"inputs": [[1, 2]]} | ({} if parameters is None else {"parameters": parameters})
    return decode_plain(MODEL, encode_json(document))


def test_they_come_through_as_they_were_sent() -> None:
    assert model_parameters_of(rest(GIVEN)) == model_parameters_of(plain(GIVEN)) == (GIVEN, {})
    found, _ = model_parameters_of(rest(GIVEN))
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in GIVEN.items()}
    assert model_parameters_of(rest(of_input={"content_type": "np"})) == ({}, {"x": {"content_type": "np"}})


def test_every_kind_of_grpc_is_the_value_it_holds() -> None:
    sent = {
        "language": {"string_param": "de"},
        "seed": {"int64_param": -(2**63)},
        "large": {"uint64_param": 2**64 - 1},
        "temperature": {"double_param": 0.5},
        "verbose": {"bool_param": False},
        "stop": {},
    }
    expected = {
        "language": "de",
        "seed": -(2**63),
        "large": 2**64 - 1,
        "temperature": 0.5,
        "verbose": False,
        "stop": None,
    }
    assert model_parameters_of(grpc(sent, {"top": {"int64_param": 3}})) == (expected, {"x": {"top": 3}})


def test_without_parameters_no_object_is_created() -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    text = encode_json({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = {b"inference-header-content-length": str(len(text)).encode()}
    queries = (rest(), rest({}, {}), plain(), plain({}), grpc(), decode_oip("m", MODEL, headers, text + bytes(8)))
    assert [query.parameters for query in queries] == [None] * 6


def test_parameters_of_the_encoding_do_not_reach_the_model() -> None:
    assert model_parameters_of(rest({"binary_data_output": False, "seed": 1})) == ({"seed": 1}, {})
    assert rest(of_output={"binary_data": True, "seed": 1}).parameters is None


@pytest.mark.parametrize("ask", [rest, plain, lambda given: grpc({name: {} for name in given})])
@pytest.mark.parametrize("name", ["classification", "shared_memory_region", "sequence_id"])
def test_unsupported_parameters_are_refused_everywhere(ask: Callable[[Any], DecodedRequest], name: str) -> None:
    with pytest.raises(Problem) as caught:
        ask({name: 1})
    assert (caught.value.status, caught.value.code) == (400, "UnsupportedParameter")


@pytest.mark.parametrize("wrong", [[], "a", {"a": {}}, {"a": [1]}])
def test_plain_parameters_are_an_object_of_scalars(wrong: Any) -> None:
    with pytest.raises(Problem, match="parameters is not an object"):
        plain(wrong)


def test_they_cannot_be_changed() -> None:
    found = rest(GIVEN, {"a": 1}).parameters
    assert found is not None
    for held in (found.request, found.inputs, found.inputs["x"]):
        with pytest.raises(TypeError):
            held["more"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        found.request = {}  # type: ignore[misc]


def test_a_request_keeps_its_ids_and_its_time() -> None:
    before = RequestContext({b"tracestate": b"vendor=1"}, 12.0)
    after = before.with_parameters(parameters_of({"a": 1}, {}))
    assert (after.request_id, after.traceparent, after.deadline) == (before.request_id, before.traceparent, 12.0)
    assert (before.parameters, dict(after.parameters.request)) == (NO_PARAMETERS, {"a": 1})


def test_parameters_of_a_call() -> None:
    assert parameters() is NO_PARAMETERS
    given = parameters_of({"a": 1}, {"x": {"b": 2}})
    one, two = (RequestContext(parameters=given) for _ in range(2))
    with working_on(one, two):
        assert parameters() is given
    with working_on(RequestContext()):
        assert parameters() is NO_PARAMETERS


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": "x"}, {"b": "x", "a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({"a": None}, {"a": ""}, False),
    ],
)
def test_equal_parameters_have_equal_keys(one: Any, other: Any, same: bool) -> None:
    assert (parameters_of(one, {}).key == parameters_of(other, {}).key) is same
    assert (parameters_of({}, {"x": one}).key == parameters_of({}, {"x": other}).key) is same
    assert parameters_of(one, {}).key != parameters_of({}, {"x": one}).key


ASKING = """
from sundog_runtime.context import joined, parameters

class Predictor:
    def load(self, path, config): pass
    def predict(self, batch):
        assert all(each.parameters.key == parameters().key for each in joined())
        scale = parameters().request.get("scale", 1)
        return batch * scale * parameters().inputs.get("x", {}).get("scale", 1)
"""
DECLARED = """
inputs: [{name: x, dtype: float32, shape: [-1, 2]}]
"""


@pytest.fixture
async def client(python_model: Callable[[str], Path], args: Any, serve: Any) -> httpx.AsyncClient:
    root = python_model(ASKING)
    (root / "model.yaml").write_text(DECLARED)
    made = args(root, "predictor:Predictor", warmup={"requests": 0})
    found: httpx.AsyncClient = await serve(made | {"batching": {"maxSize": 8, "maxDelaySeconds": 10.0}})
    return found


async def test_requests_with_different_parameters_are_never_batched(client: httpx.AsyncClient) -> None:
    """Requests without parameters are never batched with requests that have some."""

    async def ask(number: int, scale: Any) -> Any:
        document: dict[str, Any] = {"inputs": [[number, number]]}
        document |= {} if scale is None else {"parameters": {"scale": scale}}
        answer = await client.post("/", json=document)
        assert answer.status_code == 200, answer.text
        return answer.json()["outputs"]

    scales = [None, 2, 3] * 8
    answers = await asyncio.gather(*(ask(number, scale) for number, scale in enumerate(scales)))
    assert answers == [[[number * (scale or 1)] * 2] for number, scale in enumerate(scales)]


async def test_by_the_protocol_and_by_the_input(client: httpx.AsyncClient) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], "parameters": {"scale": 5}}
    answer = await client.post("/v2/models/digits/infer", json={"inputs": [tensor], "parameters": {"scale": 2}})
    assert answer.json()["outputs"][0]["data"] == [10, 20]


FAILS = predictor(
    """logging.getLogger("ray.serve.sundog").warning("predicts for %s", current().request_id)
raise ValueError("of the model")""",
    imports="import logging\nfrom sundog_runtime.context import current",
)


async def test_the_model_and_the_log_name_one_request(serve_predictor: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = await serve_predictor(FAILS)
    with caplog.at_level(logging.WARNING, "ray.serve.sundog"):
        answer = await client.post("/", json={"inputs": [1], "parameters": {"a": 1}})
    found = answer.json()["requestId"]
    assert f"predicts for {found}" in caplog.text
    assert f"request {found}: the model raised" in caplog.text


STREAMS = """for _ in range(parameters().request["count"]):
    yield [parameters().request["count"]]"""


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_streams_see_their_parameters_at_every_item(serve_predictor: Any, kind: str) -> None:
    imports = "from sundog_runtime.context import parameters"
    client = await serve_predictor(predictor(STREAMS, kind=kind, imports=imports))
    answer = await client.post("/", json={"inputs": [1], "parameters": {"count": 3}})
    assert answer.text.splitlines() == ['{"outputs":[3]}'] * 3
