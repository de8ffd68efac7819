"""Both kinds by name, for readers of manifests with either."""

from collections.abc import Mapping
from typing import Any

from sundog_operator.api.experiment.experiment import Experiment
from sundog_operator.api.model_deployment.model_deployment import ModelDeployment
from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.api.resource import Resource
from sundog_operator.api.schema.validation import Violation, find_changed_immutables, find_unknown_fields, quote_value
from sundog_operator.errors import SpecError

RESOURCE_TYPES: dict[str, type[Resource]] = {"ModelDeployment": ModelDeployment, "Experiment": Experiment}


def parse_resource(obj: Mapping[str, Any]) -> Resource:
    """Parse an object of either kind. Raises SpecError (reason InvalidSpec)."""
    return _type_of(obj).parse(obj)


def find_violations(obj: Mapping[str, Any]) -> list[Violation]:
    """Return all violations of an object; empty if it is valid."""
    try:
        return _type_of(obj).violations(obj)
    except SpecError as error:
        return [Violation("kind", str(error))]


def unknown_fields(obj: Mapping[str, Any]) -> list[Violation]:
    """Return fields that the API server prunes; empty for an unknown kind."""
    try:
        return find_unknown_fields(_type_of(obj), {name: value for name, value in obj.items() if name != "metadata"})
    except SpecError:
        return []


def find_immutable_changes(old: Resource, new: Resource) -> list[Violation]:
    """Return changes of immutable fields between two versions of an object."""
    return find_changed_immutables(type(new), old, new)


def _type_of(obj: object) -> type[Resource]:
    kind = obj.get("kind") if isinstance(obj, Mapping) else None
    type_ = RESOURCE_TYPES.get(kind) if isinstance(kind, str) else None
    if type_ is None:
        raise SpecError(
            DeploymentReason.INVALID_SPEC, f"{quote_value(kind)}; expected one of {', '.join(RESOURCE_TYPES)}"
        )
    return type_
