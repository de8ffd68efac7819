"""Describe a ModelDeployment in full: its state, what it waits for, and what happened."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from sundog_operator.api import (
    CAPACITY_IN_PLACE,
    Condition,
    ModelDeploymentStatus,
    RevisionStatus,
    format_timestamp,
)
from sundog_operator.api.reasons import DeploymentReason, StartFailure
from sundog_operator.core.revisions import Revision
from sundog_operator.ports import Object
from sundog_operator.shell.view.experiment import experiment_sections
from sundog_operator.shell.view.layout import (
    ago,
    conditions_section,
    events_section,
    facts_section,
    format_seconds,
    grid,
    make_section,
    reasons_section,
    title_line,
)

_WAITS_FOR_USER: Final = frozenset(StartFailure) - {StartFailure.SOURCE_UNAVAILABLE}
"""Failures of a start that another attempt alone does not cure."""


@dataclass(frozen=True, slots=True)
class DeploymentDetails:
    """A ModelDeployment with related objects.

    Attributes:
        experiment: the Experiment of the rollout under way, or of the last rollout.
        exception: the last exception of its model; empty if unknown.
        waiting: (name, text) about pods that wait for a node.
    """

    obj: Object
    revisions: Sequence[Revision] = ()
    experiment: Object | None = None
    exception: str = ""
    events: Sequence[Object] = field(default_factory=tuple)
    waiting: Sequence[tuple[str, str]] = ()


def describe_model_deployment(details: DeploymentDetails, now: datetime) -> RenderableType:
    """Describe a ModelDeployment in full."""
    meta = details.obj["metadata"]
    status = ModelDeploymentStatus.parse(details.obj.get("status"))
    parts: list[RenderableType] = [
        title_line(f"ModelDeployment {meta['namespace']}/{meta['name']}"),
        facts_section([*_summary(details.obj, status), *details.waiting, *_describe_failure(details, status)]),
    ]
    parts += make_section("Revisions", _revisions_table(details, status, now))
    if details.experiment is not None:
        parts += experiment_sections(details.experiment, now)
    parts += make_section("Commands", _last_command_and_rollout(status))
    parts += make_section("Conditions", conditions_section(status.conditions, now))
    parts += make_section("Reasons", reasons_section(status.conditions))
    parts += make_section("Events", events_section(details.events, now))
    return Group(*parts)


def find_wait_reason(obj: Object, status: ModelDeploymentStatus) -> str:
    """Return in one line what has to happen next; `nothing` if the spec is reached."""
    if status.observed_generation != obj["metadata"].get("generation"):
        return "the operator has not read the newest spec yet"
    by_type = {condition.type: condition for condition in status.conditions}
    failed = by_type.get("RevisionReady")
    for type_ in ("Stalled", "Progressing", "Reconciling"):
        condition = by_type.get(type_)
        if condition is None or condition.status != "True":
            continue
        text = condition.message or condition.reason
        if type_ == "Progressing" and failed is not None and failed.reason in _WAITS_FOR_USER:
            return f"your fix of {failed.reason}: {failed.message}; meanwhile {text}"
        return text
    for type_ in ("Ready", "TrafficSynced"):
        condition = by_type.get(type_)
        if condition is not None and condition.status != "True":
            return condition.message or condition.reason
    progressing = by_type.get("Progressing")
    if progressing is not None and progressing.reason == DeploymentReason.EXPERIMENT_RUNNING:
        return progressing.message
    return "nothing"


def _summary(obj: Object, status: ModelDeploymentStatus) -> list[tuple[str, str]]:
    ready = next((condition for condition in status.conditions if condition.type == "Ready"), None)
    return [
        ("Ready", f"{ready.status}, {ready.reason}" if ready else "Unknown, Pending"),
        ("Waits for", find_wait_reason(obj, status)),
        ("Endpoint", status.url or "none yet"),
        (
            "Replicas",
            f"{status.ready_replicas} of {status.replicas} ready{_describe_sharing(status)}{_describe_edge_load(status)}"
            f"{_describe_idle(status)}",
        ),
        *([("Started", start)] if (start := _describe_start(status)) else []),
        *([("Dry run", dry_run.message)] if (dry_run := _find_dry_run(status)) is not None else []),
        *([("Paused", "spec.paused is true: rollouts are paused")] if obj["spec"].get("paused") else []),
    ]


def _describe_failure(details: DeploymentDetails, status: ModelDeploymentStatus) -> Iterator[tuple[str, str]]:
    """Yield the exception of the newest rollout's model, and the command that prints its logs."""
    number = newest_rollout_revision(status)
    if details.exception:
        yield "Raised", f"revision {number}: {details.exception}"
    if details.exception or (status.last_rollout is not None and status.last_rollout.outcome == "RolledBack"):
        yield "Logs", f"sundog logs {details.obj['metadata']['name']} --revision {number}"


