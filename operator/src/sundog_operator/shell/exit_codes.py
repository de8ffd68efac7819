"""Exit codes, their meanings, and the exit code of each error."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from sundog_operator.errors import Conflict, DependencyError, NotFound, NotServed, RequestRefused, SundogError


class ExitCode(IntEnum):
    """The exit codes of every command."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    TIMEOUT = 5
    INTERNAL = 70
    INTERRUPTED = 130


EXIT_CODE_MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.OK: "done",
    ExitCode.REFUSED: "refused or failed: an invalid manifest, a rejected command, a failed check or prediction, an incomplete response",
    ExitCode.USAGE: "the command line is wrong, for example it names a file that does not exist",
    ExitCode.NOT_FOUND: "a named object does not exist",
    ExitCode.UNREACHABLE: "the API server or the endpoint cannot be reached, or the kind is not served",
    ExitCode.TIMEOUT: "no response in time",
    ExitCode.INTERNAL: "an error in sundog itself",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}


class CommandFailed(SundogError):
    """A failed command: one line for the user and an exit code."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def is_server_lost(error: SundogError) -> bool:
    """Return whether requests for other objects would fail as well. A kind that is not served concerns its own objects alone."""
    return exit_code_of(error) == ExitCode.UNREACHABLE and not isinstance(error, NotServed)


def exit_code_of(error: SundogError) -> ExitCode:
    """Return the exit code of an error."""
    match error:
        case CommandFailed():
            return error.exit_code
        case NotFound():
            return ExitCode.NOT_FOUND
        case Conflict() | RequestRefused():
            return ExitCode.REFUSED
        case DependencyError():
            return ExitCode.UNREACHABLE
        case _:
            return ExitCode.REFUSED


def one_line(text: object) -> str:
    """Return a text as one line."""
    return " ".join(str(text).split())
