"""All about one object, for people: what it is, what it waits for, and what happened."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sundog_operator.api import (
    CAPACITY_IN_PLACE,
    Condition,
    ExperimentStatus,
    FrozenPlan,
    MetricStatus,
    ModelDeploymentStatus,
    PlanComparison,
    PlanGuardrail,
    PlanOutcome,
    PlanStep,
    RevisionStatus,
    ShadowStatus,
    format_duration,
    is_latency_metric,
)
from sundog_operator.core.kubernetes import names
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import (
    header_match,
    notifications,
    plan_text,
    prometheus_checks,
    replica_counts,
    state,
    webhook_urls,
)
from sundog_operator.core.rollout.resolve import format_latency
from sundog_operator.core.rollout.shadow_comparison import SHADOW
from sundog_operator.ports import Object

ONE_SIDED_NOTE: Final = (
    "Better and Worse are each found by one side alone, at every look; an interval has both its ends at that level, "
    "so it is a little wider and may still contain 1."
)
_NO_TIME: Final = format_duration(timedelta())
_UNDECIDED: Final = {
    "pause": "it is paused",
    "rollback": "stable gets all traffic",
    "promote": "it is passed without evidence",
}
"""What follows on a step that takes too long, by `onInconclusive`."""


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
        _title(f"ModelDeployment {meta['namespace']}/{meta['name']}"),
        _facts([*_summary(subject.obj, status), *_raised(subject, status)]),
    ]
    parts += _section("Revisions", _revisions(subject, status, now))
    if subject.experiment is not None:
        parts += _rollout(subject.experiment, now)
    parts += _section("Commands", _last(status))
    parts += _section("Conditions", _conditions(status.conditions, now))
    parts += _section("Events", _events(subject.events, now))
    return Group(*parts)


def describe_experiment(obj: Object, events: Sequence[Object], now: datetime) -> RenderableType:
    """An Experiment in full."""
    meta = obj["metadata"]
    status = ExperimentStatus.parse(obj.get("status"))
    return Group(
        _title(f"Experiment {meta['namespace']}/{meta['name']}"),
        _facts([("Model", str((obj.get("spec") or {}).get("modelDeployment", "")))]),
        *_rollout(obj, now),
        *_section("Conditions", _conditions(status.conditions, now)),
        *_section("Events", _events(events, now)),
    )


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
    phases = ", ".join(f"{name} {text}" for name, text in took.items() if text != _NO_TIME)
    total = "" if startup.total is None else f" in {format_duration(startup.total)}"
    return f"revision {startup.revision}{total}" + (f": {phases}" if phases else "")


def _dry_run(status: ModelDeploymentStatus) -> Condition | None:
    return next((condition for condition in status.conditions if condition.reason == "DryRun"), None)


def _title(text: str) -> RenderableType:
    return Text(text, style="bold")


def _section(title: str, body: RenderableType | None) -> list[RenderableType]:
    return [] if body is None else [Text(), _title(title), body]


def _facts(facts: Iterable[tuple[str, str]]) -> RenderableType:
    table = _grid("", "")
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    return table


def _grid(*columns: str, header: bool = False) -> Table:
    table = Table(box=None, show_header=header, header_style="", pad_edge=True, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        last = index == len(columns) - 1
        table.add_column(name, overflow="fold", no_wrap=not last and name != "REASON")
    return table


def _revisions(subject: DeploymentDetails, status: ModelDeploymentStatus, now: datetime) -> RenderableType:
    table = _grid("", "ROLE", "WEIGHT", "READY", "SINCE", "MODEL", header=True)
    shown: list[tuple[str, RevisionStatus | None]] = [("stable", status.stable), ("candidate", status.candidate)]
    shown += [(f"arm {arm.name}", arm) for arm in status.arms or ()]
    for role, revision in ((role, revision) for role, revision in shown if revision is not None):
        table.add_row(*map(Text, _revision(role, revision, now)))
    for retiring in status.retiring:
        table.add_row(*map(Text, (f"r{retiring.revision}", "drains", "0 %", "", _ago(retiring.since, now), "")))
    for kept in status.kept:
        cells = (f"r{kept.revision}", "kept", "0 %", "", _ago(kept.since, now), "")
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
        _ago(revision.since, now) if revision.since else "",
        revision.uri,
    )


def _rollout(experiment: Object, now: datetime) -> list[RenderableType]:
    status = ExperimentStatus.parse(experiment.get("status"))
    what = "Rollout" if _is_of_rollout(status) else "Experiment"
    heading = f"{what} {experiment['metadata']['name']}: {status.phase}"
    if status.paused is not None:
        heading += f", paused ({status.paused.reason})"
    if status.giving_back is not None:
        heading += f", gives its traffic back ({status.giving_back.reason})"
    parts: list[RenderableType] = [Text(), _title(heading)]
    if status.plan.steps:
        parts.append(_steps(status))
    if status.arms:
        parts.append(_arms(status))
    if (state.is_over(status) or status.verdict.decision == state.PASSED) and status.verdict.reason:
        parts.append(Text(status.verdict.reason))
    if status.plan.notify:
        parts += _section("Told to", _facts(_receivers(status)))
    if status.plan.guardrails:
        parts += _section("Plan", _facts(_plan(status, now)))
    if status.plan.checks:
        parts += _section("Checks of Prometheus", _checks(status))
    parts += _beside_weights(status)
    if status.metrics:
        parts += _section(_age_of_evidence(status, now), _metrics(status))
        parts += [Text(told) for told in _told_beside(status)]
    return parts


def _beside_weights(status: ExperimentStatus) -> list[RenderableType]:
    """What the candidate got that is in no count of an arm."""
    parts: list[RenderableType] = []
    if status.shadow is not None:
        parts += _section("Copies", _facts(_copies(status.shadow)))
    if (told := plan_text.describe_header_requests(status)) is not None:
        parts += _section("By header", _facts([(names.CANARY, told)]))
    return parts


def _copies(shadow: ShadowStatus) -> Iterator[tuple[str, str]]:
    yield "shadow", plan_text.describe_copies(shadow)
    for each in shadow.earlier or ():
        yield "before", each


def _is_of_rollout(status: ExperimentStatus) -> bool:
    """One of a user's own has no steps; before it is frozen nobody can tell, and it has nothing to show."""
    return status.plan.comparison is None and bool(status.plan.steps)


