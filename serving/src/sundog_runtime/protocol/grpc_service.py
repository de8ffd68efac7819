"""The gRPC methods, as Serve knows them. Imported by Serve's own processes too: nothing here takes long to import.

Serve starts a gRPC server in every replica where the Serve document names `add_to_server`, and calls the deployment's
method of the same name. It is told not to decode messages, so that their size is known before they are.
"""

from typing import Any, Protocol

import grpc

INFERENCE_SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
_SERVICE_OF = {
    "ServerLive": INFERENCE_SERVICE,
    "ServerReady": INFERENCE_SERVICE,
    "ModelReady": INFERENCE_SERVICE,
    "ServerMetadata": INFERENCE_SERVICE,
    "ModelMetadata": INFERENCE_SERVICE,
    "ModelInfer": INFERENCE_SERVICE,
    "Check": HEALTH_SERVICE,
}
METHODS = tuple(_SERVICE_OF)


def add_to_server(servicer: Any, server: Any) -> None:
    """What `grpc_options.grpc_servicer_functions` names. Messages stay bytes in both directions."""
    handlers: dict[str, Any] = {
        f"/{service}/{method}": grpc.unary_unary_rpc_method_handler(getattr(servicer, method))
        for method, service in _SERVICE_OF.items()
    }
    server.add_generic_rpc_handlers((_Handlers(handlers),))


class _Handlers(grpc.ServiceRpcHandler):
    """Handlers whose errors come without an answer.

    Serve answers an error with an empty message and the status behind it, in the trailers. A proxy that counts errors sees those too
    late: it has passed on an answer with HTTP status 200 by then. An aborted call has its status with the headers.
    """

    def __init__(self, handlers: dict[str, Any]) -> None:
        # Serve replaces what is in this attribute by handlers of its own.
        self._method_handlers = handlers

    def service_name(self) -> str:
        """The service that most of them belong to."""
        return INFERENCE_SERVICE

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None for a method that is not known."""
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None or handler.unary_unary is None:
            return handler

        async def unary(request: Any, context: Any) -> Any:
            answer = await handler.unary_unary(request, context)
            # 0 where nobody has set one. OK may be set too, and cannot be aborted with.
            if context.code() not in (0, None, grpc.StatusCode.OK):
                await context.abort(context.code(), context.details())
            return answer

        return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)


class GrpcContext(Protocol):
    """What is used of Serve's RayServegRPCContext."""

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        """What the client sent beside the message."""
        ...

    def peer(self) -> str:
        """Who called, such as `ipv4:127.0.0.1:4242`."""
        ...

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status of the answer."""
        ...

    def set_details(self, details: str) -> None:
        """What the status says to people."""
        ...

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """What is sent beside the answer."""
        ...


class SerializedMessage:
    """A message that is bytes already. Serve asks every message to serialise itself."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self._body = body

    def SerializeToString(self) -> bytes:  # noqa: N802 (protobuf's name)
        """The bytes of the message."""
        return self._body


class GrpcHandler(Protocol):
    """What answers a method."""

    async def answer(self, method: str, body: bytes, context: GrpcContext) -> bytes:
        """The bytes of the answering message; on `context` the status, where it is another than OK."""
        ...


class GrpcMethods:
    """The methods of the protocol, for the class that Serve deploys."""

    def grpc_handler(self) -> GrpcHandler:
        """What answers, once the replica has started."""
        raise NotImplementedError

    async def ServerLive(self, request: bytes, grpc_context: GrpcContext) -> SerializedMessage:  # noqa: N802 (the protocol's names)
        """Whether the server runs."""
        return SerializedMessage(await self.grpc_handler().answer("ServerLive", request, grpc_context))

    async def ServerReady(self, request: bytes, grpc_context: GrpcContext) -> SerializedMessage:  # noqa: N802
        """Whether it serves its model."""
        return SerializedMessage(await self.grpc_handler().answer("ServerReady", request, grpc_context))

    async def ModelReady(self, request: bytes, grpc_context: GrpcContext) -> SerializedMessage:  # noqa: N802
        """Whether it serves the model asked for."""
        return SerializedMessage(await self.grpc_handler().answer("ModelReady", request, grpc_context))

    async def ServerMetadata(self, request: bytes, grpc_context: GrpcContext) -> SerializedMessage:  # noqa: N802
        """Name, version and extensions of the server."""
        return SerializedMessage(await self.grpc_handler().answer("ServerMetadata", request, grpc_context))

    async def ModelMetadata(self, request: bytes, grpc_context: GrpcContext) -> SerializedMessage:  # noqa: N802
        """Inputs and outputs of the model."""
        return SerializedMessage(await self.grpc_handler().answer("ModelMetadata", request, grpc_context))

    async def Check(self, request: bytes, grpc_context: GrpcContext) -> SerializedMessage:  # noqa: N802 (that of gRPC's own health checks)
        """Whether the server, or a service of it, is served."""
        return SerializedMessage(await self.grpc_handler().answer("Check", request, grpc_context))

    async def ModelInfer(self, request: bytes, grpc_context: GrpcContext) -> SerializedMessage:  # noqa: N802
        """One prediction."""
        return SerializedMessage(await self.grpc_handler().answer("ModelInfer", request, grpc_context))
