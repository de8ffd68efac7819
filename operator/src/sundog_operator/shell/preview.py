"""What applying a manifest would do, and why: the planner's own decision over what is observed now, with nothing written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from sundog_operator.api import (
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    Rollout,
    format_instant,
    refused_changes,
    unknown_fields,
    violations,
)
from sundog_operator.core import power, returning, revisions, secrets, webhooks
from sundog_operator.core.draft import HELD_OUTCOMES, Observed
from sundog_operator.core.plan import Plan, plan
from sundog_operator.core.rollout import telling, windows
from sundog_operator.core.rollout.freeze import plan_steps, resolved
from sundog_operator.core.rollout.resolve import BUSY_RPS, VERY_BUSY_RPS, Traffic
from sundog_operator.core.spec import accept
from sundog_operator.errors import SpecError
from sundog_operator.ports import CONTROLLER_REVISION, Object

Outcome = Literal["create", "change", "unchanged", "refused"]

_REVISION_PARTS: Final = ("model", "runtime", "resources", "scheduling")
_IN_PLACE: Final = "runtime.userConfig"
_SHOWN: Final = 6


@dataclass(frozen=True, slots=True)
class Preview:
    """What would happen.

    Attributes:
        revision: that the manifest stands for; None when it is refused.
        lines: what happens, in order.
        problems: why it is refused.
    """

    name: str
    outcome: Outcome
    revision: int | None = None
    lines: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Change:
    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        # What is planned is often logged, and secrets are in the addresses of webhooks.
        before, after = (
            _spoken(each) if self.path.startswith("rollout") else each for each in (self.before, self.after)
        )
        return f"spec.{self.path}: {_shown(before)} → {_shown(after)}"


def preview(manifest: Object, stored: Object | None, seen: Observed, now: datetime) -> Preview:
    """Preview one ModelDeployment, given the object as it is (None where there is none) and what is observed of it."""
    name = f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
    wanted = _merged(manifest, stored)
    if problems := _refused_by_server(manifest, wanted, stored):
        return Preview(name, "refused", problems=problems, lines=_kept(stored))
    acceptance = accept(wanted, seen.installation)
    if acceptance.spec is None:
        return Preview(name, "refused", problems=(f"{acceptance.reason}: {acceptance.message}",), lines=_kept(stored))
    decided = plan(replace(seen, deployment=wanted), now)
    number = _revision_of(acceptance.spec, seen, decided)
    changes = _changes(stored, acceptance.spec)
    if stored is not None and not changes:
        return Preview(name, "unchanged", number, ("nothing changes", *_standing(acceptance.spec, stored, number)))
    lines = tuple(_lines(acceptance.spec, stored, seen, decided, number, changes, now))
    return Preview(name, "create" if stored is None else "change", number, lines)


def blank(manifest: Object) -> Object:
    """The manifest as the object that the API server would store first."""
    return {**manifest, "metadata": {**manifest["metadata"], "uid": "", "generation": 1}}


def _merged(manifest: Object, stored: Object | None) -> Object:
    if stored is None:
        return blank(manifest)
    spec = dict(manifest.get("spec") or {})
    # Left out of Git where an autoscaler drives it: the stored value then stays.
    if "replicas" not in spec and "replicas" in stored["spec"]:
        spec["replicas"] = stored["spec"]["replicas"]
    meta = stored["metadata"]
    return {**stored, "spec": spec, "metadata": {**meta, "generation": meta.get("generation", 0) + 1}}


def _refused_by_server(manifest: Object, wanted: Object, stored: Object | None) -> tuple[str, ...]:
    unknown = [str(violation) for violation in unknown_fields(manifest)]
    wrong = [str(violation) for violation in violations(wanted)]
    if wrong or stored is None:
        return (*unknown, *wrong)
    try:
        old = ModelDeployment.parse(stored)
    except SpecError:
        return tuple(unknown)
    return (*unknown, *(str(violation) for violation in refused_changes(old, ModelDeployment.parse(wanted))))


def _status(stored: Object | None) -> ModelDeploymentStatus:
    return ModelDeploymentStatus.parse((stored or {}).get("status"))


def _kept(stored: Object | None) -> tuple[str, ...]:
    stable = _status(stored).stable
    return (f"revision {stable.revision} keeps serving",) if stable is not None else ()


def _revision_of(spec: ModelDeploymentSpec, seen: Observed, decided: Plan) -> int:
    made = next((child for child in decided.creates if child["kind"] == CONTROLLER_REVISION.kind), None)
    if made is not None:
        return int(made["revision"])
    found = revisions.find(seen.revisions, revisions.content_hash(revisions.content_of(spec)))
    assert found is not None
    return found.number


def _changes(stored: Object | None, spec: ModelDeploymentSpec) -> list[_Change]:
    if stored is None:
        return []
    try:
        before = dict(_flat(ModelDeployment.parse(stored).spec.to_json()))
    except SpecError:
        before = dict(_flat(stored["spec"]))
    after = dict(_flat(spec.to_json()))
    paths = [*after, *(path for path in before if path not in after)]
    return [_Change(path, before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif value not in ({}, []):
        yield path, value


def _spoken(value: Any) -> Any:
    """The same with the scheme and host alone of each address."""
    if isinstance(value, Mapping):
        return {key: _spoken(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spoken(item) for item in value]
    is_address = isinstance(value, str) and value.lower().startswith(("http://", "https://"))
    return webhooks.origin(value) if is_address else value


def _shown(value: Any) -> str:
    text = "none" if value in (None, "", {}, []) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _makes_revision(change: _Change) -> bool:
    part = change.path.partition(".")[0]
    return part in _REVISION_PARTS and not change.path.startswith(_IN_PLACE)


def _lines(
    spec: ModelDeploymentSpec,
    stored: Object | None,
    seen: Observed,
    decided: Plan,
    number: int,
    changes: Sequence[_Change],
    now: datetime,
) -> Iterator[str]:
    before = _status(stored)
    is_new = all(revision.number != number for revision in seen.revisions)
    why = [str(change) for change in changes if _makes_revision(change)]
    if is_new:
        yield f"makes revision {number}{_because(why)}"
    elif before.stable is None or before.stable.revision != number:
        yield f"stands for revision {number}, which is known already{_because(why)}"
    in_place = [str(change) for change in changes if not _makes_revision(change)]
    if in_place:
        yield f"changes in place, without a revision{_because(in_place)}"
    yield from _ended(before, decided, number)
    yield from _way(spec, before, seen, decided, number)
    yield from _window(spec, before, number, now)
    missing = secrets.problem(secrets.uses(spec.endpoint), seen.secrets, seen.deployment["metadata"]["namespace"])
    if missing is not None:
        yield missing[1]


def _because(changes: Sequence[str]) -> str:
    if not changes:
        return ""
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return f" ({'; '.join(changes[:_SHOWN])}{more})"


def _ended(before: ModelDeploymentStatus, decided: Plan, number: int) -> Iterator[str]:
    candidate, goes_on = before.candidate, decided.status.candidate
    if candidate is None or candidate.revision == number:
        return
    told = f"the rollout of revision {candidate.revision}, which has {candidate.weight} % of the traffic"
    stays = goes_on is not None and goes_on.revision == candidate.revision
    yield f"waits for the end of {told}" if stays else f"ends {told}"


def _way(
    spec: ModelDeploymentSpec, before: ModelDeploymentStatus, seen: Observed, decided: Plan, number: int
) -> Iterator[str]:
    """How the revision gets its traffic."""
    stable, last = before.stable, decided.status.last_rollout
    if stable is None:
        yield f"revision {number} gets all traffic once it is ready"
    elif stable.revision == number:
        yield f"revision {number} keeps all traffic"
    elif last is not None and last.revision == number and last.outcome in HELD_OUTCOMES:
        yield f"revision {number} stays held back, because it was {_words(last.outcome)}: `sundog retry` tries it again"
    elif before.candidate is not None and before.candidate.revision == number:
        yield f"the rollout of revision {number} goes on by the plan it started with"
    elif spec.rollout.dry_run:
        yield next(
            (c.message for c in decided.status.conditions if c.reason == "DryRun"), "nothing moves: dryRun is true"
        )
    elif spec.paused or spec.rollout.paused:
        yield f"revision {number} waits while the spec is paused; revision {stable.revision} keeps serving"
    elif spec.rollout.strategy == "canary" and number in returning.window(spec.rollout, before.stable_before):
        yield f"{returning.reason(number)}: all traffic at once, without steps, when all its replicas are ready"
    elif spec.rollout.strategy == "canary":
        yield f"canary beside revision {stable.revision}: {steps(spec)}"
        yield from _passed_without_evidence(spec)
        yield from _too_slow(spec, seen)
    else:
        yield f"revision {number} gets all traffic from revision {stable.revision} at once, when all its replicas are ready"


def _too_slow(spec: ModelDeploymentSpec, seen: Observed) -> Iterator[str]:
    """Which step's time is too short at the traffic of the newest rollout, which is all that is known of it here."""
    frozen = [(each.status.plan.frozen_at, each.name, each.status.plan) for each in seen.rollouts]
    known = [(at, name, plan) for at, name, plan in frozen if at is not None and plan.requests_per_second is not None]
    if not known:
        return
    _, name, before = max(known, key=lambda each: each[:2])
    traffic = Traffic(before.requests_per_second, error_rate=before.error_rate)
    if doubt := power.doubt(resolved(spec.rollout, traffic, spec.replicas)):
        yield f"if traffic is as it was when {name} began, {doubt}"


