"""The API server of local mode: the in-memory one with the schemas, admission rules and columns of the CRDs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.api import RESOURCE_TYPES, find_immutable_changes, find_violations, parse_resource
from sundog_operator.api.schema.crds import CRD_DEFINITIONS, custom_resource_definition
from sundog_operator.errors import SpecError
from sundog_operator.ports import Clock, Object

_CRDS = {
    definition.kind: custom_resource_definition(definition)["spec"]["versions"][0] for definition in CRD_DEFINITIONS
}
_PLURALS = {definition.kind: definition.plural for definition in CRD_DEFINITIONS}


def open_api_server(path: Path, clock: Clock) -> MemoryKubernetes:
    """Open the server with the objects of an SQLite file. Raises StateRefused."""
    return MemoryKubernetes.open(path, clock, schemas=crd_schemas(), admit=find_admission_violations)


def crd_schemas() -> Mapping[str, dict[str, Any]]:
    """Return the schema of each of our kinds."""
    return {kind: version["schema"]["openAPIV3Schema"] for kind, version in _CRDS.items()}


def printer_columns() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return the columns that `get` shows, by kind."""
    return {kind: version["additionalPrinterColumns"] for kind, version in _CRDS.items()}


def find_admission_violations(obj: Object, before: Object | None) -> Sequence[str]:
    """Return the violations of the CRD's schema and rules in an object of ours, one line each.

    A violation that is stored already is allowed: a new rule must not block edits of other fields.
    """
    if obj.get("kind") not in RESOURCE_TYPES:
        return ()
    stored = set() if before is None else set(find_violations(before))
    found = [str(violation) for violation in find_violations(obj) if violation not in stored]
    if found or before is None:
        return found
    try:
        old, new = parse_resource(before), parse_resource(obj)
    except SpecError:
        return ()
    return [str(violation) for violation in find_immutable_changes(old, new)]
