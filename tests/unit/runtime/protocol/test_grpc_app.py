"""gRPC of a replica: which calls are allowed, and how errors of the model are reported."""

from typing import Any
from unittest.mock import Mock

import grpc
import pytest

from grpc_contexts import RecordedStatus
from sundog_runtime.errors import Problem
from sundog_runtime.protocol.grpc_app import GrpcApp, _is_local
from sundog_runtime.protocol.grpc_service import add_to_server
from sundog_runtime.protocol.inference_pb2 import ServerLiveResponse


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:4242", True),
        ("ipv6:[::1]:4242", True),
        ("ipv6:%5B::1%5D:4242", True),
        ("ipv6:[::ffff:127.0.0.1]:4242", True),
        ("unix:/tmp/socket", True),
        ("ipv4:192.0.2.2:4242", False),
        ("ipv4:127.0.0.1.example.org:4242", False),
        ("ipv6:[2001:db8::1]:4242", False),
        ("ipv6:[::ffff:192.0.2.2]:4242", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_callers_on_this_machine(peer: str, local: bool) -> None:
    assert _is_local(peer) == local


class Context(RecordedStatus):
    def __init__(self, peer: str = "ipv4:192.0.2.2:1", metadata: Any = ()) -> None:
        super().__init__()
        self._peer, self._metadata = peer, list(metadata)

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return self._peer


class Counted:
    def __init__(self) -> None:
        self.ends: list[str] = []

    def record_answer(self, end: str, _: float) -> None:
        self.ends.append(end)


def app(peers: str = "", **about: Any) -> tuple[GrpcApp, Counted]:
    counted = Counted()
    made = GrpcApp("m", "1.0", None, None, counted, 100, peers)  # type: ignore[arg-type]
    made._answers_without_model |= about
    return made, counted


@pytest.mark.parametrize(
    ("peers", "peer", "code"),
    [
        ("", "ipv4:192.0.2.2:1", grpc.StatusCode.OK),
        ("loopback", "ipv4:127.0.0.1:1", grpc.StatusCode.OK),
        ("loopback", "ipv4:192.0.2.2:1", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_in_local_mode_only_this_machine_is_answered(peers: str, peer: str, code: Any) -> None:
    made, counted = app(peers)
    context = Context(peer)
    body = await made.answer("ServerLive", b"", context)
    assert context.code is code
    assert body == (ServerLiveResponse(live=True).SerializeToString() if code is grpc.StatusCode.OK else b"")
    # An answered probe is not an answer of the model.
    assert counted.ends == ([] if code is grpc.StatusCode.OK else ["NotLocal"])


def raising(error: Exception) -> Any:
    def method(_: bytes) -> bytes:
        raise error

    return method


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (Problem(400, "WrongShape", "it is"), grpc.StatusCode.INVALID_ARGUMENT, "WrongShape: it is"),
        (Problem(404, "ModelNotFound", "none"), grpc.StatusCode.NOT_FOUND, "ModelNotFound: none"),
        (Problem(413, "BodyTooLarge", "big"), grpc.StatusCode.RESOURCE_EXHAUSTED, "BodyTooLarge: big"),
        (Problem(503, "Busy", "wait"), grpc.StatusCode.UNAVAILABLE, "Busy: wait"),
        (Problem(504, "Deadline", "late"), grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline: late"),
        (Problem(501, "Streaming", "no"), grpc.StatusCode.UNIMPLEMENTED, "Streaming: no"),
        (Problem(401, "Own", "of a predictor"), grpc.StatusCode.UNAUTHENTICATED, "Own: of a predictor"),
        (Problem(409, "Own", "of a predictor"), grpc.StatusCode.FAILED_PRECONDITION, "Own: of a predictor"),
        (Problem(415, "Own", "of a predictor"), grpc.StatusCode.INVALID_ARGUMENT, "Own: of a predictor"),
        (Problem(422, "Own", "of a predictor"), grpc.StatusCode.INVALID_ARGUMENT, "Own: of a predictor"),
        (Problem(499, "Own", "of a predictor"), grpc.StatusCode.INVALID_ARGUMENT, "Own: of a predictor"),
        (Problem(500, "Own", "of a predictor"), grpc.StatusCode.INTERNAL, "Own: of a predictor"),
        (Problem(507, "Own", "of a predictor"), grpc.StatusCode.INTERNAL, "Own: of a predictor"),
        (Problem(302, "Own", "of a predictor"), grpc.StatusCode.INTERNAL, "Own: of a predictor"),
        (KeyError("secret"), grpc.StatusCode.INTERNAL, "ModelError: the model raised an error"),
    ],
)
async def test_statuses(error: Exception, code: Any, details: str) -> None:
    made, counted = app(ModelInfer=raising(error))
    context = Context()
    assert await made.answer("ModelInfer", b"", context) == b""
    assert context.code is code
    assert context.details.startswith(details)
    assert "secret" not in context.details
    assert counted.ends == [details.partition(":")[0]]


async def test_an_unusable_output_is_marked_in_the_trailers() -> None:
    error = Problem(500, "OutputNotFinite", "NaN", ((b"x-sundog-outcome", b"invalid"),))
    made, _ = app(ModelInfer=raising(error))
    context = Context()
    await made.answer("ModelInfer", b"", context)
    assert (context.code, context.trailers) == (grpc.StatusCode.INTERNAL, [("x-sundog-outcome", "invalid")])


async def test_a_message_over_the_limit_is_not_parsed() -> None:
    made, _ = app(ModelInfer=raising(AssertionError("parsed")))
    context = Context()
    await made.answer("ModelInfer", bytes(101), context)
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    made.max_request_bytes = 101
    await made.answer("ServerLive", bytes(101), context)


async def test_the_edges_request_id_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    made, _ = app(ModelInfer=raising(RuntimeError("of the model")))
    await made.answer("ModelInfer", b"", Context(metadata=[("request_id", "find-me")]))
    assert "request find-me: the model raised" in caplog.text


async def test_an_error_is_sent_without_an_answer() -> None:
    """Serve sets a status and sends an empty message, after which the edge's proxy would not see the status."""

    async def handler(request: bytes, context: Any) -> bytes:
        return request

    class Aborted(Exception):
        pass

    for code, details in ((0, ""), (13, "as asked")):
        server, context = Mock(), Mock()
        context.code.return_value, context.details.return_value = code, details
        context.abort.side_effect = Aborted
        add_to_server(Mock(), server)
        [[handlers]] = server.add_generic_rpc_handlers.call_args.args
        # As in Serve's own gRPCGenericServer.
        handlers._method_handlers = {
            name: each._replace(unary_unary=handler) for name, each in handlers._method_handlers.items()
        }
        served = handlers.service(Mock(method="/inference.GRPCInferenceService/ModelInfer")).unary_unary
        if code:
            with pytest.raises(Aborted):
                await served(b"", context)
            context.abort.assert_called_once_with(13, "as asked")
        else:
            assert await served(b"x", context) == b"x"
        assert handlers.service(Mock(method="/inference.GRPCInferenceService/Nothing")) is None