def _receivers(status: ExperimentStatus) -> Iterator[tuple[str, str]]:
    """Who is told of it, and how far each of them is."""
    waiting = {each.receiver: each.notice for each in notifications.pending_notices(status)}
    deliveries = {each.receiver: each for each in status.deliveries}
    for number, receiver in enumerate(status.plan.notify):
        notice, delivery = waiting.get(number), deliveries.get(number)
        told = f"{notice.event} is to be told" if notice is not None else "all was told"
        if delivery is not None and delivery.lost:
            told += f", {delivery.lost} given up"
        if delivery is not None and delivery.problem:
            told += f": {delivery.problem}"
        yield webhook_urls.url_origin(receiver.webhook), told


def _steps(status: ExperimentStatus) -> RenderableType:
    table = _grid("STEP", "WEIGHT", "GATE", "", header=True)
    current = status.step.index if status.step else 0
    concluded = status.phase == state.CONCLUDED
    without = {each.step: f"passed without evidence, by {each.by}" for each in status.without_evidence or ()}
    for index, step in enumerate(status.plan.steps, start=1):
        if concluded or index < current:
            told = without.get(index, "passed")
        elif index == current and status.step is not None:
            told = f"now: {status.step.reason}"
        else:
            told = ""
        table.add_row(*map(Text, (str(index), f"{step.weight} %", _gate(step), told)))
    return table


def _gate(step: PlanStep) -> str:
    match step.gate:
        case "time":
            return f"for {format_duration(step.min_duration)}"
        case "bake":
            return f"bakes {format_duration(step.min_duration)}, {100 - step.weight} % with stable"
        case "evidence":
            longest = f" to {format_duration(step.max_duration)}" if step.max_duration is not None else ""
            return f"evidence, {format_duration(step.min_duration)}{longest}"
        case "shadow" if step.shadow is not None:
            longest = f", up to {format_duration(step.max_duration)}" if step.max_duration is not None else ""
            return f"{plan_text.describe_shadow(step.shadow)}{longest}"
        case "webhook" if step.webhook is not None:
            return f"webhook {webhook_urls.redact_url(step.webhook.url)}"
        case "analysis" if step.analysis is not None:
            times = f", {step.analysis.count} times" if step.analysis.count > 1 else ""
            return f"analysis {step.analysis.name} {prometheus_checks.format_limits(step.analysis)}{times}"
        case "scale":
            return replica_counts.describe_scale(step)
        case "headers":
            return f"headers {header_match.format_headers(step.headers or ())}"
        case gate:
            return gate


def _checks(status: ExperimentStatus) -> RenderableType:
    table = _grid("CHECK", "ALLOWED", "VERDICT", "", header=True)
    for check, told in zip(status.plan.checks, prometheus_checks.check_statuses(status), strict=True):
        table.add_row(
            *map(Text, (check.name, prometheus_checks.format_limits(check), told.verdict or "none yet", told.message))
        )
    return table


