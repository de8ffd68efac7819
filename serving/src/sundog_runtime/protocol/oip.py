"""The Open Inference Protocol, version 2, over REST, with the binary tensor extension.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

With the extension, the body is JSON of the length in the header `Inference-Header-Content-Length`. After it follow the
bytes of the inputs that have the parameter `binary_data_size` in place of `data`, in the order of the inputs. Outputs are
encoded in the same way if `binary_data` of the output, or `binary_data_output` of the request, is true.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from sundog_runtime.context import Parameter
from sundog_runtime.errors import bad_input
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.binary_tensors import decode_raw, encode_raw, reshape_to_lists
from sundog_runtime.protocol.messages import JSON_TYPE, Buffer, DecodedRequest, EncodedResponse
from sundog_runtime.protocol.oip_tensors import (
    EXTENSIONS,
    MODEL_VERSION,
    RequestTensor,
    ResponseTensor,
    check_requested_outputs,
    check_tensor_count,
    collect_parameters,
    make_batch,
    make_response_tensors,
    parse_tensor_spec,
)
from sundog_runtime.protocol.parameters import parse_parameters
from sundog_runtime.protocol.plain_json import check_json_input, encode_json, may_hold_booleans, parse_json_object
from sundog_runtime.tensors import OIP_TYPES, FlatList, TensorSpec, flatten, to_array, try_number_array

JSON_LENGTH_HEADER = b"inference-header-content-length"
BINARY_TYPE = b"application/octet-stream"

_INPUT_FIELDS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_FIELDS = frozenset({"name", "parameters"})
_NO_FORM_IN_JSON = {"bfloat16": "BF16 has", "bytes": "bytes have"}
_MAX_DIGITS = 19
_ALIGNMENT = 16
"""Alignment of memory that Python allocates, and enough for every datatype."""


def server_metadata(version: str) -> bytes:
    """Return the answer to `GET /v2`."""
    return encode_json({"name": "sundog", "version": version, "extensions": list(EXTENSIONS)})


def repository_index(name: str) -> bytes:
    """Return the answer to `POST /v2/repository/index` of Triton's extension: the one model, which is ready when it can answer."""
    return encode_json([{"name": name, "version": MODEL_VERSION, "state": "READY", "reason": ""}])


def model_metadata(name: str, model: LoadedModel) -> bytes:
    """Return the answer to `GET /v2/models/{name}`."""
    return encode_json(
        {
            "name": name,
            "versions": [MODEL_VERSION],
            "platform": model.platform,
            "inputs": [_tensor_metadata(spec) for spec in model.signature.inputs],
            "outputs": [_tensor_metadata(spec) for spec in model.signature.outputs],
        }
    )


def decode_oip(name: str, model: LoadedModel, headers: Mapping[bytes, bytes], body: Buffer) -> DecodedRequest:
    """Decode the body of `POST /v2/models/{name}/infer`. Raises Problem 400.

    Unknown members of the request are ignored, as other servers do: KServe's client always sends `model_name`.
    """
    text, tail = _split(headers, body)
    request = parse_json_object(text)
    request_id = request.get("id", "")
    if not isinstance(request_id, str):
        raise bad_input("WrongType", "id is not a string")
    parameters = parse_parameters(request, "the request")
    inputs = _inputs(request.get("inputs"), tail, may_hold_booleans(text))
    wanted = _wanted(request.get("outputs"))
    check_requested_outputs(model, list(wanted or ()))
    binary_by_default = _flag(parameters, "binary_data_output", "the request", default=False)
    batch = make_batch(model, inputs)
    _check_forms(model, wanted, binary_by_default)

    def encode(output: Any) -> EncodedResponse:
        names = None if wanted is None else list(wanted)
        requested = wanted or {}
        document: dict[str, Any] = {"model_name": name, "model_version": MODEL_VERSION, "outputs": []}
        if request_id:
            document["id"] = request_id
        parts = list[Buffer]()
        for found in make_response_tensors(model, output, names):
            binary = _is_binary(found.name, requested, binary_by_default)
            raw = encode_raw(found.array, found.dtype) if binary else None
            document["outputs"].append(_output(found, raw))
            if raw is not None:
                parts.append(raw)
        return _answer(encode_json(document), parts)

    return DecodedRequest(batch, encode, collect_parameters(parameters, inputs))


