"""Open Inference Protocol over REST, from bytes to bytes: every datatype, both ways, and refused requests."""

import struct
from typing import Any

import numpy as np
import orjson
import pytest

from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.messages import EncodedResponse
from sundog_runtime.protocol.oip import decode_oip
from sundog_runtime.protocol.plain_json import decode_plain
from sundog_runtime.signature import Signature, check_outputs
from sundog_runtime.tensors import OIP_TYPES, TensorSpec, to_plain

VALUES: dict[str, Any] = {
    "bool": np.array([[True, False], [False, True]]),
    "uint8": np.array([[0, 255], [1, 2]], np.uint8),
    "uint16": np.array([[0, 65535], [1, 2]], np.uint16),
    "uint32": np.array([[0, 2**32 - 1], [1, 2]], np.uint32),
    "uint64": np.array([[0, 2**64 - 1], [1, 2]], np.uint64),
    "int8": np.array([[-128, 127], [1, 2]], np.int8),
    "int16": np.array([[-32768, 32767], [1, 2]], np.int16),
    "int32": np.array([[-(2**31), 2**31 - 1], [1, 2]], np.int32),
    "int64": np.array([[-(2**63), 2**63 - 1], [1, 2]], np.int64),
    "float16": np.array([[0.5, -65504], [1, 2]], np.float16),
    "float32": np.array([[0.5, -3.4e38], [1, 2]], np.float32),
    "float64": np.array([[0.5, -1.7e308], [1, 2]], np.float64),
    "bfloat16": np.array([[0.5, -3.3895314e38], [1, 2]], np.float32),
    "string": np.array([["", "a"], ["ß", "sun\0dog"]], object),
    "bytes": np.array([[b"", b"\xff\xd8\xff"], [b"\x89PNG", b"ends in nothing\0\0"]], object),
}


def echo(dtype: str, platform: str = "python", declared: bool = True, allow_nan: bool = False) -> LoadedModel:
    spec = TensorSpec("x", dtype, (-1, 2), allow_nan)
    signature = Signature((spec,), (TensorSpec("y", dtype, (-1, 2), allow_nan),)) if declared else Signature()
    return LoadedModel(platform, "", lambda batch: batch, signature)


def answer(model: LoadedModel, body: bytes, headers: dict[bytes, bytes] | None = None) -> EncodedResponse:
    query = decode_oip("m", model, headers or {}, body)
    return query.encode(check_outputs(model.signature.outputs, to_plain(model.predict(query.batch))))


