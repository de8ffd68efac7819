"""Generate files from other files: the chart's values, schema, table of values and golden files; Argo CD's ConfigMap.

Run `python -m charting.generate`. The type of the operator's configuration file describes `installation`.
"""

import json
from typing import Any

import yaml

from charting import CHART, GOLDEN, argocd, cases, golden
from reference import chart_values
from reference.chart_values import SCHEMA, VALUES
from sundog_operator.api.installation import Installation
from sundog_operator.api.schema.node_tree import Node, build_node_tree

README = CHART / "README.md"
BEGIN, END = "<!-- begin of the table that `make generate` writes -->\n", "<!-- end of the table -->\n"
INSTALLATION = (
    "# The operator's configuration file. `make generate` writes this part from sundog_operator.api.installation.\n"
)
# Fields that the chart fills in: the images have other defaults, and one list of namespaces also creates the roles.
OURS = {
    "runtimeImage": "Image with Ray, PyTorch and the model server, by tag or `@sha256:…`. Required.",
    "edgeImage": "Image of the edge, by tag or `@sha256:…`. Empty: the operator's image, with its digest.",
}
IMAGE = "^([^ @]+(@sha256:[0-9a-f]{64})?)?$"
"""A name, with a whole digest if it has one: pods would wait forever for an image of a digest that is cut off."""
ELSEWHERE = ("watchNamespaces", "networkPolicies")


def installation_schema() -> dict[str, Any]:
    """Return the JSON schema of `installation`."""
    schema = _schema(build_node_tree(Installation))
    for name in ELSEWHERE:
        del schema["properties"][name]
    for name, meaning in OURS.items():
        schema["properties"][name] = {"description": meaning, "type": "string", "maxLength": 512, "pattern": IMAGE}
    return schema


def installation_values() -> dict[str, Any]:
    """Return the defaults of `installation`."""
    defaults = Installation().to_json()
    for name in ELSEWHERE:
        del defaults[name]
    return defaults | dict.fromkeys(OURS, "")


def _schema(node: Node) -> dict[str, Any]:
    described = {"description": node.description} if node.description else {}
    if node.kind == "object":
        required = [name for name, child in node.fields.items() if child.required]
        properties = {name: _field(child.description, child.node) for name, child in node.fields.items()}
        needs = {"required": required} if required else {}
        return {**described, "type": "object", "additionalProperties": False, **needs, "properties": properties}
    if node.kind == "map" and node.items:
        return {**described, "type": "object", "additionalProperties": _schema(node.items)}
    if node.kind == "array" and node.items:
        return {**described, "type": "array", "items": _schema(node.items), **_bounds(node, "Items")}
    if node.kind == "free":
        # Not in values.yaml, because None and empty differ.
        return {**described, "type": ["object", "null"]}
    return {**described, **_scalar(node)}


def _field(description: str, node: Node) -> dict[str, Any]:
    schema = _schema(node)
    return {**schema, "description": description or schema.get("description", "")}


def _scalar(node: Node) -> dict[str, Any]:
    if node.text_or_integer:
        return {"type": ["string", "integer"], **_bounds(node, "Length")}
    if node.enum:
        return {"type": "string", "enum": list(node.enum)}
    if node.kind == "string":
        return {"type": "string", **_bounds(node, "Length")}
    limits = {"minimum": node.limits.ge, "maximum": node.limits.le}
    return {"type": node.kind, **{name: value for name, value in limits.items() if value is not None}}


def _bounds(node: Node, what: str) -> dict[str, Any]:
    limits = {
        f"min{what}": node.limits.min_length,
        f"max{what}": node.limits.max_length,
        "pattern": node.limits.pattern,
    }
    return {name: value for name, value in limits.items() if value is not None}


def schema_text(text: str) -> str:
    """Return the chart's schema with its part for `installation` generated again."""
    schema = json.loads(text)
    schema["properties"]["installation"] = installation_schema()
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def values_text(text: str) -> str:
    """Return the chart's values with the defaults of `installation` generated again. Raises ValueError if the mark is missing."""
    before, mark, _ = text.partition(INSTALLATION)
    if not mark:
        raise ValueError(f"{VALUES} has no line {INSTALLATION.strip()!r}")
    return before + mark + yaml.safe_dump({"installation": installation_values()}, sort_keys=False, width=120)


def readme_text(text: str) -> str:
    """Return the chart's README with its table generated again. Raises ValueError if its marks are missing."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{README} has no marks of its table")
    return before + BEGIN + chart_values.render_table() + END + after


MADE = {SCHEMA: schema_text, VALUES: values_text, README: readme_text}
"""Files with a generated part, in the order of their dependencies."""


def write() -> None:
    """Write all generated files."""
    for path, text in MADE.items():
        path.write_text(text(path.read_text(encoding="utf-8")), encoding="utf-8")
    argocd.CONFIG.write_text(argocd.config(), encoding="utf-8")
    for stale in {path.stem for path in GOLDEN.glob("*.yaml")} - set(cases()):
        (GOLDEN / f"{stale}.yaml").unlink()
    GOLDEN.mkdir(exist_ok=True)
    for case in cases():
        (GOLDEN / f"{case}.yaml").write_text(golden(case), encoding="utf-8")


if __name__ == "__main__":
    write()
