"""A model's inputs and outputs by name, type and shape, and the check of answers against them.

`dtype` is one of `tensors.OIP_TYPES`; -1 in `shape` is any size, and the first dimension is the batch. Declared inputs
are checked on every request, declared outputs on every answer. `model_yaml` reads them from `model.yaml`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sundog_runtime.errors import Problem, bad_input, bad_output
from sundog_runtime.tensors import (
    MAX_DIMENSIONS,
    OIP_TYPES,
    Array,
    TensorSpec,
    check_finite,
    numpy_type,
    output_array,
    to_numpy,
)

if TYPE_CHECKING:
    _Dtype = str
else:
    _Dtype = Literal[tuple(OIP_TYPES)]


class TensorField(BaseModel):
    """One tensor as `model.yaml` declares it. In `shape`, -1 is any size; the first dimension is the batch.

    With `allowNaN` it may hold NaN and infinity. As inputs they need binary tensors or gRPC, because JSON has no form for
    them; in outputs JSON has null for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[
        str, Field(min_length=1, max_length=200, description="The network's argument, or the key of its output.")
    ]
    dtype: Annotated[
        _Dtype,
        Field(
            description="The type of the values. `string` is text in UTF-8; `bytes` are arbitrary, such as an image file,"
            " and have no form in JSON."
        ),
    ]
    shape: Annotated[
        list[Annotated[int, Field(ge=-1, le=2**31)]],
        Field(
            max_length=MAX_DIMENSIONS,
            description="The sizes; -1 is any size, 0 included. The first is the number of rows. `[]` is a single value.",
        ),
    ]
    allow_nan: Annotated[
        bool,
        Field(alias="allowNaN", description="Accept NaN and infinity, which are an error otherwise."),
    ] = False

    def spec(self) -> TensorSpec:
        """Return the same as a TensorSpec, against which arrays are checked."""
        return TensorSpec(self.name, self.dtype, tuple(self.shape), self.allow_nan)

    @classmethod
    def of(cls, spec: TensorSpec) -> "TensorField":
        """Return the field of a TensorSpec, to be written. It is checked when it is read."""
        fields: dict[str, Any] = {
            "name": spec.name,
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "allowNaN": spec.allow_nan,
        }
        return cls.model_construct(**fields)


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs in order; empty if unknown. `axes` are sizes that inputs have in common."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    axes: "tuple[Axis, ...]" = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """One size that several inputs share: `dimensions` are names of inputs and a dimension of each. `max_size` 0 is no limit."""

    dimensions: tuple[tuple[str, int], ...]
    min_size: int = 1
    max_size: int = 0

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Check the shapes of all inputs. Raises Problem 400 naming the input."""
        (first, at), *others = self.dimensions
        size = shapes[first][at]
        if size < self.min_size or 0 < self.max_size < size:
            limits = f"at least {self.min_size}" if size < self.min_size else f"at most {self.max_size}"
            raise bad_input("WrongShape", f"input {first!r} has the size {size} in dimension {at}; expected {limits}")
        for name, dimension in others:
            if (found := shapes[name][dimension]) != size:
                raise bad_input(
                    "WrongShape",
                    f"input {name!r} has the size {found} in dimension {dimension}; "
                    f"expected {size}, as input {first!r} has in dimension {at}",
                )


def is_batchable(batchable: bool | None, signature: Signature) -> bool:
    """Whether requests may be batched: `batchable` of model.yaml, or by default whether all tensors have a free number of rows."""
    if batchable is not None:
        return batchable
    return all(spec.shape[:1] == (-1,) for spec in (*signature.inputs, *signature.outputs))


def add_row_axis(batchable: bool | None, signature: Signature) -> Signature:
    """Return the signature with one shared number of rows, if the first dimension is rows: inputs with a free one must agree."""
    free = tuple((spec.name, 0) for spec in signature.inputs if spec.shape[:1] == (-1,))
    if len(free) < 2 or not is_batchable(batchable, signature):
        return signature
    return replace(signature, axes=(Axis(free, min_size=0),))