def raw_of(dtype: str, array: Any) -> bytes:
    if dtype == "bytes":
        return b"".join(struct.pack("<I", len(value)) + value for value in array.ravel())
    if dtype == "string":
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in array.ravel())
    if dtype == "bfloat16":
        return (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    return array.tobytes()


def binary(document: Any, *tensors: bytes, length: int | None = None) -> tuple[bytes, dict[bytes, bytes]]:
    text = orjson.dumps(document)
    shown = str(len(text) if length is None else length).encode()
    return text + b"".join(tensors), {b"inference-header-content-length": shown}


def sent(dtype: str, raw: bytes, **change: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": len(raw)}
    return {"name": "x", "datatype": OIP_TYPES[dtype], "shape": [2, 2], "parameters": parameters} | change


def parts(found: EncodedResponse) -> tuple[Any, bytes]:
    """Return the JSON and the bytes after it."""
    headers = dict(found.headers)
    assert found.content_type == b"application/octet-stream"
    length = int(headers[b"inference-header-content-length"])
    return orjson.loads(found.body[:length]), found.body[length:]


@pytest.mark.parametrize(
    ("dtype", "declared"),
    [(dtype, declared) for dtype in VALUES for declared in (True, False) if declared or dtype != "bytes"],
)
def test_every_datatype_goes_both_ways_in_binary(dtype: str, declared: bool) -> None:
    raw = raw_of(dtype, VALUES[dtype])
    model = echo(dtype, declared=declared)
    body, headers = binary({"inputs": [sent(dtype, raw)], "parameters": {"binary_data_output": True}, "id": "7"}, raw)
    document, tail = parts(answer(model, body, headers))
    [output] = document.pop("outputs")
    assert document == {"model_name": "m", "model_version": "1", "id": "7"}
    # Without a declaration it is unknown that the numbers were sixteen bits wide.
    wide = dtype == "bfloat16" and not declared
    expected = VALUES[dtype].tobytes() if wide else raw
    assert output == {
        "name": "y" if declared else "outputs",
        "datatype": "FP32" if wide else OIP_TYPES[dtype],
        "shape": [2, 2],
        "parameters": {"binary_data_size": len(expected)},
    }
    assert tail == expected


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    "dtype", [dtype for dtype, array in VALUES.items() if array.dtype.name == dtype and array.dtype.itemsize > 1]
)
def test_an_output_in_the_other_byte_order_is_answered_as_in_ours(dtype: str, declared: bool, copy: bool) -> None:
    """A model may have such arrays from a file that was written on another machine."""
    ours = VALUES[dtype]
    theirs = ours.astype(ours.dtype.newbyteorder("S"))
    assert not theirs.dtype.isnative
    model = echo(dtype, declared=declared)
    asked = orjson.dumps({"inputs": [{"name": "x", "datatype": OIP_TYPES[dtype], "shape": [1, 2], "data": [1, 2]}]})
    in_binary = decode_oip("m", model, *reversed(asking(echo(dtype))))
    for query in (decode_plain(model, b'{"inputs":[[1,2]]}'), decode_oip("m", model, {}, asked), in_binary):
        for output in (theirs, {"y": theirs}, {"y": theirs[:, ::-1]}):
            native = {"y": output["y"].astype(ours.dtype)} if isinstance(output, dict) else ours
            found = query.encode(check_outputs(model.signature.outputs, to_plain(output, copy=copy)))
            assert found == query.encode(check_outputs(model.signature.outputs, to_plain(native)))


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("dtype", [dtype for dtype in VALUES if dtype not in ("bfloat16", "bytes")])
def test_every_datatype_except_bf16_goes_both_ways_in_json(dtype: str, flat: bool) -> None:
    array = VALUES[dtype]
    data = array.ravel().tolist() if flat else array.tolist()
    body = {"inputs": [{"name": "x", "datatype": OIP_TYPES[dtype], "shape": [2, 2], "data": data}]}
    found = answer(echo(dtype), orjson.dumps(body))
    assert found.content_type == b"application/json"
    [output] = orjson.loads(found.body)["outputs"]
    np.testing.assert_array_equal(np.array(output["data"], array.dtype).reshape(2, 2), array)


def test_bf16_has_no_form_in_json() -> None:
    raw = raw_of("bfloat16", VALUES["bfloat16"])
    with pytest.raises(Problem, match="BF16 has no form in JSON; send"):
        answer(echo("bfloat16"), orjson.dumps({"inputs": [sent("bfloat16", b"", parameters={}, data=[1, 2, 3, 4])]}))
    with pytest.raises(Problem, match="BF16 has no form in JSON; request"):
        answer(echo("bfloat16"), *binary({"inputs": [sent("bfloat16", raw)]}, raw))


def test_bytes_have_no_form_in_json() -> None:
    raw = raw_of("bytes", VALUES["bytes"])
    text = orjson.dumps({"inputs": [sent("bytes", b"", parameters={}, data=["a", "b", "c", "d"])]})
    refused(echo("bytes"), text, "WrongType", "input 'x': bytes have no form in JSON; send it as a binary tensor")
    body, headers = binary({"inputs": [sent("bytes", raw)]}, raw)
    message = "output 'y': bytes have no form in JSON; request it as binary data"
    refused(echo("bytes"), body, "WrongType", message, headers)


@pytest.mark.parametrize("body", [b'[["a", "b"]]', b'{"inputs": {"x": [["a", "b"]]}}'])
def test_plain_json_has_no_bytes(body: bytes) -> None:
    spec, number = TensorSpec("x", "bytes", (-1, 2)), TensorSpec("x", "string", (-1, 2))
    with pytest.raises(Problem, match="input 'x': bytes have no form in JSON; send it as a binary tensor") as caught:
        decode_plain(LoadedModel("python", "", lambda batch: batch, Signature((spec,), (number,))), body)
    assert (caught.value.status, caught.value.code) == (400, "WrongType")
    with pytest.raises(Problem, match="output 'x': bytes have no form in JSON; request it as a binary tensor"):
        decode_plain(LoadedModel("python", "", lambda batch: batch, Signature((number,), (spec,))), body)


def test_other_outputs_than_those_of_bytes_can_be_asked_for_in_json() -> None:
    """Outputs of bytes can be requested too, one by one, in binary."""
    signature = Signature((TensorSpec("x", "uint8", (-1,)),), tuple(map(named, ("png", "size"), ("bytes", "int64"))))
    model = LoadedModel("python", "", lambda batch: {"png": [b"\xff"], "size": [3]}, signature)
    body: dict[str, Any] = {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1], "data": [1]}]}
    refused(model, orjson.dumps(body), "WrongType", "'png'")
    size = answer(model, orjson.dumps(body | {"outputs": [{"name": "size"}]}))
    assert orjson.loads(size.body)["outputs"][0]["data"] == [3]
    wanted = [{"name": "png", "parameters": {"binary_data": True}}, {"name": "size"}]
    document, tail = parts(answer(model, orjson.dumps(body | {"outputs": wanted})))
    assert [output["datatype"] for output in document["outputs"]] == ["BYTES", "INT64"]
    assert tail == b"\1\0\0\0\xff"


