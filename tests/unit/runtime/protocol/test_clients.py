"""Third-party clients against a served replica: REST through uvicorn, gRPC through grpc.aio as Serve connects it."""

import asyncio
import contextlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import uvicorn
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.errors import BadRequestError
from open_inference.openapi.types import InferenceRequest, RequestInput
from PIL import Image
from tritonclient.utils import InferenceServerException

from grpc_contexts import RecordedStatus
from sundog_runtime.protocol.grpc_service import INFERENCE_SERVICE, GrpcMethods, add_to_server
from sundog_runtime.protocol.inference_pb2 import HealthCheckRequest, HealthCheckResponse
from sundog_runtime.replica import Replica
from waiting import PATIENCE_S

ECHO = """
import json
import numpy as np
from sundog_runtime.context import parameters

class Predictor:
    def load(self, path, config):
        self.calls = 0

    def predict(self, batch):
        if isinstance(batch, dict) and "fail" in batch:
            raise RuntimeError("a secret of the model")
        if isinstance(batch, dict) and "wait" in batch:
            __import__("time").sleep(float(batch["wait"][0]))
        if isinstance(batch, dict) and "given" in batch:
            return {"given": [json.dumps(dict(parameters().request))]}
        return batch
"""

# Turns pictures upside down, and returns their sizes.
PICTURES = """
import io
from PIL import Image

class Predictor:
    def load(self, path, config):
        pass

    def predict(self, batch):
        pictures = [Image.open(io.BytesIO(data)) for data in batch]
        return {"size": [list(each.size) for each in pictures], "turned": [turned(each) for each in pictures]}

def turned(picture):
    written = io.BytesIO()
    picture.rotate(180).save(written, "PNG")
    return written.getvalue()
"""
DECLARED = """
inputs: [{name: picture, dtype: bytes, shape: [-1]}]
outputs:
- {name: size, dtype: int64, shape: [-1, 2]}
- {name: turned, dtype: bytes, shape: [-1]}
"""


class Deployed(GrpcMethods):
    """The class that Serve deploys, without Serve."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    def grpc_handler(self) -> Any:
        return self.replica.grpc


class ContextOfServe(RecordedStatus):
    """Serve's context of a call."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        super().__init__()
        self.context = context

    def invocation_metadata(self) -> Any:
        return self.context.invocation_metadata()

    def peer(self) -> str:
        return self.context.peer()


