"""Errors.

StartError                 the replica cannot start; shown in the Serve deployment's message, one reason each
├── ModelNotFound          nothing is at the URI
├── AccessDenied           something is there, and may not be read
├── DigestMismatch         what is there is not what was promised, or changed while it was read
├── ModelTooLarge          the model has too many files, or does not fit into memory
├── NoSpace                the disk is full
├── SourceUnavailable      the store does not answer, or not as it should; trying again can help
├── SourceRefused          the source breaks a rule of safety: an address, a redirect, what an archive holds
├── FormatNotRecognised    nothing there that this server can load
├── CodeNotTrusted         what is there can run code, and `trustCode` is not set
├── EntrypointMissing      `entrypoint` is not given, or names nothing
├── LoadFailed             the model's own code or weights failed, or the arguments are not usable
├── LoadTimeout            loading did not end in time
├── WarmupFailed           the model failed on a warm-up request
└── WarmupTimeout          the warm-up did not end in time
Problem                    one request cannot be answered; becomes RFC 9457 problem details
ClientGoneError            nobody waits for the answer
"""

_MESSAGE_LIMIT = 1000
"""Characters of a start error that are kept: the first useful line, not a log."""


def one_line(text: object, limit: int = _MESSAGE_LIMIT) -> str:
    """`text` on one line, white space collapsed, at most `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class StartError(Exception):
    """The replica cannot start. Its text holds the line `sundog: <Reason>: <message>`."""

    def __init__(self, message: str) -> None:
        self.message = one_line(message)
        # A traceback puts the class name in front of the text; the operator's line begins after a line break.
        super().__init__(f"\nsundog: {self.reason}: {self.message}\n")

    @property
    def reason(self) -> str:
        """The condition reason: the name of the class."""
        return type(self).__name__


class ModelNotFound(StartError):
    """Nothing is at the model's URI."""


class AccessDenied(StartError):
    """The model is there, and this process may not read it."""


class DigestMismatch(StartError):
    """The model's bytes are not the promised ones."""


class ModelTooLarge(StartError):
    """The model has too many files or does not fit into memory."""


class NoSpace(StartError):
    """The disk is full."""


class SourceUnavailable(StartError):
    """The store does not answer, or not as it should. Trying again can help."""


class SourceRefused(StartError):
    """The source breaks a rule of safety: where it leads, or what its archive holds."""


class FormatNotRecognised(StartError):
    """No format that this server loads."""


class CodeNotTrusted(StartError):
    """The archive can run code when it is loaded, and nobody said that it may."""


class EntrypointMissing(StartError):
    """The entrypoint is needed and not given, or it names nothing."""


class LoadFailed(StartError):
    """Loading raised."""


class LoadTimeout(StartError):
    """Loading took too long."""


class WarmupFailed(StartError):
    """A warm-up request raised."""


class WarmupTimeout(StartError):
    """The warm-up took too long."""


INVALID_OUTCOME = ((b"x-sundog-outcome", b"invalid"),)
"""The header of an answer that an unusable output of the model led to."""


class Problem(Exception):
    """Why one request cannot be answered.

    `code` is a stable CamelCase word for programs, `detail` a sentence for people; it names the input, what was found
    and what was expected. `headers` are added to the answer.
    """

    def __init__(self, status: int, code: str, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = one_line(detail, 500)
        self.headers = headers


class ClientGoneError(Exception):
    """There is nobody left to answer."""


def bad_input(code: str, detail: str) -> Problem:
    """A problem with status 400."""
    return Problem(400, code, detail)


def bad_output(code: str, detail: str) -> Problem:
    """A problem with status 500: the model answered, and its answer cannot be given to anybody.

    The header tells whoever counts that it was the model's answer, and not the server, that is at fault.
    """
    return Problem(500, code, detail, INVALID_OUTCOME)
