"""What a type says about its values beyond their shape: markers in annotations, rules beside the fields they bind."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

_PLACEHOLDER = re.compile(r"\{([A-Za-z.]*)\}")


_CEL_WORD = re.compile(
    "true|false|null|in|as|break|const|continue|else|for|function|if|import|let|loop|package|namespace|return|var|void|while"
)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def escaped(name: str) -> str:
    """A field's name as the API server's CEL knows it."""
    return f"__{name}__" if _CEL_WORD.fullmatch(name) else name


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, in CEL for the API server and in Python for the operator.

    `cel` reads JSON names below `self`; `holds` reads the typed value. `message` completes "<path>: …"; `{a.b}` in it
    stands for that field's value, `{}` for the value itself, integers and strings only. `field` is the JSON path, below
    the type, that the message is about.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str
    field: str = ""

    def render(self, read: Callable[[str], Any]) -> str:
        """The message with the values that `read` finds by JSON path."""
        return _PLACEHOLDER.sub(lambda match: str(read(match[1])), self.message)

    def message_expression(self) -> str | None:
        """The message as a CEL expression; None when it names no value.

        One `format`: the API server gives a sum of `string(…)` no bound, and then refuses the whole CRD as too costly.
        """
        named = [f"{'.'.join(('self', *map(escaped, filter(None, path.split('.')))))}" for path in self._named()]
        if not named:
            return None
        text = _PLACEHOLDER.sub("%s", self.message.replace("%", "%%"))
        return f"{_quoted(text)}.format([{', '.join(named)}])"

    def _named(self) -> list[str]:
        return _PLACEHOLDER.findall(self.message)


@dataclass(frozen=True, slots=True)
class Transition:
    """A rule on a change: `cel` reads `self` and `oldSelf`."""

    cel: str
    holds: Callable[[Any, Any], bool]
    message: str


@dataclass(frozen=True, slots=True)
class Noun:
    """What a value should have been, for "<value> is not <noun>"."""

    text: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that the text in JSON matches, for types that are not text in Python."""

    regex: str
    max_length: int


@dataclass(frozen=True, slots=True)
class ListType:
    """How server-side apply merges a list; lists without it are atomic."""

    kind: Literal["map", "set"]
    key: str = ""


@dataclass(frozen=True, slots=True)
class TextOrInteger:
    """JSON may hold an integer as well, as for quantities."""


@dataclass(frozen=True, slots=True)
class FreeForm:
    """Any JSON object; the API server prunes nothing below."""


@dataclass(frozen=True, slots=True)
class Confidential:
    """Messages never show the value."""