class AsServeCalls:
    """Calls methods as Serve does: with bytes and its own context, for an object that serialises itself."""

    def __init__(self, deployed: Deployed) -> None:
        self.deployed = deployed

    def __getattr__(self, method: str) -> Any:
        async def call(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            assert isinstance(request, bytes)
            of_serve = ContextOfServe(context)
            answer = await getattr(self.deployed, method)(request, grpc_context=of_serve)
            context.set_code(of_serve.code)
            context.set_details(of_serve.details)
            context.set_trailing_metadata(tuple(of_serve.trailers))
            body: bytes = answer.SerializeToString()
            return body

        return call


class Served:
    """A replica with two ports, on its own event loop."""

    def __init__(self, args: dict[str, Any]) -> None:
        self.args = args
        self.http = self.grpc = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        replica = await Replica.start(self.args)
        await replica.reconfigure({"maxRequestBytes": 3_000_000})
        config = uvicorn.Config(replica.app, host="127.0.0.1", port=0, log_level="error", access_log=False)
        server = uvicorn.Server(config)
        # uvicorn must not take the signals of the test run.
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        serving = asyncio.create_task(server.serve())
        rpc = grpc.aio.server()
        add_to_server(AsServeCalls(Deployed(replica)), rpc)
        port = rpc.add_insecure_port("127.0.0.1:0")
        await rpc.start()
        while not server.started:  # noqa: ASYNC110 (uvicorn tells it no other way)
            await asyncio.sleep(0.01)
        self.http = f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        self.grpc = f"127.0.0.1:{port}"
        self._ready.set()
        await self._end.wait()
        server.should_exit = True
        await serving
        await rpc.stop(None)
        replica.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


def serving(root: Path, service: str, code: str, declared: str = "") -> Served:
    (root / "predictor.py").write_text(code)
    (root / "model.yaml").write_text(declared)
    model = {"uri": f"file://{root}", "entrypoint": "predictor:Predictor"}
    return Served({"version": 1, "namespace": "vision", "service": service, "revision": 8, "model": model})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a predictor that returns its input."""
    with serving(tmp_path_factory.mktemp("echo"), "echo", ECHO) as found:
        yield found


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a predictor of picture files."""
    with serving(tmp_path_factory.mktemp("gallery"), "gallery", PICTURES, DECLARED) as found:
        yield found


ARRAYS = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 65535]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-32768, 32767]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "FP16": np.array([[0.5, -65504]], np.float16),
    "FP32": np.array([[0.5, -3.4e38]], np.float32),
    "FP64": np.array([[0.5, -1.7e308]], np.float64),
    "BYTES": np.array([["ß".encode(), b"sun"]], object),
}


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_tritonclient_over_http(served: Served, binary_in: bool, binary_out: bool) -> None:
    with tritonclient.http.InferenceServerClient(served.http) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("echo")
        assert client.is_model_ready("echo", "1")
        assert not client.is_model_ready("echo", "8")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        assert client.get_model_metadata("echo")["versions"] == ["1"]
        inputs = []
        outputs = []
        for datatype, array in ARRAYS.items():
            tensor = tritonclient.http.InferInput(datatype, array.shape, datatype)
            tensor.set_data_from_numpy(array, binary_data=binary_in or datatype == "FP16")
            inputs.append(tensor)
            outputs.append(tritonclient.http.InferRequestedOutput(datatype, binary_data=binary_out))
        result = client.infer("echo", inputs, outputs=outputs, request_id="one", model_version="1")
        assert result.get_response()["id"] == "one"
        for datatype, array in ARRAYS.items():
            found = result.as_numpy(datatype)
            if datatype == "BYTES" and not binary_out:
                found = np.array([[text.encode() for text in row] for row in found], object)
            np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
@pytest.mark.parametrize("binary", [True, False])
def test_empty_tensors_of_bytes_come_back_to_tritonclient(served: Served, shape: tuple[int, ...], binary: bool) -> None:
    sent = np.empty(shape, object)
    with tritonclient.http.InferenceServerClient(served.http) as client:
        tensor = tritonclient.http.InferInput("x", list(shape), "BYTES")
        tensor.set_data_from_numpy(sent, binary_data=binary)
        outputs = [tritonclient.http.InferRequestedOutput("outputs", binary_data=binary)]
        found = client.infer("echo", [tensor], outputs=outputs)
        assert found.get_output("outputs")["datatype"] == "BYTES"
        assert found.as_numpy("outputs").shape == shape
    with tritonclient.grpc.InferenceServerClient(served.grpc) as client:
        tensor = tritonclient.grpc.InferInput("x", list(shape), "BYTES")
        tensor.set_data_from_numpy(sent)
        answered = client.infer("echo", [tensor])
        assert answered.get_output("outputs").datatype == "BYTES"
        assert answered.as_numpy("outputs").shape == shape


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_tritonclient_may_compress(served: Served, compression: str) -> None:
    with tritonclient.http.InferenceServerClient(served.http) as client:
        for binary in (True, False):
            tensor = tritonclient.http.InferInput("x", [2], "FP32")
            tensor.set_data_from_numpy(np.array([1, 2], np.float32), binary_data=binary)
            result = client.infer("echo", [tensor], request_compression_algorithm=compression)
            np.testing.assert_array_equal(result.as_numpy("outputs"), [1, 2])


def test_errors_for_tritonclient_over_http(served: Served) -> None:
    with tritonclient.http.InferenceServerClient(served.http) as client:
        tensor = tritonclient.http.InferInput("x", [1], "FP32")
        tensor.set_data_from_numpy(np.array([1], np.float32))
        with pytest.raises(InferenceServerException, match="model 'other' does not exist"):
            client.infer("other", [tensor])
        with pytest.raises(InferenceServerException, match="which is not supported"):
            client.infer("echo", [tensor], sequence_id=3, sequence_start=True)


