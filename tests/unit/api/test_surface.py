"""What other packages may use, and what the types promise as types."""

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest

import sundog_operator.api as api
from sundog_operator.api import RESOURCE_TYPES
from sundog_operator.api.base import ApiBase
from sundog_operator.api.schema.node_tree import Node, build_node_tree
from sundog_operator.api.schema.rules import Rule


def test_exported_members() -> None:
    assert sorted(api.__all__) == sorted(set(api.__all__))
    for name in api.__all__:
        assert getattr(api, name) is not None
    public = {
        name for name, value in vars(api).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(api.__all__)


def test_parts_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        api.Step(weight=5).weight = 6  # type: ignore[misc]


def test_python_names_build_parts_too() -> None:
    assert api.Warmup(requests=2).to_json() == {"requests": 2, "timeout": "5m"}
    assert api.Rollout(steps=[api.Step(weight=5)]).steps[0].gate == "evidence"


def test_rules_and_their_messages_name_fields_that_exist() -> None:
    for kind in RESOURCE_TYPES.values():
        for node in nodes(build_node_tree(kind)):
            for rule in node.rules:
                assert rule.cel
                assert_named(node, rule)


def assert_named(node: Node, rule: Rule) -> None:
    paths: list[str] = [rule.field] if rule.field else []
    replace(rule, found=()).render(None, lambda name: paths.append(name) or "")
    names = {each.name for each in rule.found}
    assert names <= set(paths)
    for path in {*paths} - names - {""}:
        inner = node
        for name in path.split("."):
            inner = inner.fields[name].node


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.fields.values():
        yield from nodes(child.node)
    if node.items is not None:
        yield from nodes(node.items)


def subclasses(type_: type[ApiBase]) -> Iterator[type[ApiBase]]:
    for child in type_.__subclasses__():
        yield child
        yield from subclasses(child)


def test_what_an_arm_replaces_are_fields_of_the_deployment() -> None:
    spec = build_node_tree(RESOURCE_TYPES["ModelDeployment"]).fields["spec"].node
    arm = build_node_tree(RESOURCE_TYPES["Experiment"]).fields["spec"].node.fields["arms"].node.items
    assert arm is not None
    for name in ("model", "runtime", "resources"):
        whole, part = spec.fields[name].node, arm.fields[name].node
        assert set(part.fields) == set(whole.fields)
        for field, child in part.fields.items():
            assert child.node == whole.fields[field].node, f"{name}.{field}"
            assert child.initial is None


def test_every_type_says_what_it_is() -> None:
    assert [part.__name__ for part in subclasses(ApiBase) if not part.__doc__] == []
