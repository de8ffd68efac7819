"""Inputs of a rollout's tick, and questions about its stored status."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import (
    ExperimentStatus,
    PlanStep,
    PlanWebhook,
)
from sundog_operator.api.reasons import Cause
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.trial.evaluation import RolloutEvaluation, TrialInputs
from sundog_operator.core.trial.phases import RUNNING, is_over
from sundog_operator.core.trial.replica_counts import canary_replicas, step_replicas
from sundog_operator.core.trial.rollout import header_match, in_place
from sundog_operator.core.trial.rollout.freeze import BAKE
from sundog_operator.core.trial.rollout.shadow_comparison import SHADOW, ShadowComparison

RECREATE: Final = "recreate"
WAITS_FOR_PROMOTE: Final = "waits for promote"
"""Reason of a step that only a user's `promote` ends. Stored statuses have it."""
PROMOTED: Final = "Promoted"
ROLLED_BACK: Final = "RolledBack"
PASSED: Final = "Passed"
"""Decision for a canary that passed a shadow comparison with strategy: shadow. It causes no promotion."""
MISMATCH_GRACE: Final = timedelta(minutes=5)
"""Time that a sample-ratio mismatch may last before stable gets all traffic."""
MAX_EVIDENCE_EPOCHS: Final = 32
"""The status holds 40 epochs; a rollout needs 23: one for each step, and one more when latency thresholds become known."""
PAUSABLE_GATES: Final = ("evidence", SHADOW, "time", BAKE)
"""Gates whose time stops while the rollout is paused or held."""
WINDOWLESS_GATES: Final = ("time", BAKE)
"""Gates whose time continues outside of windows, because the traffic does that they wait with."""
DECIDING_GATES: Final = ("evidence", "manual")
"""Gates at which evidence of traffic, or a person, decides that traffic may advance."""
GIVE_BACK_TIMEOUT: Final = timedelta(minutes=15)
"""Time to wait for replicas of stable if the spec is invalid."""
MIN_NO_DATA_DURATION: Final = timedelta(minutes=1)
"""Time that a confirmed epoch must last without a request of an arm before this counts as no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutInputs(TrialInputs):
    """Inputs of one tick of a rollout.

    Attributes:
        replicas: replicas that the service needs at 100 %.
        available: replicas of the canary that Ray Serve runs and every ready edge sees healthy; 0 until Ray Serve reports it ready.
        held: the spec pauses rollouts, or is invalid.
        opens_at: when the next window opens; None inside a window.
        failure: why the attempt must stop now; None if it may continue.
        deadline_cause: why the canary, or the replicas of a step, missed the deadline, if that pauses the rollout; else empty.
        webhook_result: the last answer of the current step's webhook; None if there is none yet.
        shadow: how the canary answers copies of requests; None if the current step compares none.
        serving: like `available`, but counted before Ray Serve reports the canary ready too; None if both are equal.
        stable: replicas of stable that Ray Serve runs and every ready edge sees healthy.
        is_dead: the canary answers nothing while stable does, or fails most of its requests.
        give_back_timeout: how long to wait for replicas of stable before all traffic returns to it.
    """

    replicas: int
    available: int
    evidence: RolloutEvaluation | None = None
    held: bool = False
    opens_at: datetime | None = None
    failure: Cause | None = None
    deadline_cause: str = ""
    webhook_result: WebhookResult | None = None
    shadow: ShadowComparison | None = None
    serving: int | None = None
    stable: int = 0
    is_dead: bool = False
    give_back_timeout: timedelta = GIVE_BACK_TIMEOUT


def is_frozen(status: ExperimentStatus) -> bool:
    """Whether the attempt has a usable plan.

    A damaged status counts as not frozen, and gets a new plan without traffic. A status of a later version does too if it has steps that
    this version cannot read: running only the others would be wrong.
    """
    is_whole = status.step is None or status.step.of == len(status.plan.steps)
    return is_whole and bool(status.plan.steps) and [arm.name for arm in status.arms] == [names.STABLE, names.CANARY]


def canary_weight(status: ExperimentStatus) -> int:
    """Return the canary's committed share of traffic, in percent."""
    return int(next((arm.weight for arm in status.arms if arm.name == names.CANARY), 0))


def has_traffic(status: ExperimentStatus) -> bool:
    """Whether the committed state sends requests to the canary, by weight or by headers."""
    return canary_weight(status) > 0 or bool(header_match.active_headers(status))


def had_traffic(status: ExperimentStatus) -> bool:
    """Whether a committed state ever sent requests to the canary, by weight or by headers."""
    return _leads_to_traffic(status) if status.had_traffic is None else status.had_traffic


def _leads_to_traffic(status: ExperimentStatus) -> bool:
    """Whether a step up to the current one has traffic, or will have it once its replicas are available."""
    reached = status.plan.steps[: status.step.index if status.step is not None else 0]
    return any(step.weight > 0 or step.headers for step in reached)