def named(name: str, dtype: str) -> TensorSpec:
    return TensorSpec(name, dtype, (-1,))


@pytest.mark.parametrize("array", [False, True])
def test_an_input_of_bytes_is_what_was_sent(array: bool) -> None:
    raw = raw_of("bytes", VALUES["bytes"])
    model = echo("bytes")
    document = {"inputs": [sent("bytes", raw)], "parameters": {"binary_data_output": True}}
    query = decode_oip("m", model, *reversed(binary(document, raw)))
    assert query.batch == VALUES["bytes"].tolist()
    assert {type(value) for row in query.batch for value in row} == {bytes}
    output = np.array(query.batch, object) if array else query.batch
    assert parts(query.encode(check_outputs(model.signature.outputs, to_plain(output))))[1] == raw


@pytest.mark.parametrize(
    ("dtype", "output", "code", "message"),
    [
        ("bytes", [["a", "b"]], "OutputUnusable", "holds string values; expected bytes"),
        ("bytes", [[b"a", "b"]], "OutputUnusable", "holds string values; expected bytes"),
        ("bytes", [[b"a"]], "OutputNotAsDeclared", "output 'y' is bytes [1, 1]; expected bytes [-1, 2]"),
        # Such numpy arrays drop zeros at the end.
        ("bytes", np.array([[b"a", b"b"]]), "OutputUnusable", "holds an array of |S1"),
        ("string", [[b"a", b"b"]], "OutputUnusable", "holds bytes; declare the output"),
        ("float32", [[b"a", b"b"]], "OutputUnusable", "holds bytes; declare the output"),
        ("", [[b"a", b"b"]], "OutputUnusable", "holds bytes; declare the output"),
        ("", {"deep": [{"er": b"a"}]}, "OutputUnusable", "holds bytes; declare the output"),
    ],
)
def test_only_an_output_that_is_declared_so_holds_bytes(dtype: str, output: Any, code: str, message: str) -> None:
    specs = echo(dtype).signature.outputs if dtype else ()
    with pytest.raises(Problem) as caught:
        check_outputs(specs, to_plain(output))
    assert (caught.value.status, caught.value.code) == (500, code)
    assert message in caught.value.detail


@pytest.mark.parametrize(
    ("number", "bits"),
    [(1.0, 0x3F80), (1.00390625, 0x3F80), (1.01171875, 0x3F82), (-0.0, 0x8000), (float("inf"), 0x7F80)],
)
def test_bf16_rounds_to_the_nearest_and_to_even(number: float, bits: int) -> None:
    model = echo("bfloat16", allow_nan=True)
    query = decode_oip("m", model, *reversed(asking(model)))
    output = np.array([[number, float("nan")]], np.float32)
    _, tail = parts(query.encode(check_outputs(model.signature.outputs, to_plain(output))))
    assert struct.unpack("<HH", tail) == (bits, 0x7FC0)


def asking(model: LoadedModel) -> tuple[bytes, dict[bytes, bytes]]:
    """Return a request for binary outputs."""
    [spec] = model.signature.inputs
    raw = raw_of(spec.dtype, VALUES[spec.dtype])
    return binary({"inputs": [sent(spec.dtype, raw)], "parameters": {"binary_data_output": True}}, raw)


@pytest.mark.parametrize(
    ("request_level", "output_level", "expected"),
    [
        (None, None, False),
        (True, None, True),
        (False, None, False),
        (None, True, True),
        (None, False, False),
        (True, False, False),
        (False, True, True),
    ],
)
def test_an_output_s_flag_overrides_the_request_s(
    request_level: bool | None, output_level: bool | None, expected: bool
) -> None:
    body: dict[str, Any] = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}],
        "outputs": [{"name": "y"}],
    }
    if request_level is not None:
        body["parameters"] = {"binary_data_output": request_level}
    if output_level is not None:
        body["outputs"][0]["parameters"] = {"binary_data": output_level}
    found = answer(echo("float32"), orjson.dumps(body))
    assert (found.content_type == b"application/octet-stream") == expected


