"""The gRPC methods in Serve's terms. Serve's own processes import this too, so nothing here takes long to import.

Serve starts a gRPC server in every replica if the Serve document names `add_to_server`, and calls the deployment's method
of the same name. The handlers make it pass messages undecoded, so that their size is known before they are decoded.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc

INFERENCE_SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
METHODS = {
    "ServerLive": INFERENCE_SERVICE,
    "ServerReady": INFERENCE_SERVICE,
    "ModelReady": INFERENCE_SERVICE,
    "ServerMetadata": INFERENCE_SERVICE,
    "ModelMetadata": INFERENCE_SERVICE,
    "ModelInfer": INFERENCE_SERVICE,
    "Check": HEALTH_SERVICE,
}
"""The service of each method."""


def add_to_server(servicer: Any, server: Any) -> None:
    """Add the handlers to a server: the function that `grpc_options.grpc_servicer_functions` names. Messages stay bytes."""
    handlers: dict[str, Any] = {
        f"/{service}/{method}": grpc.unary_unary_rpc_method_handler(getattr(servicer, method))
        for method, service in METHODS.items()
    }
    server.add_generic_rpc_handlers((_Handlers(handlers),))


class _Handlers(grpc.ServiceRpcHandler):
    """Handlers that send an error without an answer.

    Serve answers an error with an empty message, and the status after it in the trailers. A proxy that counts errors sees those too
    late: it has already passed on an answer with HTTP status 200. An aborted call has its status in the headers.
    """

    def __init__(self, handlers: dict[str, Any]) -> None:
        # Serve replaces the handlers in this attribute by its own.
        self._method_handlers = handlers

    def service_name(self) -> str:
        """Return the service of most of the handlers."""
        return INFERENCE_SERVICE

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call; None for an unknown method."""
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None or handler.unary_unary is None:
            return handler

        async def unary(request: Any, context: Any) -> Any:
            answer = await handler.unary_unary(request, context)
            # The code is 0 if none was set. It may be OK, with which a call cannot be aborted.
            if context.code() not in (0, None, grpc.StatusCode.OK):
                await context.abort(context.code(), context.details())
            return answer

        return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)


class GrpcContext(Protocol):
    """The part of Serve's RayServegRPCContext that is used."""

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        """Return the client's metadata."""
        ...

    def peer(self) -> str:
        """Return the caller, such as `ipv4:127.0.0.1:4242`."""
        ...

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status of the answer."""
        ...

    def set_details(self, details: str) -> None:
        """Set the status's text for people."""
        ...

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """Set the metadata that follows the answer."""
        ...


class SerializedMessage:
    """A message that is already bytes. Serve calls its method to serialise it."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self._body = body

    def SerializeToString(self) -> bytes:  # noqa: N802 (protobuf's name)
        """Return the bytes of the message."""
        return self._body


class GrpcHandler(Protocol):
    """The handler of all methods."""

    async def answer(self, method: str, body: bytes, context: GrpcContext) -> bytes:
        """Return the bytes of the answer; set a status other than OK on `context`."""
        ...


class GrpcMethods:
    """The methods of the protocol, for the class that Serve deploys: one for each name in METHODS."""

    def grpc_handler(self) -> GrpcHandler:
        """Return the handler, once the replica has started."""
        raise NotImplementedError


def _make_method(name: str) -> Callable[[GrpcMethods, bytes, GrpcContext], Awaitable[SerializedMessage]]:
    # Serve passes its context to a parameter of the name `grpc_context`.
    async def method(self: GrpcMethods, request: bytes, grpc_context: GrpcContext) -> SerializedMessage:
        return SerializedMessage(await self.grpc_handler().answer(name, request, grpc_context))

    method.__name__ = name
    return method


for _name in METHODS:
    setattr(GrpcMethods, _name, _make_method(_name))