def forbid_empty_inputs(signature: Signature) -> Signature:
    """Return the signature without inputs of size 0, for models that do not support them."""
    free = [(spec.name, at) for spec in signature.inputs for at, size in enumerate(spec.shape) if size == -1]
    return replace(signature, axes=(*signature.axes, *(Axis((dimension,)) for dimension in free)))


def make_sample_batch(inputs: tuple[TensorSpec, ...], value: Callable[[TensorSpec], Any]) -> Any:
    """Return a `value` for each input, as `predict` gets them: one value, or several by name."""
    named = {spec.name: value(spec) for spec in inputs}
    return next(iter(named.values())) if len(named) == 1 else named


def make_zero_batch(inputs: tuple[TensorSpec, ...], free: int = 1) -> Any:
    """Return a batch as `predict` gets it: all zeros and empty strings, every free dimension `free`.

    None if no inputs are declared, or if one holds bytes, because the kind of file is unknown.
    """
    if not inputs or any(spec.dtype == "bytes" for spec in inputs):
        return None
    return make_sample_batch(
        inputs, lambda spec: spec.zeros(free).tolist() if spec.dtype == "string" else spec.zeros(free)
    )


def infer_inputs(example: Any) -> tuple[TensorSpec, ...]:
    """Return names, types and numbers of dimensions of an example batch; empty if it is not made of arrays.

    Sizes stay free: one example does not show which dimensions may vary.
    """
    named = example if isinstance(example, dict) else {"inputs": example}
    specs = []
    for name, value in named.items():
        array = to_numpy(value)
        if not isinstance(array, np.ndarray) or array.dtype.name not in OIP_TYPES or not array.ndim:
            return ()
        specs.append(TensorSpec(str(name), array.dtype.name, (-1,) * array.ndim))
    return tuple(specs)


def check_outputs(specs: tuple[TensorSpec, ...], output: Any) -> Any:
    """Return `output` of `tensors.to_plain`, with nested lists converted to arrays of the declared types.

    Raises Problem 500 if it differs from its declaration, or is not finite although it must be. Without a declaration the
    output is returned unchanged, and must be finite.
    """
    if not specs:
        check_finite(output)
        return output
    named = output if isinstance(output, dict) else {specs[0].name: output}
    if sorted(named) != sorted(spec.name for spec in specs):
        raise _wrong(f"the outputs are {sorted(named)}; expected {sorted(spec.name for spec in specs)}")
    arrays = {spec.name: _conform(spec, named[spec.name]) for spec in specs}
    return arrays if isinstance(output, dict) else arrays[specs[0].name]


def _conform(spec: TensorSpec, value: Any) -> Any:
    if not spec.allow_nan and spec.dtype != "bytes":
        check_finite(value)
    array = to_declared_array(spec, value)
    if array.dtype.name != numpy_type(spec.dtype) or not spec.accepts(array.shape):
        found = spec.dtype if array.dtype.kind == "O" else array.dtype.name
        expected = f"expected {spec.dtype} {list(spec.shape)}"
        raise _wrong(f"output {spec.name!r} is {found} {list(array.shape)}; {expected}")
    return value if array.dtype.kind == "O" else array


def to_declared_array(spec: TensorSpec, value: Any) -> Array:
    """Return an output of `tensors.to_plain` as an array of the declared type. Raises Problem 500.

    A scalar becomes an array of one if that is declared. An empty list becomes an array of no rows with the declared sizes.
    """
    array = output_array(spec.name, value, spec.dtype, allow_nan=spec.allow_nan)
    if not array.ndim and spec.accepts((1,)):
        return array.reshape(1)
    no_rows = (0, *(max(size, 0) for size in spec.shape[1:]))
    return (
        array.reshape(no_rows) if isinstance(value, list) and array.shape == (0,) and spec.accepts(no_rows) else array
    )


def _wrong(detail: str) -> Problem:
    return bad_output("OutputNotAsDeclared", detail)
