"""What lies between bytes and the model: a decoded request, and how the model's output becomes its answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sundog_runtime.context import Parameters

Buffer = bytes | bytearray | memoryview
"""A body, or a part of one."""

JSON_TYPE = b"application/json"


@dataclass(frozen=True, slots=True)
class EncodedResponse:
    """A whole answer with status 200: its body, its content type, and headers beside that."""

    body: bytes
    content_type: bytes = JSON_TYPE
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole answer of any status, but for `content-length` and what the HTTP server adds."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class DecodedRequest:
    """One decoded request.

    `batch` is what the model's `predict` gets: an array, names to arrays, or JSON. `encode` turns the output, as
    `signature.conform` gives it, into the answer; it raises Problem for what the protocol cannot write.
    `parameters` are those that the model may read; None where there are none.
    """

    batch: Any
    encode: Callable[[Any], EncodedResponse]
    parameters: Parameters | None = None