def newest_rollout_revision(status: ModelDeploymentStatus) -> int | None:
    """Return the revision of the rollout under way, or of the last rollout."""
    if status.candidate is not None:
        return status.candidate.revision
    return status.last_rollout.revision if status.last_rollout is not None else None


def _describe_sharing(status: ModelDeploymentStatus) -> str:
    """Describe how a candidate shares stable's replicas; empty if it does not."""
    capacity = status.capacity
    if capacity is None or capacity.mode != CAPACITY_IN_PLACE or capacity.needed_replicas is None:
        return ""
    spare = f", and {capacity.spare_replicas} more that the cluster has capacity for" if capacity.spare_replicas else ""
    return f"; in place: both revisions share the {capacity.needed_replicas} that the service needs{spare}"


def _describe_edge_load(status: ModelDeploymentStatus) -> str:
    """Describe a load at the edges that Ray Serve has no replicas for; empty without one."""
    load = status.edge_load
    if load is None:
        return ""
    text = f"; requests at the edges need {load.replicas} since {format_timestamp(load.since)}"
    return text if load.in_force else f"{text}, and get them after spec.autoscaling.upscaleDelay"


def _describe_idle(status: ModelDeploymentStatus) -> str:
    """Describe a rollout without requests, whose revisions are at zero or start again; empty for another one."""
    idle = status.idle
    texts = {"AtZero": "; the rollout has no requests since", "Waking": "; starting from zero since"}
    return "" if idle is None or idle.state not in texts else f"{texts[idle.state]} {format_timestamp(idle.since)}"


def _describe_start(status: ModelDeploymentStatus) -> str:
    """Describe the duration of the last start, in total and by phase; empty if unknown."""
    startup = status.startup
    if startup is None:
        return ""
    durations = [(name, value) for name, value in startup if isinstance(value, timedelta) and name != "total"]
    phases = ", ".join(f"{name} {format_seconds(duration)}" for name, duration in durations if duration)
    total = "" if startup.total is None else f" in {format_seconds(startup.total)}"
    woken = "" if startup.woken_at is None else f" from zero at {startup.woken_at:%Y-%m-%dT%H:%M:%SZ}"
    return f"revision {startup.revision}{woken}{total}" + (f": {phases}" if phases else "")


def _find_dry_run(status: ModelDeploymentStatus) -> Condition | None:
    return next((condition for condition in status.conditions if condition.reason == DeploymentReason.DRY_RUN), None)


def _revisions_table(details: DeploymentDetails, status: ModelDeploymentStatus, now: datetime) -> RenderableType:
    table = grid("", "ROLE", "WEIGHT", "READY", "SINCE", "MODEL", header=True)
    serving: list[tuple[str, RevisionStatus | None]] = [("stable", status.stable), ("candidate", status.candidate)]
    serving += [(f"arm {arm.name}", arm) for arm in status.arms or ()]
    for role, revision in ((role, revision) for role, revision in serving if revision is not None):
        table.add_row(*map(Text, _revision_cells(role, revision, now)))
    for retiring in status.retiring:
        table.add_row(*map(Text, (f"r{retiring.revision}", "drains", "0 %", "", ago(retiring.since, now), "")))
    for kept in status.kept:
        cells = (f"r{kept.revision}", "kept", "0 %", "", ago(kept.since, now), "")
        table.add_row(*map(Text, cells))
    live = {revision.revision for _, revision in serving if revision} | {
        each.revision for each in (*status.retiring, *status.kept)
    }
    for old in sorted((r for r in details.revisions if r.number not in live), key=lambda r: -r.number):
        uri = str(old.content.get("model", {}).get("uri", ""))
        role = "waits" if old.number == status.queued else "earlier"
        table.add_row(*map(Text, (f"r{old.number}", role, "", "", "", uri)))
    return table if table.row_count else Text("none yet")


def _revision_cells(role: str, revision: RevisionStatus, now: datetime) -> tuple[str, ...]:
    return (
        f"r{revision.revision}",
        role,
        f"{revision.weight:g} %",
        f"{revision.ready_replicas}/{revision.replicas}",
        ago(revision.since, now) if revision.since else "",
        revision.uri,
    )


def _last_command_and_rollout(status: ModelDeploymentStatus) -> RenderableType | None:
    facts = []
    if (command := status.last_command) is not None:
        message = f": {command.message}" if command.message else ""
        facts.append(("Last command", f"{command.verb} revision {command.revision}, {command.result}{message}"))
    if (last := status.last_rollout) is not None:
        reason = f": {last.reason}" if last.reason else ""
        facts.append(("Last rollout", f"revision {last.revision}, {last.outcome}{reason}"))
    return facts_section(facts) if facts else None
