"""For any bytes, the parsers of every protocol return a query or raise a Problem with a 4xx status."""

import contextlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.binary_tensors import decode_raw, encode_raw
from sundog_runtime.protocol.grpc_messages import decode_infer, model_metadata, model_ready
from sundog_runtime.protocol.inference_pb2 import ModelInferRequest, ModelInferResponse
from sundog_runtime.protocol.oip import decode_oip
from sundog_runtime.protocol.plain_json import decode_plain, may_hold_booleans
from sundog_runtime.signature import Signature, check_outputs
from sundog_runtime.tensors import DTYPES as DTYPE_OF
from sundog_runtime.tensors import OIP_TYPES, TensorSpec, flatten, numpy_type, to_array, to_plain, try_number_array

DTYPES = tuple(OIP_TYPES)


def model_of(*specs: TensorSpec, platform: str = "python") -> LoadedModel:
    return LoadedModel(platform, "", lambda batch: batch, Signature(specs, specs))


MODELS = (
    model_of(TensorSpec("x", "float32", (-1, 2))),
    model_of(TensorSpec("x", "int8", (-1,)), TensorSpec("y", "string", (-1, 2)), TensorSpec("z", "bool", (1,))),
    model_of(),
    model_of(platform="pytorch"),
    model_of(TensorSpec("x", "bytes", (-1,)), TensorSpec("y", "int8", (-1,))),
)

scalars = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=20,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from("xyz") | scalars,
        "datatype": st.sampled_from(tuple(OIP_TYPES.values())) | scalars,
        "shape": st.lists(st.integers(-1, 3) | st.just(2**63 - 1), max_size=4) | json_values,
        "data": json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 20) | scalars})
        | json_values,
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | json_values},
    optional={"id": json_values, "outputs": json_values, "parameters": json_values, "more": scalars},
)


def as_json(value: Any) -> bytes:
    """Encode as JSON, with integers beyond 64 bits and NaN, as a hostile client does."""
    with contextlib.suppress(TypeError):
        return orjson.dumps(value)
    import json

    return json.dumps(value).encode("utf-8", "surrogatepass")


def answered(model: LoadedModel, decode: Any) -> None:
    """Decode a query and encode its own batch as the answer; a Problem is fine."""
    problem = None
    try:
        query = decode()
        query.encode(check_outputs((), to_plain(query.batch)))
    except Problem as raised:
        problem = raised
    # An undeclared Python model may get input that is no tensor, and then return output that has no datatype.
    assert problem is None or problem.status in (400, 404) or problem.code == "OutputUnusable", problem.detail


@given(st.sampled_from(MODELS), st.binary(max_size=60) | (json_values | requests).map(as_json))
def test_plain_json(model: LoadedModel, body: bytes) -> None:
    answered(model, lambda: decode_plain(model, body))


@given(
    st.sampled_from(MODELS),
    st.binary(max_size=60) | (json_values | requests).map(as_json),
    st.binary(max_size=40),
    st.none() | st.binary(max_size=5) | st.integers(-5, 400).map(lambda number: str(number).encode()) | st.just(b"fit"),
)
def test_the_protocol_over_rest(model: LoadedModel, text: bytes, tail: bytes, length: bytes | None) -> None:
    shown = str(len(text)).encode() if length == b"fit" else length
    headers = {} if shown is None else {b"inference-header-content-length": shown}
    answered(model, lambda: decode_oip("m", model, headers, text + tail))


inputs_of_grpc = st.builds(
    lambda name, datatype, shape, contents: ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=contents
    ),
    st.sampled_from(("x", "y", "z", "")),
    st.sampled_from((*OIP_TYPES.values(), "")),
    st.lists(st.integers(-1, 3) | st.just(2**63 - 1), max_size=4),
    st.fixed_dictionaries(
        {},
        optional={
            "bool_contents": st.lists(st.booleans(), max_size=4),
            "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
            "uint64_contents": st.lists(st.integers(0, 2**64 - 1), max_size=4),
            "fp32_contents": st.lists(st.floats(width=32), max_size=4),
            "bytes_contents": st.lists(st.binary(max_size=3), max_size=4),
        },
    ),
)
messages = st.builds(
    lambda name, inputs, raw: ModelInferRequest(
        model_name=name, inputs=inputs, raw_input_contents=raw
    ).SerializeToString(),
    st.sampled_from(("m", "m", "m", "other")),
    st.lists(inputs_of_grpc, max_size=3),
    st.lists(st.binary(max_size=20), max_size=3),
)