def test_several_tensors_in_the_order_of_the_inputs() -> None:
    specs = tuple(TensorSpec(name, "uint8", (-1,)) for name in ("a", "b", "c"))
    model = LoadedModel("python", "", lambda batch: batch, Signature(specs, specs))
    inputs = [
        {"name": "c", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": 1}},
        {"name": "b", "datatype": "UINT8", "shape": [2], "data": [8, 9]},
        {"name": "a", "datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}},
    ]
    outputs = [
        {"name": "a", "parameters": {"binary_data": True}},
        {"name": "b"},
        {"name": "c", "parameters": {"binary_data": True}},
    ]
    document, tail = parts(answer(model, *binary({"inputs": inputs, "outputs": outputs}, b"\x01\x02\x03")))
    assert [output["name"] for output in document["outputs"]] == ["a", "b", "c"]
    assert document["outputs"][1]["data"] == [8, 9]
    assert tail == b"\x02\x03\x01"


def test_an_input_can_be_written_to_and_is_aligned() -> None:
    raw = VALUES["float64"].tobytes()
    for padding in range(9):
        body, headers = binary({"inputs": [sent("float64", raw)], "id": "x" * padding}, raw)
        batch = decode_oip("m", echo("float64"), headers, body).batch
        assert batch.flags.writeable
        assert batch.flags.aligned
        np.testing.assert_array_equal(batch, VALUES["float64"])


@pytest.mark.parametrize(
    "length", ["-1", "+5", "5.0", "0x10", "", " ", "٣", "9" * 30, "1e1", "10, 10", "1000000"], ids=repr
)
def test_header_values_that_are_wrong(length: str) -> None:
    body, _ = binary({"inputs": [sent("float32", b"12345678" * 2)]}, b"12345678" * 2)
    refused(echo("float32"), body, "WrongHeader", headers={b"inference-header-content-length": length.encode()})


def refused(
    model: LoadedModel, body: bytes, code: str, message: str = "", headers: dict[bytes, bytes] | None = None
) -> None:
    with pytest.raises(Problem) as caught:
        answer(model, body, headers)
    assert (caught.value.status, caught.value.code) == (400, code), caught.value.detail
    assert message in caught.value.detail


FOUR = np.arange(4, dtype=np.float32).tobytes()
ONE = sent("float32", FOUR)


def parameters(**given: Any) -> dict[str, Any]:
    return {"parameters": given}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], bytes, str, str]] = {
    "no such size": ({}, {}, FOUR[:-1], "WrongSize", "15 bytes are left"),
    "more bytes": ({}, {}, FOUR + b"1", "WrongSize", "1 bytes after"),
    "not its shape's": ({"shape": [3, 2]}, {}, FOUR, "WrongSize", "16 bytes of data; its shape and datatype take 24"),
    "overflow": ({"shape": [2**62, 2]}, {}, FOUR, "WrongSize", "take more than"),
    "negative": ({"shape": [-2, 2]}, {}, FOUR, "WrongShape", "sizes"),
    "no shape": ({"shape": None}, {}, FOUR, "WrongShape", "'x': shape is not"),
    "nothing": ({"shape": [2, 0], **parameters(binary_data_size=0)}, {}, b"", "WrongShape", "'x' has the shape [2, 0]"),
    "a scalar": ({"shape": [], **parameters(binary_data_size=4)}, {}, FOUR[:4], "WrongShape", "'x' has the shape []"),
    "much next to nothing": ({"shape": [0, 2**21]}, {}, FOUR, "WrongShape", "'x': shape holds no values; its other"),
    "true as a size": (parameters(binary_data_size=True), {}, FOUR, "WrongType", "binary_data_size"),
    "a negative size": (parameters(binary_data_size=-16), {}, FOUR, "WrongType", "binary_data_size"),
    "both": ({"data": [1]}, {}, FOUR, "WrongInputs", "both"),
    "neither": (parameters(), {}, b"", "MissingInputs", "neither"),
    "twice": ({}, {"inputs": [ONE] * 2}, FOUR * 2, "WrongInputs", "twice"),
    "too many": ({}, {"inputs": [ONE] * 1025}, b"", "TooManyTensors", "at most 1024"),
    "an output twice": ({}, {"outputs": [{"name": "y"}] * 2}, FOUR, "WrongOutputs", "twice"),
    "no such output": ({}, {"outputs": [{"name": "z"}]}, FOUR, "UnknownOutput", "'z'"),
    "binary_data": (
        {},
        {"outputs": [{"name": "y", **parameters(binary_data=1)}]},
        FOUR,
        "WrongType",
        "binary_data is not true or false",
    ),
    "binary_data_output": ({}, parameters(binary_data_output="yes"), FOUR, "WrongType", "binary_data_output"),
    "parameters": ({}, parameters(a={}), FOUR, "WrongType", "parameters"),
    "classification": (
        {},
        {"outputs": [{"name": "y", **parameters(classification=2)}]},
        FOUR,
        "UnsupportedParameter",
        "'classification'",
    ),
    "shared memory": (
        parameters(shared_memory_region="a"),
        {},
        b"",
        "UnsupportedParameter",
        "'shared_memory_region'",
    ),
    "a field": ({"dada": 1}, {}, FOUR, "UnknownField", "'dada'"),
}
"""Changes of the one tensor and of the request, the bytes after the JSON, and the problem."""


