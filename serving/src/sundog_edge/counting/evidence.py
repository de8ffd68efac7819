"""The evidence document, built from the counters and the document in force. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sundog_edge.counting import histogram, unit_groups
from sundog_edge.counting.blocks import BLOCK_S
from sundog_edge.counting.boots import Boot
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.log_lines import ROW_COLUMNS, SERVICE_REFUSALS, SLOW_COLUMNS
from sundog_edge.counting.rows import RowCounters, RowKey
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
    """The document in force for every new request. `since` is the time at which each service last changed, by name."""

    document: SplitDocument
    applied_at: float
    since: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AgentState:
    """State of the agent besides the counters.

    Attributes:
        error: why the newest document was refused; empty if it was not.
        servers: replicas by application.
        running: running requests by service and application, including applications that left the document; None if not read.
        problems: problems with Secrets and TLS by service.
        feedback: feedback of the services that take it.
        mirrored: rows of mirrored requests.
        mirroring: whether a mirror runs.
        starts: startup reports by application, of one replica each.
        admitting: whether a credential is loaded, by service; only services with `auth`.
    """

    edge: str
    namespace: str
    error: str = ""
    servers: Mapping[str, ServerCounts] = field(default_factory=dict)
    running: Mapping[str, Mapping[str, int]] | None = field(default_factory=dict)
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    feedback: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mirrored: Sequence[Mapping[str, Any]] = ()
    mirroring: bool = False
    starts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    admitting: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvidenceQuery:
    """The requested part of the evidence: services by name (none: all), rows that changed at or after `since`, and details.

    An unknown service is not an error; it has no rows.
    """

    services: frozenset[str] = frozenset()
    since: float = 0.0
    details: frozenset[str] = frozenset()

    def includes(self, service: str) -> bool:
        """Return whether a service is requested."""
        return not self.services or service in self.services


DETAILS = frozenset({"blocks", "groups", "units"})
FULL_QUERY = EvidenceQuery()
BLOCK_COLUMNS = ("start", *ROW_COLUMNS, "inFlight")


def build_evidence(
    agent: AgentState,
    in_force: AppliedDocument | None,
    ledger: Ledger,
    clock: float,
    query: EvidenceQuery = FULL_QUERY,
) -> dict[str, Any]:
    """Return the evidence document of this edge at `clock`, in Unix seconds."""
    boots = list(ledger.boots.values())
    document = in_force.document if in_force else None
    return {
        "version": VERSION,
        "edge": agent.edge,
        "namespace": agent.namespace,
        "clock": clock,
        "document": {
            "generation": document.generation if document else 0,
            "appliedAt": in_force.applied_at if in_force else 0.0,
            "error": agent.error,
        },
        "services": {
            service.name: _service(service, in_force, agent, boots)
            for service in (document.services if document else ())
            if query.includes(service.name)
        },
        "boots": [_boot(boot) for boot in boots],
        "histogram": {"version": histogram.VERSION, "edgesUs": histogram.EDGES_US},
        "counters": [
            _row(boot, key, row, query)
            for boot in boots
            for key, row in boot.rows.items()
            if row.changed >= query.since and query.includes(key.partition("/")[0])
        ],
        **(
            {"shadows": shadows}
            if (shadows := [row for row in agent.mirrored if query.includes(row["service"])])
            else {}
        ),
        "strayLines": ledger.strays,
        **_details(ledger, query),
    }


def _details(ledger: Ledger, query: EvidenceQuery) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "blocks" in query.details:
        found["blocks"] = {"seconds": BLOCK_S, "columns": BLOCK_COLUMNS}
    if "groups" in query.details:
        found["groups"] = {"columns": ("group", *ROW_COLUMNS)}
    if "units" in query.details:
        found["units"] = [
            {"service": service, "attempt": attempt, **sample.as_json()}
            for (service, _, attempt), sample in ((name.partition("/"), own) for name, own in ledger.samples.items())
            if query.includes(service)
        ]
    return found


def _service(
    service: Service, in_force: AppliedDocument | None, agent: AgentState, boots: Sequence[Boot]
) -> dict[str, Any]:
    refused = [(boot.id, boot.refused[service.name]) for boot in boots if service.name in boot.refused]
    return {
        "attempt": service.attempt,
        "epoch": service.epoch,
        "hash": service.hash,
        "since": in_force.since.get(service.name, in_force.applied_at) if in_force else 0.0,
        "arms": {arm.name: _arm(arm, agent) for arm in service.arms},
        **({} if agent.running is None else {"inFlight": _in_flight(service, agent.running.get(service.name, {}))}),
        "refused": [{"boot": boot, **dict.fromkeys(SERVICE_REFUSALS, 0), **kinds} for boot, kinds in refused],
        "problems": list(agent.problems.get(service.name, ())),
        **({"hasCredentials": agent.admitting[service.name]} if service.name in agent.admitting else {}),
        **({"feedback": agent.feedback[service.name]} if service.name in agent.feedback else {}),
        **({"match": service.match.model_dump()} if service.match else {}),
        **({"shadow": {"arm": service.shadow.arm, "mirroring": agent.mirroring}} if service.shadow else {}),
    }


def _in_flight(service: Service, running: Mapping[str, int]) -> dict[str, int]:
    applications = {arm.application for arm in service.arms}
    return {name: running.get(name, 0) for name in sorted({*running, *applications})}


def _arm(arm: Arm, agent: AgentState) -> dict[str, Any]:
    counts = agent.servers.get(arm.application)
    rendered: dict[str, Any] = {
        "application": arm.application,
        "weight": arm.weight,
        "slowMicroseconds": arm.slowMicroseconds,
        **{f"slowMicroseconds{place}": us for place, us in enumerate(arm.slow_us[1:], start=2)},
    }
    if counts is not None:
        rendered["servers"] = {"up": counts.up, "down": counts.down, "draining": counts.draining}
    if arm.application in agent.starts:
        rendered["startup"] = agent.starts[arm.application]
    return rendered


def _boot(boot: Boot) -> dict[str, Any]:
    without_service = boot.refused.get("", {})
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
        "refused": {"malformed": 0, "unknown": 0, "unfinished": 0, **without_service},
    }


def _row(boot: Boot, key: str, row: RowCounters, query: EvidenceQuery) -> dict[str, Any]:
    running = boot.running.get(key, {})
    rendered: dict[str, Any] = {
        "boot": boot.id,
        **RowKey.of(key)._asdict(),
        "changed": row.changed,
        "assigned": row.assigned,
        "inFlight": row.in_flight,
        "inFlightSince": [[block * BLOCK_S, running[block]] for block in sorted(running)],
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
        "clientClosed": row.client_closed,
        "servedElsewhere": row.served_elsewhere,
        "ttfb": row.ttfb,
        "total": row.total,
    }
    if "blocks" in query.details:
        rendered["blocks"] = _blocks(row, running)
    if "groups" in query.details:
        rendered["groups"] = unit_groups.to_rows(row.groups)
    return rendered


def _blocks(row: RowCounters, running: Mapping[int, int]) -> list[list[int]]:
    ended = {block: counts for block, *counts in row.blocks.rows()}
    zeros = [0] * row.blocks.width
    return [[block * BLOCK_S, *ended.get(block, zeros), running.get(block, 0)] for block in sorted({*ended, *running})]
