"""The OpenAPI document of a model: valid, and its examples are answered."""

import asyncio
from dataclasses import replace
from math import nextafter
from typing import Any

import httpx
import jsonschema
import numpy as np
import orjson
import pytest
import schemathesis

from small_models import predictor
from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.oip import decode_oip
from sundog_runtime.protocol.openapi import render_openapi
from sundog_runtime.protocol.plain_json import decode_plain
from sundog_runtime.signature import Signature, check_outputs
from sundog_runtime.tensors import OIP_TYPES, TensorSpec, to_plain


def model_of(*inputs: TensorSpec) -> LoadedModel:
    return LoadedModel("python", "", lambda batch: batch, Signature(inputs, inputs))


ONE = model_of(TensorSpec("x", "float32", (-1, 4)))
TWO = model_of(TensorSpec("a", "int8", (2, -1)), TensorSpec("b", "string", (1,)))
ALL = model_of(*(TensorSpec(dtype, dtype, (-1,)) for dtype in OIP_TYPES if dtype not in ("bfloat16", "bytes")))
NOTHING = LoadedModel("python", "", lambda batch: batch, Signature())
LARGE = model_of(TensorSpec("x", "float32", (-1, 3, 224, 224)))
STREAM = replace(ONE, is_streaming=True)
PICTURES = model_of(TensorSpec("png", "bytes", (-1,)), TensorSpec("turn", "int64", (-1,)))
DRAWS = replace(PICTURES, signature=Signature(ONE.signature.inputs, PICTURES.signature.outputs))


def document_of(model: LoadedModel) -> Any:
    return orjson.loads(render_openapi("m", "1.0", model))


@pytest.mark.parametrize(
    "model",
    [ONE, TWO, ALL, NOTHING, LARGE, STREAM],
    ids=["one", "two", "all", "nothing", "large", "stream"],
)
def test_the_document_is_valid(model: LoadedModel) -> None:
    schema = schemathesis.openapi.from_dict(document_of(model))
    schema.validate()
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert {(operation.method, operation.path) for operation in operations} >= {
        ("post", "/"),
        ("get", "/v2"),
        ("post", "/v2/models/m/infer"),
        ("post", "/v2/models/m/versions/1/infer"),
    }


