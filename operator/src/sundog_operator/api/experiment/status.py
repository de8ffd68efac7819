"""`status` of an Experiment."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sundog_operator.api.base import ApiBase
from sundog_operator.api.conditions import Condition
from sundog_operator.api.experiment.arms import Bucket, BucketRange
from sundog_operator.api.experiment.frozen_plan import FrozenPlan
from sundog_operator.api.experiment.history import HistoryPoint, NotificationDelivery, RolloutNotice
from sundog_operator.api.model_deployment.status import NonNegativeInt, RevisionNumber, WholePercent
from sundog_operator.api.older_releases import add_stored_code, add_stored_metric_note
from sundog_operator.api.reasons import Cause
from sundog_operator.api.resource import Status
from sundog_operator.api.scalars import (
    Duration,
    Integer,
    Items,
    Message,
    PercentNumber,
    Text,
    Timestamp,
)
from sundog_operator.api.schema.rules import ListType


class CheckStatus(ApiBase):
    """Results of one Prometheus check at the present weights."""

    name: Text = Field(description="As in the plan.")
    verdict: Literal["", "Passed", "Failed", "NoData"] = Field(
        "",
        description="Result of the last check: within the threshold, outside of it, or no number. Empty before the first.",
    )
    value: float | None = Field(None, description="The last number.")
    passed: NonNegativeInt = Field(0, description="For an analysis: number of good checks.")
    failed: NonNegativeInt = Field(0, description="Consecutive bad checks; those without a number do not count.")
    unknown: NonNegativeInt = Field(0, description="Consecutive checks without a number.")
    at: Timestamp | None = Field(
        None, description="Time of the check. A check that stays good is written once a minute."
    )
    message: Message = Field("", description="The last check in a sentence.")


class StepStatus(ApiBase):
    """The current step of a rollout. `index` counts from 1."""

    index: NonNegativeInt = Field(1, description="Counted from 1.")
    of: NonNegativeInt = Field(0, description="Number of steps, including the one at 100 %.")
    since: Timestamp | None = Field(
        None, description="When all edges applied its weight, or when a pause for a step that took too long ended."
    )
    gate: Text = Field("", description="The step's gate; none once a command opened it.")
    reason: Message = Field("", description="What it waits for.")
    code: Text | None = Field(
        None, description="WaitsForPromote while only the command promote continues the rollout; absent otherwise."
    )
    held_since: Timestamp | None = Field(
        None,
        description="Since when the spec holds it, or its windows do. Windows do not hold the gates time and bake.",
    )
    short_since: Timestamp | None = Field(
        None,
        description="Since when it waits for replicas of the canary; its progressDeadline counts from then on. Absent if none are"
        " missing, or while the rollout is paused or held.",
    )
    warm: bool = Field(False, description="Whether its warm-up is over, and counts are evidence.")
    analysis: CheckStatus | None = Field(
        None, description="With gate analysis: results from Prometheus; absent before the first."
    )
    opened_by: Message | None = Field(
        None, description="What opened the gate before it, in a sentence; absent for the first step."
    )


class PassedStep(ApiBase):
    """A step that was passed without a decision by evidence."""

    step: NonNegativeInt = Field(description="The step, counted from 1.")
    weight: WholePercent = Field(description="Its percent of the traffic.")
    by: Text = Field(description="What passed it: onInconclusive: promote, onNoData: promote, or a command.")


class PauseStatus(ApiBase):
    """Why the rollout is paused."""

    reason: Text = Field(
        description="Manual: by command. Inconclusive: a step took longer than maxDuration, or Prometheus gave no number. NoData:"
        " an arm had no requests. SampleRatio: requests do not match the arms' weights. ControlUnhealthy: both arms"
        " are above max. ControlDegraded: stable is much worse than before the rollout. ProgressDeadlineExceeded: the"
        " revision was not ready in time. Won: an arm won, and spec.onWin is pause."
    )
    message: Message = Field("", description="The same with numbers, if there are any.")
    since: Timestamp = Field(description="Since when.")
    mismatch_since: Timestamp | None = Field(
        None, description="For SampleRatio: since when requests do not match the weights; none once they do again."
    )


class TrafficReturnStatus(ApiBase):
    """Why an in-place rollout ends, while the canary's traffic returns to stable as stable's replicas become ready."""

    reason: Text = Field(description="Why, in a word, as later in status.verdict.")
    message: Message = Field("", description="The same in a sentence.")
    since: Timestamp = Field(description="When traffic last returned. After another progressDeadline, all of it does.")


class Epoch(ApiBase):
    """An interval of constant weights. `confirmed` once every edge has applied it."""

    number: NonNegativeInt = Field(
        0,
        description="Increases with every change of weights, and when counting restarts. At 0 the canary has no traffic.",
    )
    since: Timestamp | None = Field(None, description="When it was committed; once confirmed, when that was.")
    confirmed: bool = Field(False, description="Whether every edge has applied it.")


class EvidenceEpoch(ApiBase):
    """An epoch whose counts are evidence. Counts of a warm-up are not."""

    number: NonNegativeInt = Field(description="As in status.epoch.")
    weight: WholePercent = Field(0, description="The canary's percent of the traffic in it; 0 in a user's Experiment.")
    buckets: Annotated[Items[Bucket], Field(max_length=11)] | None = Field(
        None, description="For a user's Experiment: the buckets of each of status.arms in it."
    )
    troubled: bool = Field(
        False,
        description="Whether stable was no valid baseline in it. Gates ignore such an epoch; harm is still checked.",
    )
    unequal_load: bool | None = Field(
        None,
        description="Of a user's Experiment: true once replicas of an arm had more than 1.2 times or less than 1/1.2 of the load of"
        " stable's. No arm wins by a metric of the edge in such an epoch. Absent otherwise.",
    )
    overloaded: Annotated[Items[Text], Field(max_length=11)] | None = Field(
        None,
        description="With unequalLoad: the arms of which replicas had more than 1.2 times the load of stable's. A latency in it is"
        " no harm of theirs. Absent without any.",
    )
    underloaded: Annotated[Items[Text], Field(max_length=11)] | None = Field(
        None,
        description="With unequalLoad: the arms of which replicas had less than 1/1.2 of the load of stable's. None of their"
        " latencies passes by it. Absent without any.",
    )
    tested: bool | None = Field(
        None,
        description="With unequalLoad: true if tests had used its counts, or earlier ones with equal load, before. Then alpha is"
        " divided once more. Absent otherwise.",
    )
    restarts: NonNegativeInt = Field(
        0,
        description="Earlier epochs of evidence at the same weight, such as before an outage of stable. The last gate uses only"
        " the newest epoch. The first gets nine tenths of alpha, each further one nine tenths of the rest. In a user's"
        " Experiment: earlier epochs of evidence that are not listed any more.",
    )


class ArmStatus(ApiBase):
    """One arm: its revision, its half-open bucket ranges, and its counts."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        description="In a rollout: stable or canary. In a user's Experiment: control, an arm, or stable, which is outside of it."
    )
    revision: RevisionNumber | None = Field(None, description="The revision that answers its requests.")
    weight: PercentNumber = Field(0, description="Its percent of the traffic.")
    ranges: Annotated[Items[BucketRange], Field(max_length=128)] = Field(
        (), description="Its half-open intervals of the 10000 buckets."
    )
    units: NonNegativeInt = Field(
        0,
        description="For a user's Experiment: units whose first request the arm got, by unitsFrom. If each request is a unit, the"
        " number of requests since the start.",
    )
    units_from: Literal["exposures", "sample"] | None = Field(
        None,
        description="exposures: an exact count since the warm-up, as in the metrics, with those of an outage of control, which metrics"
        " leave out. sample: an estimate from a"
        " sample of units that the edges draw, since the start, the warm-up included; it is off by some percent. Absent if each"
        " request is a unit, and before the first count.",
    )
    requests: NonNegativeInt = Field(
        0,
        description="Requests assigned to it since the arms got their traffic, the warm-up included; at most a minute old while"
        " weights are constant.",
    )
    errors: NonNegativeInt = Field(
        0, description="Server errors, timeouts, and cut or invalid answers among these requests."
    )
    lost: NonNegativeInt | None = Field(
        None,
        description="Requests without a known end among these, such as those of a killed edge; not in errors. For a metric to pass they"
        " count as failures of the arm, for harm as failures of control. Absent for none.",
    )
    header_requests: NonNegativeInt | None = Field(
        None,
        description="Requests sent to it by headers steps or the endpoint's overrides. They are no evidence, and not part of"
        " requests.",
    )
    header_errors: NonNegativeInt | None = Field(None, description="Errors among those, as in errors.")
    dropped: Message | None = Field(
        None,
        description="For a user's Experiment: why it no longer gets traffic, as a word, a colon and a sentence.",
    )
    dropped_code: Text | None = Field(None, description="The word that dropped begins with, for programs.")

    @model_validator(mode="before")
    @classmethod
    def _read_dropped_code(cls, data: Any) -> Any:
        return add_stored_code(data, "dropped", "dropped_code")


