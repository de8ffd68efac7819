"""An OpenAPI 3.1 document of one model: its paths, and its inputs and outputs with their shapes.

JSON Schema cannot express all rules, such as that a tensor has as many values as its shape requires. The server checks them
and answers 400.
"""

from math import nextafter, prod
from typing import Any

import numpy as np

from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.messages import JSON_TYPE
from sundog_runtime.protocol.oip import BINARY_TYPE
from sundog_runtime.protocol.oip_tensors import MODEL_VERSION
from sundog_runtime.protocol.plain_json import encode_json
from sundog_runtime.protocol.streams import NDJSON_TYPE, SSE_TYPE
from sundog_runtime.signature import make_sample_batch
from sundog_runtime.tensors import DTYPES, OIP_TYPES, TensorSpec, numpy_type

Json = dict[str, Any]

_MAX_EXAMPLE_VALUES = 4096
_PROBLEM_CODES = {
    "400": "The request does not fit this model.",
    "404": "This model or path does not exist.",
    "405": "The method is not allowed here.",
    "413": "The body is larger than this deployment accepts.",
    "415": "Unknown content encoding.",
    "500": "The model failed, or its answer differs from its declaration.",
    "503": "Too many requests at once.",
    "504": "The deadline of the request has passed.",
}
_STREAM_CODES = dict(sorted({**_PROBLEM_CODES, "406": "Binary outputs are not supported in a stream."}.items()))


def render_openapi(name: str, version: str, model: LoadedModel) -> bytes:
    """Return the answer to `GET /openapi.json`. Its paths are relative to this document, for any prefix."""
    infer = {"post": _infer(model)}
    about = {
        "/v2": _get("Server metadata", "ServerMetadata"),
        "/v2/health/live": _get("Whether the server runs", "Flag"),
        "/v2/health/ready": _get("Whether the model is served", "Flag"),
    }
    for root in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{MODEL_VERSION}"):
        about |= {
            root: _get("Model metadata", "ModelMetadata"),
            f"{root}/ready": _get("Whether the model is served", "Flag"),
            f"{root}/infer": infer,
        }
    signature = model.signature
    # If a value has no form in JSON, the plain path exists and answers 400 to everything.
    plain = {} if _of_bytes((*signature.inputs, *signature.outputs)) else {"/": {"post": _plain(model)}}
    return encode_json(
        {
            "openapi": "3.1.0",
            "info": {"title": name, "version": version, "description": "A model served by Sundog."},
            "servers": [{"url": "."}],
            "paths": {**plain, **about},
            "components": {"schemas": _schemas(), "responses": {"Problem": _problem_response(model)}},
        }
    )


def _schemas() -> Json:
    text, flag, whole = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
    texts, shape = {"type": "array", "items": text}, {"type": "array", "items": whole}
    tensor = _object({"name": text, "datatype": text, "shape": shape})
    return {
        "Problem": _object(
            {
                "type": text,
                "title": text,
                "status": whole,
                "detail": text,
                "code": text,
                "requestId": text,
                "error": {**text, "description": "The same as detail."},
            }
        ),
        "Flag": _object({}, optional={"live": flag, "ready": flag, "name": text}),
        "ServerMetadata": _object({"name": text, "version": text, "extensions": texts}),
        "ModelMetadata": _object(
            {
                "name": text,
                "versions": texts,
                "platform": text,
                "inputs": {"type": "array", "items": tensor},
                "outputs": {"type": "array", "items": tensor},
            }
        ),
        "Parameters": {
            "type": ["object", "null"],
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        },
    }


