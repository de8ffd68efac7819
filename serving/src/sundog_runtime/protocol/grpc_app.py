"""The Open Inference Protocol over gRPC, as `http_app` is for REST: limits, statuses, and allowed callers."""

import re
import time
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import unquote

import grpc

from sundog_runtime.context import RequestContext, deadline_of
from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.inference import Inference
from sundog_runtime.protocol.grpc_messages import (
    decode_infer,
    health,
    model_metadata,
    model_ready,
    server_metadata,
)
from sundog_runtime.protocol.grpc_service import GrpcContext
from sundog_runtime.protocol.inference_pb2 import ServerLiveResponse, ServerReadyResponse
from sundog_runtime.protocol.messages import Decoder
from sundog_runtime.protocol.problem_details import make_problem
from sundog_runtime.telemetry.replica_metrics import END_CLIENT_GONE, END_OK, ReplicaMetrics

PEERS_VARIABLE = "SUNDOG_GRPC_PEERS"
LOOPBACK = "loopback"
"""Value of that environment variable with which only calls from this machine are answered.

Serve's gRPC servers listen on all interfaces, unlike its HTTP servers.
"""

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's codes for HTTP statuses. Any other 4xx is INVALID_ARGUMENT, and all others are INTERNAL."""

_PEER = re.compile(r"ipv[46]:(.*):\d+")
_REQUEST_IDS = (b"x-request-id", b"request_id")


class GrpcApp:
    """The gRPC methods for one model. `max_request_bytes` may be set at any time, like that of `HttpApp`."""

    def __init__(
        self,
        name: str,
        version: str,
        model: LoadedModel,
        inference: Inference,
        metrics: ReplicaMetrics,
        max_request_bytes: int,
        peers: str = "",
    ) -> None:
        self.max_request_bytes = max_request_bytes
        self._inference = inference
        self._metrics = metrics
        self._peers = peers
        self._answers_without_model: dict[str, Callable[[bytes], bytes]] = {
            "ServerLive": lambda _: ServerLiveResponse(live=True).SerializeToString(),
            "ServerReady": lambda _: ServerReadyResponse(ready=True).SerializeToString(),
            "ServerMetadata": lambda _: server_metadata(version),
            "ModelReady": lambda body: model_ready(name, body),
            "Check": lambda body: health(name, body),
            "ModelMetadata": lambda body: model_metadata(name, model, body),
        }
        self._decode: Decoder = lambda _, body: decode_infer(name, model, body)

    async def answer(self, method: str, body: bytes, context: GrpcContext) -> bytes:
        """Return the bytes of the answer. On an error, set status, details and trailers on `context` instead."""
        started = time.monotonic()
        headers = _headers(context)
        request = RequestContext(headers, deadline_of(headers, started))
        end: str | None = END_CLIENT_GONE
        try:
            found = await self._answer(method, body, context, request)
            # As for REST: only answers of the model are counted.
            end = None if method in self._answers_without_model else END_OK
        except Exception as error:  # noqa: BLE001 (the model's; `make_problem` logs it)
            problem = make_problem(error, request)
            end = problem.code
            # Set, not raised: Serve would log a traceback for the client's mistake.
            context.set_code(_code(problem.status))
            context.set_details(f"{problem.code}: {problem.detail}")
            context.set_trailing_metadata([(name.decode(), value.decode()) for name, value in problem.headers])
            return b""
        finally:
            if end is not None:
                self._metrics.record_answer(end, time.monotonic() - started)
        return found

    async def _answer(self, method: str, body: bytes, context: GrpcContext, request: RequestContext) -> bytes:
        if self._peers == LOOPBACK and not _is_local(context.peer()):
            raise Problem(403, "NotLocal", "only calls from the same machine are answered here")
        if len(body) > self.max_request_bytes:
            raise Problem(413, "BodyTooLarge", f"the message is larger than {self.max_request_bytes} bytes")
        if method in self._answers_without_model:
            return self._answers_without_model[method](body)
        if self._inference.is_streaming:
            raise Problem(501, "Streaming", "the model answers in a stream, which this method does not support")
        scheduler = self._inference.scheduler
        scheduler.begin_arrival()
        try:
            query = await self._inference.read(self._decode, {}, body)
        finally:
            scheduler.end_arrival()
        answer = await self._inference.answer(query, request)
        return answer.body


def _code(status: int) -> grpc.StatusCode:
    # A predictor may raise a Problem of any status, and INTERNAL counts as an error of the model.
    others = grpc.StatusCode.INVALID_ARGUMENT if 400 <= status < 500 else grpc.StatusCode.INTERNAL
    return _CODES.get(status, others)


def _headers(context: GrpcContext) -> dict[bytes, bytes]:
    """Return the metadata as HTTP headers. The edge sends the request's id under Serve's name for it."""
    headers = {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in context.invocation_metadata()
    }
    found = next((headers[name] for name in _REQUEST_IDS if name in headers), None)
    return headers if found is None else headers | {_REQUEST_IDS[0]: found}


def _is_local(peer: str) -> bool:
    """Whether gRPC's name of a caller is an address of this machine."""
    matched = _PEER.fullmatch(unquote(peer))
    if matched is None:
        return peer.startswith("unix:")
    try:
        address = ip_address(matched[1].strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
