"""Exit codes: what they mean, and which one an error stands for."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from sundog_operator.errors import Conflict, DependencyError, NotFound, SundogError


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    TIMEOUT = 5
    INTERNAL = 70
    INTERRUPTED = 130


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.OK: "done",
    Exit.REFUSED: "refused or failed: a bad manifest, a rejected command, a failed check or prediction, an answer that was cut off",
    Exit.USAGE: "the command line is wrong",
    Exit.NOT_FOUND: "what was named does not exist",
    Exit.UNREACHABLE: "the API server or the endpoint cannot be reached",
    Exit.TIMEOUT: "no answer in time",
    Exit.INTERNAL: "an error in sundog itself",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


class CommandFailed(SundogError):
    """A command ends with one line and an exit code."""

    def __init__(self, message: str, exit_code: Exit = Exit.REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_of(error: SundogError) -> Exit:
    """The exit code of an error."""
    match error:
        case CommandFailed():
            return error.exit_code
        case NotFound():
            return Exit.NOT_FOUND
        case Conflict():
            return Exit.REFUSED
        case DependencyError():
            return Exit.UNREACHABLE
        case _:
            return Exit.REFUSED


def one_line(text: object) -> str:
    """A text as one line."""
    return " ".join(str(text).split())
