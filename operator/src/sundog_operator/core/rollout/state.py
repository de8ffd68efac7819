"""What a tick of a rollout is given, and questions about its stored status."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import (
    ExperimentStatus,
    PlanStep,
    PlanWebhook,
)
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.rollout import (
    header_match,
    in_place,
)
from sundog_operator.core.rollout.evaluation import Evaluation
from sundog_operator.core.rollout.freeze import BAKE
from sundog_operator.core.rollout.replica_counts import canary_replicas, step_replicas
from sundog_operator.core.rollout.shadow_comparison import SHADOW, ShadowComparison

PENDING: Final = "Pending"
RECREATE: Final = "recreate"
WAITS_FOR_PROMOTE: Final = "waits for promote"
"""The reason of a step that goes on when somebody says so."""
RUNNING: Final = "Running"
CONCLUDED: Final = "Concluded"
STOPPED: Final = "Stopped"
PROMOTED: Final = "Promoted"
ROLLED_BACK: Final = "RolledBack"
PASSED: Final = "Passed"
"""What copies say of a candidate whose strategy is shadow: no promotion follows from it."""
MANUAL: Final = "Manual"
INCONCLUSIVE: Final = "Inconclusive"
NO_DATA: Final = "NoData"
SAMPLE_RATIO: Final = "SampleRatio"
DEADLINE_EXCEEDED: Final = "ProgressDeadlineExceeded"
MISMATCH_GRACE: Final = timedelta(minutes=5)
"""How long a split that is not as it should be is looked into before stable gets all traffic."""
MAX_EVIDENCE_EPOCHS: Final = 32
"""Of evidence, in a status that has room for 40: one for each step, and one for what a long answer is, are 23."""
PAUSABLE_GATES: Final = ("evidence", SHADOW, BAKE)
"""Gates whose time stands still while the rollout does. A bake goes on outside of windows, for traffic does."""
DECIDING_GATES: Final = ("evidence", "manual")
"""Gates by which evidence of traffic, or a person, says that more may follow."""
GIVE_BACK_TIMEOUT: Final = timedelta(minutes=15)
"""For replicas of stable, where the spec is refused."""
MIN_NO_DATA_DURATION: Final = timedelta(minutes=1)
"""Of an epoch in force without any request of an arm, before that is called no data."""


@dataclass(frozen=True, slots=True)
class RolloutInputs:
    """What a tick may look at.

    Attributes:
        replicas: replicas that the service needs at 100 %.
        available: replicas of the candidate that Serve runs and every ready edge sees healthy; none while Serve does not call it ready.
        serving: the same while others of it start; None where that is as many.
        confirmed: every edge has the current epoch in force.
        held: the spec pauses rollouts, or cannot be acted on.
        opens_at: when the next window opens; None within one.
        failure: why the attempt must stop now, as (reason, message).
        late: why the candidate, or what a step asks for, was not ready in time, where that is to pause it; else empty.
        evidence: what is known of the candidate; None where the plan weighs none.
        answer: the last one to the webhook of the current step; None where there is none yet.
        copies: how the candidate answers copies of requests; None where the current step compares none.
        stable: replicas of stable that Serve runs and every ready edge sees healthy.
        dead: the candidate answers nothing while stable does, or fails most of what it gets.
        patience: how long to wait for replicas of stable that traffic is to go back to.
    """

    now: datetime
    replicas: int
    available: int
    confirmed: bool
    held: bool = False
    opens_at: datetime | None = None
    failure: tuple[str, str] | None = None
    late: str = ""
    evidence: Evaluation | None = None
    answer: WebhookResult | None = None
    copies: ShadowComparison | None = None
    serving: int | None = None
    stable: int = 0
    dead: bool = False
    patience: timedelta = GIVE_BACK_TIMEOUT


def is_frozen(status: ExperimentStatus) -> bool:
    """Whether the attempt has its plan. A status that somebody damaged counts as not frozen, and is frozen anew without traffic.

    So does one of a later version, of whose steps some cannot be read here: those that are left must not be walked in their place.
    """
    is_whole = status.step is None or status.step.of == len(status.plan.steps)
    return is_whole and bool(status.plan.steps) and [arm.name for arm in status.arms] == [names.STABLE, names.CANARY]


def is_over(status: ExperimentStatus) -> bool:
    """Whether the attempt has ended."""
    return status.phase in (CONCLUDED, STOPPED)


def canary_weight(status: ExperimentStatus) -> int:
    """The candidate's committed share of traffic, in percent."""
    return int(next((arm.weight for arm in status.arms if arm.name == names.CANARY), 0))


def has_traffic(status: ExperimentStatus) -> bool:
    """Whether the candidate gets requests, by its weight or by their headers, as far as is committed."""
    return canary_weight(status) > 0 or bool(header_match.active_headers(status))


def had_traffic(status: ExperimentStatus) -> bool:
    """Whether the candidate ever got requests, by its weight or by their headers, as far as is committed."""
    return _leads_to_traffic(status) if status.had_traffic is None else status.had_traffic


