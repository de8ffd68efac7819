"""What applying a manifest would do, and why: the planner's own decision over what is observed now, with nothing written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from sundog_operator.api import (
    FrozenPlan,
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    PlanInPlace,
    find_immutable_changes,
    find_violations,
    format_timestamp,
    parse_resource,
    unknown_fields,
)
from sundog_operator.core import revisions
from sundog_operator.core.analysis import power
from sundog_operator.core.edge import salts, secrets
from sundog_operator.core.planner import held_back_revisions, rollback_window
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.planner.context import ObservedState
from sundog_operator.core.planner.plan import ReconcilePlan, make_plan
from sundog_operator.core.rollout import in_place, plan_text, steps_without_evidence, windows
from sundog_operator.core.rollout.freeze import BAKE, STEPPED_STRATEGIES, resolve_plan
from sundog_operator.core.rollout.resolve import BUSY_RPS, VERY_BUSY_RPS, StableTraffic
from sundog_operator.errors import SpecError
from sundog_operator.ports import CONTROLLER_REVISION, Object
from sundog_operator.shell.preview import spec_diff
from sundog_operator.shell.preview.spec_diff import SpecChange, format_causes

PreviewOutcome = Literal["create", "change", "unchanged", "refused"]

_REVISION_PARTS: Final = ("model", "runtime", "resources", "scheduling")
_DECIDING: Final = frozenset({"evidence", "manual", "webhook", "analysis", "shadow"})
"""Gates that time alone does not open."""

_IN_PLACE: Final = "runtime.userConfig"


@dataclass(frozen=True, slots=True)
class Preview:
    """What would happen.

    Attributes:
        revision: that the manifest stands for; None when it is refused, and of an Experiment.
        lines: what happens, in order.
        problems: why it is refused.
    """

    name: str
    outcome: PreviewOutcome
    revision: int | None = None
    lines: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    kind: str = "ModelDeployment"


def preview_model_deployment(
    manifest: Object, stored: Object | None, seen: ObservedState, now: datetime, applied: Object | None = None
) -> Preview:
    """Preview one ModelDeployment.

    Args:
        manifest: what is to be applied.
        stored: the object as it is; None where there is none.
        seen: what is observed of it.
        now: the current instant.
        applied: the object as the API server would store it; None where it was not asked or does not say.
    """
    name = f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
    wanted = _merged(manifest, stored, applied)
    if problems := find_server_violations(manifest, wanted, stored):
        return Preview(name, "refused", problems=problems, lines=_kept(stored))
    acceptance = accept_model_deployment(wanted, seen.installation)
    if acceptance.spec is None:
        return Preview(name, "refused", problems=(f"{acceptance.reason}: {acceptance.message}",), lines=_kept(stored))
    under_way = _status(stored).experiment
    # What would begin by itself is none of the manifest's.
    own = tuple(each for each in seen.own if each.name == under_way)
    decided = make_plan(replace(seen, deployment=wanted, own=own), now)
    number = _revision_of(acceptance.spec, seen, decided)
    differing = _changes(stored, acceptance.spec)
    shared = tuple(_shared_salt(manifest, seen))
    if stored is not None and not differing:
        lines = ("nothing changes", *_standing(acceptance.spec, stored, number), *shared)
        return Preview(name, "unchanged", number, lines)
    lines = (*_lines(acceptance.spec, stored, seen, decided, number, differing, now), *shared)
    return Preview(name, "create" if stored is None else "change", number, lines)


def make_new_object(manifest: Object) -> Object:
    """The manifest as the object that the API server would store first."""
    return {**manifest, "metadata": {**manifest["metadata"], "uid": "", "generation": 1}}


def _merged(manifest: Object, stored: Object | None, applied: Object | None) -> Object:
    if stored is None:
        return make_new_object(manifest)
    spec = dict(manifest.get("spec") or {})
    # Left out of Git where an autoscaler drives it: the stored value then stays. Only the API server knows whose it is.
    left = (applied or stored)["spec"]
    if "replicas" not in spec and "replicas" in left:
        spec["replicas"] = left["replicas"]
    meta = stored["metadata"]
    return {**stored, "spec": spec, "metadata": {**meta, "generation": meta.get("generation", 0) + 1}}


def find_server_violations(manifest: Object, wanted: Object, stored: Object | None) -> tuple[str, ...]:
    """What the API server would say against a manifest, with which an object would be as `wanted`. It spares what is stored so already."""
    unknown = [str(violation) for violation in unknown_fields(manifest)]
    spared = [] if stored is None else find_violations(stored)
    wrong = [str(violation) for violation in find_violations(wanted) if violation not in spared]
    if wrong or stored is None:
        return (*unknown, *wrong)
    try:
        old, new = parse_resource(stored), parse_resource(wanted)
    except SpecError:
        return tuple(unknown)
    return (*unknown, *(str(violation) for violation in find_immutable_changes(old, new)))


def _status(stored: Object | None) -> ModelDeploymentStatus:
    return ModelDeploymentStatus.parse((stored or {}).get("status"))


def _kept(stored: Object | None) -> tuple[str, ...]:
    stable = _status(stored).stable
    return (f"revision {stable.revision} keeps serving",) if stable is not None else ()


def _revision_of(spec: ModelDeploymentSpec, seen: ObservedState, decided: ReconcilePlan) -> int:
    made = next((child for child in decided.objects_to_create if child["kind"] == CONTROLLER_REVISION.kind), None)
    if made is not None:
        return int(made["revision"])
    found = revisions.find_by_hash(seen.revisions, revisions.content_hash(revisions.content_of(spec)))
    assert found is not None
    return found.number


def _changes(stored: Object | None, spec: ModelDeploymentSpec) -> list[SpecChange]:
    if stored is None:
        return []
    try:
        before = ModelDeployment.parse(stored).spec.to_json()
    except SpecError:
        before = stored["spec"]
    return spec_diff.find_changes(before, spec.to_json())


def _makes_revision(change: SpecChange) -> bool:
    part = change.path.partition(".")[0]
    return part in _REVISION_PARTS and not change.path.startswith(_IN_PLACE)


def _lines(
    spec: ModelDeploymentSpec,
    stored: Object | None,
    seen: ObservedState,
    decided: ReconcilePlan,
    number: int,
    differing: Sequence[SpecChange],
    now: datetime,
) -> Iterator[str]:
    before = _status(stored)
    is_new = all(revision.number != number for revision in seen.revisions)
    why = [str(change) for change in differing if _makes_revision(change)]
    if is_new:
        yield f"makes revision {number}{format_causes(why)}"
    elif before.stable is None or before.stable.revision != number:
        yield f"stands for revision {number}, which is known already{format_causes(why)}"
    in_place = [str(change) for change in differing if not _makes_revision(change)]
    if in_place:
        yield f"changes in place, without a revision{format_causes(in_place)}"
    yield from _ended(before, decided, number)
    yield from _way(spec, before, seen, decided, number)
    yield from _window(spec, before, number, now)
    missing = secrets.find_missing_secrets(
        secrets.secret_references(spec.endpoint), seen.secrets, seen.deployment["metadata"]["namespace"]
    )
    if missing is not None:
        yield missing[1]


def _ended(before: ModelDeploymentStatus, decided: ReconcilePlan, number: int) -> Iterator[str]:
    candidate, goes_on = before.candidate, decided.status.candidate
    if candidate is None or candidate.revision == number:
        return
    told = f"the rollout of revision {candidate.revision}, which has {candidate.weight} % of the traffic"
    stays = goes_on is not None and goes_on.revision == candidate.revision
    yield f"waits for the end of {told}" if stays else f"ends {told}"


def _way(
    spec: ModelDeploymentSpec, before: ModelDeploymentStatus, seen: ObservedState, decided: ReconcilePlan, number: int
) -> Iterator[str]:
    """How the revision gets its traffic."""
    stable, hold = before.stable, held_back_revisions.find_hold(decided.status, number)
    if stable is None:
        yield f"revision {number} gets all traffic once it is ready"
    elif stable.revision == number:
        yield f"revision {number} keeps all traffic"
    elif hold is not None:
        yield f"revision {number} stays held back, because it was {_words(hold.outcome)}: `sundog retry` tries it again"
    elif before.candidate is not None and before.candidate.revision == number:
        yield f"the rollout of revision {number} goes on by the plan it started with"
    elif spec.rollout.dry_run:
        yield next(
            (c.message for c in decided.status.conditions if c.reason == "DryRun"), "nothing moves: dryRun is true"
        )
    elif spec.paused or spec.rollout.paused:
        yield f"revision {number} waits while the spec is paused; revision {stable.revision} keeps serving"
    elif before.arms is not None:
        yield from _beside_arms(before, decided, number)
    elif spec.rollout.strategy in STEPPED_STRATEGIES and number in rollback_window.revisions_in_window(
        spec.rollout, before.stable_before
    ):
        yield f"{rollback_window.fast_rollback_reason(number)}: all traffic at once, without steps, when all its replicas are ready"
    elif spec.rollout.strategy in STEPPED_STRATEGIES:
        shared = _shared(decided)
        where = "beside" if shared is None else "in the place of"
        yield f"{spec.rollout.strategy} {where} revision {stable.revision}: {describe_steps(spec, shared)}"
        yield from _room(spec, decided)
        yield from _passed_without_evidence(resolve_plan(spec.rollout, StableTraffic(), spec.replicas, shared))
        yield from _too_slow(spec, seen)
    else:
        yield f"revision {number} gets all traffic from revision {stable.revision} at once, when all its replicas are ready"


def _beside_arms(before: ModelDeploymentStatus, decided: ReconcilePlan, number: int) -> Iterator[str]:
    """What becomes of the Experiment of a user that is under way."""
    if not decided.status.arms:
        yield f"ends Experiment {before.experiment} first"
    elif decided.status.queued == number:
        yield f"waits for the end of Experiment {before.experiment} first"
    else:
        yield f"Experiment {before.experiment} goes on as long as revision {number} finds no room"
        yield from _room_missing(decided)


def _shared(decided: ReconcilePlan) -> PlanInPlace | None:
    """How the candidate that would begin shares stable's replicas; None where its own come on top, or none begins."""
    return in_place.in_place_from_capacity(decided.status.capacity) if decided.status.candidate is not None else None


