"""The JSON part of the Open Inference Protocol, version 2.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from sundog_runtime.errors import Problem, bad_input
from sundog_runtime.formats.model import LoadedModel
from sundog_runtime.protocol.plain import check_names, encode, parse_object
from sundog_runtime.protocol.query import Answer, Query
from sundog_runtime.tensors import (
    DTYPES,
    MAX_DIMENSIONS,
    OIP_TYPES,
    Array,
    Flat,
    TensorSpec,
    check_shape,
    flatten,
    output_array,
    to_array,
)

_REQUEST_FIELDS = frozenset({"id", "parameters", "inputs", "outputs"})


def server_metadata(version: str) -> bytes:
    """`GET /v2`."""
    return encode({"name": "sundog", "version": version, "extensions": []})


def model_metadata(name: str, model: LoadedModel) -> bytes:
    """`GET /v2/models/{name}`. The revision is left out: in an experiment clients must not learn their arm."""
    return encode(
        {
            "name": name,
            "platform": model.platform,
            "inputs": [_tensor_metadata(spec) for spec in model.signature.inputs],
            "outputs": [_tensor_metadata(spec) for spec in model.signature.outputs],
        }
    )


def decode_oip(name: str, model: LoadedModel, headers: Mapping[bytes, bytes], body: bytes) -> Query:
    """`POST /v2/models/{name}/infer`. Raises Problem 400."""
    if b"inference-header-content-length" in headers:
        raise bad_input("BinaryTensors", "binary tensor data is not supported; send the tensors as JSON")
    request = parse_object(body)
    if unknown := sorted(set(request) - _REQUEST_FIELDS):
        raise bad_input(
            "UnknownField",
            f"the body has the unknown field {unknown[0]!r}; expected {', '.join(sorted(_REQUEST_FIELDS))}",
        )
    request_id = request.get("id", "")
    if not isinstance(request_id, str):
        raise bad_input("WrongType", "id is not a string")
    inputs = _inputs(request.get("inputs"))
    wanted = _wanted(request.get("outputs"))

    def answer(output: Any) -> Answer:
        document: dict[str, Any] = {"model_name": name, "outputs": _outputs(model, output, wanted)}
        return Answer(encode(document | {"id": request_id} if request_id else document))

    return Query(_batch(model, inputs), answer)


def _inputs(value: Any) -> list[tuple[TensorSpec, Any]]:
    """The tensors of a request with what the client says about them."""
    if not isinstance(value, list) or not value:
        raise bad_input("MissingInputs", "inputs is not a non-empty array of tensors")
    tensors = [_input(item, index) for index, item in enumerate(value)]
    names = [spec.name for spec, _ in tensors]
    if len(set(names)) < len(names):
        raise bad_input("WrongInputs", "inputs names a tensor twice")
    return tensors


def _input(item: Any, index: int) -> tuple[TensorSpec, Any]:
    if not isinstance(item, dict):
        raise bad_input("WrongType", f"inputs[{index}] is not an object")
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not name:
        raise bad_input("WrongType", f"inputs[{index}].name is not a string with at least one character")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise bad_input("WrongType", f"input {name[:60]!r}: datatype is not one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size >= 0 for size in shape):
        raise bad_input("WrongShape", f"input {name[:60]!r}: shape is not an array of sizes ≥ 0")
    if len(shape) > MAX_DIMENSIONS:
        raise bad_input("WrongShape", f"input {name[:60]!r}: shape has more than {MAX_DIMENSIONS} dimensions")
    if "data" not in item:
        raise bad_input("MissingInputs", f"input {name[:60]!r} has no data (binary tensor data is not supported)")
    return TensorSpec(name, DTYPES[datatype], tuple(shape)), item["data"]


def _batch(model: LoadedModel, inputs: list[tuple[TensorSpec, Any]]) -> Any:
    if specs := {spec.name: spec for spec in model.signature.inputs}:
        if sorted(specs) != sorted(sent.name for sent, _ in inputs):
            found = ", ".join(repr(sent.name[:60]) for sent, _ in inputs[:10])
            raise bad_input("WrongInputs", f"inputs has {found}; expected {', '.join(map(repr, specs))}")
        for sent, _ in inputs:
            if sent.dtype != specs[sent.name].dtype:
                expected = OIP_TYPES[specs[sent.name].dtype]
                raise bad_input(
                    "WrongType", f"input {sent.name!r} has the datatype {OIP_TYPES[sent.dtype]}; expected {expected}"
                )
            check_shape(specs[sent.name], sent.shape)
        inputs.sort(key=lambda tensor: list(specs).index(tensor[0].name))
    elif model.platform == "pytorch" and (texts := [sent.name for sent, _ in inputs if sent.dtype == "string"]):
        raise bad_input("WrongType", f"input {texts[0][:60]!r} has the datatype BYTES, which the model does not take")
    elif len(inputs) > 1:
        check_names(model, [sent.name for sent, _ in inputs])
    named = {sent.name: _array(model, sent, data) for sent, data in inputs}
    return named if len(named) > 1 else next(iter(named.values()))


def _array(model: LoadedModel, sent: TensorSpec, data: Any) -> Any:
    """The data, flat or nested, in the shape the client gave. The sizes are compared before anything is allocated."""
    what = f"input {sent.name[:60]!r}"
    flat = flatten(data, what)
    if flat.shape not in (sent.shape, (prod(sent.shape),)):
        raise bad_input("WrongShape", f"{what}: data has the shape {list(flat.shape)}; shape says {list(sent.shape)}")
    if not flat.values:
        raise bad_input("EmptyInput", f"{what} holds no values")
    array = to_array(Flat(flat.values, sent.shape, flat.types), sent.dtype, what)
    if sent.dtype == "string":
        return array.tolist()
    return array if model.signature.inputs or model.platform != "pytorch" else _natural(model, array)


def _natural(model: LoadedModel, array: Array) -> Array:
    """Undeclared inputs of a network: the client's types need not be those of its weights."""
    if array.dtype.kind == "b":
        return array
    return array.astype(model.numbers if array.dtype.kind == "f" else model.whole_numbers, copy=False)


def _wanted(value: Any) -> list[str] | None:
    """The outputs asked for, or None for all."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in value
    ):
        raise bad_input("WrongType", "outputs is not an array of objects with a name")
    return [item["name"] for item in value]


def _outputs(model: LoadedModel, output: Any, wanted: list[str] | None) -> list[dict[str, Any]]:
    declared = model.signature.outputs
    named = output if isinstance(output, dict) else {declared[0].name if declared else "outputs": output}
    if wanted is None:
        wanted = [spec.name for spec in declared] or list(named)
    if missing := [name for name in wanted if name not in named]:
        raise bad_input(
            "UnknownOutput", f"the model has no output {missing[0][:60]!r}; it has {', '.join(map(repr, named))}"
        )
    return [_output(name, named[name]) for name in wanted]


def _output(name: str, value: Any) -> dict[str, Any]:
    array = output_array(name, value)
    datatype = OIP_TYPES.get("string" if array.dtype.kind == "O" else array.dtype.name)
    if datatype is None:
        raise Problem(
            500, "OutputUnusable", f"output {name!r} holds {array.dtype}, which has no datatype in the protocol"
        )
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(array.shape),
        "data": array.ravel().tolist() if array.dtype.kind == "O" else array.ravel(),
    }


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": OIP_TYPES[spec.dtype], "shape": list(spec.shape)}