@given(st.sampled_from(MODELS), messages | st.binary(max_size=60))
def test_the_protocol_over_grpc(model: LoadedModel, body: bytes) -> None:
    answered(model, lambda: decode_infer("m", model, body))
    for about in (lambda: model_ready("m", body), lambda: model_metadata("m", model, body)):
        with contextlib.suppress(Problem):
            about()


shapes = arrays.array_shapes(max_dims=3, max_side=3)


@st.composite
def typed(draw: st.DrawFn) -> tuple[str, Any]:
    """Draw a type and an array of it, with finite values that the type can hold."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(shapes)
    if dtype == "string":
        texts = st.text(st.characters(codec="utf-8"), max_size=4)
        return dtype, draw(arrays.arrays(object, shape, elements=texts))
    if dtype == "bytes":
        return dtype, draw(arrays.arrays(object, shape, elements=st.binary(max_size=4)))
    if dtype == "bfloat16":
        bits = draw(arrays.arrays(np.uint16, shape)) & 0xBFFF
        return dtype, (bits.astype(np.uint32) << 16).view(np.float32)
    return dtype, draw(
        arrays.arrays(
            dtype, shape, elements={"allow_nan": False, "allow_infinity": False} if "float" in dtype else None
        )
    )


@given(typed())
def test_bytes_round_trip(found: tuple[str, Any]) -> None:
    dtype, array = found
    raw = bytes(encode_raw(array, dtype))
    sent = TensorSpec("x", DTYPE_OF[OIP_TYPES[dtype]], array.shape)
    again = decode_raw(sent, raw, TensorSpec("x", dtype, array.shape))
    np.testing.assert_array_equal(np.array(again, dtype=array.dtype), array)


@given(typed(), st.booleans())
def test_grpc_round_trip(found: tuple[str, Any], raw: bool) -> None:
    dtype, array = found
    model = model_of(TensorSpec("x", dtype, array.shape))
    tensor = {"name": "x", "datatype": OIP_TYPES[dtype], "shape": array.shape}
    request = ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[bytes(encode_raw(array, dtype))])
    query = decode_infer("m", model, request.SerializeToString())
    answer = ModelInferResponse.FromString(
        bytes(query.encode(check_outputs(model.signature.outputs, to_plain(query.batch))).body)
    )
    assert answer.raw_output_contents[0] == request.raw_input_contents[0]
    if raw or "float16" in dtype:
        return
    # A tensor that was encoded in one form is sent in the other.
    contents = {
        "b": "bool_contents",
        "f": "fp32_contents" if dtype == "float32" else "fp64_contents",
        "O": "bytes_contents",
        "i": "int64_contents" if dtype == "int64" else "int_contents",
        "u": "uint64_contents" if dtype == "uint64" else "uint_contents",
    }[array.dtype.kind]
    values = array.ravel().tolist()
    sent = [text.encode() for text in values] if dtype == "string" else values
    request = ModelInferRequest(model_name="m", inputs=[{**tensor, "contents": {contents: sent}}])
    batch = decode_infer("m", model, request.SerializeToString()).batch
    np.testing.assert_array_equal(np.array(batch, dtype=array.dtype), array)


nested = st.recursive(
    st.integers(-300, 300) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=1) | st.none(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=9,
)


@given(nested, st.sampled_from(DTYPES), st.lists(st.integers(-1, 3), min_size=1, max_size=3))
def test_the_fast_path_returns_the_same_as_the_slow_path(value: Any, dtype: str, shape: list[int]) -> None:
    spec = TensorSpec("x", dtype, tuple(shape))
    quick = try_number_array(value, spec)
    if quick is None:
        return
    flat = flatten(value, "x")
    assert spec.accepts(flat.shape)
    slow = to_array(flat, dtype, "x")
    assert quick.dtype == slow.dtype == numpy_type(dtype)
    np.testing.assert_array_equal(quick, slow)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 65520.0), ("float32", 1e300), ("float32", -1e39), ("int8", 128), ("uint8", -1), ("uint64", 2**64)],
)
def test_the_fast_path_skips_values_out_of_range(dtype: str, value: Any) -> None:
    assert try_number_array([0, value], TensorSpec("x", dtype, (2,))) is None


@pytest.mark.parametrize("body", [b"[true]", b'{"a":[false, 1]}', bytearray(b"[true]"), memoryview(b"[true]")])
def test_a_boolean_is_never_overlooked(body: Any) -> None:
    assert may_hold_booleans(body)
    assert not may_hold_booleans(b"[1.0, null]")
