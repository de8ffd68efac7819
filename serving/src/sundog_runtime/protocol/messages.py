"""The types between bytes and the model: a decoded request, and the encoder of its answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from sundog_runtime.context import Parameters

Buffer = bytes | bytearray | memoryview
"""A body, or a part of one."""

JSON_TYPE = b"application/json"


@dataclass(frozen=True, slots=True)
class EncodedResponse:
    """A whole answer with status 200: its body, its content type, and further headers."""

    body: bytes
    content_type: bytes = JSON_TYPE
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole answer of any status, without `content-length` and the headers that the HTTP server adds."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class DecodedRequest:
    """One decoded request.

    `batch` is the argument of the model's `predict`: an array, names to arrays, or JSON. `encode` encodes the output of
    `signature.check_outputs`; it raises Problem for values that the protocol cannot express.
    `parameters` are those that the model may read; None if there are none.
    """

    batch: Any
    encode: Callable[[Any], EncodedResponse]
    parameters: Parameters | None = None


Headers: TypeAlias = Mapping[bytes, bytes]
"""Names in lower case, as in ASGI, each with its value."""

Decoder: TypeAlias = Callable[[Headers, Buffer], DecodedRequest]
"""Decodes headers and body to a query. Raises Problem."""