def _plain(model: LoadedModel) -> Json:
    inputs, outputs = model.signature.inputs, model.signature.outputs
    named = _object({spec.name: _nested(spec) for spec in inputs})
    # A single input may be sent with its name or without.
    value: Json = {} if not inputs else {"anyOf": [_nested(inputs[0]), named]} if len(inputs) == 1 else named
    body: Json = _object({"inputs": value}, optional={"parameters": {"$ref": "#/components/schemas/Parameters"}})
    if len(inputs) == 1 and inputs[0].shape:
        body = {"anyOf": [body, _nested(inputs[0])]}
    elif not inputs:
        body = {"anyOf": [body, {"type": "array", "minItems": 1}]}
    answers = _object({spec.name: _nested(spec, min_size=0) for spec in outputs})
    answer: Json = (
        {} if not outputs else {"anyOf": [_nested(outputs[0], min_size=0), answers]} if len(outputs) == 1 else answers
    )
    example = (
        {"inputs": make_sample_batch(inputs, lambda spec: spec.zeros().tolist())} if _has_example(inputs) else None
    )
    return {
        "operationId": "predict",
        "summary": "Predict, in plain JSON",
        "requestBody": {"required": True, "content": {"application/json": _media(body, example)}},
        "responses": _answers(model, _object({"outputs": answer})),
    }


def _infer(model: LoadedModel) -> Json:
    parameters = {"$ref": "#/components/schemas/Parameters"}
    output = _object(
        {"name": {"type": "string"}, "datatype": {"type": "string"}, "shape": _sizes()},
        optional={"data": {"type": "array"}, "parameters": parameters},
    )
    answer = _object(
        {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": output},
        },
        optional={"id": {"type": "string"}},
    )
    binary = (
        "are accepted beside JSON, and outputs are only JSON"
        if model.is_streaming
        else "are accepted and sent beside JSON"
    )
    return {
        "summary": "Predict, by the Open Inference Protocol",
        "description": f"Binary tensors {binary}: header Inference-Header-Content-Length.",
        "requestBody": {"required": True, "content": _request(model, parameters)},
        "responses": _answers(model, answer, binary=True),
    }


def _request(model: LoadedModel, parameters: Json) -> Json:
    """Return the request's content: JSON, or if an input has no form in it, an opaque type that clients of the protocol know."""
    inputs = model.signature.inputs
    if _of_bytes(inputs):
        return {BINARY_TYPE.decode(): {}}
    tensors = [_tensor(spec, parameters) for spec in inputs]
    items = {"anyOf": tensors} if tensors else _any_tensor(parameters)
    count = {"minItems": len(tensors), "maxItems": len(tensors)} if tensors else {"minItems": 1}
    wanted = _object({"name": {"type": "string"}}, optional={"parameters": parameters})
    request = _object(
        {"inputs": {"type": "array", "items": items, **count}},
        optional={"id": {"type": "string"}, "parameters": parameters, "outputs": {"type": "array", "items": wanted}},
    )
    # Other members are ignored.
    request["additionalProperties"] = True
    example: Json | None = {"inputs": [_sent(spec) for spec in inputs]} if _has_example(inputs) else None
    if example is not None and _of_bytes(model.signature.outputs):
        example["parameters"] = {"binary_data_output": True}
    return {JSON_TYPE.decode(): _media(request, example)}


def _of_bytes(specs: tuple[TensorSpec, ...]) -> bool:
    """Whether one of the tensors has no form in JSON."""
    return any(spec.dtype == "bytes" for spec in specs)


