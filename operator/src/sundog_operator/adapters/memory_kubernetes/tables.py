"""Prints the table that `kubectl get` shows, from the printer columns of a CRD."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sundog_operator.ports import Object

Column = Mapping[str, Any]
"""An entry of a CRD's additionalPrinterColumns."""

_AGE: Column = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]|\[\?\(@\.([A-Za-z0-9_-]+)==[\"']([^\"']*)[\"']\)\]")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def make_table(objects: Sequence[Object], columns: Sequence[Column], version: str, now: datetime) -> Object:
    """Return a meta.k8s.io/v1 Table of the objects: their names, then the columns, or the age where a kind has no columns."""
    shown = columns or [_AGE]
    name = {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": [name, *map(_definition, shown)],
        "rows": [_row(obj, shown, now) for obj in objects],
    }


def find_value(obj: Any, path: str) -> Any:
    """Return the value at a JSONPath of member, index and `[?(@.key=="value")]` steps; None without a value."""
    position = 0
    while obj is not None and position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            return None
        obj = _step(obj, match)
        position = match.end()
    return obj


def _step(obj: Any, match: re.Match[str]) -> Any:
    member, index, key, value = match.groups()
    if member is not None:
        return obj.get(member) if isinstance(obj, dict) else None
    if not isinstance(obj, list):
        return None
    if index is not None:
        return obj[int(index)] if int(index) < len(obj) else None
    return next((item for item in obj if isinstance(item, dict) and str(item.get(key)) == value), None)


def _definition(column: Column) -> Object:
    kind = column["type"]
    return {
        "name": column["name"],
        "type": "string" if kind == "date" else kind,
        "format": "",
        "description": column.get("description", ""),
        "priority": column.get("priority", 0),
    }


def _row(obj: Object, columns: Sequence[Column], now: datetime) -> Object:
    cells = [_cell(find_value(obj, column["jsonPath"]), column["type"], now) for column in columns]
    metadata = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
    return {"cells": [obj["metadata"]["name"], *cells], "object": metadata}


def _cell(value: Any, kind: str, now: datetime) -> Any:
    if value is None:
        return None
    if kind == "date":
        return _age(str(value), now)
    return value if kind in {"integer", "number", "boolean"} else str(value)


def _age(timestamp: str, now: datetime) -> str:
    try:
        since = datetime.fromisoformat(timestamp)
    except ValueError:
        return "<invalid>"
    # Like kubectl: the largest unit of which there are at least two.
    seconds = max(0, int((now - (since if since.tzinfo else since.replace(tzinfo=UTC))).total_seconds()))
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m")):
        if seconds >= 2 * unit:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"
