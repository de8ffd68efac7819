"""The part of the Open Inference Protocol that REST and gRPC share: tensors by name, checked against the signature."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from sundog_runtime.context import Parameter, Parameters
from sundog_runtime.errors import Problem, bad_input, bad_output
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.parameters import model_parameters
from sundog_runtime.protocol.plain_json import check_names, json_type
from sundog_runtime.signature import Axis, to_declared_array
from sundog_runtime.tensors import (
    DTYPES,
    MAX_DIMENSIONS,
    OIP_TYPES,
    Array,
    TensorSpec,
    check_shape,
    output_array,
)

MODEL_VERSION = "1"
"""The only version of every model. It is not the revision, because in an experiment clients must not learn their arm."""

EXTENSIONS = ("binary_tensor_data",)
MAX_TENSORS = 1024

MAX_EMPTY_SIZES = 2**20
"""Limit of the product of the sizes beside a 0: such a shape costs no bytes, but lists and arrays of the model may have as many items."""


@dataclass(frozen=True, slots=True)
class RequestTensor:
    """An input as the client sent it: its declaration by the client, and a function that reads its values.

    The argument of `read` is the model's declaration, or `spec` itself if there is none. It compares sizes before it
    allocates, and raises Problem 400.
    """

    spec: TensorSpec
    read: Callable[[TensorSpec], Any]
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class ResponseTensor:
    """One output of the model, of a type in OIP_TYPES."""

    name: str
    dtype: str
    array: Array

    @property
    def datatype(self) -> str:
        """Return the protocol's name of `dtype`."""
        return OIP_TYPES[self.dtype]