def _plan(status: ExperimentStatus, now: datetime) -> Iterator[tuple[str, str]]:
    """What an evidence-gated rollout is held to, and where the current step is in its time."""
    plan = status.plan
    traffic = plan.requests_per_second
    yield "traffic", "not known when it began" if traffic is None else f"{traffic:.3g} requests a second when it began"
    for guardrail in plan.guardrails:
        yield guardrail.metric, describe_guardrail_limit(guardrail, baseline_arm(plan))
    if plan.alpha is not None:
        yield "alpha", plan_text.describe_alpha(plan)
    if plan.comparison is not None:
        yield "ends", describe_end_conditions(plan.comparison)
        for outcome in plan.comparison.outcomes:
            yield outcome.name, f"{outcome.role}: {describe_outcome_goal(outcome)}"
    if not state.is_over(status) and (doubt := _doubt(plan)):
        yield "beware", doubt
    if not state.is_over(status) and (told := "; ".join(_timing(status, now))):
        yield "this step", told


def _doubt(plan: FrozenPlan) -> str:
    # Arrays take their time to load, and most of what is described needs none.
    from sundog_operator.core.analysis.power import find_undecidable_step

    return find_undecidable_step(plan)


def describe_outcome_goal(outcome: PlanOutcome) -> str:
    """Which way an outcome is better, and from what effect on it matters."""
    least = f", by {_percent(outcome.minimum_effect)} or more" if outcome.minimum_effect else ""
    return f"{outcome.type} of {outcome.feedback} should {outcome.goal}{least}"


def describe_end_conditions(comparison: PlanComparison) -> str:
    """What ends an Experiment of a user's own without a verdict."""
    told = f"after {format_duration(comparison.max_duration)} or {comparison.max_units} units"
    if not any(each.role == "success" for each in comparison.outcomes):
        return told
    won = "when an arm has won or none can" if comparison.on_win == "none" else "when no arm can win"
    return f"{won}, {told}"


def baseline_arm(plan: FrozenPlan) -> str:
    """What is compared with: control of an Experiment of a user's own, stable of a rollout."""
    return names.STABLE if plan.comparison is None else names.CONTROL


def describe_guardrail_limit(guardrail: PlanGuardrail, than: str) -> str:
    """How much worse than that a candidate, or an arm, may be."""
    if guardrail.role == "harm":
        more = "longer" if is_latency_metric(guardrail.metric) else "more"
        return f"for harm alone, from {_percent(guardrail.margin)} {more} than {than} on; no gate waits for it"
    if not is_latency_metric(guardrail.metric):
        floor = f", or {_percent(guardrail.floor)} of all requests" if guardrail.floor else ""
        ceiling = f"; at most {_percent(guardrail.max)} of its own" if guardrail.max else ""
        return f"up to {_percent(guardrail.margin)} more than {than}{floor}{ceiling}"
    stable, candidate = guardrail.threshold_microseconds, guardrail.candidate_threshold_microseconds
    longest = f"; at most {format_latency(guardrail.max_microseconds)} of its own" if guardrail.max_microseconds else ""
    if stable is None or candidate is None:
        return f"up to {_percent(guardrail.margin)} longer than {than}, whose own is not known yet{longest}"
    return f"no more answers above {format_latency(candidate)} than {than} has above {format_latency(stable)}{longest}"


def _percent(share: float) -> str:
    return f"{share * 100:g} %"


def _timing(status: ExperimentStatus, now: datetime) -> Iterator[str]:
    """What of a step's time is to come."""
    step = status.step
    if step is None or step.since is None or not status.plan.steps:
        return
    planned = state.current_step(status)
    if state.is_baking(status):
        left = step.since + planned.min_duration - now
        if status.paused is not None or step.held_since is not None:
            yield "its time stands still"
        elif left > timedelta(0):
            yield f"promoted in {format_span(left)}, unless it does harm"
    if step.gate != "evidence":
        return
    if not step.warm:
        ends = (
            f"{status.plan.warmup_requests} requests of the candidate or {format_duration(status.plan.warmup_duration)}"
        )
        yield f"warms up, until {ends}"
    if (left := step.since + planned.min_duration - now) > timedelta(0):
        yield f"takes at least {format_span(left)} more"
    if planned.max_duration is not None and status.paused is None and step.held_since is None:
        left = max(step.since + planned.max_duration - now, timedelta(0))
        yield f"undecided in {format_span(left)}, {_UNDECIDED[status.plan.on_inconclusive]}"


def _age_of_evidence(status: ExperimentStatus, now: datetime) -> str:
    age = f", {_ago(status.counted_at, now)} old" if status.counted_at is not None else ""
    arms = "stable/candidate" if _is_of_rollout(status) else "control/arm"
    return f"Evidence{' at its end' if state.is_over(status) else age} (events of {arms})"


