"""The maps: what changes from document to document without a reload. Pure: document and layout in, text out.

A value of `splits` is `salt|unit header|timeout ms|timeout s|max bytes|end|arm|end|arm|…` with ascending segment ends, an arm being
`slot!row!route prefix!revision!name` and a row `service/attempt/epoch/arm/origin`.
"""

from collections.abc import Mapping

from sundog_edge.document import Document, Service
from sundog_edge.errors import DocumentError
from sundog_edge.layout import Layout

NO_HEADER = "-"
MAX_VALUE = 12_000
FIRST_SEGMENT_FIELD = 6

Maps = dict[str, dict[str, str]]
"""Map name → key → value."""

MAP_NAMES = ("prefixes", "splits", "hosts")
"""In the order in which they are to be written: what is referred to comes before what refers to it."""


def maps_of(document: Document, layout: Layout) -> Maps:
    """The content of all maps for a document whose applications have their slots in `layout`."""
    slots = layout.slot_of
    return {
        "prefixes": {holding.slot: holding.prefix for holding in (*layout.leaving, *layout.held)},
        "splits": {service.name: split_value(service, slots) for service in document.services},
        "hosts": {host: service.name for service in document.services for host in service.hosts},
    }


def split_value(service: Service, slots: Mapping[str, str]) -> str:
    """The map value of one service; `slots` gives the slot of every application. Raises DocumentError for a table that is too long."""
    timeout_ms = max(1, round(service.requestTimeoutSeconds * 1000))
    # The replica gets a second more than the edge: else its own 408 could come first and count as the client's fault.
    fields = [
        service.salt,
        service.unit.name.lower() if service.unit.kind == "header" else NO_HEADER,
        str(timeout_ms),
        f"{service.requestTimeoutSeconds + 1:g}",
        str(service.maxRequestBytes),
    ]
    for segment in service.table:
        arm = service.arms[segment.arm]
        row = f"{service.name}/{service.attempt}/{service.epoch}/{arm.name}/assigned"
        fields += [
            str(segment.end),
            f"{slots[arm.application]}!{row}!{arm.routePrefix.rstrip('/')}!{arm.revision}!{arm.name}",
        ]
    value = "|".join(fields)
    if len(value) > MAX_VALUE:
        raise DocumentError(
            f"service {service.name}: its range table takes {len(value)} bytes, at most {MAX_VALUE} fit HAProxy's buffer"
        )
    return value


def map_text(entries: Mapping[str, str]) -> str:
    """A map file."""
    return "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))