@pytest.mark.parametrize(
    ("service", "code"), [("", "OK"), ("echo", "OK"), (INFERENCE_SERVICE, "OK"), ("other", "NOT_FOUND")]
)
def test_health_as_grpc_has_it(served: Served, service: str, code: str) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        call = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        if code == "OK":
            answer = call(HealthCheckRequest(service=service), timeout=PATIENCE_S)
            assert answer.status == HealthCheckResponse.SERVING
            return
        with pytest.raises(grpc.RpcError) as caught:
            call(HealthCheckRequest(service=service), timeout=PATIENCE_S)
        assert caught.value.code().name == code


def test_tritonclient_lists_the_repository(served: Served) -> None:
    with tritonclient.http.InferenceServerClient(served.http) as client:
        [model] = client.get_model_repository_index()
    assert (model["name"], model["version"], model["state"]) == ("echo", "1", "READY")


@pytest.mark.parametrize("raw", [True, False])
def test_tritonclient_over_grpc(served: Served, raw: bool) -> None:
    with tritonclient.grpc.InferenceServerClient(served.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("echo", "1")
        with pytest.raises(InferenceServerException, match="has no version '8'"):
            client.is_model_ready("echo", "8")
        assert client.get_server_metadata().name == "sundog"
        assert client.get_model_metadata("echo", as_json=True)["versions"] == ["1"]
        inputs = []
        for datatype, array in ARRAYS.items():
            tensor = tritonclient.grpc.InferInput(datatype, array.shape, datatype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        outputs = None if raw else [tritonclient.grpc.InferRequestedOutput("INT8")]
        result = client.infer("echo", inputs, outputs=outputs, request_id="one")
        assert result.get_response().id == "one"
        for datatype, array in ARRAYS.items() if raw else [("INT8", ARRAYS["INT8"])]:
            np.testing.assert_array_equal(result.as_numpy(datatype), array)


PARAMETERS = {"language": "de", "seed": 7, "temperature": 0.5, "verbose": True}


@pytest.mark.parametrize("kind", [tritonclient.http, tritonclient.grpc])
def test_tritonclient_s_own_parameters_reach_the_model(served: Served, kind: Any) -> None:
    authority = served.http if kind is tritonclient.http else served.grpc
    tensors = []
    for name in ("given", "x"):
        tensors.append(kind.InferInput(name, [1], "FP32"))
        tensors[-1].set_data_from_numpy(np.zeros(1, np.float32))
    with kind.InferenceServerClient(authority) as client:
        result = client.infer("echo", tensors, parameters=PARAMETERS, timeout=3)
        assert json.loads(result.as_numpy("given")[0]) == PARAMETERS | {"timeout": 3}


def picture(width: int, height: int) -> bytes:
    """Return a PNG file in which only the first pixel is white."""
    made, written = Image.new("L", (width, height)), io.BytesIO()
    made.putpixel((0, 0), 255)
    made.save(written, "PNG")
    return written.getvalue()


@pytest.mark.parametrize("kind", [tritonclient.http, tritonclient.grpc])
@pytest.mark.parametrize("wanted", [None, ["turned"], ["turned", "size"]])
def test_tritonclient_sends_pictures_and_gets_some_back(gallery: Served, kind: Any, wanted: list[str] | None) -> None:
    authority = gallery.http if kind is tritonclient.http else gallery.grpc
    files = np.array([picture(3, 2), picture(300, 400)], np.object_)
    tensor = kind.InferInput("picture", files.shape, "BYTES")
    tensor.set_data_from_numpy(files)
    outputs = None if wanted is None else [kind.InferRequestedOutput(name) for name in wanted]
    with kind.InferenceServerClient(authority) as client:
        metadata = client.get_model_metadata("gallery")
        found = metadata["inputs"][0] if kind is tritonclient.http else metadata.inputs[0]
        assert (found["datatype"] if isinstance(found, dict) else found.datatype) == "BYTES"
        result = client.infer("gallery", [tensor], outputs=outputs)
    turned = [Image.open(io.BytesIO(data)) for data in result.as_numpy("turned")]
    assert [each.size for each in turned] == [(3, 2), (300, 400)]
    assert [[each.getpixel((0, 0)), each.getpixel((each.width - 1, each.height - 1))] for each in turned] == [
        [0, 255]
    ] * 2
    if wanted != ["turned"]:
        np.testing.assert_array_equal(result.as_numpy("size"), [[3, 2], [300, 400]])


def test_pictures_have_no_form_in_json(gallery: Served) -> None:
    with tritonclient.http.InferenceServerClient(gallery.http) as client:
        tensor = tritonclient.http.InferInput("picture", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"text"], np.object_), binary_data=False)
        with pytest.raises(InferenceServerException, match="input 'picture': bytes have no form in JSON; send it as a"):
            client.infer("gallery", [tensor])
        tensor.set_data_from_numpy(np.array([picture(1, 1)], np.object_))
        as_json = tritonclient.http.InferRequestedOutput("turned", binary_data=False)
        with pytest.raises(InferenceServerException, match="output 'turned': bytes have no form in JSON; request it"):
            client.infer("gallery", [tensor], outputs=[as_json])
    answer = httpx.post(f"http://{gallery.http}/", json={"inputs": ["text"]}, timeout=PATIENCE_S)
    assert (answer.status_code, answer.json()["code"]) == (400, "WrongType")