def alignment_padding(headers: Mapping[bytes, bytes]) -> int:
    """Return the number of bytes before a body that align the data after its JSON."""
    length = headers.get(JSON_LENGTH_HEADER, b"").strip()
    return -int(length) % _ALIGNMENT if length.isdigit() and len(length) <= _MAX_DIGITS else 0


def _split(headers: Mapping[bytes, bytes], body: Buffer) -> tuple[Buffer, memoryview | None]:
    """Return the JSON, and the bytes after it if the client declares its length. Raises Problem 400."""
    length = headers.get(JSON_LENGTH_HEADER)
    if length is None:
        return body, None
    length = length.strip()
    if not length.isdigit() or len(length) > _MAX_DIGITS or int(length) > len(body):
        shown = length[:30].decode("latin-1")
        raise bad_input(
            "WrongHeader",
            f"Inference-Header-Content-Length is {shown!r}; expected the number of bytes of JSON in a body of {len(body)}",
        )
    view, end = memoryview(body), int(length)
    return bytes(view[:end]), view[end:]


def _inputs(value: Any, tail: memoryview | None, booleans: bool) -> list[RequestTensor]:
    """Return the tensors of a request with the client's declarations. Every byte of binary data belongs to a tensor."""
    if not isinstance(value, list) or not value:
        raise bad_input("MissingInputs", "inputs is not a non-empty array of tensors")
    check_tensor_count(value, "inputs")
    inputs, at = list[RequestTensor](), 0
    for index, item in enumerate(value):
        spec, size, parameters = _parse_input(item, index)
        if size is None:
            inputs.append(_read_from_json(spec, item, booleans, parameters))
            continue
        if tail is None:
            raise bad_input(
                "WrongHeader", f"input {spec.name[:60]!r} is binary, and there is no Inference-Header-Content-Length"
            )
        if size > len(tail) - at:
            left = len(tail) - at
            raise bad_input("WrongSize", f"input {spec.name[:60]!r}: binary_data_size is {size}; {left} bytes are left")
        inputs.append(_read_from_tail(spec, tail[at : at + size], parameters))
        at += size
    if tail is not None and at != len(tail):
        raise bad_input("WrongSize", f"the body has {len(tail) - at} bytes after those of the inputs")
    return inputs


def _parse_input(item: Any, index: int) -> tuple[TensorSpec, int | None, dict[str, Parameter]]:
    """Return the client's declaration of an input, the size of its binary data, and all of its parameters."""
    if not isinstance(item, dict):
        raise bad_input("WrongType", f"inputs[{index}] is not an object")
    spec = parse_tensor_spec(item.get("name"), item.get("datatype"), item.get("shape"), f"inputs[{index}]")
    where = f"input {spec.name[:60]!r}"
    _check_fields(item, _INPUT_FIELDS, where)
    parameters = parse_parameters(item, where)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in item:
            raise bad_input("MissingInputs", f"{where} has neither data nor the parameter binary_data_size")
        if spec.dtype == "bfloat16":
            raise bad_input("WrongType", f"{where}: BF16 has no form in JSON; send it as binary data")
        return spec, None, parameters
    if type(size) is not int or size < 0:
        raise bad_input("WrongType", f"{where}: binary_data_size is not a number of bytes ≥ 0")
    if "data" in item:
        raise bad_input("WrongInputs", f"{where} has both data and the parameter binary_data_size")
    return spec, size, parameters


def _read_from_json(
    spec: TensorSpec, item: dict[str, Any], booleans: bool, parameters: dict[str, Parameter]
) -> RequestTensor:
    data = item["data"]

    def read(declared: TensorSpec) -> Any:
        check_json_input(declared)
        return _json_array(spec, data, booleans)

    return RequestTensor(spec, read, parameters)


