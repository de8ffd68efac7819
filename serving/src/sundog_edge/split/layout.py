"""The static shape of HAProxy's configuration, and which application has which arm slot. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from sundog_edge.haproxy.names import GRPC_SUFFIX
from sundog_edge.split.document import Service, SplitDocument
from sundog_edge.split.policies import DEFAULT_WAIT_MS

MIN_SLOTS = 16
DEFAULT_DRAIN_S = 120
_DRAIN_MARGIN_S = 20
CHECK_MS = 500
"""Milliseconds between two health checks of a server while there are few servers."""

FALL, RISE = 2, 1
"""Failed checks in a row until a server is down; passed checks until it is up again."""


@dataclass(frozen=True, slots=True, order=True)
class SlotServer:
    """One server of a slot. `maxconn` 0 means no limit. `check_ms` is the time between health checks.

    A `check_port` other than 0 marks a gRPC server; HAProxy checks its replica at that port by HTTP.
    """

    slot: str
    name: str
    address: str
    maxconn: int
    backup: bool = False
    check_ms: int = CHECK_MS
    check_port: int = 0


@dataclass(frozen=True, slots=True)
class SlotAssignment:
    """The application that has a slot."""

    slot: str
    application: str
    service: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that a reload needs besides the settings.

    HAProxy cannot add backends at run time. So its configuration declares arm slots ahead, and applications get slots as they come.
    A reload is needed only when the slots run out, when a name or public key is new, or when no free slot has the wait that a service
    wants. (HAProxy's rules contain the names of headers, cookies and JSON paths.)

    Attributes:
        units: sources of units, such as `header:x-user-id`.
        overrides: names of headers in overrides.
        matches: names of headers in matches.
        waits: longest wait in milliseconds by slot, where it is not the default.
        public_keys: names of files.
        grpc: whether every slot has a twin for gRPC. Twins come with the first Serve that offers gRPC.
        shadow: whether the rules of mirroring exist. They come with the first service that needs them, like the next two.
        cors: whether the rules for browsers exist.
        compression: whether HAProxy may compress answers.
        drain_s: seconds that a replaced worker has for its requests; 0 where its start settings are enough.
        held: slots of applications in the document.
        leaving: slots whose application left the document, but which may still have servers and requests.
        servers: servers that were up. A new worker starts with them.
        cold: slots whose application is scaled to zero, until a replica answers again.
    """

    slots: int = MIN_SLOTS
    units: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    matches: tuple[str, ...] = ()
    waits: tuple[tuple[str, int], ...] = ()
    public_keys: tuple[str, ...] = ()
    grpc: bool = False
    shadow: bool = False
    cors: bool = False
    compression: bool = False
    drain_s: int = 0
    held: tuple[SlotAssignment, ...] = ()
    leaving: tuple[SlotAssignment, ...] = ()
    servers: tuple[SlotServer, ...] = ()
    cold: tuple[str, ...] = ()

    @property
    def slot_of(self) -> dict[str, str]:
        """Slot by application, for the applications in the document."""
        return {holding.application: holding.slot for holding in self.held}

    @property
    def twins(self) -> tuple[str, ...]:
        """Suffixes of a slot's backends: none for HTTP, and that of gRPC if it has twins."""
        return ("", GRPC_SUFFIX) if self.grpc else ("",)

    @property
    def cold_applications(self) -> frozenset[str]:
        """Applications in the document that are scaled to zero and have no replica yet."""
        return frozenset(holding.application for holding in self.held if holding.slot in self.cold)

    def as_json(self) -> dict[str, Any]:
        """Return the layout as plain JSON."""
        return asdict(self)

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "Layout":
        """Return the layout that `as_json` gave. An older one lacks some members, and another version may have further ones."""
        return _LAYOUT.validate_python(stored)

    def needs_reload(self, other: "Layout") -> bool:
        """Return whether the change to the other layout needs a reload, because run-time commands cannot do it."""
        new_keys = {*other.public_keys} - {*self.public_keys}
        return bool(new_keys) or self.static != other.static

    @property
    def static(self) -> tuple[object, ...]:
        """Parts that only a reload changes, except public keys."""
        names = self.units, self.overrides, self.matches
        return self.slots, names, self.waits, self.grpc, self.shadow, self.cors, self.compression, self.drain_s


_LAYOUT = TypeAdapter(Layout)