def test_an_invalid_picture_is_the_model_s_error(gallery: Served) -> None:
    with tritonclient.grpc.InferenceServerClient(gallery.grpc) as client:
        tensor = tritonclient.grpc.InferInput("picture", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"text"], np.object_))
        with pytest.raises(InferenceServerException, match="ModelError"):
            client.infer("gallery", [tensor])


def infer(client: Any, name: str, values: Any, model: str = "echo", timeout: float | None = None) -> Any:
    array = np.array(values, np.float32)
    tensor = tritonclient.grpc.InferInput(name, array.shape, "FP32")
    tensor.set_data_from_numpy(array)
    other = tritonclient.grpc.InferInput("x", array.shape, "FP32")
    other.set_data_from_numpy(array)
    return client.infer(model, [tensor, other], client_timeout=timeout)


@pytest.mark.parametrize(
    ("name", "values", "model", "status", "message"),
    [
        ("y", [1], "other", "NOT_FOUND", "ModelNotFound: model 'other' does not exist here"),
        ("x", [1], "echo", "INVALID_ARGUMENT", "WrongInputs: inputs names a tensor twice"),
        ("y", [float("nan")], "echo", "INVALID_ARGUMENT", "NotFinite: input 'y' holds NaN"),
        ("fail", [1], "echo", "INTERNAL", "ModelError: the model raised an error"),
        ("y", [0] * 500_000, "echo", "RESOURCE_EXHAUSTED", "BodyTooLarge: the message is larger than 3000000 bytes"),
    ],
)
def test_errors_for_tritonclient_over_grpc(
    served: Served, name: str, values: Any, model: str, status: str, message: str
) -> None:
    with tritonclient.grpc.InferenceServerClient(served.grpc) as client:
        with pytest.raises(InferenceServerException) as caught:
            infer(client, name, values, model)
        assert caught.value.status() == f"StatusCode.{status}"
        assert message in caught.value.message()
        assert "secret" not in caught.value.message()
        np.testing.assert_array_equal(infer(client, "y", [1]).as_numpy("y"), [1])


def test_a_deadline_is_kept_and_the_next_request_served(served: Served) -> None:
    with tritonclient.grpc.InferenceServerClient(served.grpc) as client:
        with pytest.raises(InferenceServerException) as caught:
            infer(client, "wait", [0.5], timeout=0.1)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        np.testing.assert_array_equal(infer(client, "y", [1]).as_numpy("y"), [1])


def test_the_client_of_the_working_group_over_http(served: Served) -> None:
    with httpx.Client(timeout=PATIENCE_S) as connection:
        ask_by_the_client_of_the_working_group(
            OpenInferenceClient(base_url=f"http://{served.http}", httpx_client=connection)
        )