def _metrics(status: ExperimentStatus) -> RenderableType:
    table = _grid("METRIC", "ROLE", "EVENTS", "RATIO", "INTERVAL", "ALLOWED", "VERDICT", "ETA", header=True)
    for metric in status.metrics:
        told = metric.name if _is_of_rollout(status) or not metric.arm else f"{metric.arm}: {metric.name}"
        table.add_row(*map(Text, (told, *_metric(metric, over=state.is_over(status)))))
    return table


def _metric(metric: MetricStatus, *, over: bool) -> tuple[str, ...]:
    judged = metric.role not in ("harm", "success", "secondary")
    waits = metric.role not in ("harm", SHADOW) and not over and metric.verdict == "Undecided"
    return (
        metric.role,
        "/".join(map(str, metric.events)),
        "" if metric.ratio is None else f"{metric.ratio:.3g}",
        format_interval(metric),
        f"{metric.allowed:.3g}" if judged and metric.allowed is not None else "",
        metric.verdict,
        ("unknown" if metric.eta is None else format_span(metric.eta)) if waits else "",
    )


def format_interval(metric: MetricStatus) -> str:
    """Both ends, or the lower one where the upper is not known, and that they are of this step alone; empty where neither is."""
    alone = " in this step" if metric.basis == "ThisStep" else ""
    match metric.interval:
        case (lower, upper):
            return f"{lower:.3g}–{upper:.3g}{alone}"
        case (lower,):
            return f"{lower:.3g}–{alone}"
        case _:
            return ""


def _told_beside(status: ExperimentStatus) -> Iterator[str]:
    """Sentences about metrics that stand in the way, or are not judged, and that are not told as the step's reason or the outcome."""
    told = (status.step.reason if status.step else "") + status.verdict.reason
    for metric in status.metrics:
        stands = metric.role == "guardrail" and metric.verdict not in ("Passed", "NoData")
        stands = stands or metric.role == "success"
        if (stands or metric.verdict == "Harm") and metric.message and metric.message not in told:
            yield metric.message
    if side := find_one_sided_note(status.metrics):
        yield side


def find_one_sided_note(metrics: Sequence[MetricStatus]) -> str:
    """Why an interval that is shown beside `Better` or `Worse` contains 1; empty where none does."""
    ends = ((*each.interval, math.inf)[:2] for each in metrics if each.interval and each.verdict in ("Better", "Worse"))
    return ONE_SIDED_NOTE if any(lower <= 1 <= upper for lower, upper in ends) else ""


def _arms(status: ExperimentStatus) -> RenderableType:
    table = _grid("ARM", "REVISION", "WEIGHT", "REQUESTS", "ERRORS", header=True)
    for arm in status.arms:
        weight = f"{arm.weight:g} %" + (" (dropped)" if arm.dropped else "")
        cells = (arm.name, f"r{arm.revision}", weight, str(arm.requests), str(arm.errors))
        table.add_row(*map(Text, cells))
    return table


def _last(status: ModelDeploymentStatus) -> RenderableType | None:
    facts = []
    if (command := status.last_command) is not None:
        told = f": {command.message}" if command.message else ""
        facts.append(("Last command", f"{command.verb} revision {command.revision}, {command.result}{told}"))
    if (last := status.last_rollout) is not None:
        told = f": {last.reason}" if last.reason else ""
        facts.append(("Last rollout", f"revision {last.revision}, {last.outcome}{told}"))
    return _facts(facts) if facts else None


def _conditions(conditions: Sequence[Condition], now: datetime) -> RenderableType | None:
    table = _grid("TYPE", "STATUS", "SINCE", "REASON", "MESSAGE", header=True)
    for each in conditions:
        table.add_row(
            *map(Text, (each.type, each.status, _ago(each.last_transition_time, now), each.reason, each.message))
        )
    return table if conditions else None


def _events(events: Sequence[Object], now: datetime) -> RenderableType | None:
    table = _grid("AGO", "REASON", "NOTE", header=True)
    for event in sorted(events, key=_time_of):
        table.add_row(
            *map(Text, (_ago(_instant(_time_of(event)), now), event.get("reason", ""), event.get("note", "")))
        )
    return table if events else None


def _time_of(event: Object) -> str:
    return str(event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _instant(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _ago(since: Any, now: datetime) -> str:
    """How long ago, in one unit."""
    return format_span(max(now - since, timedelta(0))) if isinstance(since, datetime) else ""


def format_span(time: timedelta) -> str:
    """A time for people, in one unit."""
    seconds = int(time.total_seconds())
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"