@pytest.mark.parametrize("name", CASES)
def test_binary_requests_that_are_wrong(name: str) -> None:
    tensor, request, tail, code, message = CASES[name]
    body, headers = binary({"inputs": [ONE | tensor], **request}, tail)
    refused(echo("float32"), body, code, message, headers)


def test_binary_data_without_the_header() -> None:
    refused(echo("float32"), orjson.dumps({"inputs": [sent("float32", FOUR)]}), "WrongHeader", "there is no")


@pytest.mark.parametrize(
    ("raw", "code", "message"),
    [
        (b"\1\0\0\0a" * 3, "WrongSize", "4 elements take more"),
        (b"\1\0\0\0a" * 3 + b"\0", "WrongSize", "ends within element 3"),
        (b"\1\0\0\0a" * 3 + b"\2\0\0\0a", "WrongSize", "ends within element 3"),
        (b"\xff\xff\xff\xff" * 4, "WrongSize", "ends within element 0"),
        (b"\1\0\0\0a" * 5, "WrongSize", "5 bytes after its last element"),
        (b"\1\0\0\0\xff" * 4, "WrongType", "not UTF-8"),
    ],
)
def test_bytes_that_are_wrong(raw: bytes, code: str, message: str) -> None:
    body, headers = binary({"inputs": [sent("string", raw)]}, raw)
    refused(echo("string"), body, code, message, headers)


def test_a_boolean_is_zero_or_one() -> None:
    raw = b"\0\1\2\1"
    body, headers = binary({"inputs": [sent("bool", raw)]}, raw)
    refused(echo("bool"), body, "WrongType", "other than 0 and 1", headers)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [2, 5000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_nan_only_where_it_is_declared(dtype: str, size: int, value: float) -> None:
    array = np.zeros((size, 2), np.float32 if dtype == "bfloat16" else dtype)
    array[-1, 1] = value
    raw = raw_of(dtype, array)
    document = {"inputs": [sent(dtype, raw, shape=[size, 2])], "parameters": {"binary_data_output": True}}
    body, headers = binary(document, raw)
    refused(echo(dtype), body, "NotFinite", "'x' holds NaN or infinity", headers)
    _, tail = parts(answer(echo(dtype, allow_nan=True), body, headers))
    assert np.isfinite(array).sum() == 2 * size - 1
    assert len(tail) == len(raw)


def test_sums_that_overflow_are_no_proof_of_infinity() -> None:
    array = np.full((5000, 2), 6e4, np.float16)
    raw = array.tobytes()
    document = {"inputs": [sent("float16", raw, shape=[5000, 2])], "parameters": {"binary_data_output": True}}
    _, tail = parts(answer(echo("float16"), *binary(document, raw)))
    assert tail == raw


@pytest.mark.parametrize(
    ("output", "code"),
    [
        (np.array([[1, np.nan]], np.float32), "OutputNotFinite"),
        ([[1.0, float("inf")]], "OutputNotFinite"),
        (np.zeros((1, 3), np.float32), "OutputNotAsDeclared"),
        (np.zeros((1, 2), np.float64), "OutputNotAsDeclared"),
        ({"z": np.zeros((1, 2), np.float32)}, "OutputNotAsDeclared"),
        (object(), "OutputUnusable"),
    ],
    ids=["nan", "infinity in a list", "shape", "dtype", "name", "type"],
)
def test_an_unusable_output_is_marked(output: Any, code: str) -> None:
    with pytest.raises(Problem) as caught:
        check_outputs(echo("float32").signature.outputs, to_plain(output))
    assert (caught.value.status, caught.value.code) == (500, code)
    assert caught.value.headers == ((b"x-sundog-outcome", b"invalid"),)


def test_nan_is_null_in_json_where_it_is_declared() -> None:
    model = echo("float32", allow_nan=True)
    query = decode_oip(
        "m", model, {}, orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]})
    )
    output = check_outputs(model.signature.outputs, to_plain([[1.0, float("nan")]]))
    assert orjson.loads(query.encode(output).body)["outputs"][0]["data"] == [1.0, None]