@pytest.mark.parametrize("model", [ONE, TWO, ALL], ids=["one", "two", "all"])
def test_examples_fit_their_schemas_and_are_answered(model: LoadedModel) -> None:
    document = document_of(model)
    for path in ("/", "/v2/models/m/infer"):
        operation = document["paths"][path]["post"]
        media = operation["requestBody"]["content"]["application/json"]
        jsonschema.Draft202012Validator(media["schema"] | {"components": document["components"]}).validate(
            media["example"]
        )
        body = orjson.dumps(media["example"])
        query = decode_plain(model, body) if path == "/" else decode_oip("m", model, {}, body)
        answer = query.encode(check_outputs(model.signature.outputs, to_plain(model.predict(query.batch)))).body
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(orjson.loads(answer))


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [[1, 2, 3]]},
        {"inputs": [[1, 2, 3, "4"]]},
        {"inputs": []},
        {"inputs": {"y": [[1, 2, 3, 4]]}},
        {"input": [[1, 2, 3, 4]]},
        [1, 2, 3, 4],
    ],
)
def test_requests_that_the_schema_refuses_are_refused(body: Any) -> None:
    schema = document_of(ONE)["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert not jsonschema.Draft202012Validator(schema).is_valid(body)
    with pytest.raises(Problem):
        decode_plain(ONE, orjson.dumps(body))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numbers_are_refused_from_where_they_are_rounded_to_infinity(dtype: str) -> None:
    model = model_of(TensorSpec("x", dtype, (-1,)))
    schema = document_of(model)["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    largest = schema["anyOf"][0]["properties"]["inputs"]["anyOf"][0]["items"]["maximum"]
    for number in (largest, -largest):
        assert np.isfinite(decode_plain(model, orjson.dumps({"inputs": [number]})).batch).all()
        with pytest.raises(Problem, match=f"of {dtype}"):
            decode_plain(model, orjson.dumps({"inputs": [nextafter(number, 2 * number)]}))


def test_large_inputs_and_unknown_ones_have_no_example() -> None:
    for model in (LARGE, NOTHING):
        content = document_of(model)["paths"]["/"]["post"]["requestBody"]["content"]
        assert "example" not in content["application/json"]


def test_values_without_a_form_in_json_are_requested_in_binary() -> None:
    bodies = ({"inputs": {"png": ["a"], "turn": [1]}}, [[1, 2, 3, 4]])
    for model, body in zip((PICTURES, DRAWS), bodies, strict=True):
        document = document_of(model)
        schemathesis.openapi.from_dict(document).validate()
        assert "/" not in document["paths"]
        with pytest.raises(Problem, match="bytes have no form in JSON"):
            decode_plain(model, orjson.dumps(body))
    path = "/v2/models/m/infer"
    content = document_of(PICTURES)["paths"][path]["post"]["requestBody"]["content"]
    assert set(content) == {"application/octet-stream"}
    example = document_of(DRAWS)["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    query = decode_oip("m", DRAWS, {}, orjson.dumps(example))
    found = query.encode(check_outputs(DRAWS.signature.outputs, {"png": [b"\xff"], "turn": [1]}))
    assert found.content_type == b"application/octet-stream"


@pytest.mark.parametrize("path", ["/", "/v2/models/m/infer"])
def test_only_streaming_models_document_streams(path: str) -> None:
    whole, pieces = (document_of(model)["paths"][path]["post"]["responses"] for model in (ONE, STREAM))
    binary = {"application/octet-stream"} if path != "/" else set()
    assert set(whole["200"]["content"]) == {"application/json"} | binary
    assert set(pieces["200"]["content"]) == {"application/x-ndjson", "text/event-stream"}
    assert "text/event-stream" in pieces["200"]["description"]
    # Plain JSON cannot request binary outputs.
    assert set(pieces) - set(whole) == ({"406"} if path != "/" else set())


def test_406_is_explained_where_it_can_come() -> None:
    whole, pieces = (document_of(model)["components"]["responses"]["Problem"] for model in (ONE, STREAM))
    assert "406" not in whole["description"]
    assert "406: Binary outputs" in pieces["description"]
    assert "405" in pieces["description"]


BREAKS = predictor("yield batch\nyield batch\nraise ValueError('out of order')")
DECLARED = """
inputs: [{name: x, dtype: float32, shape: [-1, 4]}]
outputs: [{name: y, dtype: float32, shape: [-1, 4]}]
"""


@pytest.fixture
async def stream(serve_predictor: Any) -> httpx.AsyncClient:
    """A replica whose streams break after two answers."""
    client: httpx.AsyncClient = await serve_predictor(BREAKS, DECLARED, warmup={"requests": 0})
    return client


async def ask(client: Any, path: str, body: Any, accept: str = "*/*") -> tuple[int, str, list[str]]:
    """Return status, content type and pieces of an answer that may be cut."""
    messages = iter([{"type": "http.request", "body": orjson.dumps(body)}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages, None) or await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"accept", accept.encode())]}
    await client.replica.app(scope, receive, send)
    start, *pieces = sent
    return start["status"], dict(start["headers"])[b"content-type"].decode(), [each["body"].decode() for each in pieces]


@pytest.mark.parametrize("path", ["/", "/v2/models/digits/infer"])
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_every_piece_of_a_stream_is_as_the_document_says(
    stream: httpx.AsyncClient, path: str, accept: str
) -> None:
    document = (await stream.get("/openapi.json")).json()
    components = {"components": document["components"]}
    operation = document["paths"][path]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    status, content_type, pieces = await ask(stream, path, example, accept)
    schema = operation["responses"][str(status)]["content"][content_type]["schema"]
    events = content_type == "text/event-stream"
    assert (len(pieces), events) == (3, accept == "text/event-stream")
    for piece in pieces:
        found = dict(line.split(": ", 1) for line in piece.split("\n") if line) if events else orjson.loads(piece)
        jsonschema.Draft202012Validator(schema | components).validate(found)
        if events:
            # A validator does not check the content of strings.
            data = jsonschema.Draft202012Validator(schema["properties"]["data"]["contentSchema"] | components)
            data.validate(orjson.loads(found["data"]))
            assert not data.is_valid({"error": "none of these"})
    assert not jsonschema.Draft202012Validator(schema | components).is_valid({"answers": []})
    assert "ModelError" in pieces[-1]


async def test_binary_outputs_of_a_stream_are_refused_as_the_document_says(stream: httpx.AsyncClient) -> None:
    document = (await stream.get("/openapi.json")).json()
    operation = document["paths"]["/v2/models/digits/infer"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["example"]
    status, content_type, _ = await ask(
        stream, "/v2/models/digits/infer", body | {"parameters": {"binary_data_output": True}}
    )
    assert (status, content_type) == (406, "application/problem+json")
    assert operation["responses"]["406"] == {"$ref": "#/components/responses/Problem"}


def test_without_declared_inputs_a_list_is_a_body_as_well() -> None:
    """The schema agrees with the server, which accepts a list but refuses an empty one."""
    document = document_of(NOTHING)
    schema = document["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator(schema)
    for body in ([{"c": 1.15}, {}], [[1.0], [2.0]], {"inputs": "text"}):
        assert decode_plain(NOTHING, orjson.dumps(body)).batch is not None
        assert validator.is_valid(body)
    for body in ([], {"rows": [1]}, 3):
        with pytest.raises(Problem):
            decode_plain(NOTHING, orjson.dumps(body))
        assert not validator.is_valid(body)