def _read_from_tail(spec: TensorSpec, data: memoryview, parameters: dict[str, Parameter]) -> RequestTensor:
    return RequestTensor(spec, lambda declared: decode_raw(spec, data, declared), parameters)


def _json_array(spec: TensorSpec, data: Any, booleans: bool) -> Any:
    """Return the data, flat or nested, in the client's shape. The sizes are compared before anything is allocated."""
    what, count = f"input {spec.name[:60]!r}", prod(spec.shape)
    if not booleans:
        nested = isinstance(data, list) and bool(data) and type(data[0]) is list
        quick = try_number_array(data, spec if nested else TensorSpec(spec.name, spec.dtype, (count,)))
        if quick is not None:
            return quick.reshape(spec.shape)
    flat = flatten(data, what)
    if flat.shape not in (spec.shape, (count,)):
        raise bad_input(
            "WrongShape", f"{what}: data has the shape {list(flat.shape)}; expected {list(spec.shape)} as in shape"
        )
    array = to_array(FlatList(flat.values, spec.shape, flat.types), spec.dtype, what)
    return reshape_to_lists(flat.values, spec.shape) if spec.dtype == "string" else array


def _wanted(value: Any) -> dict[str, bool | None] | None:
    """Return the requested outputs, each with its flag for binary data if given; None for all outputs."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in value
    ):
        raise bad_input("WrongType", "outputs is not an array of objects with a name")
    check_tensor_count(value, "outputs")
    wanted = dict[str, bool | None]()
    for item in value:
        name, where = item["name"], f"output {item['name'][:60]!r}"
        _check_fields(item, _OUTPUT_FIELDS, where)
        if name in wanted:
            raise bad_input("WrongOutputs", f"outputs names {name[:60]!r} twice")
        wanted[name] = _flag(parse_parameters(item, where), "binary_data", where, default=None)
    return wanted or None


def _check_forms(model: LoadedModel, requested: Mapping[str, bool | None] | None, by_default: bool) -> None:
    """Check that outputs in JSON have a form there, before the model runs in vain. Raises Problem 400."""
    for spec in model.signature.outputs:
        if spec.dtype not in _NO_FORM_IN_JSON or (requested is not None and spec.name not in requested):
            continue
        if not _is_binary(spec.name, requested or {}, by_default):
            what = _NO_FORM_IN_JSON[spec.dtype]
            raise bad_input("WrongType", f"output {spec.name!r}: {what} no form in JSON; request it as binary data")


def _is_binary(name: str, requested: Mapping[str, bool | None], by_default: bool) -> bool:
    """Whether an output is encoded as binary data: its own flag overrides the request's."""
    binary = requested.get(name)
    return by_default if binary is None else binary


def _flag(parameters: dict[str, Parameter], name: str, where: str, *, default: Any) -> Any:
    value = parameters.get(name, default)
    if value is not default and not isinstance(value, bool):
        raise bad_input("WrongType", f"{where}: {name} is not true or false")
    return value


def _check_fields(holder: dict[str, Any], known: frozenset[str], where: str) -> None:
    if unknown := sorted(set(holder) - known):
        raise bad_input(
            "UnknownField", f"{where} has the unknown field {unknown[0][:60]!r}; expected {', '.join(sorted(known))}"
        )


def _output(found: ResponseTensor, raw: Buffer | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": found.name,
        "datatype": found.datatype,
        "shape": list(found.array.shape),
    }
    if raw is not None:
        return document | {"parameters": {"binary_data_size": len(raw)}}
    flat = found.array.ravel()
    return document | {"data": flat.tolist() if found.dtype == "string" else flat}


def _answer(text: bytes, parts: list[Buffer]) -> EncodedResponse:
    """Return JSON, with binary data after it if there is any. This makes the only copy of each output."""
    if not parts:
        return EncodedResponse(text, JSON_TYPE)
    return EncodedResponse(b"".join([text, *parts]), BINARY_TYPE, ((JSON_LENGTH_HEADER, b"%d" % len(text)),))


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": OIP_TYPES[spec.dtype], "shape": list(spec.shape)}
