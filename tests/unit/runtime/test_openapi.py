"""The OpenAPI document of a model: valid, and its examples are answered."""

from typing import Any

import jsonschema
import orjson
import pytest
import schemathesis

from sundog_runtime.errors import Problem
from sundog_runtime.formats.model import LoadedModel
from sundog_runtime.protocol.oip import decode_oip
from sundog_runtime.protocol.openapi import openapi
from sundog_runtime.protocol.plain import decode_plain
from sundog_runtime.signature import Signature, conform
from sundog_runtime.tensors import OIP_TYPES, TensorSpec, plain


def model_of(*inputs: TensorSpec) -> LoadedModel:
    return LoadedModel("python", "", lambda batch: batch, Signature(inputs, inputs))


ONE = model_of(TensorSpec("x", "float32", (-1, 4)))
TWO = model_of(TensorSpec("a", "int8", (2, -1)), TensorSpec("b", "string", (1,)))
ALL = model_of(*(TensorSpec(dtype, dtype, (-1,)) for dtype in OIP_TYPES if dtype != "bfloat16"))
NOTHING = LoadedModel("python", "", lambda batch: batch, Signature())
LARGE = model_of(TensorSpec("x", "float32", (-1, 3, 224, 224)))


def document_of(model: LoadedModel) -> Any:
    return orjson.loads(openapi("m", "1.0", model))


@pytest.mark.parametrize("model", [ONE, TWO, ALL, NOTHING, LARGE], ids=["one", "two", "all", "nothing", "large"])
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
        answer = query.encode(conform(model.signature.outputs, plain(model.predict(query.batch)))).body
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
def test_what_the_schema_refuses_is_refused(body: Any) -> None:
    schema = document_of(ONE)["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert not jsonschema.Draft202012Validator(schema).is_valid(body)
    with pytest.raises(Problem):
        decode_plain(ONE, orjson.dumps(body))


def test_large_inputs_and_unknown_ones_have_no_example() -> None:
    for model in (LARGE, NOTHING):
        content = document_of(model)["paths"]["/"]["post"]["requestBody"]["content"]
        assert "example" not in content["application/json"]
