"""The CustomResourceDefinitions, generated from the types: structural schemas with defaults, bounds and CEL rules."""

import json
from dataclasses import dataclass, replace
from typing import Any

from sundog_operator.api.experiment.experiment import Experiment
from sundog_operator.api.model_deployment.model_deployment import ModelDeployment
from sundog_operator.api.resource import API_VERSION, Resource
from sundog_operator.api.schema.node_tree import FieldNode, Node, ValueBounds, build_node_tree
from sundog_operator.api.schema.rules import Rule

Schema = dict[str, Any]

_TYPES = {
    "object": "object",
    "map": "object",
    "free": "object",
    "array": "array",
    "string": "string",
    "time": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
}
_LENGTHS = {"map": "Properties", "free": "Properties", "array": "Items"}
_TIME_LENGTH = 64
_INITIAL_STATUS = {"observedGeneration": -1}
"""Without it, tools that read conditions consider a new object to be finished."""


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """One column of `kubectl get`."""

    name: str
    type: str
    path: str
    wide: bool = False

    def to_json(self) -> Schema:
        """Return the column as in a CRD."""
        column = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return column | ({"priority": 1} if self.wide else {})


@dataclass(frozen=True, slots=True)
class CrdDefinition:
    """The parts of a CRD beside its schema."""

    resource: type[Resource]
    plural: str
    short_name: str
    columns: tuple[PrinterColumn, ...]
    selectable: tuple[str, ...]
    scale: bool = False

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return self.resource.__name__


_AGE = PrinterColumn("Age", "date", ".metadata.creationTimestamp")


def _condition(type_: str, part: str) -> str:
    return f'.status.conditions[?(@.type=="{type_}")].{part}'


def _ready(part: str) -> str:
    return _condition("Ready", part)


CRD_DEFINITIONS = (
    CrdDefinition(
        resource=ModelDeployment,
        plural="modeldeployments",
        short_name="mdep",
        columns=(
            PrinterColumn("Ready", "string", _ready("status")),
            PrinterColumn("Reason", "string", _ready("reason")),
            PrinterColumn("Stable", "integer", ".status.stable.revision"),
            PrinterColumn("Candidate", "integer", ".status.candidate.revision"),
            PrinterColumn("Weight", "number", ".status.candidate.weight"),
            PrinterColumn("Replicas", "integer", ".status.replicas"),
            PrinterColumn("URL", "string", ".status.url", wide=True),
            _AGE,
            PrinterColumn("Message", "string", _ready("message")),
        ),
        selectable=(".spec.model.uri", ".spec.paused"),
        scale=True,
    ),
    CrdDefinition(
        resource=Experiment,
        plural="experiments",
        short_name="mexp",
        columns=(
            PrinterColumn("Ready", "string", _ready("status")),
            PrinterColumn("Phase", "string", ".status.phase"),
            PrinterColumn("Model", "string", ".spec.modelDeployment"),
            PrinterColumn("Step", "integer", ".status.step.index"),
            PrinterColumn("Paused", "string", ".status.paused.reason"),
            PrinterColumn("Decision", "string", ".status.verdict.decision"),
            PrinterColumn("Leader", "string", ".status.verdict.leader"),
            PrinterColumn("Winner", "string", ".status.verdict.winner"),
            PrinterColumn("Data Quality", "string", _condition("DataQuality", "status")),
            PrinterColumn("Waits For", "string", ".status.step.reason", wide=True),
            PrinterColumn("Reason", "string", ".status.verdict.reason", wide=True),
            _AGE,
        ),
        selectable=(".spec.modelDeployment", ".status.phase"),
    ),
)


def custom_resource_definition(definition: CrdDefinition) -> Schema:
    """Return the whole CRD as plain JSON; no two places share an object."""
    group, version = API_VERSION.split("/")
    subresources: Schema = {"status": {}}
    if definition.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{definition.plural}.{group}"},
        "spec": {
            "group": group,
            "names": {
                "kind": definition.kind,
                "listKind": f"{definition.kind}List",
                "plural": definition.plural,
                "singular": definition.kind.lower(),
                "shortNames": [definition.short_name],
                "categories": ["sundog"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root_schema(definition.resource)},
                    "subresources": subresources,
                    "additionalPrinterColumns": [column.to_json() for column in definition.columns],
                    "selectableFields": [{"jsonPath": path} for path in definition.selectable],
                }
            ],
        },
    }
    copy: Schema = json.loads(json.dumps(crd))
    return copy


def root_schema(resource: type[Resource]) -> Schema:
    """Return the schema of a kind. The API server owns metadata, so the schema contains nothing more about it."""
    node = build_node_tree(resource)
    schema = _with_rules({"description": node.description, "type": "object", "required": ["spec"]}, node)
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": _schema(node.fields["spec"].node, of_status=False),
        "status": _schema(node.fields["status"].node, of_status=True) | {"default": _INITIAL_STATUS},
    }
    return schema


