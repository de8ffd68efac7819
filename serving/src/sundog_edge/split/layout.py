"""The static shape of HAProxy's configuration and which application holds which arm slot. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sundog_edge.split.document import Service, SplitDocument
from sundog_edge.split.policies import DEFAULT_WAIT_MS

MIN_SLOTS = 16
DEFAULT_DRAIN_S = 120
_DRAIN_MARGIN_S = 20
CHECK_MS = 500
"""Between two health checks of a server, where there are few."""

FALL, RISE = 2, 1
"""Checks in a row that fail until a server is down, and that pass until it is up again."""


@dataclass(frozen=True, slots=True, order=True)
class SlotServer:
    """One server of a slot, as it is known to answer. `maxconn` 0 is no limit of our own. `check_ms` is between health checks.

    `check_port` other than 0 makes it a gRPC server, whose replica is checked at that port by HTTP.
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
    """A slot in an application's hands."""

    slot: str
    application: str
    service: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything a reload needs beside the settings.

    Backends cannot be made at run time, so arm slots are declared ahead and given to applications as they come. A reload is needed
    only when slots run out, a name or public key is new, or no free slot has the wait that a service wants: HAProxy's rules hold the
    names of headers, cookies and JSON paths. `units` has them as `header:x-user-id`, `overrides` and `matches` as bare header names;
    `waits` are milliseconds by slot, where the longest wait is not the default; `public_keys` are names of files; `grpc` says whether
    every slot has a twin for gRPC, which comes with the first replica that offers it; `shadow` whether the rules of mirroring are there,
    `cors` whether those for browsers are, and `compression` whether answers can be compressed, which come with the first service
    that asks for them; `drain_s` the seconds that a worker
    which was replaced has for its requests, 0 where what it was started with is enough. `leaving` are slots whose
    application left the document but which may still have servers and requests. `servers` are those that were up, so that a new worker
    starts with them.
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

    @property
    def slot_of(self) -> dict[str, str]:
        """Slot by application, of those in the document."""
        return {holding.application: holding.slot for holding in self.held}

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Layout":
        """The layout that `as_json` gave."""
        return cls(
            slots=stored["slots"],
            units=tuple(stored.get("units", ())),
            overrides=tuple(stored.get("overrides", ())),
            matches=tuple(stored.get("matches", ())),
            waits=tuple((slot, wait) for slot, wait in stored.get("waits", ())),
            public_keys=tuple(stored.get("public_keys", ())),
            grpc=stored.get("grpc", False),
            shadow=stored.get("shadow", False),
            cors=stored.get("cors", False),
            compression=stored.get("compression", False),
            drain_s=stored.get("drain_s", 0),
            held=tuple(SlotAssignment(**holding) for holding in stored["held"]),
            leaving=tuple(SlotAssignment(**holding) for holding in stored["leaving"]),
            servers=tuple(SlotServer(**server) for server in stored["servers"]),
        )

    def needs_reload(self, other: "Layout") -> bool:
        """Whether going from this layout to the other is more than run-time commands can do."""
        new_keys = {*other.public_keys} - {*self.public_keys}
        return bool(new_keys) or self.static != other.static

    @property
    def static(self) -> tuple[object, ...]:
        """What only a reload changes, but for public keys."""
        names = self.units, self.overrides, self.matches
        return self.slots, names, self.waits, self.grpc, self.shadow, self.cors, self.compression, self.drain_s


def slot_names(count: int) -> tuple[str, ...]:
    """The names of the first slots."""
    return tuple(f"slot{number}" for number in range(count))


def fit_layout(layout: Layout, document: SplitDocument) -> Layout:
    """The layout for a document: every application keeps its slot, new ones get a free one, those gone start to leave theirs.

    When slots run out their number doubles, so that the next many applications need no reload. Names that nobody uses any more stay
    until a new one makes a reload necessary anyway.
    """
    wanted = {arm.application: (service.name, arm.routePrefix) for service in document.services for arm in service.arms}
    waiting = {
        arm.application: service.queue.wait_ms if service.queue else DEFAULT_WAIT_MS
        for service in document.services
        for arm in service.arms
    }
    known = {holding.application: holding for holding in (*layout.leaving, *layout.held)}
    kept = {name: SlotAssignment(known[name].slot, name, *rest) for name, rest in wanted.items() if name in known}
    leaving = tuple(holding for holding in known.values() if holding.application not in kept)
    newcomers = [name for name in wanted if name not in kept]
    taken = {holding.slot for holding in known.values()}
    slots = layout.slots
    while slots - len(taken) < len(newcomers):
        slots *= 2
    places, waits = _places(
        {name: waiting[name] for name in kept},
        {name: waiting[name] for name in newcomers},
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
    )


def max_request_s(service: Service) -> float:
    """The longest that a request of a service may be at the edge, in seconds, its wait for a replica included."""
    wait_s = service.queue.timeoutSeconds if service.queue else DEFAULT_WAIT_MS / 1000
    return service.requestTimeoutSeconds + wait_s


def _drain_s(document: SplitDocument) -> int:
    """The least of 120, 240, 480 … seconds that is longer than any request; 0 for the first of them."""
    needed, found = max(map(max_request_s, document.services), default=0.0) + _DRAIN_MARGIN_S, DEFAULT_DRAIN_S
    while found < needed:
        found *= 2
    return found if found > DEFAULT_DRAIN_S else 0


def _places(
    kept: Mapping[str, int],
    newcomers: Mapping[str, int],
    slot_of: Mapping[str, str],
    free: list[str],
    waits: dict[str, int],
) -> tuple[dict[str, str], tuple[tuple[str, int], ...]]:
    """A free slot for each newcomer, and the waits of all slots; `kept` and `newcomers` are waits by application.

    A free slot that has the wait already is taken first. Where another has to be given it, a second one gets it too, if there is one:
    it is the next revision's, which then needs no reload.
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
