"""All about one object, for people: what it is, what it waits for, and what happened."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from sundog_operator.api import (
    CAPACITY_IN_PLACE,
    Condition,
    ModelDeploymentStatus,
    RevisionStatus,
    format_duration,
)
from sundog_operator.core.revisions import Revision
from sundog_operator.ports import Object
from sundog_operator.shell.describe_experiment import rollout
from sundog_operator.shell.layout import (
    NO_TIME,
    ago,
    conditions_section,
    events_section,
    facts_section,
    grid,
    make_section,
    title_line,
)


@dataclass(frozen=True, slots=True)
class DeploymentDetails:
    """What is known of a ModelDeployment.

    `experiment` is that of the rollout under way, or of the last one; `exception` is what its model raised last, where that is known.
    """

    obj: Object
    revisions: Sequence[Revision] = ()
    experiment: Object | None = None
    exception: str = ""
    events: Sequence[Object] = field(default_factory=tuple)


def describe_model_deployment(subject: DeploymentDetails, now: datetime) -> RenderableType:
    """A ModelDeployment in full."""
    meta = subject.obj["metadata"]
    status = ModelDeploymentStatus.parse(subject.obj.get("status"))
    parts: list[RenderableType] = [
        title_line(f"ModelDeployment {meta['namespace']}/{meta['name']}"),
        facts_section([*_summary(subject.obj, status), *_raised(subject, status)]),
    ]
    parts += make_section("Revisions", _revisions(subject, status, now))
    if subject.experiment is not None:
        parts += rollout(subject.experiment, now)
    parts += make_section("Commands", _last(status))
    parts += make_section("Conditions", conditions_section(status.conditions, now))
    parts += make_section("Events", events_section(subject.events, now))
    return Group(*parts)


def find_wait_reason(obj: Object, status: ModelDeploymentStatus) -> str:
    """What has to happen next, in one line; `nothing` when all is as the spec says."""
    if status.observed_generation != obj["metadata"].get("generation"):
        return "the operator has not looked at the newest spec yet"
    by_type = {condition.type: condition for condition in status.conditions}
    for type_ in ("Stalled", "Progressing", "Reconciling"):
        condition = by_type.get(type_)
        if condition is not None and condition.status == "True":
            return condition.message or condition.reason
    for type_ in ("Ready", "TrafficSynced"):
        condition = by_type.get(type_)
        if condition is not None and condition.status != "True":
            return condition.message or condition.reason
    progressing = by_type.get("Progressing")
    if progressing is not None and progressing.reason == "ExperimentRunning":
        return progressing.message
    return "nothing"


def _summary(obj: Object, status: ModelDeploymentStatus) -> list[tuple[str, str]]:
    ready = next((condition for condition in status.conditions if condition.type == "Ready"), None)
    return [
        ("Ready", f"{ready.status}, {ready.reason}" if ready else "Unknown, Pending"),
        ("Waits for", find_wait_reason(obj, status)),
        ("Endpoint", status.url or "none yet"),
        ("Replicas", f"{status.ready_replicas} of {status.replicas} ready{_sharing(status)}"),
        *([("Started", started)] if (started := _started(status)) else []),
        *([("Dry run", dry.message)] if (dry := _dry_run(status)) is not None else []),
        *([("Paused", "spec.paused is true: rollouts stand still")] if obj["spec"].get("paused") else []),
    ]


def _raised(subject: DeploymentDetails, status: ModelDeploymentStatus) -> Iterator[tuple[str, str]]:
    """What the model of the newest rollout raised, and where more of it is."""
    number = newest_rollout_revision(status)
    if subject.exception:
        yield "Raised", f"revision {number}: {subject.exception}"
    if subject.exception or (status.last_rollout is not None and status.last_rollout.outcome == "RolledBack"):
        yield "Logs", f"sundog logs {subject.obj['metadata']['name']} --revision {number}"


def newest_rollout_revision(status: ModelDeploymentStatus) -> int | None:
    """The revision that is rolled out, or was last."""
    if status.candidate is not None:
        return status.candidate.revision
    return status.last_rollout.revision if status.last_rollout is not None else None


def _sharing(status: ModelDeploymentStatus) -> str:
    """That a candidate's replicas take the place of stable's, where they do."""
    told = status.capacity
    if told is None or told.mode != CAPACITY_IN_PLACE or told.needed_replicas is None:
        return ""
    spare = f", and {told.spare_replicas} more for which there was room" if told.spare_replicas else ""
    return f"; in place: both revisions share the {told.needed_replicas} that the service needs{spare}"


def _started(status: ModelDeploymentStatus) -> str:
    """How long the last start took, with where the time went; empty where it is not known."""
    startup = status.startup
    if startup is None:
        return ""
    took = startup.model_dump(mode="json", exclude={"revision", "total"}, exclude_none=True)
    phases = ", ".join(f"{name} {text}" for name, text in took.items() if text != NO_TIME)
    total = "" if startup.total is None else f" in {format_duration(startup.total)}"
    return f"revision {startup.revision}{total}" + (f": {phases}" if phases else "")


def _dry_run(status: ModelDeploymentStatus) -> Condition | None:
    return next((condition for condition in status.conditions if condition.reason == "DryRun"), None)


def _revisions(subject: DeploymentDetails, status: ModelDeploymentStatus, now: datetime) -> RenderableType:
    table = grid("", "ROLE", "WEIGHT", "READY", "SINCE", "MODEL", header=True)
    shown: list[tuple[str, RevisionStatus | None]] = [("stable", status.stable), ("candidate", status.candidate)]
    shown += [(f"arm {arm.name}", arm) for arm in status.arms or ()]
    for role, revision in ((role, revision) for role, revision in shown if revision is not None):
        table.add_row(*map(Text, _revision(role, revision, now)))
    for retiring in status.retiring:
        table.add_row(*map(Text, (f"r{retiring.revision}", "drains", "0 %", "", ago(retiring.since, now), "")))
    for kept in status.kept:
        cells = (f"r{kept.revision}", "kept", "0 %", "", ago(kept.since, now), "")
        table.add_row(*map(Text, cells))
    live = {revision.revision for _, revision in shown if revision} | {
        each.revision for each in (*status.retiring, *status.kept)
    }
    for old in sorted((r for r in subject.revisions if r.number not in live), key=lambda r: -r.number):
        uri = str(old.content.get("model", {}).get("uri", ""))
        role = "waits" if old.number == status.queued else "earlier"
        table.add_row(*map(Text, (f"r{old.number}", role, "", "", "", uri)))
    return table if table.row_count else Text("none yet")


def _revision(role: str, revision: RevisionStatus, now: datetime) -> tuple[str, ...]:
    return (
        f"r{revision.revision}",
        role,
        f"{revision.weight:g} %",
        f"{revision.ready_replicas}/{revision.replicas}",
        ago(revision.since, now) if revision.since else "",
        revision.uri,
    )


def _last(status: ModelDeploymentStatus) -> RenderableType | None:
    facts = []
    if (command := status.last_command) is not None:
        told = f": {command.message}" if command.message else ""
        facts.append(("Last command", f"{command.verb} revision {command.revision}, {command.result}{told}"))
    if (last := status.last_rollout) is not None:
        told = f": {last.reason}" if last.reason else ""
        facts.append(("Last rollout", f"revision {last.revision}, {last.outcome}{told}"))
    return facts_section(facts) if facts else None
