"""Tensors without values and without dimensions, in all encodings of the Open Inference Protocol."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from small_models import predictor
from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.binary_tensors import encode_raw
from sundog_runtime.protocol.grpc_messages import decode_infer
from sundog_runtime.protocol.inference_pb2 import ModelInferRequest, ModelInferResponse
from sundog_runtime.protocol.messages import DecodedRequest, EncodedResponse
from sundog_runtime.protocol.oip import decode_oip
from sundog_runtime.protocol.plain_json import decode_plain
from sundog_runtime.signature import Axis, Signature, add_row_axis, check_outputs, forbid_empty_inputs
from sundog_runtime.tensors import DTYPES, OIP_TYPES, TensorSpec, to_plain

Decode = Callable[[LoadedModel, str, list[int], Any], DecodedRequest]
Shown = tuple[str, list[int], list[Any]]

LENGTH = b"inference-header-content-length"
FIELDS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BOOL": "bool_contents", "BYTES": "bytes_contents"}


def by_json(model: LoadedModel, datatype: str, shape: list[int], values: list[Any]) -> DecodedRequest:
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "data": values}
    return decode_oip("m", model, {}, orjson.dumps({"inputs": [tensor]}))


def in_binary(model: LoadedModel, datatype: str, shape: list[int], values: list[Any]) -> DecodedRequest:
    raw = bytes(encode_raw(*_array(datatype, values)))
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    text = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return decode_oip("m", model, {LENGTH: b"%d" % len(text)}, text + raw)


def by_grpc(model: LoadedModel, datatype: str, shape: list[int], values: list[Any]) -> DecodedRequest:
    request = ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    sent = [value.encode() for value in values] if datatype == "BYTES" else values
    getattr(tensor.contents, FIELDS[datatype]).extend(sent)
    return decode_infer("m", model, request.SerializeToString())


def by_grpc_raw(model: LoadedModel, datatype: str, shape: list[int], values: list[Any]) -> DecodedRequest:
    request = ModelInferRequest(model_name="m", raw_input_contents=[bytes(encode_raw(*_array(datatype, values)))])
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return decode_infer("m", model, request.SerializeToString())


def _array(datatype: str, values: list[Any]) -> tuple[Any, str]:
    dtype = DTYPES[datatype]
    return np.array(values, object if dtype == "string" else dtype), dtype


def shown(answer: EncodedResponse) -> Shown:
    """Return datatype, shape and values of the one output."""
    headers = dict(answer.headers)
    if answer.content_type == b"application/grpc":
        response = ModelInferResponse.FromString(bytes(answer.body))
        [tensor] = response.outputs
        values = (
            _values(tensor.datatype, response.raw_output_contents[0])
            if response.raw_output_contents
            else [value for _, values in tensor.contents.ListFields() for value in values]
        )
        found = [value.decode() if isinstance(value, bytes) else value for value in values]
        return tensor.datatype, list(tensor.shape), found
    end = int(headers.get(LENGTH, b"%d" % len(answer.body)))
    [output] = orjson.loads(answer.body[:end])["outputs"]
    values = output["data"] if "data" in output else _values(output["datatype"], answer.body[end:])
    return output["datatype"], output["shape"], values


def _values(datatype: str, raw: bytes) -> list[Any]:
    if datatype != "BYTES":
        return list(np.frombuffer(raw, DTYPES[datatype]).tolist())
    values, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        values.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return values


def answer(model: LoadedModel, query: DecodedRequest, output: Any) -> Shown:
    return shown(query.encode(check_outputs(model.signature.outputs, to_plain(output))))


def model_of(dtype: str, *shape: int, outputs: tuple[TensorSpec, ...] = (), platform: str = "python") -> LoadedModel:
    return LoadedModel(platform, "", lambda batch: batch, Signature((TensorSpec("x", dtype, shape),), outputs))


ENCODINGS = pytest.mark.parametrize("decode", [by_json, in_binary, by_grpc, by_grpc_raw])
VALUES = {"FP32": 0.5, "INT64": 2**40, "BOOL": True, "BYTES": "ß"}


@ENCODINGS
@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("shape", [[0, 4], [2, 0], [0]])
def test_a_tensor_without_values_reaches_the_model(
    decode: Decode, datatype: str, declared: bool, shape: list[int]
) -> None:
    dtype = DTYPES[datatype]
    model = model_of(dtype, -1, *shape[1:]) if declared else LoadedModel("python", "", lambda batch: batch, Signature())
    query = decode(model, datatype, shape, [])
    if datatype == "BYTES":
        assert query.batch == np.empty(shape, object).tolist()
    else:
        assert (query.batch.shape, query.batch.dtype.name) == (tuple(shape), dtype)
    for output in (query.batch, np.asarray(query.batch)):
        assert answer(model, query, output) == (datatype, shape, [])
    for named in (query.batch, np.asarray(query.batch)):
        assert answer(model, query, {"y": named}) == (datatype, shape, [])


def test_a_list_that_a_model_has_filled_is_answered_as_it_is() -> None:
    model = LoadedModel("python", "", lambda batch: batch, Signature())
    query = by_json(model, "BYTES", [0], [])
    query.batch.append("sun")
    assert answer(model, query, query.batch) == ("BYTES", [1], ["sun"])
    numbers = by_json(model, "BYTES", [0, 3], [])
    numbers.batch.extend([1, 2])
    assert answer(model, numbers, numbers.batch) == ("INT64", [2], [1, 2])


def test_an_empty_list_of_strings_is_answered_as_declared_or_in_plain_json() -> None:
    outputs = (TensorSpec("y", "float32", (-1, 2)),)
    model = LoadedModel("python", "", lambda batch: batch, Signature((), outputs))
    query = by_json(model, "BYTES", [0], [])
    assert answer(model, query, query.batch) == ("FP32", [0, 2], [])
    plain = decode_plain(LoadedModel("python", "", lambda batch: batch, Signature()), b'{"inputs": [1]}')
    assert plain.encode(to_plain({"y": query.batch})).body == b'{"outputs":{"y":[]}}'


@ENCODINGS
def test_declared_strings_keep_the_sizes_that_are_free(decode: Decode) -> None:
    model = model_of("string", -1, -1, outputs=(TensorSpec("y", "string", (-1, -1)),))
    query = decode(model, "BYTES", [0, 3], [])
    assert answer(model, query, query.batch) == ("BYTES", [0, 3], [])
    assert answer(model, query, []) == ("BYTES", [0, 0], [])


@ENCODINGS
@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("declared", [True, False])
def test_a_scalar_reaches_the_model_and_is_answered(decode: Decode, datatype: str, declared: bool) -> None:
    dtype, value = DTYPES[datatype], VALUES[datatype]
    outputs = (TensorSpec("y", dtype, ()),) if declared else ()
    model = (
        model_of(dtype, outputs=outputs) if declared else LoadedModel("python", "", lambda batch: batch, Signature())
    )
    query = decode(model, datatype, [], [value])
    assert np.shape(query.batch) == ()
    assert query.batch == value
    assert answer(model, query, query.batch) == (datatype, [], [value])


def test_a_scalar_in_json_may_stand_without_an_array() -> None:
    assert by_json(model_of("float32"), "FP32", [], 0.5).batch == np.float32(0.5)  # type: ignore[arg-type]


@ENCODINGS
@pytest.mark.parametrize(
    ("declared", "shape", "values"),
    [((2, 4), [0, 4], []), ((-1, 4), [0, 3], []), ((-1, 4), [], [1.0]), ((), [1], [1.0]), ((1,), [], [1.0])],
)
def test_a_shape_outside_the_signature_names_the_input(
    decode: Decode, declared: tuple[int, ...], shape: list[int], values: list[float]
) -> None:
    with pytest.raises(Problem) as caught:
        decode(model_of("float32", *declared), "FP32", shape, values)
    assert (caught.value.status, caught.value.code) == (400, "WrongShape")
    assert caught.value.detail == f"input 'x' has the shape {shape}; expected {list(declared)}"


@ENCODINGS
def test_sizes_beside_nothing_are_limited(decode: Decode) -> None:
    with pytest.raises(Problem, match="input 'x': shape holds no values; its other sizes multiply to more than"):
        decode(LoadedModel("python", "", lambda batch: batch, Signature()), "BYTES", [2**40, 0], [])


@ENCODINGS
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("declared", [True, False])
def test_outputs_in_any_byte_order(decode: Decode, order: str, declared: bool) -> None:
    for shape, values in (((), [0.5]), ((0, 3), []), ((3, 0), [])):
        outputs = (TensorSpec("y", "float32", tuple(-1 if size == 0 else size for size in shape)),) if declared else ()
        model = model_of("float32", -1, outputs=outputs)
        output = np.array(values, f"{order}f4").reshape(shape)
        assert answer(model, decode(model, "FP32", [1], [1.0]), output) == ("FP32", list(shape), values)


@ENCODINGS
@pytest.mark.parametrize(
    ("dtype", "shape", "output", "found"),
    [
        ("string", (), np.array("ß", object), ("BYTES", [], ["ß"])),
        ("string", (), np.array("ß"), ("BYTES", [], ["ß"])),
        ("string", (-1, 3), np.empty((0, 3), object), ("BYTES", [0, 3], [])),
        ("string", (-1, 3), [], ("BYTES", [0, 3], [])),
        ("string", (-1,), [], ("BYTES", [0], [])),
        ("float32", (-1, -1), [], ("FP32", [0, 0], [])),
        ("float32", (-1, 3), [], ("FP32", [0, 3], [])),
        ("float32", (-1,), 0.5, ("FP32", [1], [0.5])),
        ("float32", (1,), np.float32(0.5), ("FP32", [1], [0.5])),
        ("int64", (), 7, ("INT64", [], [7])),
    ],
)
def test_declared_outputs(decode: Decode, dtype: str, shape: tuple[int, ...], output: Any, found: Shown) -> None:
    model = model_of("float32", -1, outputs=(TensorSpec("y", dtype, shape),))
    assert answer(model, decode(model, "FP32", [1], [1.0]), output) == found


def test_bytes_without_values_and_dimensions_are_bytes() -> None:
    for shape, output in (((), np.array(b"\xff", object)), ((-1, 2), np.empty((0, 2), object))):
        model = model_of("float32", -1, outputs=(TensorSpec("y", "bytes", shape),))
        encoded = in_binary(model, "FP32", [1], [1.0]).encode(check_outputs(model.signature.outputs, to_plain(output)))
        end = int(dict(encoded.headers)[LENGTH])
        [described] = orjson.loads(encoded.body[:end])["outputs"]
        assert described["shape"] == [max(size, 0) for size in shape]
        assert encoded.body[end:] == (b"" if shape else b"\x01\0\0\0\xff")


@pytest.mark.parametrize("dtype", sorted(set(OIP_TYPES) - {"string", "bytes", "bfloat16"}))
def test_a_scalar_keeps_its_type_also_in_plain_json(dtype: str) -> None:
    scalar = np.array(1, np.dtype(dtype).newbyteorder(">"))
    model = LoadedModel("python", "", lambda batch: batch, Signature())
    assert answer(model, by_json(model, "FP32", [1], [1.0]), scalar) == (OIP_TYPES[dtype], [], [1])
    found = decode_plain(model, b'{"inputs":[1]}').encode(check_outputs((), to_plain({"y": scalar, "z": [scalar]})))
    assert orjson.loads(found.body) == {"outputs": {"y": 1, "z": [1]}}


@pytest.mark.parametrize("value", [np.array(np.nan), np.float32(np.inf), {"y": np.array(-np.inf, ">f4")}])
def test_a_scalar_must_be_finite_as_all_outputs(value: Any) -> None:
    with pytest.raises(Problem, match="NaN or infinity"):
        check_outputs((), to_plain(value))


def test_rows_may_be_none_where_inputs_agree() -> None:
    both = (TensorSpec("x", "float32", (-1, 2)), TensorSpec("y", "float32", (-1,)))
    [axis] = add_row_axis(None, Signature(both)).axes
    axis.check({"x": (0, 2), "y": (0,)})
    with pytest.raises(Problem, match="input 'y' has the size 1 in dimension 0; expected 0"):
        axis.check({"x": (0, 2), "y": (1,)})


@ENCODINGS
def test_some_models_never_get_empty_inputs(decode: Decode) -> None:
    signature = forbid_empty_inputs(Signature((TensorSpec("x", "float32", (-1, 2)),)))
    assert signature.axes == (Axis((("x", 0),)),)
    with pytest.raises(Problem) as caught:
        decode(LoadedModel("pytorch", "", lambda batch: batch, signature), "FP32", [0, 2], [])
    assert caught.value.detail == "input 'x' has the size 0 in dimension 0; expected at least 1"


MEANS = predictor(
    """if batch.ndim == 1:
    raise RuntimeError("no batch")
with np.errstate(all="ignore"):
    return batch.sum(axis=0) / len(batch)""",
    imports="import numpy as np",
)
STREAMS = predictor("yield batch.max()")


@pytest.mark.parametrize("code", [MEANS, STREAMS], ids=["answers", "streams"])
async def test_a_failure_on_an_empty_input_is_the_client_s_error(serve_predictor: Any, code: str) -> None:
    client = await serve_predictor(code)

    async def ask(shape: list[int], data: list[float]) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": shape, "data": data}
        return await client.post("/v2/models/digits/infer", json={"inputs": [tensor]})

    refused = await ask([0, 2], [])
    assert (refused.status_code, refused.json()["code"]) == (400, "EmptyInput"), refused.text
    assert "x-sundog-outcome" not in refused.headers
    assert (await ask([1, 2], [1.0, 2.0])).status_code == 200
    assert (await ask([2], [1.0, 2.0])).status_code == (500 if code == MEANS else 200)