def _window(spec: ModelDeploymentSpec, before: ModelDeploymentStatus, number: int, now: datetime) -> Iterator[str]:
    """Whether traffic has to wait for a window."""
    opening = windows.next_opening(spec.rollout.windows, now)
    goes_back = number in returning.window(spec.rollout, before.stable_before)
    if opening is not None and before.stable is not None and before.stable.revision != number and not goes_back:
        yield f"no traffic moves before {format_instant(opening)}: until then it is outside its windows"


def _standing(spec: ModelDeploymentSpec, stored: Object, number: int) -> Iterator[str]:
    """Why an unchanged manifest may not be what serves."""
    status = _status(stored)
    last = status.last_rollout
    if status.candidate is not None and status.candidate.revision == number:
        yield f"revision {number} is being rolled out: {steps(spec)}"
    elif status.queued == number and status.candidate is not None:
        yield f"revision {number} waits until the rollout of revision {status.candidate.revision} has ended"
    elif last is not None and last.revision == number and last.outcome in HELD_OUTCOMES:
        yield f"revision {number} is held back, because it was {_words(last.outcome)}: {last.reason}"


def _words(outcome: str) -> str:
    return "rolled back" if outcome == "RolledBack" else outcome.lower()


def steps(spec: ModelDeploymentSpec) -> str:
    """The steps of a rollout in one line, such as `25 % (manual gate) → 100 %`; where the spec has none, what they are resolved to."""
    if spec.rollout.steps:
        return telling.arrows(resolved(spec.rollout, Traffic(), spec.replicas).steps)
    quiet, busy, very_busy = map(_resolved, (0.0, BUSY_RPS, VERY_BUSY_RPS))
    return (
        "steps by stable's traffic when the rollout starts:"
        f" {quiet} below {BUSY_RPS:g} requests a second, or where that is not known;"
        f" {busy} from {BUSY_RPS:g} on; {very_busy} from {VERY_BUSY_RPS:g} on"
    )


def _resolved(requests_per_second: float) -> str:
    return telling.arrows(plan_steps(Rollout(), Traffic(requests_per_second)))


def _passed_without_evidence(spec: ModelDeploymentSpec) -> Iterator[str]:
    """Policies that void what evidence promises of a promotion."""
    rollout = spec.rollout
    if not any(step.gate == "evidence" for step in plan_steps(rollout)):
        return
    if rollout.on_inconclusive == "promote":
        yield "spec.rollout.onInconclusive: promote passes a step that evidence does not decide, so it promises nothing of what is promoted"
    if rollout.on_no_data == "promote":
        yield "spec.rollout.onNoData: promote passes a step that has no traffic, so evidence promises nothing of what is promoted"