def is_evaluated(status: ExperimentStatus) -> bool:
    """Whether the counters of both arms are evaluated now. With strategy: shadow that begins with the bake."""
    return bool(status.plan.guardrails) and (status.plan.strategy != SHADOW or _leads_to_traffic(status))


def is_decided_by_copies(status: ExperimentStatus) -> bool:
    """Whether the shadow comparison is the latest decision: the canary got no traffic since, or the rollout is over."""
    return status.verdict.decision == PASSED and (is_over(status) or not _leads_to_traffic(status))


def can_be_selected(status: ExperimentStatus) -> bool:
    """Whether callers may select the canary without weight: it was ready once, and does not end now.

    A canary that is promoted in full may never have been ready.
    """
    return status.phase == RUNNING and (current_step(status).weight < 100 or canary_weight(status) > 0)


def arm_revisions(status: ExperimentStatus) -> tuple[int, int]:
    """Return the revisions (stable, canary) of the attempt."""
    by_name = {arm.name: arm.revision or 0 for arm in status.arms}
    return by_name[names.STABLE], by_name[names.CANARY]


def current_step(status: ExperimentStatus) -> PlanStep:
    """Return the current step, or the first one before the rollout has begun."""
    index = min(max(status.step.index, 1), len(status.plan.steps)) if status.step else 1
    return status.plan.steps[index - 1]


def pending_webhook(status: ExperimentStatus) -> PlanWebhook | None:
    """Return the webhook that the current step waits for; None if there is none, or the rollout is paused."""
    step = status.step
    if status.phase != RUNNING or status.paused is not None or step is None or step.since is None:
        return None
    if status.giving_back is not None:
        return None
    return current_step(status).webhook if step.gate == "webhook" else None


def is_fast_rollback(status: ExperimentStatus) -> bool:
    """Whether the rollout returns to the previous stable revision, so that it waits for no window."""
    return status.plan.reason != "" and status.plan.strategy != RECREATE


def is_baking(status: ExperimentStatus) -> bool:
    """Whether the rollout is past its gates while stable keeps a share of traffic for a while."""
    return not is_over(status) and gate_in_force(status) == BAKE


def weight_after(steps: Sequence[PlanStep], weight: int) -> int:
    """Return the next higher weight in percent; 100 after the last one, and for a bake, because a bake promotes."""
    return next((100 if step.gate == BAKE else step.weight for step in steps if step.weight > weight), 100)


def next_weight(status: ExperimentStatus) -> int:
    """Return the canary's weight after the current step, in percent. Pauses at the same weight are skipped."""
    index = min(status.step.index, len(status.plan.steps)) if status.step else 0
    return weight_after(status.plan.steps, status.plan.steps[index - 1].weight if index else 0)


def desired_replicas(status: ExperimentStatus, replicas: int) -> int:
    """Return the replicas that the canary needs now: for its step and for the current weight; in place, for the next weight."""
    if status.plan.in_place is not None:
        return shared_replicas(status, replicas).candidate
    return max(step_replicas(current_step(status), replicas), canary_replicas(replicas, canary_weight(status)))


def shared_replicas(status: ExperimentStatus, replicas: int, *, stands_still: bool = False) -> in_place.ArmReplicas:
    """Return the replicas of both revisions of an in-place rollout; `replicas` are needed for all traffic.

    `stands_still`: the rollout is held, so that no replica may start for traffic that does not come.
    """
    weight, spare = canary_weight(status), status.plan.in_place.spare if status.plan.in_place else 0
    if status.giving_back is not None:
        return in_place.compute_replicas(replicas, spare, weight, 0)
    still = stands_still or status.paused is not None
    return in_place.compute_replicas(replicas, spare, weight, weight if still else current_step(status).weight)


def replicas_waited_for(status: ExperimentStatus, replicas: int, available: int) -> int:
    """Return how many canary replicas the rollout waits for; 0 if it waits for none."""
    step = current_step(status)
    if status.phase != RUNNING or status.step is None or status.giving_back is not None:
        return 0
    waits = step.weight != canary_weight(status) or gate_in_force(status) == "scale"
    needed = desired_replicas(status, replicas) if status.plan.in_place is not None else step_replicas(step, replicas)
    return needed if waits and available < needed else 0


def step_index(status: ExperimentStatus) -> int:
    """Return the number of the current step, from 1; 0 before the first."""
    return status.step.index if status.step else 0


def gate_in_force(status: ExperimentStatus) -> str:
    """Return the gate in force: the step's gate, or `none` after a command opened it."""
    return status.step.gate if status.step else "none"


def is_held(status: ExperimentStatus, inputs: RolloutInputs) -> bool:
    """Whether the spec or a pause holds the rollout."""
    return inputs.held or status.paused is not None


def is_traffic_held(status: ExperimentStatus, inputs: RolloutInputs) -> bool:
    """Whether traffic may not advance."""
    return inputs.opens_at is not None or is_held(status, inputs)