class ShadowStatus(ApiBase):
    """Counts of the request copies that the canary got in the rollout's last shadow step."""

    sampled: NonNegativeInt = Field(0, description="Requests in the sample.")
    sent: NonNegativeInt = Field(0, description="Copies sent to the canary.")
    dropped: NonNegativeInt = Field(0, description="Copies not sent, because the mirror was behind.")
    skipped: NonNegativeInt = Field(
        0,
        description="Requests not copied: too large, streamed, gRPC, not answered well by stable, or too many a second.",
    )
    paired: NonNegativeInt = Field(0, description="Copies that both the canary and stable answered well.")
    agreed: NonNegativeInt = Field(0, description="Pairs of answers that agree.")
    disagreed: NonNegativeInt = Field(
        0, description="Pairs that do not agree. Answers that cannot be compared are in neither count."
    )
    errors: NonNegativeInt = Field(
        0, description="Copies that the canary answered with a status other than 200, or not at all."
    )
    timeouts: NonNegativeInt = Field(0, description="Copies that it did not answer in time.")
    latency_difference_microseconds: Integer | None = Field(
        None,
        description="How much later than stable it answers at the median; below 0 if earlier. The mirror's own time is part of"
        " it. Absent without a pair.",
    )
    latency_difference_interval: Annotated[Items[Integer], Field(max_length=2)] | None = Field(
        None,
        description="Its interval in microseconds, valid at every evaluation. Absent while an end is unknown, or if an edge does"
        " not answer any more.",
    )
    message: Message = Field("", description="The results in a sentence.")
    step: NonNegativeInt | None = Field(None, description="The shadow step of these counts; absent for the first.")
    epoch: NonNegativeInt | None = Field(
        None, description="The epoch since which is counted; absent for the first step that copies."
    )
    earlier: Annotated[Items[Text], Field(max_length=20)] | None = Field(
        None, description="The results at the end of each earlier shadow step, in a sentence."
    )
    tallies: Annotated[str, Field(max_length=131_072)] = Field(
        "", description="Counts of each process of an edge: JSON, compressed by zlib, in base64."
    )


