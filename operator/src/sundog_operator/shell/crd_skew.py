"""Compare the CRDs of the cluster with this release, once at the start."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from sundog_operator.api.schema import crd_diff
from sundog_operator.api.schema.crds import CRD_DEFINITIONS, CrdDefinition
from sundog_operator.api.schema.node_tree import build_node_tree
from sundog_operator.errors import DependencyError

log = logging.getLogger("sundog.operator")

_SHOWN: Final = 5
_PARTS: Final = ("spec", "status")


class SchemaPublisher(Protocol):
    """A server that publishes the schemas of an API group's version."""

    async def schemas(self, api_version: str) -> Mapping[str, Any]:
        """Return the schemas by arbitrary names. Raises DependencyError."""


async def log_crd_skew(server: SchemaPublisher, api_version: str) -> None:
    """Log the fields that the CRDs lack, and those that this release lacks. Log none if the API server publishes no schemas."""
    try:
        published = await server.schemas(api_version)
    except DependencyError as err:
        log.debug("CRDs cannot be compared: %s", err)
        return
    for definition in CRD_DEFINITIONS:
        schema = crd_diff.find_served_schema(published, api_version.partition("/")[0], definition.kind)
        if schema is not None:
            _log_differences(definition, schema)


def _log_differences(definition: CrdDefinition, schema: Mapping[str, Any]) -> None:
    name = definition.plural
    if lacking := list(_paths(definition, schema, crd_diff.find_missing_fields)):
        log.error(
            "CRD %s: has no %s; expected the CRD of this release. The API server drops these fields. Apply the CRD of this release",
            name,
            _format_paths(lacking),
            extra={"reason": "CRDOlder"},
        )
    if unknown := list(_paths(definition, schema, crd_diff.find_extra_fields)):
        log.warning(
            "CRD %s: has %s, which this release does not know; the operator ignores these fields and keeps their values",
            name,
            _format_paths(unknown),
            extra={"reason": "CRDNewer"},
        )


def _paths(definition: CrdDefinition, schema: Mapping[str, Any], compare: Any) -> Iterator[str]:
    node, properties = build_node_tree(definition.resource), schema.get("properties") or {}
    for part in _PARTS:
        yield from compare(properties.get(part) or {}, node.fields[part].node, part)


def _format_paths(paths: Iterable[str]) -> str:
    found = sorted(paths)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