def _room(spec: ModelDeploymentSpec, decided: ReconcilePlan) -> Iterator[str]:
    """What it means that replicas are shared, or why none can be had."""
    shared = _shared(decided)
    if shared is not None:
        short = "one replica more than that runs meanwhile" if shared.spare else "stable lacks one while each starts"
        yield f"both share the {spec.replicas} replicas of the service, and traffic follows each one; {short}"
    elif decided.status.candidate is None:
        yield from _room_missing(decided)


def _room_missing(decided: ReconcilePlan) -> Iterator[str]:
    yield from (c.message for c in decided.status.conditions if (c.type, c.status) == ("CapacityAvailable", "False"))


def _too_slow(spec: ModelDeploymentSpec, seen: ObservedState) -> Iterator[str]:
    """Which step's time is too short at the traffic of the newest rollout, which is all that is known of it here."""
    frozen = [(each.status.plan.frozen_at, each.name, each.status.plan) for each in seen.rollouts]
    known = [(at, name, plan) for at, name, plan in frozen if at is not None and plan.requests_per_second is not None]
    if not known:
        return
    _, name, before = max(known, key=lambda each: each[:2])
    traffic = StableTraffic(before.requests_per_second, error_rate=before.error_rate)
    if doubt := power.find_undecidable_step(resolve_plan(spec.rollout, traffic, spec.replicas)):
        yield f"if traffic is as it was when {name} began, {doubt}"


