"""Errors: a StartError for a replica that cannot start, a Problem for one request.

The classes of StartError are condition reasons. The Serve deployment's message shows them.
"""

from collections.abc import Mapping

_MESSAGE_LIMIT = 1000
"""Characters of a start error that are kept: enough for the first useful line, not for a log."""


def one_line(text: object, limit: int = _MESSAGE_LIMIT) -> str:
    """Return `text` on one line, white space collapsed, at most `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class StartError(Exception):
    """The replica cannot start. Its text holds the line `sundog: <Reason>: <message>`."""

    def __init__(self, message: str) -> None:
        self.message = one_line(message)
        # A traceback puts the class name in front of the text; the operator's line starts after a line break.
        super().__init__(f"\nsundog: {self.reason}: {self.message}\n")

    @property
    def reason(self) -> str:
        """Return the condition reason: the name of the class."""
        return type(self).__name__


class ModelNotFound(StartError):
    """The model's URI leads to nothing."""


class AccessDenied(StartError):
    """The model exists, and this process may not read it."""


class DigestMismatch(StartError):
    """The model's bytes differ from the expected digest."""


class ModelTooLarge(StartError):
    """The model has too many files or does not fit into memory."""


class NoSpace(StartError):
    """The disk is full."""


class SourceUnavailable(StartError):
    """The store does not answer, or answers wrongly. A retry can help."""


class SourceRefused(StartError):
    """The source breaks a safety rule: the address that it leads to, or the content of its archive."""


class FormatNotRecognised(StartError):
    """The model has no format that this server loads."""


class CodeNotTrusted(StartError):
    """The archive can run code when it is loaded, and `trustCode` is not set."""


class EntrypointMissing(StartError):
    """The entrypoint is required and missing, or it names nothing."""


class LoadFailed(StartError):
    """Loading raised an error."""


class LoadTimeout(StartError):
    """Loading took too long."""


class WarmupFailed(StartError):
    """A warm-up request raised an error."""


class WarmupTimeout(StartError):
    """The warm-up took too long."""


INVALID_OUTCOME = ((b"x-sundog-outcome", b"invalid"),)
"""The header of an answer that reports an unusable output of the model."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, in the memory of the host or of a device.

    Names are compared, because the protocols must not import torch. `torch.OutOfMemoryError` and CuPy's class have the same one.
    """
    return any(kind.__name__ in ("MemoryError", "OutOfMemoryError") for kind in type(error).__mro__)


class Problem(Exception):
    """The reason why one request cannot be answered.

    `code` is a stable CamelCase word for programs. `detail` is a sentence for people: it names the input, what was found
    and what was expected. `headers` are added to the answer. `error` is the member of that name in the document; None for `detail`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        error: Mapping[str, str | None] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = one_line(detail, 500)
        self.headers = headers
        self.error = error


class ClientGoneError(Exception):
    """The client has gone away, so no answer is needed."""


def bad_input(code: str, detail: str) -> Problem:
    """Return a problem with status 400."""
    return Problem(400, code, detail)


def bad_output(code: str, detail: str) -> Problem:
    """Return a problem with status 500: the model answered, and its answer is unusable.

    The header shows that the model's answer is at fault, and not the server.
    """
    return Problem(500, code, detail, INVALID_OUTCOME)
