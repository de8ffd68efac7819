"""Commands: one annotation, run once per id, only against the revision they name."""

import re
from dataclasses import dataclass
from typing import Final

VERBS: Final = ("promote", "skip", "pause", "resume", "abort", "retry", "rollback", "stop")
_MAX_LENGTH = 256
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class RolloutCommand:
    """A parsed command. `problem` is set when it must be rejected whatever the state is."""

    id: str
    verb: str
    revision: int = 0
    full: bool = False
    problem: str = ""


def parse_command(text: str) -> RolloutCommand:
    """Read `VERB revision=N id=ID [full=true]`. Never raises: what cannot be read becomes a command with a problem.

    A text without a usable id gets the text itself as its id, so that it is rejected once and not at every pass.
    """
    text = text.strip()[:_MAX_LENGTH]
    verb, *rest = text.split() or [""]
    options = dict(word.partition("=")[::2] for word in rest)
    ident = options.pop("id", "")
    if not _ID.fullmatch(ident):
        return RolloutCommand(
            text[:64], verb[:32], problem=f"id: {ident!r} is not 1 to 64 letters, digits, '.', '_' or '-'"
        )
    problem = _verb_problem(verb) or _options_problem(options)
    revision = int(options["revision"]) if not problem else 0
    return RolloutCommand(ident, verb[:32], revision, options.get("full") == "true", problem)


def _verb_problem(verb: str) -> str:
    return "" if verb in VERBS else f"verb {verb[:32]!r} is not one of {', '.join(VERBS)}"


def _options_problem(options: dict[str, str]) -> str:
    if unknown := sorted(set(options) - {"revision", "full"}):
        return f"{unknown[0][:32]!r} is not an option of a command"
    number = options.get("revision", "")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        return f"revision: {number[:32]!r} is not a revision number"
    if options.get("full", "true") not in ("true", "false"):
        return f"full: {options['full'][:32]!r} is neither true nor false"
    return ""