def _tensor(spec: TensorSpec, parameters: Json) -> Json:
    sizes = [{"const": size} if size >= 0 else {"type": "integer", "minimum": 0} for size in spec.shape]
    shape = {**_sizes(), "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)}
    flat = {"type": "array", "items": _scalar(spec)}
    return _object(
        {
            "name": {"const": spec.name},
            "datatype": {"const": OIP_TYPES[spec.dtype]},
            "shape": shape,
            "data": {"anyOf": [_nested(spec), flat]},
        },
        optional={"parameters": parameters},
    )


def _any_tensor(parameters: Json) -> Json:
    datatypes = [datatype for datatype, dtype in DTYPES.items() if dtype != "bfloat16"]
    return _object(
        {
            "name": {"type": "string", "minLength": 1},
            "datatype": {"enum": datatypes},
            "shape": _sizes(),
            "data": {},
        },
        optional={"parameters": parameters},
    )


def _nested(spec: TensorSpec, min_size: int = 1) -> Json:
    """Return the schema of lists in lists, one for each dimension; `min_size` is the minimum of a free size."""
    schema = _scalar(spec)
    for size in reversed(spec.shape):
        limits = {"minItems": size, "maxItems": size} if size >= 0 else {"minItems": min_size}
        schema = {"type": "array", "items": schema, **limits}
    return schema


def _scalar(spec: TensorSpec) -> Json:
    if spec.dtype in ("string", "bool"):
        return {"type": {"string": "string", "bool": "boolean"}[spec.dtype]}
    dtype = np.dtype(numpy_type(spec.dtype))
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    largest = _largest(np.finfo(dtype))
    return {"type": ["number", "null"] if spec.allow_nan else "number", "minimum": -largest, "maximum": largest}


def _largest(limits: np.finfo[Any]) -> float:
    """Return the largest number that a dtype rounds to a finite one: less than half a step beyond its largest value."""
    half_step = 2.0 ** (limits.maxexp - limits.nmant - 2)
    return nextafter(float(limits.max) + half_step, 0.0)


def _has_example(inputs: tuple[TensorSpec, ...]) -> bool:
    """Whether zeros of the declared shapes are few enough for an example, and have a form in JSON."""
    return bool(inputs) and all(prod(spec.sample_shape()) <= _MAX_EXAMPLE_VALUES for spec in inputs)


def _sent(spec: TensorSpec) -> Json:
    data = spec.zeros().ravel().tolist()
    return {"name": spec.name, "datatype": OIP_TYPES[spec.dtype], "shape": spec.sample_shape(), "data": data}


def _get(summary: str, schema: str) -> Json:
    content = _json({"$ref": f"#/components/schemas/{schema}"})
    return {"get": {"summary": summary, "responses": _responses("The answer.", content, _PROBLEM_CODES)}}


def _answers(model: LoadedModel, answer: Json, *, binary: bool = False) -> Json:
    """Return the responses of a prediction; `binary` is whether outputs may be requested as bytes."""
    if model.is_streaming:
        description = (
            f"Answers in pieces: events if Accept names {SSE_TYPE.decode()}, otherwise one JSON document per line."
        )
        return _responses(description, _stream(answer), _STREAM_CODES if binary else _PROBLEM_CODES)
    content = _json(answer)
    if binary:
        content[BINARY_TYPE.decode()] = {}
    return _responses("The answer.", content, _PROBLEM_CODES)


def _stream(answer: Json) -> Json:
    """Return the content of a stream. OpenAPI 3.1 cannot describe its items, so by convention the schema is that of each item."""
    problem = {"$ref": "#/components/schemas/Problem"}
    line = {"anyOf": [answer, _object({"error": problem})], "description": "One line. An error is the last."}
    data = {"anyOf": [answer, problem]}
    event = _object(
        {"data": {"type": "string", "contentMediaType": JSON_TYPE.decode(), "contentSchema": data}},
        optional={"event": {"enum": ["message", "error"]}},
    )
    event["description"] = "One event. An error is the last event, and its data is the problem."
    return {NDJSON_TYPE.decode(): {"schema": line}, SSE_TYPE.decode(): {"schema": event}}


def _json(schema: Json) -> Json:
    return {JSON_TYPE.decode(): {"schema": schema}}


def _responses(description: str, content: Json, codes: Json) -> Json:
    problem = {"$ref": "#/components/responses/Problem"}
    return {"200": {"description": description, "content": content}, **dict.fromkeys(codes, problem)}


def _problem_response(model: LoadedModel) -> Json:
    codes = _STREAM_CODES if model.is_streaming else _PROBLEM_CODES
    description = " ".join(f"{status}: {text}" for status, text in codes.items())
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def _media(schema: Json, example: Any) -> Json:
    return {"schema": schema} if example is None else {"schema": schema, "example": example}


def _object(required: Json, optional: Json | None = None) -> Json:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": sorted(required),
        "additionalProperties": False,
    }


def _sizes() -> Json:
    return {"type": "array", "items": {"type": "integer", "minimum": 0}}