def _leads_to_traffic(status: ExperimentStatus) -> bool:
    """Whether a step up to the one that was entered last has traffic, or will have it once its replicas are there."""
    walked = status.plan.steps[: status.step.index if status.step is not None else 0]
    return any(step.weight > 0 or step.headers for step in walked)


def is_evaluated(status: ExperimentStatus) -> bool:
    """Whether what the edges count of both arms is weighed now. With strategy: shadow one arm alone is asked before the bake."""
    return bool(status.plan.guardrails) and (status.plan.strategy != SHADOW or _leads_to_traffic(status))


def is_decided_by_copies(status: ExperimentStatus) -> bool:
    """Whether what copies have come to is the last that is known: the candidate got no traffic since, or it is over."""
    return status.verdict.decision == PASSED and (is_over(status) or not _leads_to_traffic(status))


def can_be_selected(status: ExperimentStatus) -> bool:
    """Whether callers may be led to the candidate without weight: it was ready once, and is not about to go.

    One that is promoted in full may not have been ready before.
    """
    return status.phase == RUNNING and (current_step(status).weight < 100 or canary_weight(status) > 0)


def arm_revisions(status: ExperimentStatus) -> tuple[int, int]:
    """(stable, candidate) of the attempt."""
    by_name = {arm.name: arm.revision or 0 for arm in status.arms}
    return by_name[names.STABLE], by_name[names.CANARY]


def current_step(status: ExperimentStatus) -> PlanStep:
    """The step that is walked, or the first before the walk begins."""
    index = min(max(status.step.index, 1), len(status.plan.steps)) if status.step else 1
    return status.plan.steps[index - 1]


def pending_webhook(status: ExperimentStatus) -> PlanWebhook | None:
    """The webhook that the current step waits for; None where it waits for none, or stands still."""
    step = status.step
    if status.phase != RUNNING or status.paused is not None or step is None or step.since is None:
        return None
    if status.giving_back is not None:
        return None
    return current_step(status).webhook if step.gate == "webhook" else None


def is_fast_rollback(status: ExperimentStatus) -> bool:
    """Whether it goes back to what was stable, and so waits for no window."""
    return status.plan.reason != "" and status.plan.strategy != RECREATE


def is_baking(status: ExperimentStatus) -> bool:
    """Whether it is past its gates, and stable keeps a share for a while."""
    return not is_over(status) and gate_in_force(status) == BAKE


def weight_after(steps: Sequence[PlanStep], weight: int) -> int:
    """The percent of traffic that follows a weight, which rise from step to step; 100 after the last, and for a bake, which promotes."""
    return next((100 if step.gate == BAKE else step.weight for step in steps if step.weight > weight), 100)


def next_weight(status: ExperimentStatus) -> int:
    """The candidate's percent of the traffic that passing the current step leads to, pauses at the same weight left aside."""
    index = min(status.step.index, len(status.plan.steps)) if status.step else 0
    return weight_after(status.plan.steps, status.plan.steps[index - 1].weight if index else 0)


def wanted_replicas(status: ExperimentStatus, replicas: int) -> int:
    """Replicas that the candidate needs now: enough for the step, and for the weight in force; in place for what can follow on that."""
    if status.plan.in_place is not None:
        return shared_replicas(status, replicas).candidate
    return max(step_replicas(current_step(status), replicas), canary_replicas(replicas, canary_weight(status)))


def shared_replicas(status: ExperimentStatus, replicas: int, *, stands_still: bool = False) -> in_place.ArmReplicas:
    """Replicas of both revisions in a rollout in place, where all traffic needs so many.

    `stands_still`: the rollout is held, so that none is to be started for traffic that does not come.
    """
    weight, spare = canary_weight(status), status.plan.in_place.spare if status.plan.in_place else 0
    if status.giving_back is not None:
        return in_place.compute_replicas(replicas, spare, weight, 0)
    still = stands_still or status.paused is not None
    return in_place.compute_replicas(replicas, spare, weight, weight if still else current_step(status).weight)


def replicas_waited_for(status: ExperimentStatus, replicas: int, available: int) -> int:
    """The replicas of the candidate without which the rollout does not go on; 0 where it waits for none."""
    step = current_step(status)
    if status.phase != RUNNING or status.step is None or status.giving_back is not None:
        return 0
    waits = step.weight != canary_weight(status) or gate_in_force(status) == "scale"
    needed = wanted_replicas(status, replicas) if status.plan.in_place is not None else step_replicas(step, replicas)
    return needed if waits and available < needed else 0


def step_index(status: ExperimentStatus) -> int:
    """The number of the current step, from 1; 0 before the first."""
    return status.step.index if status.step else 0


def gate_in_force(status: ExperimentStatus) -> str:
    """The gate in force: that of the step, unless a command opened it."""
    return status.step.gate if status.step else "none"


def is_held(status: ExperimentStatus, seen: RolloutInputs) -> bool:
    """Whether traffic is held by the spec or by a pause."""
    return seen.held or status.paused is not None


def is_traffic_held(status: ExperimentStatus, seen: RolloutInputs) -> bool:
    """Whether no traffic may move forward."""
    return seen.opens_at is not None or is_held(status, seen)
