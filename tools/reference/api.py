"""Render the API reference from the types."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from reference.markdown import GENERATED, cell, paragraph, table
from sundog_operator.api.experiment.experiment import Experiment
from sundog_operator.api.model_deployment.model_deployment import ModelDeployment
from sundog_operator.api.model_deployment.spec import ModelDeploymentSpec
from sundog_operator.api.resource import Resource
from sundog_operator.api.scalars import MODEL_SCHEMES
from sundog_operator.api.schema.node_tree import FieldNode, Node, ValueBounds, build_node_tree
from sundog_operator.api.schema.unsupported import (
    UNSUPPORTED_FIELDS,
    UNSUPPORTED_IN_LOCAL_MODE,
    find_unsupported_fields,
)

REVISION_PARTS: Final = ("spec.model", "spec.runtime", "spec.resources", "spec.scheduling")
IN_PLACE_FIELDS: Final = ("spec.runtime.userConfig",)

_HEADER: Final = f"""# API reference

{GENERATED.format("sundog_operator.api")}

The API version is `serving.sundog.dev/v1alpha1`.

- [ModelDeployment](#modeldeployment): [spec](#modeldeploymentspec), [status](#modeldeploymentstatus),
  [conditions](#modeldeployment-conditions)
- [Experiment](#experiment): [spec](#experimentspec), [status](#experimentstatus),
  [conditions](#experiment-conditions)

Durations look like `30s`, `5m`, `1h30m` or `14d`. Quantities look like `512Mi` or `250m`.
Percentages look like `25%`. The API server refuses a manifest that breaks a limit or a rule.
The operator checks stored objects again.

The column *change* shows what an edit of a field does:

| | |
|---|---|
| **revision** | The edit creates a revision and rolls it out. |
| *in place* | The edit applies to running replicas, or from the next rollout on. |
| *cluster* | Works in a Kubernetes cluster only. Local mode has no pods and accepts only the default. |
| *later* | Not supported yet. A value other than the default is refused ([`NotYetSupported`](condition-reasons.md#notyetsupported)). |

Edits to `paused`, `dryRun`, `progressDeadline`, `windows`, `onNewRevision` and `keepPrevious` of
`spec.rollout` apply at any time. When a rollout starts, its Experiment freezes all other fields.
"""
_EXPERIMENT: Final = """The operator creates one Experiment for each rollout that has steps, and keeps its status there.
You can also write one yourself, to compare arms.
"""
_CONDITIONS: Final = """### {0} conditions

[Condition reasons](condition-reasons.md) lists every condition and reason of {0}s,
what each means and how to fix it.
"""
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z.]+)\}")


def render_page() -> str:
    """Return the page, as Markdown."""
    return "\n".join(
        [_HEADER, *_kind("ModelDeployment", ModelDeployment), *_kind("Experiment", Experiment, _EXPERIMENT)]
    )


def _kind(name: str, kind: type[Resource], note: str = "") -> Iterator[str]:
    root = build_node_tree(kind)
    spec, status = root.fields["spec"].node, root.fields["status"].node
    yield f"## {name}\n\n{paragraph(root.description)}\n"
    if note:
        yield note
    has_change = name == "ModelDeployment"
    head = ("field", "type", "default", *(["change"] if has_change else []), "meaning")
    yield f"### {name}.spec\n\n" + table(head, _rows(spec, "spec", has_change=has_change))
    rules = [*((rule.field, _message(rule.message)) for rule in root.rules), *_all_rules(spec, "spec")]
    messages = ((f"`{path}`", text) for path, text in rules)
    yield "Further rules:\n\n" + table(("field", "message of the API server"), messages)
    yield f"### {name}.status\n\n" + table(("field", "type", "meaning"), _status_rows(status, "status"))
    yield _CONDITIONS.format(name)


def _rows(node: Node, path: str, *, has_change: bool) -> Iterator[Sequence[str]]:
    for name, child in node.fields.items():
        place = f"{path}.{name}"
        change = [_change(place)] if has_change else []
        texts = [_description(child), *([_later_values(place, child.node)] if has_change else []), _limits(child.node)]
        yield f"`{place}`", _type(child.node), _default(child), *change, cell(" ".join(filter(None, texts)))
        inner, below = _inside(child.node, place)
        if inner is not None and inner.fields:
            yield from _rows(inner, below, has_change=has_change)


def _status_rows(node: Node, path: str) -> Iterator[Sequence[str]]:
    for name, child in node.fields.items():
        place = f"{path}.{name}"
        yield f"`{place}`", _type(child.node), cell(_description(child))
        inner, below = _inside(child.node, place)
        # Conditions have the fields of Kubernetes' conditions.
        if inner is not None and inner.fields and name != "conditions":
            yield from _status_rows(inner, below)


def _inside(node: Node, place: str) -> tuple[Node | None, str]:
    return (node.items, f"{place}[]") if node.kind == "array" else (node, place)


def _description(child: FieldNode) -> str:
    return child.description or child.node.description


def _type(node: Node) -> str:
    if node.enum:
        return cell(" \\| ".join(f"`{value}`" for value in node.enum if value) or "string")
    if node.kind in ("array", "map") and node.items is not None:
        return f"{'list' if node.kind == 'array' else 'map'} of {node.items.kind}"
    return {"free": "any object"}.get(node.kind, node.kind)


def _default(child: FieldNode) -> str:
    if child.required:
        return "required"
    if child.default is None or child.default in ("", {}, []):
        return ""
    shown = yaml.safe_dump(child.default, default_flow_style=True).strip().removesuffix("\n...")
    return f"`{cell(shown)}`"


def _change(path: str) -> str:
    if _is_among(path, UNSUPPORTED_FIELDS):
        return "*later*"
    everywhere = not _is_among(path, UNSUPPORTED_IN_LOCAL_MODE)
    revises = any(_covers(part, path) for part in REVISION_PARTS) and path not in IN_PLACE_FIELDS
    return ("**revision**" if revises else "in place") + ("" if everywhere else ", *cluster*")


def _is_among(path: str, parts: Collection[str]) -> bool:
    return any(_covers(part, path) for part in parts)


def _covers(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}[]"))


def _later_values(path: str, node: Node) -> str:
    """Return which values of a supported field are not supported."""
    values: Sequence[Any] = node.enum
    if path == "spec.model.uri":
        values = [f"{scheme}://" for scheme in MODEL_SCHEMES]
    if _is_among(path, UNSUPPORTED_FIELDS):
        return ""
    refused = [f"`{value}`" for value in values if _is_refused(path, value, in_pods=True)]
    everywhere = not _is_among(path, UNSUPPORTED_IN_LOCAL_MODE)
    local = [f"`{value}`" for value in values if everywhere and _is_refused(path, value, in_pods=False)]
    only = [value for value in local if value not in refused]
    text = f"Not supported yet: {', '.join(refused)}." if refused else ""
    return f"{text} In a cluster only: {', '.join(only)}.".strip() if only else text


_REQUIRED: Final[Mapping[str, dict[str, Any]]] = {"webhook": {"url": "https://host/"}, "agreement": {"min": 0.9}}
"""Required fields of an object."""


def _is_refused(path: str, value: Any, *, in_pods: bool) -> bool:
    content: Any = value
    for key in reversed(path.split(".")[1:]):
        if key.endswith("[]"):
            content = [{"weight": 50, "key": "k", "path": "$.a", **content}]
        elif key in _REQUIRED:
            content = {**_REQUIRED[key], **content}
        content = {key.removesuffix("[]"): content}
    content["model"] = {"uri": "file:///model", **content.get("model", {})}
    spec = ModelDeploymentSpec.model_validate(content)
    return path in {violation.path.replace("[0]", "[]") for violation in find_unsupported_fields(spec, in_pods=in_pods)}


def _limits(node: Node) -> str:
    limits = node.limits
    parts = [node.noun] if node.noun and limits.pattern is not None else []
    if bounds := _bounds(limits):
        parts.append(bounds)
    if limits.max_length is not None:
        unit = {"array": "items", "map": "entries", "free": "entries"}.get(node.kind, "characters")
        parts.append(f"at most {limits.max_length} {unit}")
    return f"({'; '.join(parts)})" if parts else ""


def _bounds(limits: ValueBounds) -> str:
    low = f"more than {limits.gt:g}" if limits.gt is not None else _number("at least", limits.ge)
    high = f"less than {limits.lt:g}" if limits.lt is not None else _number("at most", limits.le)
    if limits.ge is not None and limits.le is not None:
        return f"{limits.ge:g} to {limits.le:g}"
    return ", ".join(filter(None, (low, high)))


def _number(word: str, value: float | None) -> str:
    return "" if value is None else f"{word} {value:g}"


def _all_rules(node: Node, path: str) -> Iterator[tuple[str, str]]:
    for rule in node.rules:
        yield (f"{path}.{rule.field}" if rule.field else path), _message(rule.message)
    for name, child in node.fields.items():
        place = f"{path}.{name}"
        yield from ((place, _message(transition.message)) for transition in child.node.transitions)
        inner, below = _inside(child.node, place)
        if child.node.kind == "array":
            yield from ((place, _message(rule.message)) for rule in child.node.rules)
        if inner is not None:
            yield from _all_rules(inner, below)


def _message(text: str) -> str:
    """Return a rule's message with paths of fields in place of their values."""
    return cell(_PLACEHOLDER.sub(r"`\1`", text.replace("{}", "the value")))
