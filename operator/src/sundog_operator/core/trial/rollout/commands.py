"""Commands: one annotation, run once per id, and only on the revision that it names."""

import re
from dataclasses import dataclass
from typing import Final

VERBS: Final = ("promote", "skip", "pause", "resume", "abort", "retry", "rollback", "stop")
_MAX_LENGTH = 256
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class RolloutCommand:
    """A parsed command. If `problem` is set, the command is rejected in every state."""

    id: str
    verb: str
    revision: int = 0
    full: bool = False
    problem: str = ""


def parse_command(text: str) -> RolloutCommand:
    """Parse `VERB revision=N id=ID [full=true]`. Return a command with a problem for unreadable text; never raise.

    If the id is missing or invalid, the text becomes the id. The command is then rejected once and not at every pass.
    """
    text = text.strip()[:_MAX_LENGTH]
    verb, *rest = text.split() or [""]
    options = dict(word.partition("=")[::2] for word in rest)
    command_id = options.pop("id", "")
    if not _ID.fullmatch(command_id):
        return RolloutCommand(
            text[:64], verb[:32], problem=f"id: {command_id!r}; expected 1 to 64 letters, digits, '.', '_' or '-'"
        )
    problem = _verb_problem(verb) or _options_problem(options)
    revision = int(options["revision"]) if not problem else 0
    return RolloutCommand(command_id, verb[:32], revision, options.get("full") == "true", problem)


def _verb_problem(verb: str) -> str:
    return "" if verb in VERBS else f"verb: {verb[:32]!r}; expected one of {', '.join(VERBS)}"


def _options_problem(options: dict[str, str]) -> str:
    if unknown := sorted(set(options) - {"revision", "full"}):
        return f"{unknown[0][:32]!r}: unknown option; expected revision or full"
    number = options.get("revision", "")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        return f"revision: {number[:32]!r}; expected a revision number"
    if options.get("full", "true") not in ("true", "false"):
        return f"full: {options['full'][:32]!r}; expected true or false"
    return ""
