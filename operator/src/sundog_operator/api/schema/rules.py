"""Properties of values beyond their shape: markers in annotations, and rules beside the fields that they check."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sundog_operator.api.schema.cel import compile_rule

_PLACEHOLDER = re.compile(r"\{([A-Za-z.]*)\}")


_CEL_WORD = re.compile(
    "true|false|null|in|as|break|const|continue|else|for|function|if|import|let|loop|package|namespace|return|var|void|while"
)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def escape_field_name(name: str) -> str:
    """Return a field's name as in the API server's CEL."""
    return f"__{name}__" if _CEL_WORD.fullmatch(name) else name


@dataclass(frozen=True, slots=True)
class MessageValue:
    """A computed text for `{name}` in a message. `cel` and `of` make the same text, and are used only if the rule fails."""

    name: str
    cel: str
    of: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, in CEL for the API server. The operator evaluates the same CEL, or a Python function.

    Attributes:
        cel: reads JSON names below `self`.
        python: the same rule on the typed value, where that differs from JSON or `compile_rule` does not know the CEL.
        message: completes "<path>: …". `{a.b}` stands for that field's value, `{}` for the value itself; only integers and strings.
            Durations appear as written.
        field: the JSON path, below the type, that the message is about.
        applies_to_new_only: check only new objects, because a rule of a whole object would refuse later writes of its status.
        spares_stored: the operator does not check stored objects, whose values an earlier release accepted. The API server spares values
            that do not change.
        absent: texts for optional fields that are absent, as (JSON path, text).
        found: computed texts for names in the message that are no paths.
        is_unsupported: whether the value is one that this version does not support.
    """

    cel: str
    message: str
    python: Callable[[Any], bool] | None = None
    field: str = ""
    applies_to_new_only: bool = False
    spares_stored: bool = False
    absent: tuple[tuple[str, str], ...] = ()
    found: tuple[MessageValue, ...] = ()
    is_unsupported: bool = False

    def __post_init__(self) -> None:
        """Compile the CEL now, so that an expression beyond `compile_rule` ends the import and no pass."""
        if self.python is None:
            compile_rule(self.cel)

    def holds(self, value: Any) -> bool:
        """Return whether a typed value conforms to the rule."""
        return (self.python or compile_rule(self.cel))(value)

    def render(self, value: Any, read: Callable[[str], Any]) -> str:
        """Return the message for a value; `read` returns the value's fields by JSON path."""
        texts = {each.name: each for each in self.found}
        return _PLACEHOLDER.sub(
            lambda match: texts[match[1]].of(value) if match[1] in texts else str(read(match[1])), self.message
        )

    def message_expression(self) -> str | None:
        """Return the message as a CEL expression; None if it contains no value.

        It is a single `format`, because the API server cannot bound a sum of `string(…)`, and refuses the whole CRD as too expensive.
        """
        named = [self._value(path) for path in self._named()]
        if not named:
            return None
        text = _PLACEHOLDER.sub("%s", self.message.replace("%", "%%"))
        return f"{_quoted(text)}.format([{', '.join(named)}])"

    def _value(self, path: str) -> str:
        """Return CEL for a path in the message."""
        if (computed := next((each.cel for each in self.found if each.name == path), None)) is not None:
            return computed
        value = ".".join(("self", *map(escape_field_name, filter(None, path.split(".")))))
        absent = dict(self.absent).get(path)
        return value if absent is None else f"has({value}) ? {value} : {_quoted(absent)}"

    def expression(self) -> str:
        """Return the expression that the API server evaluates."""
        if not self.applies_to_new_only:
            return self.cel
        # Not a rule on the stored values: the API server cannot bound their size, and would refuse the CRD as too expensive.
        return f"oldSelf.hasValue() || {self.cel}"

    def _named(self) -> list[str]:
        return _PLACEHOLDER.findall(self.message)


def unique_rule(field: str, message: str) -> Rule:
    """Make the rule of a list that no two entries have the same value of a field, which an entry may leave out."""
    return Rule(
        cel=f"self.all(g, !has(g.{field}) || self.filter(h, has(h.{field})).exists_one(h, h.{field} == g.{field}))",
        message=message,
    )


def nonzero_rule(message: str) -> Rule:
    """Make the rule that a number in text, such as a percentage or a duration, is not zero."""
    return Rule(cel="self.matches('[1-9]')", message=message)


@dataclass(frozen=True, slots=True)
class TransitionRule:
    """A rule for a change: `cel` reads `self` and `oldSelf`."""

    cel: str
    holds: Callable[[Any, Any], bool]
    message: str


@dataclass(frozen=True, slots=True)
class ExpectedNoun:
    """The expected value, for "<value>; expected <noun>"."""

    text: str


@dataclass(frozen=True, slots=True)
class TextPattern:
    """A regular expression for the text in JSON, for types that are not text in Python."""

    regex: str
    max_length: int


@dataclass(frozen=True, slots=True)
class ListType:
    """How server-side apply merges a list; other lists are atomic."""

    kind: Literal["map", "set"]
    key: str = ""


@dataclass(frozen=True, slots=True)
class TextOrInteger:
    """JSON may also contain an integer, as for quantities."""


@dataclass(frozen=True, slots=True)
class PreserveUnknownFields:
    """Any JSON object; the API server prunes nothing below it."""


@dataclass(frozen=True, slots=True)
class Confidential:
    """Messages never show the value."""