def ask_by_the_client_of_the_working_group(client: OpenInferenceClient) -> None:
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_readiness("echo")
    client.check_model_version_readiness("echo", "1")
    assert "binary_tensor_data" in client.read_server_metadata().extensions
    assert client.read_model_metadata("echo").platform == "python"
    rows = RequestInput(name="x", datatype="INT64", shape=[2, 2], data=[[1, 2], [3, 4]])
    request = InferenceRequest(id="one", inputs=[rows], parameters={"content_type": "np"})
    answer = client.model_infer("echo", request=request)
    assert (answer.id, answer.model_name) == ("one", "echo")
    assert answer.outputs[0].data.__root__ == [1, 2, 3, 4]
    wrong = RequestInput(name="x", datatype="INT64", shape=[2, 3], data=[1, 2])
    with pytest.raises(BadRequestError) as caught:
        client.model_infer("echo", request=InferenceRequest(inputs=[wrong]))
    assert "expected [2, 3]" in str(caught.value.body)


# In its own process: it has the same messages in the same package as tritonclient, which protobuf refuses.
OTHER_GRPC_CLIENT = """
import sys, grpc
from open_inference.grpc import protocol as p
from open_inference.grpc.service import GRPCInferenceServiceStub
with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = GRPCInferenceServiceStub(channel)
    assert stub.ServerLive(p.ServerLiveRequest()).live and stub.ServerReady(p.ServerReadyRequest()).ready
    assert stub.ModelReady(p.ModelReadyRequest(name="echo")).ready
    assert list(stub.ServerMetadata(p.ServerMetadataRequest()).extensions) == ["binary_tensor_data"]
    assert stub.ModelMetadata(p.ModelMetadataRequest(name="echo", version="1")).platform == "python"
    tensor = p.ModelInferRequest.InferInputTensor
    inputs = [
        tensor(name="a", datatype="INT8", shape=[2], contents=p.InferTensorContents(int_contents=[-128, 127])),
        tensor(name="b", datatype="BYTES", shape=[1], contents=p.InferTensorContents(bytes_contents=[b"sun"])),
        tensor(name="c", datatype="FP64", shape=[1, 1], contents=p.InferTensorContents(fp64_contents=[0.5])),
    ]
    answer = stub.ModelInfer(p.ModelInferRequest(model_name="echo", id="one", inputs=inputs))
    assert answer.id == "one" and not answer.raw_output_contents
    a, b, c = answer.outputs
    assert (list(a.contents.int_contents), list(b.contents.bytes_contents), list(c.contents.fp64_contents)) == (
        [-128, 127], [b"sun"], [0.5]
    )
    try:
        stub.ModelInfer(p.ModelInferRequest(model_name="echo", model_version="8", inputs=inputs))
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("version 8")
print("done")
"""


def test_the_client_of_the_working_group_over_grpc(served: Served) -> None:
    command = [sys.executable, "-c", OTHER_GRPC_CLIENT, served.grpc]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_large_tensor_both_ways(served: Served) -> None:
    image = np.random.default_rng(3).normal(size=(1, 3, 224, 224)).astype(np.float32)
    with tritonclient.http.InferenceServerClient(served.http) as client:
        tensor = tritonclient.http.InferInput("x", image.shape, "FP32")
        tensor.set_data_from_numpy(image)
        np.testing.assert_array_equal(client.infer("echo", [tensor]).as_numpy("outputs"), image)


def test_the_generated_messages_are_those_of_the_description(tmp_path: Path) -> None:
    import sundog_runtime

    root = Path(sundog_runtime.__file__).parents[1]
    proto = "sundog_runtime/protocol/inference.proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, proto], cwd=root, check=True, timeout=PATIENCE_S)
    for suffix in ("py", "pyi"):
        name = f"sundog_runtime/protocol/inference_pb2.{suffix}"
        assert (root / name).read_text() == (tmp_path / name).read_text(), f"generate {name} anew"