def slot_names(count: int) -> tuple[str, ...]:
    """Return the names of the first `count` slots."""
    return tuple(f"slot{number}" for number in range(count))


def fit_layout(layout: Layout, document: SplitDocument) -> Layout:
    """Return the layout for a document: known applications keep their slots, new ones get free slots, and slots of the others are leaving.

    When the slots run out, their number doubles, so that many further applications need no reload. Unused names stay until a new name
    makes a reload necessary anyway.
    """
    wanted = {arm.application: (service.name, arm.routePrefix) for service in document.services for arm in service.arms}
    wait_ms = {arm.application: service.wait_ms for service in document.services for arm in service.arms}
    known = {holding.application: holding for holding in (*layout.leaving, *layout.held)}
    kept = {name: SlotAssignment(known[name].slot, name, *rest) for name, rest in wanted.items() if name in known}
    leaving = tuple(holding for holding in known.values() if holding.application not in kept)
    newcomers = [name for name in wanted if name not in kept]
    taken = {holding.slot for holding in known.values()}
    slots = layout.slots
    while slots - len(taken) < len(newcomers):
        slots *= 2
    places, waits = _choose_slots(
        {name: wait_ms[name] for name in kept},
        {name: wait_ms[name] for name in newcomers},
        {name: holding.slot for name, holding in kept.items()},
        [slot for slot in slot_names(slots) if slot not in taken],
        dict(layout.waits),
    )
    fresh = {name: SlotAssignment(places[name], name, *wanted[name]) for name in newcomers}
    units = {service.unit.source for service in document.services} - {""}
    overrides = {override.header.lower() for service in document.services for override in service.overrides}
    matches = {name for service in document.services if service.match for name in service.match.headers}
    return replace(
        layout,
        slots=slots,
        units=layout.units if units <= {*layout.units} else tuple(sorted(units)),
        overrides=layout.overrides if overrides <= {*layout.overrides} else tuple(sorted(overrides)),
        matches=layout.matches if matches <= {*layout.matches} else tuple(sorted(matches)),
        waits=waits,
        shadow=layout.shadow or any(service.shadow for service in document.services),
        cors=layout.cors or any(service.cors for service in document.services),
        compression=layout.compression or any(service.compression for service in document.services),
        drain_s=max(layout.drain_s, _drain_s(document)),
        held=(*kept.values(), *fresh.values()),
        leaving=leaving,
        cold=tuple(holding.slot for holding in kept.values() if holding.slot in layout.cold),
    )


def max_request_s(service: Service) -> float:
    """Return the longest time that a request of a service may spend at the edge, in seconds, including its wait for a replica."""
    queue_s = service.queue.timeoutSeconds if service.queue else DEFAULT_WAIT_MS / 1000
    return service.requestTimeoutSeconds + max(queue_s, service.coldStartSeconds or 0.0)


def _drain_s(document: SplitDocument) -> int:
    """Return the least of 120, 240, 480 … seconds that is longer than any request; 0 in place of 120."""
    needed_s, drain_s = max(map(max_request_s, document.services), default=0.0) + _DRAIN_MARGIN_S, DEFAULT_DRAIN_S
    while drain_s < needed_s:
        drain_s *= 2
    return drain_s if drain_s > DEFAULT_DRAIN_S else 0


def _choose_slots(
    kept: Mapping[str, int],
    newcomers: Mapping[str, int],
    slot_of: Mapping[str, str],
    free: list[str],
    waits: dict[str, int],
) -> tuple[dict[str, str], tuple[tuple[str, int], ...]]:
    """Return a free slot for each newcomer, and the waits of all slots. `kept` and `newcomers` are waits by application.

    A newcomer gets a free slot that already has its wait, if there is one. Otherwise two free slots get the wait: the second is for the
    next revision, which then needs no reload.
    """
    waits |= {slot_of[name]: wait for name, wait in kept.items()}
    places: dict[str, str] = {}
    for name, wait in newcomers.items():
        fitting = [slot for slot in free if waits.get(slot, DEFAULT_WAIT_MS) == wait]
        if not fitting:
            fitting = free[:2]
            waits |= dict.fromkeys(fitting, wait)
        places[name] = fitting[0]
        free.remove(fitting[0])
    return places, tuple(sorted((slot, wait) for slot, wait in waits.items() if wait != DEFAULT_WAIT_MS))