def _shared_salt(manifest: Object, seen: ObservedState) -> Iterator[str]:
    if told := salts.make_reuse_message("ModelDeployment", manifest["metadata"]["name"], seen.salts):
        yield f"{salts.SALT_REUSED}: {told}"


def _window(spec: ModelDeploymentSpec, before: ModelDeploymentStatus, number: int, now: datetime) -> Iterator[str]:
    """Whether traffic has to wait for a window."""
    opening = windows.next_opening(spec.rollout.windows, now)
    goes_back = number in rollback_window.revisions_in_window(spec.rollout, before.stable_before)
    if opening is not None and before.stable is not None and before.stable.revision != number and not goes_back:
        yield f"no traffic moves before {format_timestamp(opening)}: until then it is outside its windows"


def _standing(spec: ModelDeploymentSpec, stored: Object, number: int) -> Iterator[str]:
    """Why an unchanged manifest may not be what serves."""
    status = _status(stored)
    hold = held_back_revisions.find_hold(status, number)
    if status.candidate is not None and status.candidate.revision == number:
        yield f"revision {number} is being rolled out: {describe_steps(spec)}"
    elif status.queued == number and status.candidate is not None:
        yield f"revision {number} waits until the rollout of revision {status.candidate.revision} has ended"
    elif hold is not None:
        yield f"revision {number} is held back, because it was {_words(hold.outcome)}: {hold.reason}"


def _words(outcome: str) -> str:
    return "rolled back" if outcome == "RolledBack" else outcome.lower()


def describe_steps(spec: ModelDeploymentSpec, shared: PlanInPlace | None = None) -> str:
    """The steps of a rollout in one line, such as `25 % (manual gate) → 100 %`; where the spec has none, what they are resolved to.

    `shared` is how stable's replicas are shared, where they are.
    """
    if spec.rollout.steps or spec.rollout.strategy != "canary":
        return plan_text.format_steps(resolve_plan(spec.rollout, StableTraffic(), spec.replicas, shared).steps)
    quiet, busy, very_busy = (_resolved(spec, each, shared) for each in (0.0, BUSY_RPS, VERY_BUSY_RPS))
    return (
        "steps by stable's traffic when the rollout starts:"
        f" {quiet} below {BUSY_RPS:g} requests a second, or where that is not known;"
        f" {busy} from {BUSY_RPS:g} on; {very_busy} from {VERY_BUSY_RPS:g} on"
    )


def _resolved(spec: ModelDeploymentSpec, requests_per_second: float, shared: PlanInPlace | None) -> str:
    return plan_text.format_steps(
        resolve_plan(spec.rollout, StableTraffic(requests_per_second), spec.replicas, shared).steps
    )


def _passed_without_evidence(plan: FrozenPlan) -> Iterator[str]:
    """What voids that evidence vouches for a promotion, and which steps pass without it."""
    gates = {step.gate for step in plan.steps}
    if plan.strategy == "canary" and not gates & _DECIDING and not plan.checks:
        unless = ", unless harm rolls back" if BAKE in gates else ", whatever the candidate answers"
        yield f"no gate decides on traffic: time alone leads to 100 %{unless}"
        return
    yield from steps_without_evidence.weights_without_evidence(plan)
    yield from (
        f"{each}, so {steps_without_evidence.NO_EVIDENCE_PROMISE}"
        for each in steps_without_evidence.find_exceptions(plan)
    )
