"""Plain JSON: `{"inputs": …}`, optionally with `"parameters"`, or just a list of rows, → `{"outputs": …}`."""

from typing import Any

import orjson

from sundog_runtime.errors import bad_input, bad_output
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.messages import Buffer, DecodedRequest, EncodedResponse
from sundog_runtime.protocol.parameters import model_parameters, parse_parameters
from sundog_runtime.tensors import Array, TensorSpec, check_shape, flatten, shape_of, to_array, try_number_array

_FIELDS = frozenset({"inputs", "parameters"})
_BINARY = "binary tensor of the Open Inference Protocol"


def parse_json(body: Buffer) -> Any:
    """Parse JSON. NaN, Infinity, overflowing numbers, bad UTF-8 and deep nesting are errors. Raises Problem 400."""
    if not body:
        raise bad_input("EmptyBody", "the body is empty; expected JSON")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_input("MalformedJson", f"the body is not JSON: {error}") from None


def parse_json_object(body: Buffer) -> dict[str, Any]:
    """Parse JSON that must be an object. Raises Problem 400."""
    document = parse_json(body)
    if not isinstance(document, dict):
        raise bad_input("WrongType", f"the body is a JSON {json_type(document)}; expected an object")
    return document


def may_hold_booleans(body: Buffer) -> bool:
    """Whether JSON may hold a boolean; False is certain. Much faster than a check of every value."""
    text = bytes(body) if isinstance(body, memoryview) else body
    # The search for one letter takes a thirtieth of the time, and is enough if there are only numbers.
    return (b"r" in text and b"true" in text) or (b"l" in text and b"false" in text)


def decode_plain(model: LoadedModel, body: Buffer) -> DecodedRequest:
    """Decode the body of `POST /`. Raises Problem 400."""
    document, parameters = parse_json(body), None
    if isinstance(document, dict):
        if "inputs" not in document:
            raise bad_input("MissingInputs", 'the body has no "inputs"; expected {"inputs": …}')
        if unknown := sorted(set(document) - _FIELDS):
            raise bad_input(
                "UnknownField",
                f'the body has the unknown field {unknown[0][:60]!r}; expected "inputs", and optionally "parameters"',
            )
        if "parameters" in document:
            parameters = model_parameters(parse_parameters(document, "the request"), {})
        document = document["inputs"]
    elif not isinstance(document, list):
        raise bad_input("WrongType", f"the body is a JSON {json_type(document)}; expected an object or an array")
    batch = make_json_batch(model, document, may_hold_booleans(body))
    check_json_outputs(model)
    return DecodedRequest(batch, _encode_plain, parameters)


def _encode_plain(output: Any) -> EncodedResponse:
    return EncodedResponse(encode_json({"outputs": output}))


def encode_json(document: Any) -> bytes:
    """Encode as JSON, numpy arrays as nested lists. Raises Problem 500 for values that JSON or UTF-8 cannot express."""
    try:
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise bad_output("OutputUnusable", f"the model's output cannot be written as JSON: {error}") from None


def make_json_batch(model: LoadedModel, inputs: Any, booleans: bool = True) -> Any:
    """Return the argument of `predict`; `booleans` is whether `inputs` may hold any. Raises Problem 400."""
    specs = model.signature.inputs
    if not specs:
        return _undeclared(model, inputs)
    if len(specs) == 1 and not isinstance(inputs, dict):
        inputs = {specs[0].name: inputs}
    if not isinstance(inputs, dict):
        raise bad_input("WrongType", f"inputs is a JSON {json_type(inputs)}; expected an object with {_names(specs)}")
    if sorted(inputs) != sorted(spec.name for spec in specs):
        raise bad_input("WrongInputs", f"inputs has {_shown(sorted(inputs))}; expected {_names(specs)}")
    named = {spec.name: declared_array(spec, inputs[spec.name], booleans) for spec in specs}
    if model.signature.axes:
        shapes = {name: shape_of(value) for name, value in named.items()}
        for axis in model.signature.axes:
            axis.check(shapes)
    return named if len(specs) > 1 else named[specs[0].name]


def declared_array(spec: TensorSpec, value: Any, booleans: bool) -> Any:
    """Return an input of the declared type and shape. Strings stay nested lists. Raises Problem 400."""
    check_json_input(spec)
    if not booleans:
        quick = try_number_array(value, spec)
        if quick is not None:
            return quick
    what = f"input {spec.name!r}"
    flat = flatten(value, what)
    check_shape(spec, flat.shape)
    if not flat.values:
        raise bad_input("EmptyInput", f"{what} has the shape {list(flat.shape)}, without values; expected values")
    array = to_array(flat, spec.dtype, what)
    return value if spec.dtype == "string" else array


def check_json_input(spec: TensorSpec) -> None:
    """Check that an input has a form in JSON. Raises Problem 400."""
    if spec.dtype == "bytes":
        raise bad_input("WrongType", f"input {spec.name!r}: bytes have no form in JSON; send it as a {_BINARY}")


def check_json_outputs(model: LoadedModel) -> None:
    """Check that all outputs have a form in JSON, before the model runs in vain. Raises Problem 400."""
    for spec in model.signature.outputs:
        if spec.dtype == "bytes":
            raise bad_input("WrongType", f"output {spec.name!r}: bytes have no form in JSON; request it as a {_BINARY}")


def _undeclared(model: LoadedModel, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        if not inputs:
            raise bad_input("EmptyInput", "inputs is an empty object; expected at least one input")
        check_names(model, list(inputs))
        return {name: undeclared_array(model, value, name) for name, value in inputs.items()}
    return undeclared_array(model, inputs, "inputs")


def check_names(model: LoadedModel, names: list[str]) -> None:
    """Check that undeclared inputs are parameters of a module's forward. Raises Problem 400."""
    if model.parameters is None:
        return
    try:
        model.parameters.bind(**dict.fromkeys(names))
    except TypeError as error:
        raise bad_input(
            "WrongInputs", f"inputs has {_shown(names)}, which the model does not accept: {error}"
        ) from None


def undeclared_array(model: LoadedModel, value: Any, name: str) -> Array | Any:
    """Return a rectangular array of numbers or booleans as an array; for Python models, return other JSON unchanged."""
    if not isinstance(value, list):
        if model.platform == "pytorch":
            raise bad_input("WrongType", f"input {name!r} is a JSON {json_type(value)}; expected an array")
        return value
    if not value:
        raise bad_input("EmptyInput", f"input {name!r} is an empty array; expected values")
    if model.platform != "pytorch" and _has_other_than_numbers(value):
        return value
    what = f"input {name[:60]!r}"
    flat = flatten(value, what)
    if flat.types == {bool}:
        return to_array(flat, "bool", what)
    return to_array(flat, model.float_dtype if float in flat.types else model.integer_dtype, what)


def _has_other_than_numbers(value: list[Any]) -> bool:
    """Whether the nested lists hold strings, objects or nulls anywhere: then they are records, not an array."""
    level: list[Any] = value
    while level:
        types = set(map(type, level))
        if types & {str, dict, type(None)}:
            return True
        level = [item for part in level if type(part) is list for item in part]
    return False


def json_type(value: Any) -> str:
    """Return JSON's name of a value's type."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return _shown([spec.name for spec in specs])


def _shown(names: list[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names[:10]) + (", …" if len(names) > 10 else "") or "nothing"