def _schema(node: Node, *, of_status: bool) -> Schema:
    if node.text_or_integer:
        return _text_or_integer(node)
    schema: Schema = {"description": node.description} if node.description else {}
    schema |= {"type": _TYPES[node.kind], **_limits(node)}
    if node.kind == "time":
        schema |= {"format": "date-time", "maxLength": _TIME_LENGTH}
    if node.kind == "free":
        schema["x-kubernetes-preserve-unknown-fields"] = True
    if node.enum:
        schema["enum"] = list(node.enum)
    if node.kind == "object":
        schema |= _object(node, of_status=of_status)
    if node.kind == "map" and node.items is not None:
        schema["additionalProperties"] = _schema(node.items, of_status=of_status)
    if node.kind == "array" and node.items is not None:
        schema |= {"items": _schema(node.items, of_status=of_status), **_list_type(node)}
    return _with_rules(schema, node)


def _object(node: Node, *, of_status: bool) -> Schema:
    properties = {}
    for name, child in node.fields.items():
        schema = _schema(child.node, of_status=of_status)
        if child.description:
            # First, because it helps readers of the file.
            schema = {"description": child.description} | schema | {"description": child.description}
        if not of_status and child.default is not None:
            schema["default"] = _default(child)
        properties[name] = schema
    required = [name for name, child in node.fields.items() if child.required]
    # The API server does not store an empty list; tools that compare would always find a difference.
    keywords = ({"required": required} if required else {}) | ({"properties": properties} if properties else {})
    # A rollback of the chart restores older CRDs, which would prune a newer release's fields.
    return keywords | ({"x-kubernetes-preserve-unknown-fields": True} if of_status else {})


def _default(field: FieldNode) -> Any:
    """Return a default, complete if rules read it: the API server checks a default by its rules before it adds the inner defaults."""
    return _complete_default(field.node) if field.node.kind == "object" and field.node.rules else field.default


def _complete_default(node: Node) -> Schema:
    inner = {name: child for name, child in node.fields.items() if child.default is not None}
    return {
        name: _complete_default(child.node) if child.node.kind == "object" else child.default
        for name, child in inner.items()
    }


def _text_or_integer(node: Node) -> Schema:
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        # Bounds of one type do not apply to values of the other.
        "minimum": 1,
        "maxLength": node.limits.max_length,
        "pattern": node.limits.pattern,
    }


def _list_type(node: Node) -> Schema:
    if node.list_type is None:
        return {"x-kubernetes-list-type": "atomic"}
    keys = {"x-kubernetes-list-map-keys": [node.list_type.key]} if node.list_type.key else {}
    return {"x-kubernetes-list-type": node.list_type.kind, **keys}


def _limits(node: Node) -> Schema:
    limits: ValueBounds = node.limits
    suffix = _LENGTHS.get(node.kind, "Length")
    found = {
        "minimum": limits.ge if limits.ge is not None else limits.gt,
        "exclusiveMinimum": True if limits.gt is not None else None,
        "maximum": limits.le if limits.le is not None else limits.lt,
        "exclusiveMaximum": True if limits.lt is not None else None,
        f"min{suffix}": limits.min_length,
        f"max{suffix}": limits.max_length,
        "pattern": limits.pattern,
    }
    return {name: value for name, value in found.items() if value is not None}


def _with_rules(schema: Schema, node: Node) -> Schema:
    validations = [*_key_rules(node), *map(_rule, node.rules)]
    validations += [{"rule": transition.cel, "message": transition.message} for transition in node.transitions]
    return schema | ({"x-kubernetes-validations": validations} if validations else {})


def _key_rules(node: Node) -> list[Schema]:
    """Return rules for the keys of a map, because a schema cannot bound them."""
    if node.kind != "map" or node.key is None:
        return []
    limits, noun = node.key.limits, node.key.noun
    rules = []
    if limits.max_length is not None:
        message = f"key too long; expected at most {limits.max_length} characters"
        rules.append({"rule": f"self.all(k, k.size() <= {limits.max_length})", "message": message})
    if limits.pattern is not None:
        rules.append(
            {"rule": f"self.all(k, k.matches(r'{limits.pattern}'))", "message": f"invalid key; expected {noun}"}
        )
    return rules


def _rule(rule: Rule) -> Schema:
    if rule.field.startswith("metadata."):
        # The schema does not contain the field, so fieldPath cannot name it.
        rule = replace(rule, message=f"{rule.field}: {rule.message}", field="")
    expression = rule.message_expression()
    message = {"messageExpression": expression} if expression else {"message": rule.message}
    new_only = {"optionalOldSelf": True} if rule.applies_to_new_only else {}
    return {"rule": rule.expression(), **message, **new_only, **({"fieldPath": f".{rule.field}"} if rule.field else {})}
