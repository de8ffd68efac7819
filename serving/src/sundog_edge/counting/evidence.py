"""The evidence document, built from the counters and from what is in force. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sundog_edge.counting import blocks as blocking
from sundog_edge.counting import histogram
from sundog_edge.counting import unit_groups as grouping
from sundog_edge.counting.boots import Boot
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.log_lines import SERVICE_REFUSALS, SLOW_COLUMNS
from sundog_edge.counting.rows import ROW_COLUMNS, RowCounters, RowKey
from sundog_edge.split.document import Arm, Service, SplitDocument

VERSION = 1


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """The replicas of one application, by health."""

    up: int = 0
    down: int = 0
    draining: int = 0


@dataclass(frozen=True, slots=True)
class AppliedDocument:
    """The document that every new request is assigned by. `since` has the instant at which each service last changed."""

    document: SplitDocument
    applied_at: float
    since: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AgentState:
    """What the agent sees beside the counters: replicas by application, running requests by service and
    application (those that have left the document included), why a document was refused, what services lack of their Secrets, the feedback
    of services that take any, what was mirrored, whether a mirror runs, and how the first replica of each application started.
    """

    edge: str
    namespace: str
    error: str = ""
    servers: Mapping[str, ServerCounts] = field(default_factory=dict)
    running: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    feedback: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mirrored: Sequence[Mapping[str, Any]] = ()
    mirroring: bool = False
    starts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvidenceQuery:
    """What of the evidence is asked for: services by name (none: all), rows that changed at or after an instant, and details.

    Raises nothing: a service that is not known has nothing to tell.
    """

    services: frozenset[str] = frozenset()
    since: float = 0.0
    details: frozenset[str] = frozenset()

    def asks(self, service: str) -> bool:
        """Whether a service is asked for."""
        return not self.services or service in self.services


DETAILS = frozenset({"blocks", "groups", "units"})
FULL_QUERY = EvidenceQuery()
BLOCK_COLUMNS = ("start", *ROW_COLUMNS, "inFlight")


def build_evidence(
    seen: AgentState,
    in_force: AppliedDocument | None,
    ledger: Ledger,
    clock: float,
    question: EvidenceQuery = FULL_QUERY,
) -> dict[str, Any]:
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
            if question.asks(service.name)
        },
        "boots": [_boot(boot) for boot in boots],
        "histogram": {"version": histogram.VERSION, "edgesUs": histogram.EDGES_US},
        "counters": [
            _row(boot, key, row, question)
            for boot in boots
            for key, row in boot.rows.items()
            if row.changed >= question.since and question.asks(key.partition("/")[0])
        ],
        **(
            {"shadows": shadows} if (shadows := [row for row in seen.mirrored if question.asks(row["service"])]) else {}
        ),
        "strayLines": ledger.strays,
        **_details(ledger, question),
    }


def _details(ledger: Ledger, question: EvidenceQuery) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "blocks" in question.details:
        found["blocks"] = {"seconds": blocking.BLOCK_S, "columns": BLOCK_COLUMNS}
    if "groups" in question.details:
        found["groups"] = {"columns": ("group", *grouping.COLUMNS)}
    if "units" in question.details:
        found["units"] = [
            {"service": service, "attempt": attempt, **sample.as_json()}
            for (service, _, attempt), sample in ((name.partition("/"), own) for name, own in ledger.samples.items())
            if question.asks(service)
        ]
    return found


def _service(
    service: Service, in_force: AppliedDocument | None, seen: AgentState, boots: Sequence[Boot]
) -> dict[str, Any]:
    applications = {arm.application for arm in service.arms}
    running = seen.running.get(service.name, {})
    refused = [(boot.id, boot.refused[service.name]) for boot in boots if service.name in boot.refused]
    return {
        "attempt": service.attempt,
        "epoch": service.epoch,
        "since": in_force.since.get(service.name, in_force.applied_at) if in_force else 0.0,
        "arms": {arm.name: _arm(arm, seen) for arm in service.arms},
        "inFlight": {name: running.get(name, 0) for name in sorted({*running, *applications})},
        "refused": [{"boot": boot, **dict.fromkeys(SERVICE_REFUSALS, 0), **kinds} for boot, kinds in refused],
        "problems": list(seen.problems.get(service.name, ())),
        **({"feedback": seen.feedback[service.name]} if service.name in seen.feedback else {}),
        **({"match": service.match.model_dump()} if service.match else {}),
        **({"shadow": {"arm": service.shadow.arm, "mirroring": seen.mirroring}} if service.shadow else {}),
    }


def _arm(arm: Arm, seen: AgentState) -> dict[str, Any]:
    counts = seen.servers.get(arm.application)
    told: dict[str, Any] = {
        "application": arm.application,
        "weight": arm.weight,
        "slowMicroseconds": arm.slowMicroseconds,
        **{f"slowMicroseconds{place}": us for place, us in enumerate(arm.slow_us[1:], start=2)},
    }
    if counts is not None:
        told["servers"] = {"up": counts.up, "down": counts.down, "draining": counts.draining}
    if arm.application in seen.starts:
        told["startup"] = seen.starts[arm.application]
    return told


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
            "gaps": boot.all_gaps,
            "dropped": boot.dropped,
        },
        "refused": {"malformed": 0, "unknown": 0, "unfinished": 0, **nowhere},
    }


def _row(boot: Boot, key: str, row: RowCounters, question: EvidenceQuery) -> dict[str, Any]:
    running = boot.running.get(key, {})
    made: dict[str, Any] = {
        "boot": boot.id,
        **RowKey.of(key)._asdict(),
        "changed": row.changed,
        "assigned": row.assigned,
        "inFlight": row.in_flight,
        "inFlightSince": [[block * blocking.BLOCK_S, running[block]] for block in sorted(running)],
        "lost": row.lost,
        "ends": row.ends,
        **{name: getattr(row, name) for name in SLOW_COLUMNS},
        "retries": {
            "firstAttemptFailed": row.first_attempt_failed,
            "retries": row.retries,
            "redispatched": row.redispatched,
            "rescued": row.rescued,
            "poison": row.poison,
        },
        "servedElsewhere": row.served_elsewhere,
        "ttfb": row.ttfb,
        "total": row.total,
    }
    if "blocks" in question.details:
        made["blocks"] = _blocks(row, running)
    if "groups" in question.details:
        made["groups"] = grouping.to_rows(row.groups)
    return made


def _blocks(row: RowCounters, running: Mapping[int, int]) -> list[list[int]]:
    ended = {block: counts for block, *counts in row.blocks.rows()}
    nothing = [0] * row.blocks.width
    return [
        [block * blocking.BLOCK_S, *ended.get(block, nothing), running.get(block, 0)]
        for block in sorted({*ended, *running})
    ]
