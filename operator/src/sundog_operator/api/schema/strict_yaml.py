"""Strict YAML parsing: the expansion of aliases is bounded, and duplicate keys are errors."""

from collections.abc import Iterator
from typing import Any, Final

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

MAX_ALIAS_EXPANSION: Final = 2**20
"""Characters to which a text's aliases may expand. An API server stores no object that is much larger."""
_MERGE: Final = "tag:yaml.org,2002:merge"
_PARENT: Final = "sundog_parent"
"""Attribute of an error: the path of the innermost value that was being read."""


class InvalidYaml(ValueError):
    """Invalid YAML: one line with the place, if known, and the problem."""


def load(text: str | bytes) -> Any:
    """Parse the only document of a text; None if it is empty. Raises InvalidYaml."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 it is a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidYaml(_describe_error(error)) from None


def load_all(text: str | bytes) -> Iterator[Any]:
    """Yield the documents of a text, None for an empty one. Raises InvalidYaml at the first invalid one."""
    try:
        yield from yaml.load_all(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidYaml(_describe_error(error)) from None


def _describe_error(error: yaml.YAMLError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "values are nested too deeply"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    what = problem or str(error).partition("\n")[0] or "cannot be read"
    parent = getattr(error, _PARENT, "")
    what += f", in {parent}" if parent else ""
    return f"line {mark.line + 1}: {what}" if mark is not None else f"not YAML: {what}"


class _Loader(yaml.SafeLoader):
    """Checks nodes while they are composed, before aliases expand and mappings merge."""

    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self._expanded_size = 0
        self._alias_size = 0
        self._sizes: dict[yaml.Node, int] = {}
        self._keys: list[str] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node; for an alias, its anchor's. An error gets the path of the innermost value."""
        key = index.value if isinstance(index, yaml.ScalarNode) else "" if index is None else f"[{index}]"
        self._keys.append(key)
        try:
            node = self._compose_counted(parent, index)
        except yaml.YAMLError as error:
            if not hasattr(error, _PARENT):
                setattr(error, _PARENT, ".".join(filter(None, self._keys)).replace(".[", "["))
            raise
        self._keys.pop()
        return node

    def _compose_counted(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Return the next node; for an alias, its anchor's. Raises ComposerError if aliases expand too much."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._expanded_size
        node = super().compose_node(parent, index)
        assert node is not None
        if isinstance(event, yaml.AliasEvent):
            self._add_alias(node, event)
            return node
        self._expanded_size += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if event.anchor is not None:
            self._sizes[node] = self._expanded_size - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the next mapping. Raises ComposerError for a duplicate key."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                raise _composer_error(key, f"duplicate key {key.value!r}, first in line {first.start_mark.line + 1}")
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return the value of a node. Raises ConstructorError, also where PyYAML raises Python's own errors."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            # Without the value, which may belong to a Secret.
            problem = f"value is not a valid YAML {kind}; quote it to make it text"
            raise ConstructorError(None, None, problem, node.start_mark) from None

    def _add_alias(self, node: yaml.Node, event: yaml.AliasEvent) -> None:
        size = self._sizes.get(node)
        if size is None:
            raise _composer_error(event, f"alias {event.anchor!r} contains itself")
        self._expanded_size += size
        self._alias_size += size
        if self._alias_size > MAX_ALIAS_EXPANSION:
            raise _composer_error(event, f"aliases expand to more than {MAX_ALIAS_EXPANSION} characters")


def _composer_error(what: Any, why: str) -> ComposerError:
    return ComposerError(None, None, why, what.start_mark)
