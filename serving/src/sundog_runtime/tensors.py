"""Arrays: their declaration by a model, and their conversion from and to JSON."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from sundog_runtime.errors import Problem, bad_input, bad_output

Array = npt.NDArray[Any]

OIP_TYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    "string": "BYTES",
    "bytes": "BYTES",
}
"""The names of types, which numpy and torch share, and those of the Open Inference Protocol."""

_IN_MEMORY = {"bfloat16": "float32", "string": "object", "bytes": "object"}

DTYPES = {oip: name for name, oip in OIP_TYPES.items() if name != "bytes"}
"""Types by the names that clients use. Only a model can declare that BYTES are not text."""

MAX_DIMENSIONS = 32

_STRUCT_CODES = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
}
"""Codes of `struct`, which accepts only numbers of the right kind and range, and is several times as fast as numpy."""

_MANY = 4096

_NATURAL: dict[frozenset[type], str] = {
    frozenset({bool}): "bool",
    frozenset({int}): "int64",
    frozenset({str}): "string",
    frozenset({bytes}): "bytes",
}

_JSON_NAMES = {
    float: "number",
    int: "integer",
    bool: "boolean",
    str: "string",
    bytes: "bytes",
    dict: "object",
    list: "array",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output. In `shape`, -1 is any size; the first dimension is the batch.

    NaN and infinity are refused unless `allow_nan`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    allow_nan: bool = False

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            wanted in (-1, found) for wanted, found in zip(self.shape, shape, strict=True)
        )

    def sample_shape(self, free: int = 1) -> list[int]:
        """Return the shape with `free` for each size that is free."""
        return [free if size == -1 else size for size in self.shape]

    def zeros(self, free: int = 1) -> Array:
        """Return an array of that shape with zeros, or with empty strings."""
        return np.full(self.sample_shape(free), "" if self.dtype == "string" else 0, dtype=numpy_type(self.dtype))


@dataclass(frozen=True, slots=True)
class FlatList:
    """The scalars of a rectangular nested list in row-major order, with their JSON types."""

    values: list[Any]
    shape: tuple[int, ...]
    types: frozenset[type]


def flatten(value: Any, what: str) -> FlatList:
    """Flatten nested lists. Raises Problem 400 if they are ragged, mixed with scalars or too deep; `what` names them.

    Allocates nothing larger than the list itself, for any content.
    """
    level, shape = [value], list[int]()
    while (types := frozenset(map(type, level))) == {list}:
        lengths = set(map(len, level))
        if len(lengths) > 1:
            found = f"dimension {len(shape)} has lengths {min(lengths)} to {max(lengths)}"
            raise bad_input("RaggedInput", f"{what} is ragged: {found}")
        if len(shape) == MAX_DIMENSIONS:
            raise bad_input("WrongShape", f"{what} has more than {MAX_DIMENSIONS} dimensions")
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    if list in types:
        raise bad_input("RaggedInput", f"{what} is ragged: dimension {len(shape)} mixes arrays and values")
    return FlatList(level, tuple(shape), types)


class EmptyBytesTensor(list[Any]):
    """A BYTES tensor without elements: the nested empty lists that stand for it, which still know its type and shape."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(np.empty(shape, object).tolist())
        self.shape = tuple(shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return it as numpy sees it."""
        return np.empty(self.shape, dtype or object) if self.is_unchanged() else np.array(list(self), dtype)

    def is_unchanged(self) -> bool:
        """Whether no model has put anything into it."""
        return bool(self == np.empty(self.shape, object).tolist())


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of an array, or of nested lists that are known to be rectangular."""
    if isinstance(value, np.ndarray):
        return tuple(value.shape)
    if not isinstance(value, list):
        return ()
    return (len(value), *shape_of(value[0])) if value else (0,)


def try_number_array(value: Any, spec: TensorSpec) -> Array | None:
    """Return nested lists as an array if a quick check shows that they hold what `spec` declares; otherwise None.

    This is the fast path for most requests, with the same result as `flatten`, `check_shape` and `to_array`. It does not
    detect booleans, so it is only for JSON without `true` and `false`.
    """
    code = _STRUCT_CODES.get(spec.dtype)
    if code is None or not spec.shape:
        return None
    rows, shape = [value], list[int]()
    for wanted in spec.shape:
        if shape:
            rows = list(chain.from_iterable(rows))
        if set(map(type, rows)) != {list}:
            return None
        lengths = set(map(len, rows))
        size = lengths.pop()
        if lengths or not size or wanted not in (-1, size):
            return None
        shape.append(size)
    packed = _row_of(shape[-1], code)
    numbers = bytearray(len(rows) * packed.size)
    try:
        for index, row in enumerate(rows):
            packed.pack_into(numbers, index * packed.size, *row)
    except (struct.error, OverflowError):
        return None
    array = np.frombuffer(numbers, dtype=spec.dtype).reshape(shape)
    # In native mode `struct` packs a number beyond float32 as infinity.
    return array if is_finite(array) else None


@lru_cache(maxsize=256)
def _row_of(size: int, code: str) -> struct.Struct:
    return struct.Struct(f"{size}{code}")


def to_array(flat: FlatList, dtype: str, what: str, *, allow_nan: bool = False) -> Array:
    """Convert to an array, and keep the kind: integers may become numbers, and 2.0 is an integer as in JSON Schema.

    No other value changes its type. Strings and bytes become an array of objects. Raises Problem 400, also for numbers
    that are infinite in `dtype`.
    """
    if float in flat.types and "int" in dtype:
        flat = _whole(flat)
    if wrong := [kind for kind in flat.types if not _fits(kind, dtype)]:
        found = sorted(_JSON_NAMES.get(kind, kind.__name__) for kind in wrong)
        raise bad_input("WrongType", f"{what} holds {' and '.join(found)} values; expected {dtype}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat.values, dtype=numpy_type(dtype))
    except OverflowError:
        raise _out_of_range(what, dtype) from None
    if not allow_nan and not is_finite(array):
        raise _out_of_range(what, dtype)
    return array.reshape(flat.shape)


def _whole(flat: FlatList) -> FlatList:
    """Return the list with whole numbers converted to integers."""
    values = [int(value) if type(value) is float and value.is_integer() else value for value in flat.values]
    return FlatList(values, flat.shape, frozenset(map(type, values)))


def numpy_type(dtype: str) -> str:
    """Return the numpy type that holds `dtype`: numpy has no bfloat16, and strings are objects."""
    return _IN_MEMORY.get(dtype, dtype)


def is_finite(array: Array) -> bool:
    """Whether an array holds neither NaN nor infinity. If it holds neither, almost nothing is allocated."""
    if array.dtype.kind != "f":
        return True
    if array.size > _MANY:
        # NaN and infinity make every sum not finite. A finite sum is therefore a proof; any other sum proves nothing.
        with np.errstate(all="ignore"):
            if np.isfinite(array.sum()):
                return True
    # For a small array, this takes half of the time of `all`.
    return bool(np.count_nonzero(np.isfinite(array)) == array.size)


def check_shape(spec: TensorSpec, shape: Sequence[int]) -> None:
    """Check a shape. Raises Problem 400 naming found and expected."""
    if not spec.accepts(shape):
        raise bad_input("WrongShape", f"input {spec.name!r} has the shape {list(shape)}; expected {list(spec.shape)}")


def output_array(name: str, value: Any, dtype: str = "", *, allow_nan: bool = False) -> Array:
    """Return one output of `to_plain` as an array: nested lists get `dtype`, or their natural type; a scalar has no dimensions.

    Raises Problem 500.
    """
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if isinstance(value, EmptyBytesTensor):
        if dtype in ("", "string", "bytes"):
            return np.asarray(value)
        value = list(value)
    what = f"output {name!r}"
    try:
        flat = flatten(value, what)
        return to_array(flat, dtype or _natural(flat.types), what, allow_nan=allow_nan)
    except Problem as problem:
        raise bad_output("OutputUnusable", problem.detail) from None


def _out_of_range(what: str, dtype: str) -> Problem:
    return bad_input("OutOfRange", f"{what} holds a value outside of the range of {dtype}")


def _natural(types: frozenset[type]) -> str:
    return _NATURAL.get(types, "float64")


def to_plain(output: Any, *, copy: bool = False) -> Any:
    """Convert a model's output to types that orjson writes (numpy arrays, lists, strings, numbers), and bytes, which it does not.

    A numpy scalar keeps its type outside of lists, and so does an array without dimensions.
    With `copy` the arrays share no memory with the model's. Raises Problem 500 for all other types. `check_finite` checks
    NaN, infinity and unexpected bytes.
    """
    return _plain(output, 0, copy=copy)


def check_finite(value: Any) -> None:
    """Raise Problem 500 if `value`, a result of `to_plain`, holds NaN or infinity anywhere, or bytes.

    JSON would turn NaN into null, and a count of errors does not include a wrong answer with status 200. JSON has no form
    for bytes, so only outputs that declare bytes may hold them.
    """
    if isinstance(value, np.ndarray | np.generic):
        finite = is_finite(np.asarray(value))
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            check_finite(item)
        return
    elif isinstance(value, bytes):
        raise _unusable("holds bytes; declare the output in model.yaml with dtype: bytes")
    else:
        finite = not isinstance(value, float) or isfinite(value)
    if not finite:
        raise bad_output("OutputNotFinite", "the model's output holds NaN or infinity")


def to_numpy(value: Any) -> Any:
    """Convert a torch tensor to a numpy array on the CPU (bfloat16 to float32); return anything else unchanged."""
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        tensor = value.detach()
        tensor = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
        return tensor.cpu().numpy()
    return value


def map_batch(convert: Callable[[Any], Any], batch: Any) -> Any:
    """Apply `convert` to a batch: to its one value, or to each of several by name."""
    return {name: convert(value) for name, value in batch.items()} if isinstance(batch, dict) else convert(batch)


def _fits(kind: type, dtype: str) -> bool:
    if dtype in ("string", "bytes"):
        return kind is (str if dtype == "string" else bytes)
    if dtype == "bool":
        return kind is bool
    return kind is int or (kind is float and "float" in dtype)


def _plain(value: Any, depth: int, *, copy: bool) -> Any:
    if depth > MAX_DIMENSIONS:
        raise _unusable(f"is nested deeper than {MAX_DIMENSIONS}")
    value = to_numpy(value)
    if isinstance(value, np.generic) and value.dtype.kind not in "biuf":
        value = value.item()
    if isinstance(value, np.ndarray | np.generic):
        return _plain_array(np.asarray(value), depth, copy=copy)
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise _unusable("has a key that is not a string")
        return {key: _plain(item, depth + 1, copy=copy) for key, item in value.items()}
    if isinstance(value, EmptyBytesTensor) and value.is_unchanged():
        return EmptyBytesTensor(value.shape)
    if isinstance(value, list | tuple):
        items = [_plain(item, depth + 1, copy=copy) for item in value]
        return [item.item() if isinstance(item, np.generic) else item for item in items]
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    raise _unusable(f"holds an object of type {type(value).__name__}")


def _plain_array(array: Array, depth: int, *, copy: bool) -> Any:
    if array.dtype.kind in "biuf":
        if not array.ndim:
            return array[()]
        # orjson only writes arrays in the machine's byte order.
        native = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
        return np.array(array, native, order="C") if copy else np.ascontiguousarray(array, native)
    if array.dtype.kind in "OU" and not array.size:
        return EmptyBytesTensor(array.shape)
    if array.dtype.kind in "OU":
        return _plain(array.tolist(), depth + 1, copy=copy)
    raise _unusable(f"holds an array of {array.dtype}")


def _unusable(what: str) -> Problem:
    return bad_output("OutputUnusable", f"the model's output {what}")
