"""The answer of a gRPC call, as a method of the model server sets it on its context."""

from typing import Any

import grpc


class RecordedStatus:
    """Records the code, details and trailers that a method sets."""

    def __init__(self) -> None:
        self.code: Any = grpc.StatusCode.OK
        self.details = ""
        self.trailers: list[tuple[str, str]] = []

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailers: Any) -> None:
        self.trailers = trailers
