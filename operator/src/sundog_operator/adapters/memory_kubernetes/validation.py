"""Check objects by the API server's rules: those for all kinds, and those for the built-in kinds that Sundog writes."""

import re
from collections.abc import Iterator
from typing import Any

from sundog_operator.adapters.memory_kubernetes import secrets
from sundog_operator.ports import CONFIG_MAP, CONTROLLER_REVISION, KINDS, SECRET, Kind, Object

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_MAX_NAME_LENGTH = 253
_MAX_ANNOTATION_BYTES = 256 * 1024
_MAX_CONFIG_MAP_BYTES = 1024 * 1024

_TYPES = {(kind.api_version, kind.kind): kind for kind in KINDS}


def find_kind(obj: Object) -> Kind | None:
    """Return the kind of an object, or None if the server does not serve it."""
    return _TYPES.get((str(obj.get("apiVersion")), str(obj.get("kind"))))


def find_violations(obj: Object, before: Object | None) -> list[str]:
    """Return one line per broken rule, none for a valid object."""
    metadata = obj["metadata"]
    kind = find_kind(obj)
    found = [
        *_name_violations(metadata, namespaced=kind is None or kind.namespaced),
        *_label_violations(metadata),
        *_annotation_violations(metadata),
        *_owner_reference_violations(metadata),
    ]
    if kind == CONFIG_MAP:
        found += _config_map_violations(obj)
    if kind == SECRET:
        found += secrets.find_violations(obj, before)
    if kind == CONTROLLER_REVISION and before is not None and before.get("data") != obj.get("data"):
        found.append("data: changed; expected no change, because a ControllerRevision is immutable")
    return found


def _name_violations(metadata: Object, *, namespaced: bool) -> Iterator[str]:
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not isinstance(name, str) or len(name) > _MAX_NAME_LENGTH or not _DNS_SUBDOMAIN.fullmatch(name):
        yield f"metadata.name: {name!r}; expected a DNS subdomain of at most {_MAX_NAME_LENGTH} characters"
    if namespaced and (not isinstance(namespace, str) or not _DNS_LABEL.fullmatch(namespace)):
        yield f"metadata.namespace: {namespace!r}; expected a DNS label of at most 63 characters"


def _label_violations(metadata: Object) -> Iterator[str]:
    for key, value in _map_items(metadata, "labels"):
        if not _QUALIFIED_NAME.fullmatch(key):
            yield f"metadata.labels: {key!r}; expected a label key such as example.com/team"
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            yield f"metadata.labels[{key}]: {value!r}; expected a label value of at most 63 characters"


def _annotation_violations(metadata: Object) -> Iterator[str]:
    size = 0
    for key, value in _map_items(metadata, "annotations"):
        if not _QUALIFIED_NAME.fullmatch(key.lower()):
            yield f"metadata.annotations: {key!r}; expected an annotation key such as example.com/team"
        if not isinstance(value, str):
            yield f"metadata.annotations[{key}]: {value!r}; expected a string"
        else:
            size += len(key.encode()) + len(value.encode())
    if size > _MAX_ANNOTATION_BYTES:
        yield f"metadata.annotations: {size} bytes; expected at most {_MAX_ANNOTATION_BYTES}"


def _owner_reference_violations(metadata: Object) -> Iterator[str]:
    references = metadata.get("ownerReferences") or []
    for position, reference in enumerate(references):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not reference.get(field):
                yield f"metadata.ownerReferences[{position}].{field}: is required"
    if sum(bool(reference.get("controller")) for reference in references) > 1:
        yield "metadata.ownerReferences: several controllers; expected at most one"


def _map_items(metadata: Object, field: str) -> list[tuple[str, Any]]:
    return list((metadata.get(field) or {}).items())


def _config_map_violations(obj: Object) -> Iterator[str]:
    size = 0
    for field in ("data", "binaryData"):
        for key, value in (obj.get(field) or {}).items():
            if isinstance(value, str):
                size += len(value.encode())
            else:
                yield f"{field}[{key}]: {type(value).__name__}; expected a string"
    if size > _MAX_CONFIG_MAP_BYTES:
        yield f"data: {size} bytes; expected at most {_MAX_CONFIG_MAP_BYTES}"