def parse_tensor_spec(name: Any, datatype: Any, shape: Any, where: str) -> TensorSpec:
    """Parse name, type and shape of an input. Raises Problem 400."""
    if not isinstance(name, str) or not name:
        raise bad_input("WrongType", f"{where}.name is not a string with at least one character")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        found = repr(datatype[:60]) if isinstance(datatype, str) else f"a JSON {json_type(datatype)}"
        raise bad_input("WrongType", f"input {name[:60]!r}: datatype is {found}; expected one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise bad_input("WrongShape", f"input {name[:60]!r}: shape is not an array of sizes ≥ 0")
    if len(shape) > MAX_DIMENSIONS:
        raise bad_input("WrongShape", f"input {name[:60]!r}: shape has more than {MAX_DIMENSIONS} dimensions")
    if 0 in shape and prod(size for size in shape if size) > MAX_EMPTY_SIZES:
        raise bad_input(
            "WrongShape",
            f"input {name[:60]!r}: shape holds no values; its other sizes multiply to more than {MAX_EMPTY_SIZES}",
        )
    return TensorSpec(name, DTYPES[datatype], tuple(shape))


def check_tensor_count(tensors: Sequence[Any], what: str) -> None:
    """Check the number of tensors. Raises Problem 400 for more than any model has."""
    if len(tensors) > MAX_TENSORS:
        raise bad_input("TooManyTensors", f"{what} has {len(tensors)} tensors; expected at most {MAX_TENSORS}")


def check_model(model_name: str, version: str, name: str) -> None:
    """Check the requested model and version. Raises Problem 404."""
    if model_name != name:
        raise Problem(404, "ModelNotFound", f"model {model_name[:100]!r} does not exist here; expected {name!r}")
    if version not in ("", MODEL_VERSION):
        raise Problem(
            404,
            "VersionNotFound",
            f"model {name!r} has no version {version[:60]!r}; expected {MODEL_VERSION!r}, for every revision",
        )


def make_batch(model: LoadedModel, inputs: Sequence[RequestTensor]) -> Any:
    """Return the argument of `predict`. All checks come before any input is read. Raises Problem 400."""
    names = [sent.spec.name for sent in inputs]
    if len(set(names)) < len(names):
        raise bad_input("WrongInputs", "inputs names a tensor twice")
    if declared := {spec.name: spec for spec in model.signature.inputs}:
        _check_declared(declared, model.signature.axes, inputs)
        by_name = {sent.spec.name: sent for sent in inputs}
        arrays = {name: by_name[name].read(spec) for name, spec in declared.items()}
    else:
        _check_undeclared(model, inputs)
        arrays = {sent.spec.name: _natural(model, sent.read(sent.spec)) for sent in inputs}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def collect_parameters(request: Mapping[str, Parameter], inputs: Sequence[RequestTensor]) -> Parameters | None:
    """Return the parameters that the model may read; None if there are none, which costs almost nothing."""
    if not request and not any(sent.parameters for sent in inputs):
        return None
    return model_parameters(request, {sent.spec.name: sent.parameters for sent in inputs})


def check_requested_outputs(model: LoadedModel, requested: Sequence[str]) -> None:
    """Check the requested outputs against the declared ones before the model runs in vain. Raises Problem 400."""
    names = [spec.name for spec in model.signature.outputs]
    if names and (missing := [name for name in requested if name not in names]):
        raise _unknown_output(missing[0], names)


def make_response_tensors(model: LoadedModel, output: Any, requested: Sequence[str] | None) -> list[ResponseTensor]:
    """Return the requested outputs, or all. Raises Problem 400 for an unknown one, 500 for one without a datatype."""
    declared = {spec.name: spec for spec in model.signature.outputs}
    named = output if isinstance(output, dict) else {next(iter(declared), "outputs"): output}
    if requested is None:
        requested = list(declared or named)
    if missing := [name for name in requested if name not in named]:
        raise _unknown_output(missing[0], list(named))
    return [_output(name, named[name], declared.get(name)) for name in requested]


def _check_declared(declared: dict[str, TensorSpec], axes: Sequence[Axis], inputs: Sequence[RequestTensor]) -> None:
    if sorted(declared) != sorted(sent.spec.name for sent in inputs):
        found = ", ".join(repr(sent.spec.name[:60]) for sent in inputs[:10])
        raise bad_input("WrongInputs", f"inputs has {found}; expected {', '.join(map(repr, declared))}")
    for sent in inputs:
        spec, wanted = sent.spec, declared[sent.spec.name]
        if OIP_TYPES[spec.dtype] != OIP_TYPES[wanted.dtype]:
            raise bad_input(
                "WrongType",
                f"input {spec.name!r} has the datatype {OIP_TYPES[spec.dtype]}; expected {OIP_TYPES[wanted.dtype]}",
            )
        check_shape(wanted, spec.shape)
    shapes = {sent.spec.name: sent.spec.shape for sent in inputs}
    for axis in axes:
        axis.check(shapes)


def _check_undeclared(model: LoadedModel, inputs: Sequence[RequestTensor]) -> None:
    texts = [sent.spec.name for sent in inputs if sent.spec.dtype == "string"]
    if model.platform == "pytorch" and texts:
        raise bad_input("WrongType", f"input {texts[0][:60]!r} has the datatype BYTES, which the model does not accept")
    if len(inputs) > 1:
        check_names(model, [sent.spec.name for sent in inputs])


def _natural(model: LoadedModel, value: Any) -> Any:
    """Convert an undeclared input to the types of the network's weights, which the client's types may differ from."""
    if model.platform != "pytorch" or value.dtype.kind == "b":
        return value
    return value.astype(model.float_dtype if value.dtype.kind == "f" else model.integer_dtype, copy=False)


def _unknown_output(name: str, names: Sequence[str]) -> Problem:
    return bad_input("UnknownOutput", f"the model has no output {name[:60]!r}; expected {', '.join(map(repr, names))}")


def _output(name: str, value: Any, declared: TensorSpec | None) -> ResponseTensor:
    if declared is not None:
        return ResponseTensor(name, declared.dtype, to_declared_array(declared, value))
    array = output_array(name, value)
    dtype = "string" if array.dtype.kind == "O" else array.dtype.name
    if dtype not in OIP_TYPES:
        raise bad_output(
            "OutputUnusable", f"output {name!r} holds {array.dtype}, which has no datatype in the protocol"
        )
    return ResponseTensor(name, dtype, array)
