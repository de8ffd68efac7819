"""YAML as people write it, read strictly: what aliases write out is bounded, and no key is there twice."""

from collections.abc import Iterator
from typing import Any, Final

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

MAX_ALIAS_EXPANSION: Final = 2**20
"""Characters that aliases may write out in one text: an API server stores no object that is much larger."""
_MERGE: Final = "tag:yaml.org,2002:merge"


class InvalidYaml(ValueError):
    """The text cannot be read: one line that says where, as far as that is known, and why."""


def load(text: str | bytes) -> Any:
    """The one document of a text; None of an empty one. Raises BadYaml."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 it is a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidYaml(_told(error)) from None


def load_all(text: str | bytes) -> Iterator[Any]:
    """The documents of a text, one by one, None for an empty one. Raises BadYaml at the first that cannot be read."""
    try:
        yield from yaml.load_all(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidYaml(_told(error)) from None


def _told(error: yaml.YAMLError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "not YAML that can be used: values are nested too deeply"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    what = problem or str(error).partition("\n")[0] or "cannot be read"
    return f"line {mark.line + 1}: {what}" if mark is not None else f"not YAML: {what}"


class _Loader(yaml.SafeLoader):
    """Looks at nodes while they are composed: before aliases are written out, and before mappings are merged into others."""

    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self._written = 0
        self._repeated = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; that of its anchor for an alias. Raises ComposerError for aliases that repeat too much."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._written
        node = super().compose_node(parent, index)
        assert node is not None
        if isinstance(event, yaml.AliasEvent):
            self._repeat(node, event)
            return node
        self._written += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if event.anchor is not None:
            self._sizes[node] = self._written - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The next mapping. Raises ComposerError for a key that is there twice."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                raise _refused(key, f"key {key.value!r} is there twice, first in line {first.start_mark.line + 1}")
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The value of a node. Raises ConstructorError, also where PyYAML lets Python's own errors through."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            # The value is not shown: it may be a Secret's.
            told = f"a value stands for a YAML {kind} and is none; quotes make it text"
            raise ConstructorError(None, None, told, node.start_mark) from None

    def _repeat(self, node: yaml.Node, event: yaml.AliasEvent) -> None:
        size = self._sizes.get(node)
        if size is None:
            raise _refused(event, f"alias {event.anchor!r} is inside of what it stands for")
        self._written += size
        self._repeated += size
        if self._repeated > MAX_ALIAS_EXPANSION:
            raise _refused(event, f"aliases write out to more than {MAX_ALIAS_EXPANSION} characters")


def _refused(what: Any, why: str) -> ComposerError:
    return ComposerError(None, None, why, what.start_mark)