class MetricValue(ApiBase):
    """Value of one arm in one metric, over all epochs of evidence."""

    value: float | None = Field(
        None, description="The arm's own rate, mean or ratio; a rate is a share from 0 to 1. Absent without data."
    )
    interval: Annotated[Items[float], Field(max_length=2)] = Field(
        (),
        description="Lower and upper end. Each interval alone contains the true value at every evaluation with a probability of at"
        " least 1 - alpha; for a mean or a ratio asymptotically, and absent before 30 units with a value. Of a metric of the edge"
        " it is wider by the dispersion. Two of them that overlap may differ all the same: the ratio's interval decides.",
    )
    count: NonNegativeInt = Field(0, description="Units behind it; requests for a metric of the edge.")
    deviation: float | None = Field(
        None, description="Standard deviation of a unit, of a ratio that of its linearised value. Absent for a rate."
    )


class MetricStatus(ApiBase):
    """State of one metric of one arm, compared with stable."""

    name: Text = Field(description="As in the plan's guardrails or outcomes.")
    role: Text = Field(
        "",
        description="As in the plan: guardrail or harm; for an outcome success, guardrail or secondary. A metric of the edge is"
        " success or secondary too; its events are requests, and its interval is that of an outcome.",
    )
    arm: Text = Field("", description="The evaluated arm; canary in a rollout.")
    events: Annotated[Items[NonNegativeInt], Field(max_length=2)] = Field(
        (),
        description="Events of stable and of that arm, for the decision in basis: failures, slow or failed answers, rejections,"
        " or retries; lost says which of them are unknown. For an outcome, units: for a rate"
        " those with a first value above 0, for a mean or a ratio those with any value.",
    )
    lost: Annotated[Items[NonNegativeInt], Field(max_length=2)] | None = Field(
        None,
        description="How many of the events of stable and of that arm are no known failures, but requests with an unknown end,"
        " such as those of a killed edge. A gate charges those of the arm, so that it does not pass by them; the test for harm"
        " charges those of stable, so that they drop no arm. Absent if there are none.",
    )
    independent_events: float | None = Field(
        None,
        description="As how many independent events the events of both arms count, because failures of a burst or of one user"
        " depend on each other: the events by their dispersion. Absent if they count in full.",
    )
    measure: Literal["rate", "mean", "ratio"] | None = Field(
        None, description="Kind of the values: a share, a mean by unit, or a ratio of sums."
    )
    values: Annotated[Items[MetricValue], Field(max_length=2)] | None = Field(
        None,
        description="Values of stable (or control) and of that arm. If weights changed, their ratio differs from ratio, which"
        " compares them epoch by epoch.",
    )
    ratio: float | None = Field(
        None,
        description="Estimate: that arm's rate of events divided by stable's; absent without events. For an outcome: the arm's"
        " rate, mean or ratio divided by control's.",
    )
    interval: Annotated[Items[float], Field(max_length=2)] = Field(
        (),
        description="Lower and upper end of the ratio's interval, valid at every evaluation, by the test of the decision in"
        " basis. A gate passes by its margin if the upper end is at most allowed. Harm is found if the lower end is"
        " above it. An unknown upper end, such as one above 1000, is left out. Both are left out if nothing is known. For an"
        " outcome, both are left out if no single ratio fits all epochs, too. Its test is one-sided, and the interval with both"
        " ends a little wider.",
    )
    basis: Text = Field(
        "",
        description="The decision, made or pending, that events, ratio, interval and allowed belong to. ThisStep: the gate, with"
        " the newest epoch alone. AllSteps: the gate with all epochs of evidence, in an Experiment or while there is only"
        " one. Harm: all epochs, including a bake's. Empty for outcomes and shadows.",
    )
    allowed: float | None = Field(
        None,
        description="Greatest ratio at which the gate passes: the margin at the next weight. With 25 % this is 1.5 before 50 %,"
        " and 1.25 before 100 %. For harm: 1 plus the margin. For a latency: 1, because the thresholds include the"
        " margin. For an outcome to increase the least ratio, such as 0.97.",
    )
    verdict: Text = Field(
        "",
        description="Undecided: more data is needed. Passed: the gate may pass. Harm: worse than the margin. NoData: an arm had"
        " no requests. Heterogeneous: no single ratio fits all epochs of an outcome. Suspended: unequal load could explain a"
        " latency; gates before the last do not wait for it. Invalid: the counters are inconsistent. For outcomes"
        " also Better, Worse, and NoEffect: certainly less than minimumEffect.",
    )
    needed: float | None = Field(
        None,
        description="Events of both arms (for an outcome, units) that typically decide, if the estimated ratio is true. Absent if"
        " none would. A floor may decide earlier.",
    )
    eta: Duration | None = Field(None, description="Typical time until then, from countedAt on; absent if unknown.")
    message: Message = Field("", description="All of this in a sentence.")
    note: Text | None = Field(
        None,
        description="Unlikely: it will probably not be decided before the experiment stops. ArmDropped: its arm gets no traffic any more."
        " Unreported: no outcome of its feedback was reported yet. Discovery: a secondary metric that differs from control's by"
        " e-BH, so that at most the share alpha of all discoveries is false; it decides nothing.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_note(cls, data: Any) -> Any:
        return add_stored_metric_note(data)


class ExposureLogStatus(ApiBase):
    """The last write of spec.exposureLog."""

    uri: Annotated[str, Field(max_length=2304)] = Field(
        description="Location: below spec.exposureLog.uri by namespace, name, uid and sequence."
    )
    sequence: NonNegativeInt = Field(description="Counted from 1. Each write has its own folder, which is kept.")
    written_at: Timestamp = Field(description="When the data was read.")
    exposures: NonNegativeInt = Field(0, description="Rows of the exposures.")
    outcomes: NonNegativeInt = Field(0, description="Rows of the outcomes.")
    complete: bool = Field(False, description="Whether the rows match the sums in plan.json exactly, as stated there.")
    final: bool = Field(False, description="Whether the data was read after the end. Then this write is the last one.")


class Verdict(ApiBase):
    """The decision, and whether evidence made it."""

    decision: Text = Field(
        "Undecided",
        description="Promoted or RolledBack if evidence decided. With strategy: shadow: Passed if the copies decided, also after a"
        " promote. In a user's Experiment: Winner, NoWinner if no arm can win any more, or Harm if every arm"
        " was worse than allowed. Otherwise Undecided, also after the end.",
    )
    winner: Text = Field(
        "",
        description="If evidence decided: in a rollout the arm that got all traffic, in a user's Experiment the arm that won.",
    )
    leader: Text | None = Field(
        None,
        description="For a user's Experiment that is undecided: the arm with the highest lower end of the interval of the first"
        " success metric, if its estimate is better than control's. A leader is no winner: it changes, and chance alone"
        " makes one. Absent while none leads, while the data is in doubt, and after the end.",
    )
    reason: Message = Field(
        "",
        description="After the end: how and why it ended. Before, in a user's Experiment with success metrics: what a win waits for."
        " With Passed before the end: the findings.",
    )
    code: Text | None = Field(
        None, description="The word that reason begins with, for programs: how it ended, or why. Absent before the end."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_code(cls, data: Any) -> Any:
        return add_stored_code(data, "reason", "code")

    @classmethod
    def of(cls, cause: Cause, decision: str, winner: str = "", limit: int | None = None) -> Self:
        """Return the verdict for a cause, with at most `limit` characters of text."""
        return cls(decision=decision, winner=winner, reason=str(cause)[:limit], code=cause.reason)

    @property
    def message(self) -> str:
        """The reason without its code."""
        return self.reason.removeprefix(f"{self.code}: ")


class ExperimentStatus(Status):
    """The record of an experiment."""

    observed_generation: Annotated[Integer, Field(ge=-1)] = Field(
        -1, description="The generation of the spec that this status describes."
    )
    phase: Literal["Pending", "Queued", "Running", "Concluded", "Stopped"] = Field(
        "Pending",
        description="Pending: the canary or the arms are not ready. Queued: another one goes first. Concluded: promoted, or for a"
        " user's Experiment completed. Stopped: not promoted, or for a user's Experiment ended early.",
    )
    plan: FrozenPlan = Field(FrozenPlan(), description="The plan, resolved at the start; later edits do not change it.")
    step: StepStatus | None = Field(None, description="The current step of the rollout.")
    paused: PauseStatus | None = Field(None, description="Why the rollout is paused; absent otherwise.")
    giving_back: TrafficReturnStatus | None = Field(
        None, description="For an in-place rollout: why it ends, while the canary still has traffic; otherwise absent."
    )
    epoch: Epoch = Field(Epoch(), description="The current interval of constant weights; it may still wait for edges.")
    arms: Annotated[Items[ArmStatus], Field(max_length=11), ListType("map", "name")] = Field(
        (), description="The arms with their traffic and counts."
    )
    evidence_epochs: Annotated[Items[EvidenceEpoch], Field(max_length=40)] = Field(
        (), description="The epochs whose counts are evidence."
    )
    tallies: Annotated[str, Field(max_length=524_288)] = Field(
        "",
        description="Counts of the edges at the last decision, or a minute ago: JSON, compressed by zlib, in base64.",
    )
    metrics: Annotated[Items[MetricStatus], Field(max_length=400)] = Field(
        (), description="State of each guardrail, written once a minute and at each decision."
    )
    shadow: ShadowStatus | None = Field(
        None, description="Results of the copies, written with the metrics; absent before a shadow step."
    )
    history: Annotated[Items[HistoryPoint], Field(max_length=48)] = Field(
        (),
        description="State at some of the evaluations, oldest first. The longer the rollout takes, the further apart they are."
        " Written only together with other changes.",
    )
    checks: Annotated[Items[CheckStatus], Field(max_length=10)] = Field(
        (), description="Results of each of the plan's Prometheus checks, in the plan's order; empty before the first."
    )
    without_evidence: Annotated[Items[PassedStep], Field(max_length=24)] | None = Field(
        None,
        description="For a rollout: steps that were passed without a decision by evidence; absent if there are none.",
    )
    verdict: Verdict = Field(Verdict(), description="How it ended, and whether evidence decided.")
    last_command: Annotated[str, Field(max_length=64)] = Field(
        "", description="Id of the last command that acted on it."
    )
    since: Timestamp | None = Field(
        None, description="For a user's Experiment: when all edges applied its first weights."
    )
    units_reached_at: Timestamp | None = Field(
        None,
        description="For a user's Experiment with conversion windows: when it had spec.stop.maxUnits units. It ends once the"
        " longest window has passed since.",
    )
    resumed_at: Timestamp | None = Field(
        None,
        description="When a pause ended whose revision was not ready in time, or had not started. Its progressDeadline counts"
        " from then on.",
    )
    had_traffic: bool | None = Field(
        None,
        description="For a rollout: whether the canary got requests, by weight or by headers. Absent in old rollouts.",
    )
    counted_at: Timestamp | None = Field(None, description="When the counts of arms and metrics were read.")
    notices: Annotated[Items[RolloutNotice], Field(max_length=32)] = Field(
        (), description="Events in order; empty if the plan has no receivers."
    )
    deliveries: Annotated[Items[NotificationDelivery], Field(max_length=8)] = Field(
        (), description="Progress of each receiver."
    )
    exposure_log: ExposureLogStatus | None = Field(
        None, description="The last write of spec.exposureLog; absent before the first."
    )
    conditions: Annotated[Items[Condition], Field(max_length=16), ListType("map", "type")] = Field(
        (), description="See the conditions below."
    )
