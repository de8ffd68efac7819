"""Renders the API reference, a Markdown page, from the types."""

from collections.abc import Iterator

import yaml

from sundog_operator.api.experiment import Experiment
from sundog_operator.api.model_deployment import ModelDeployment
from sundog_operator.api.resource import Resource
from sundog_operator.api.structure import FieldNode, Node, structure
from sundog_operator.api.support import ACTED_ON

REVISION_PARTS = ("spec.model", "spec.runtime", "spec.resources", "spec.scheduling")
IN_PLACE = ("spec.runtime.userConfig",)

HEADER = """# API reference

Generated from the types by `python -m sundog_operator.api.generate`; edit those instead.

`serving.sundog.dev/v1alpha1`. Durations are written like `30s`, `5m`, `1h30m` or `14d`, quantities like `512Mi` or `250m`, percentages like
`25%`.

The column *change* tells what a change of a field does: **revision** makes a new one and rolls it out, *in place* is applied to what runs,
*later* is accepted at its default only (`NotYetSupported`).
"""


def render() -> str:
    """The whole page."""
    kinds = (("ModelDeployment", ModelDeployment), ("Experiment", Experiment))
    return "\n".join([HEADER, *(_kind(name, kind) for name, kind in kinds)])


def _kind(name: str, kind: type[Resource]) -> str:
    root = structure(kind)
    lines = [f"## {name}", "", root.description, ""]
    for part in ("spec", "status"):
        acted = name == "ModelDeployment" and part == "spec"
        head = "| field | type | default | change | meaning |" if acted else "| field | type | default | meaning |"
        lines += [f"### {name}.{part}", "", head, "|" + "---|" * head.count(" |")]
        lines += list(_rows(root.fields[part].node, part, acted=acted))
        lines.append("")
        lines += list(_rules(root.fields[part].node, part))
    return "\n".join(lines)


def _rows(node: Node, path: str, *, acted: bool) -> Iterator[str]:
    for name, child in node.fields.items():
        place = f"{path}.{name}"
        cells = [f"`{place}`", _type(child.node), _default(child)]
        if acted:
            cells.append(_change(place))
        cells.append(_cell(" ".join(filter(None, [child.description or child.node.description, _limits(child.node)]))))
        yield "| " + " | ".join(cells) + " |"
        inner = child.node.items if child.node.kind == "array" else child.node
        if inner is not None and inner.fields:
            yield from _rows(inner, place + ("[]" if child.node.kind == "array" else ""), acted=acted)


def _type(node: Node) -> str:
    if node.enum:
        return _cell(" \\| ".join(f"`{value}`" for value in node.enum if value) or "string")
    if node.kind in ("array", "map") and node.items is not None:
        return f"{'list' if node.kind == 'array' else 'map'} of {node.items.kind}"
    return {"free": "any object"}.get(node.kind, node.kind)


def _default(child: FieldNode) -> str:
    if child.required:
        return "required"
    if child.default is None or child.default in ("", {}, []):
        return ""
    shown = yaml.safe_dump(child.default, default_flow_style=True).strip().removesuffix("\n...")
    return f"`{_cell(shown)}`"


def _change(path: str) -> str:
    supported = any(_covers(leaf, path) or _covers(path, leaf) for leaf in ACTED_ON)
    if not supported:
        return "*later*"
    revises = any(_covers(part, path) for part in REVISION_PARTS) and path not in IN_PLACE
    return "**revision**" if revises else "in place"


def _covers(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}[]"))


def _limits(node: Node) -> str:
    limits, said = node.limits, []
    if limits.ge is not None or limits.le is not None:
        low, high = limits.ge if limits.ge is not None else "…", limits.le if limits.le is not None else "…"
        said.append(f"{low} to {high}")
    if limits.max_length is not None:
        unit = {"array": "items", "map": "entries", "free": "entries"}.get(node.kind, "characters")
        said.append(f"at most {limits.max_length} {unit}")
    return f"({', '.join(said)})" if said else ""


def _rules(node: Node, path: str) -> Iterator[str]:
    found = list(_all_rules(node, path))
    if found:
        yield "Rules:"
        yield ""
        yield from (f"- `{place}`: {_cell(message)}" for place, message in found)
        yield ""


def _all_rules(node: Node, path: str) -> Iterator[tuple[str, str]]:
    for rule in node.rules:
        yield (f"{path}.{rule.field}" if rule.field else path), rule.message.replace("{}", "the value")
    for name, child in node.fields.items():
        inner = child.node.items if child.node.kind == "array" else child.node
        suffix = "[]" if child.node.kind == "array" else ""
        if child.node.kind == "array":
            for rule in child.node.rules:
                yield f"{path}.{name}", rule.message.replace("{}", "the value")
        if inner is not None:
            yield from _all_rules(inner, f"{path}.{name}{suffix}")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\|", "|").replace("|", "\\|")
