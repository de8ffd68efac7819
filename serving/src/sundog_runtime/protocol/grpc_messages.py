"""The messages of the Open Inference Protocol over gRPC, decoded to queries and encoded from outputs.

A request has its values in `raw_input_contents` for all inputs, or in `contents` for all; FP16 and BF16 have only raw
contents. The answer has the form of the request, and is raw if one of its outputs has no other form.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from sundog_runtime.context import Parameter
from sundog_runtime.errors import Problem, bad_input, bad_output
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.binary_tensors import (
    decode_element,
    decode_raw,
    encode_elements,
    encode_raw,
    reshape_to_lists,
)
from sundog_runtime.protocol.grpc_service import INFERENCE_SERVICE
from sundog_runtime.protocol.inference_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerMetadataResponse,
)
from sundog_runtime.protocol.messages import Buffer, DecodedRequest, EncodedResponse
from sundog_runtime.protocol.oip_tensors import (
    EXTENSIONS,
    MODEL_VERSION,
    RequestTensor,
    ResponseTensor,
    check_model,
    check_requested_outputs,
    check_tensor_count,
    collect_parameters,
    make_batch,
    make_response_tensors,
    parse_tensor_spec,
)
from sundog_runtime.protocol.parameters import check_parameters
from sundog_runtime.tensors import OIP_TYPES, Array, TensorSpec, is_finite

MESSAGE_TYPE = b"application/grpc"

_CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "string": "bytes_contents",
    "bytes": "bytes_contents",
}
"""The field of InferTensorContents for each type."""


def health(name: str, body: bytes) -> bytes:
    """Return the answer of gRPC's own health check, for the server, the protocol's service or the model. Raises Problem 400 and 404."""
    service = _parse(HealthCheckRequest, body).service
    if service not in ("", INFERENCE_SERVICE, name):
        raise Problem(
            404,
            "NotFound",
            f"service {service[:100]!r} does not exist here; expected {INFERENCE_SERVICE!r} or {name!r}",
        )
    return HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()


def server_metadata(version: str) -> bytes:
    """Return the answer of ServerMetadata."""
    return ServerMetadataResponse(name="sundog", version=version, extensions=EXTENSIONS).SerializeToString()


def model_ready(name: str, body: bytes) -> bytes:
    """Return the answer of ModelReady. Raises Problem 400 and 404."""
    request = _parse(ModelReadyRequest, body)
    check_model(request.name, request.version, name)
    return ModelReadyResponse(ready=True).SerializeToString()


def model_metadata(name: str, model: LoadedModel, body: bytes) -> bytes:
    """Return the answer of ModelMetadata. Raises Problem 400 and 404."""
    request = _parse(ModelMetadataRequest, body)
    check_model(request.name, request.version, name)
    return ModelMetadataResponse(
        name=name,
        versions=[MODEL_VERSION],
        platform=model.platform,
        inputs=map(_tensor_metadata, model.signature.inputs),
        outputs=map(_tensor_metadata, model.signature.outputs),
    ).SerializeToString()


def decode_infer(name: str, model: LoadedModel, body: Buffer) -> DecodedRequest:
    """Decode the request of ModelInfer. Raises Problem 400 and 404."""
    request = _parse(ModelInferRequest, body)
    check_model(request.model_name, request.model_version, name)
    parameters = _parameters(request.parameters, "the request")
    inputs = _inputs(request)
    wanted = _wanted(request)
    check_requested_outputs(model, wanted or ())
    raw = bool(request.raw_input_contents)

    def encode(output: Any) -> EncodedResponse:
        outputs = make_response_tensors(model, output, wanted)
        response = ModelInferResponse(model_name=name, model_version=MODEL_VERSION, id=request.id)
        as_bytes = raw or any(found.dtype not in _CONTENTS for found in outputs)
        for found in outputs:
            tensor = response.outputs.add(name=found.name, datatype=found.datatype, shape=found.array.shape)
            if as_bytes:
                response.raw_output_contents.append(bytes(encode_raw(found.array, found.dtype)))
            else:
                getattr(tensor.contents, _CONTENTS[found.dtype]).extend(_values(found))
        return EncodedResponse(_serialize(response), MESSAGE_TYPE)

    return DecodedRequest(make_batch(model, inputs), encode, collect_parameters(parameters, inputs))


def _parse(kind: Any, body: Buffer) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError:
        raise bad_input("MalformedMessage", f"the message is not a {kind.DESCRIPTOR.name}") from None


def _inputs(request: ModelInferRequest) -> list[RequestTensor]:
    if not request.inputs:
        raise bad_input("MissingInputs", "the request has no inputs")
    check_tensor_count(request.inputs, "inputs")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise bad_input("WrongSize", f"raw_input_contents has {len(raw)} items for {len(request.inputs)} inputs")
    inputs = list[RequestTensor]()
    for index, tensor in enumerate(request.inputs):
        spec = parse_tensor_spec(tensor.name, tensor.datatype, list(tensor.shape), f"inputs[{index}]")
        where = f"input {spec.name[:60]!r}"
        parameters = _parameters(tensor.parameters, where)
        if raw and tensor.contents.ListFields():
            raise bad_input("WrongInputs", f"{where} has contents, and the request has raw_input_contents")
        read = _raw(spec, raw[index]) if raw else _typed(spec, tensor.contents, where)
        inputs.append(RequestTensor(spec, read, parameters))
    return inputs


def _parameters(given: Mapping[str, InferParameter], where: str) -> dict[str, Parameter]:
    if not given:
        return {}
    check_parameters(given, where)
    return {name: _value(parameter) for name, parameter in given.items()}


def _value(parameter: InferParameter) -> Parameter:
    chosen = parameter.WhichOneof("parameter_choice")
    found: Parameter = getattr(parameter, chosen) if chosen else None
    return found


def _raw(spec: TensorSpec, data: bytes) -> Callable[[TensorSpec], Any]:
    return lambda wanted: decode_raw(spec, data, wanted)


def _typed(spec: TensorSpec, contents: InferTensorContents, where: str) -> Callable[[TensorSpec], Any]:
    field = _CONTENTS.get(spec.dtype)
    if field is None:
        raise bad_input("WrongType", f"{where}: {OIP_TYPES[spec.dtype]} has no contents; send raw_input_contents")
    found = [descriptor.name for descriptor, _ in contents.ListFields()]
    if found not in ([], [field]):
        raise bad_input("WrongType", f"{where}: contents has {', '.join(found)}; expected {field} alone")
    values: Sequence[Any] = getattr(contents, field)
    return lambda wanted: _typed_array(spec, values, wanted)


def _typed_array(spec: TensorSpec, values: Sequence[Any], wanted: TensorSpec) -> Any:
    what, count = f"input {spec.name[:60]!r}", prod(spec.shape)
    if len(values) != count:
        raise bad_input("WrongShape", f"{what}: contents has {len(values)} values; expected {count} by its shape")
    if spec.dtype == "string":
        return reshape_to_lists([decode_element(value, wanted, what) for value in values], spec.shape)
    array: Array = np.fromiter(values, dtype=_wide(spec.dtype), count=count)
    if array.dtype.kind in "iu" and count:
        limits = np.iinfo(spec.dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise bad_input("OutOfRange", f"{what} holds a value outside of the range of {spec.dtype}")
    if not wanted.allow_nan and not is_finite(array):
        raise bad_input("NotFinite", f"{what} holds NaN or infinity")
    return array.astype(spec.dtype, copy=False).reshape(spec.shape)


def _wide(dtype: str) -> str:
    """Return a type that holds any value of the field of `dtype`."""
    kind = np.dtype(dtype).kind
    return {"i": "int64", "u": "uint64"}.get(kind, dtype)


def _wanted(request: ModelInferRequest) -> list[str] | None:
    """Return the requested outputs, or None for all."""
    check_tensor_count(request.outputs, "outputs")
    wanted = [tensor.name for tensor in request.outputs]
    for tensor in request.outputs:
        check_parameters(tensor.parameters, f"output {tensor.name[:60]!r}")
    if len(set(wanted)) < len(wanted):
        raise bad_input("WrongOutputs", "outputs names a tensor twice")
    return wanted or None


def _values(found: ResponseTensor) -> list[Any]:
    if found.dtype in ("string", "bytes"):
        return encode_elements(found.array, found.dtype)
    return found.array.ravel().tolist()


def _serialize(message: Message) -> bytes:
    try:
        return message.SerializeToString()
    except ValueError as error:
        raise bad_output("OutputUnusable", f"the model's output does not fit into a message: {error}") from None


def _tensor_metadata(spec: TensorSpec) -> ModelMetadataResponse.TensorMetadata:
    return ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=OIP_TYPES[spec.dtype], shape=spec.shape)
