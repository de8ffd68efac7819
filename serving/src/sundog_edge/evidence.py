"""The evidence document, built from the counters and from what is in force. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sundog_edge import histogram
from sundog_edge.counters import Boot, Ledger, Row
from sundog_edge.document import Arm, Document, Service

VERSION = 1


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """The replicas of one application, by health."""

    up: int = 0
    down: int = 0
    draining: int = 0


@dataclass(frozen=True, slots=True)
class InForce:
    """The document that every new request is assigned by. `since` has the instant at which each service last changed."""

    document: Document
    applied_at: float
    since: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the agent sees beside the counters: replicas by application, running requests by service and
    application (those that have left the document included), and why a document was refused.
    """

    edge: str
    namespace: str
    error: str = ""
    servers: Mapping[str, ServerCounts] = field(default_factory=dict)
    running: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def build(seen: Surroundings, in_force: InForce | None, ledger: Ledger, clock: float) -> dict[str, Any]:
    """The evidence document of this edge at `clock` (Unix seconds)."""
    boots = list(ledger.boots.values())
    document = in_force.document if in_force else None
    return {
        "version": VERSION,
        "edge": seen.edge,
        "namespace": seen.namespace,
        "clock": clock,
        "document": {
            "generation": document.generation if document else 0,
            "appliedAt": in_force.applied_at if in_force else 0.0,
            "error": seen.error,
        },
        "services": {
            service.name: _service(service, in_force, seen, boots)
            for service in (document.services if document else ())
        },
        "boots": [_boot(boot) for boot in boots],
        "histogram": {"version": histogram.VERSION, "edgesUs": histogram.EDGES_US},
        "counters": [_row(boot, key, row) for boot in boots for key, row in boot.rows.items()],
        "strayLines": ledger.strays,
    }


def _service(service: Service, in_force: InForce | None, seen: Surroundings, boots: Sequence[Boot]) -> dict[str, Any]:
    applications = {arm.application for arm in service.arms}
    running = seen.running.get(service.name, {})
    refused = [(boot.id, boot.refused[service.name]) for boot in boots if service.name in boot.refused]
    return {
        "attempt": service.attempt,
        "epoch": service.epoch,
        "since": in_force.since.get(service.name, in_force.applied_at) if in_force else 0.0,
        "arms": {arm.name: _arm(arm, seen) for arm in service.arms},
        "inFlight": {name: running.get(name, 0) for name in sorted({*running, *applications})},
        "refused": [
            {"boot": boot, "size": kinds["size"], "malformed": kinds["malformed"], "notReady": kinds["notReady"]}
            for boot, kinds in refused
        ],
    }


def _arm(arm: Arm, seen: Surroundings) -> dict[str, Any]:
    counts = seen.servers.get(arm.application, ServerCounts())
    return {
        "application": arm.application,
        "weight": arm.weight,
        "servers": {"up": counts.up, "down": counts.down, "draining": counts.draining},
    }


def _boot(boot: Boot) -> dict[str, Any]:
    nowhere = boot.refused.get("", {})
    return {
        "id": boot.id,
        "pid": boot.pid,
        "startedAt": boot.started_at,
        "endedAt": boot.ended_at or None,
        "draining": boot.draining,
        "integrity": {
            "requests": boot.requests,
            "lines": boot.lines,
            "unparsable": boot.unparsable,
            "gaps": boot.gaps,
            "dropped": boot.dropped,
        },
        "refused": {kind: nowhere.get(kind, 0) for kind in ("malformed", "unknown", "unfinished")},
    }


def _row(boot: Boot, key: str, row: Row) -> dict[str, Any]:
    service, attempt, epoch, arm, origin, unit = key.split("/")
    return {
        "boot": boot.id,
        "service": service,
        "attempt": attempt,
        "epoch": int(epoch),
        "arm": arm,
        "origin": origin,
        "unit": unit,
        "assigned": row.assigned,
        "inFlight": row.in_flight,
        "lost": row.lost,
        "ends": row.ends,
        "retries": {
            "firstAttemptFailed": row.first_attempt_failed,
            "retries": row.retries,
            "redispatched": row.redispatched,
            "rescued": row.rescued,
        },
        "servedElsewhere": row.served_elsewhere,
        "ttfb": row.ttfb,
        "total": row.total,
    }
