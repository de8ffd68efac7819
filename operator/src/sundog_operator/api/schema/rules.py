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


def escape_field_name(name: str) -> str:
    """A field's name as the API server's CEL knows it."""
    return f"__{name}__" if _CEL_WORD.fullmatch(name) else name


@dataclass(frozen=True, slots=True)
class MessageValue:
    """What a message says of a value that is none of its fields: `{name}` in it stands for a text that `cel` and `of` make alike.

    Asked for where the rule does not hold.
    """

    name: str
    cel: str
    of: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, in CEL for the API server and in Python for the operator.

    `cel` reads JSON names below `self`; `holds` reads the typed value. `message` completes "<path>: …"; `{a.b}` in it
    stands for that field's value, `{}` for the value itself, integers and strings only; durations as they are written.
    `absent` says what an optional field stands for where it is left out, as (JSON path, text). `field` is the JSON path,
    below the type, that the message is about. `found` is what names in the message stand for that are no paths.
    `spares_stored`: it is asked of objects that are new alone, for a rule of a whole object
    would else refuse each later write of a status.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str
    field: str = ""
    applies_to_new_only: bool = False
    absent: tuple[tuple[str, str], ...] = ()
    found: tuple[MessageValue, ...] = ()

    def render(self, value: Any, read: Callable[[str], Any]) -> str:
        """The message for a value, with the values that `read` finds in it by JSON path."""
        told = {each.name: each for each in self.found}
        return _PLACEHOLDER.sub(
            lambda match: told[match[1]].of(value) if match[1] in told else str(read(match[1])), self.message
        )

    def message_expression(self) -> str | None:
        """The message as a CEL expression; None when it names no value.

        One `format`: the API server gives a sum of `string(…)` no bound, and then refuses the whole CRD as too costly.
        """
        named = [self._value(path) for path in self._named()]
        if not named:
            return None
        text = _PLACEHOLDER.sub("%s", self.message.replace("%", "%%"))
        return f"{_quoted(text)}.format([{', '.join(named)}])"

    def _value(self, path: str) -> str:
        """CEL for what stands for a path in the message."""
        if (told := next((each.cel for each in self.found if each.name == path), None)) is not None:
            return told
        value = ".".join(("self", *map(escape_field_name, filter(None, path.split(".")))))
        absent = dict(self.absent).get(path)
        return value if absent is None else f"has({value}) ? {value} : {_quoted(absent)}"

    def expression(self) -> str:
        """What the API server evaluates."""
        if not self.applies_to_new_only:
            return self.cel
        # What the stored object has would be of no bounded size to the API server, which then refuses the whole CRD as too costly.
        return f"oldSelf.hasValue() || {self.cel}"

    def _named(self) -> list[str]:
        return _PLACEHOLDER.findall(self.message)


def nonzero_rule(message: str) -> Rule:
    """That a number written as text, such as a percentage or a duration, has a digit above 0."""
    return Rule(
        cel="self.matches('[1-9]')",
        holds=lambda text: any(digit in text for digit in "123456789"),
        message=message,
    )


@dataclass(frozen=True, slots=True)
class TransitionRule:
    """A rule on a change: `cel` reads `self` and `oldSelf`."""

    cel: str
    holds: Callable[[Any, Any], bool]
    message: str


@dataclass(frozen=True, slots=True)
class ExpectedNoun:
    """What a value should have been, for "<value> is not <noun>"."""

    text: str


@dataclass(frozen=True, slots=True)
class TextPattern:
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
class PreserveUnknownFields:
    """Any JSON object; the API server prunes nothing below."""


@dataclass(frozen=True, slots=True)
class Confidential:
    """Messages never show the value."""
