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
    """What Prometheus said of one check, since the weights are as they are."""

    name: Text = Field(description="As in the plan.")
    verdict: Literal["", "Passed", "Failed", "NoData"] = Field(
        "", description="Of the last check: within the threshold, outside of it, or no number. Empty before the first."
    )
    value: float | None = Field(None, description="The last number.")
    passed: NonNegativeInt = Field(0, description="Of an analysis, how many checks were good.")
    failed: NonNegativeInt = Field(0, description="How many in a row were not, those without a number left aside.")
    unknown: NonNegativeInt = Field(0, description="How many in a row gave no number.")
    at: Timestamp | None = Field(
        None, description="When that was checked; a check that stays good is written once a minute."
    )
    message: Message = Field("", description="The last check in a sentence.")


class StepStatus(ApiBase):
    """Where a rollout is. `index` counts from 1; `gate` is that of the step, or none once a command opened it."""

    index: NonNegativeInt = Field(1, description="Counted from 1.")
    of: NonNegativeInt = Field(0, description="How many there are, the one at 100 % included.")
    since: Timestamp | None = Field(
        None, description="When all edges had its weight in force, or when a pause for too long a step was ended."
    )
    gate: Text = Field("", description="The step's gate, or none once a command opened it.")
    reason: Message = Field("", description="What it waits for.")
    code: Text | None = Field(
        None, description="WaitsForPromote while only the command promote continues the rollout; absent otherwise."
    )
    held_since: Timestamp | None = Field(
        None,
        description="Since when the spec holds it, or its windows do; with the gates evidence, shadow and bake, which windows do not hold.",
    )
    short_since: Timestamp | None = Field(
        None,
        description="Since when it waits for replicas of the candidate: its progressDeadline counts from then on. Absent while nothing is"
        " short, or the rollout is paused or held.",
    )
    warm: bool = Field(False, description="Whether its warm-up is over, and what is counted is evidence.")
    analysis: CheckStatus | None = Field(None, description="With gate analysis, what Prometheus said; absent before.")
    opened_by: Message | None = Field(
        None, description="By what the gate before it opened, in a sentence; absent of the first step."
    )


class PassedStep(ApiBase):
    """A step that was passed although evidence had not decided."""

    step: NonNegativeInt = Field(description="Which one, counted from 1.")
    weight: WholePercent = Field(description="Its percent of the traffic.")
    by: Text = Field(description="By what: onInconclusive: promote, onNoData: promote, or a command.")


class PauseStatus(ApiBase):
    """Why nothing moves."""

    reason: Text = Field(
        description="Manual: by command. Inconclusive: a step took longer than maxDuration, or Prometheus has no number."
        " NoData: an arm had no requests. SampleRatio: requests do not fall to the arms by their weights."
        " ControlUnhealthy: both arms are above max."
        " ControlDegraded: stable is much worse than before it began."
        " ProgressDeadlineExceeded: the revision was not ready in time. Won: an arm has won, and spec.onWin is pause."
    )
    message: Message = Field("", description="The same with numbers, as far as there are some.")
    since: Timestamp = Field(description="Since when.")


class TrafficReturnStatus(ApiBase):
    """Why a rollout in place ends, while the candidate's traffic goes back to stable as fast as stable's replicas come."""

    reason: Text = Field(description="Why, in a word, as in status.verdict once it has ended.")
    message: Message = Field("", description="The same in a sentence.")
    since: Timestamp = Field(description="When traffic went back last: after another progressDeadline all of it does.")


class Epoch(ApiBase):
    """An interval of constant weights. `confirmed` once every edge has applied it."""

    number: NonNegativeInt = Field(
        0,
        description="Rises with every change of weights, and where counting begins anew; 0 has no traffic on the candidate.",
    )
    since: Timestamp | None = Field(None, description="When it was committed, then when it was confirmed.")
    confirmed: bool = Field(False, description="Whether every edge has it in force.")


class EvidenceEpoch(ApiBase):
    """An epoch whose counts are evidence; those of a warm-up are not."""

    number: NonNegativeInt = Field(description="As in status.epoch.")
    weight: WholePercent = Field(
        0, description="The candidate's percent of the traffic in it; of an Experiment of a user's own 0."
    )
    buckets: Annotated[Items[Bucket], Field(max_length=11)] | None = Field(
        None, description="Of an Experiment of a user's own: how many buckets each of status.arms had in it."
    )
    troubled: bool = Field(
        False,
        description="Whether stable was no measure in it: gates leave it out, and harm is looked for in it all the same.",
    )
    restarts: NonNegativeInt = Field(
        0,
        description="How many epochs of evidence came before it at the same weight, as after an outage of stable. The last gate looks at"
        " the newest one alone: the first has nine tenths of alpha, and each further one nine tenths of what is left.",
    )


class ArmStatus(ApiBase):
    """One arm: its revision, its half-open bucket ranges, and what was counted."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        description="Of a rollout: stable or canary. Of an Experiment of a user's own: stable, which is outside of it, control, or an arm."
    )
    revision: RevisionNumber | None = Field(None, description="The revision that answers for it.")
    weight: PercentNumber = Field(0, description="Its percent of the traffic.")
    ranges: Annotated[Items[BucketRange], Field(max_length=128)] = Field(
        (), description="Its half-open intervals of the 10000 buckets."
    )
    units: NonNegativeInt = Field(
        0,
        description="Of an Experiment of a user's own: units whose first request fell to it, estimated from a sample where there are very"
        " many; where each request is a unit, as many as requests.",
    )
    requests: NonNegativeInt = Field(
        0, description="Requests assigned to it, at most a minute old while no weight changes."
    )
    errors: NonNegativeInt = Field(0, description="Of those, server errors, timeouts, cut and invalid answers.")
    header_requests: NonNegativeInt | None = Field(
        None,
        description="Requests that steps with headers or overrides of the endpoint sent to it, which are no evidence and not among"
        " requests.",
    )
    header_errors: NonNegativeInt | None = Field(None, description="Of those, as errors of requests.")
    dropped: Message | None = Field(
        None,
        description="Of an Experiment of a user's own: why it got no traffic any more, in a word, a colon and a sentence.",
    )
    dropped_code: Text | None = Field(None, description="The word that dropped begins with, for programs.")

    @model_validator(mode="before")
    @classmethod
    def _read_dropped_code(cls, data: Any) -> Any:
        return add_stored_code(data, "dropped", "dropped_code")


class ShadowStatus(ApiBase):
    """What became of the copies of requests that the candidate got in the rollout's last shadow step."""

    sampled: NonNegativeInt = Field(0, description="Requests that were drawn.")
    sent: NonNegativeInt = Field(0, description="Copies that were sent to the candidate.")
    dropped: NonNegativeInt = Field(0, description="Copies that were not sent, for the mirror was behind.")
    skipped: NonNegativeInt = Field(
        0,
        description="Requests that were left out: too large, streamed, gRPC, not answered well by stable, or too many a second.",
    )
    paired: NonNegativeInt = Field(0, description="Copies that the candidate answered well, as stable did.")
    agreed: NonNegativeInt = Field(0, description="Pairs that agree.")
    disagreed: NonNegativeInt = Field(
        0, description="Pairs that do not. What is neither is no answer that can be compared."
    )
    errors: NonNegativeInt = Field(
        0, description="Copies that the candidate answered otherwise than with 200, or not at all."
    )
    timeouts: NonNegativeInt = Field(0, description="Copies that it did not answer in time.")
    latency_difference_microseconds: Integer | None = Field(
        None,
        description="How much later than stable it answers at the median, below 0 for earlier; the mirror's own time is in it. Absent"
        " without a pair.",
    )
    latency_difference_interval: Annotated[Items[Integer], Field(max_length=2)] | None = Field(
        None,
        description="Between which that lies, in microseconds and right at every look; absent while an end is not known, and of edges that"
        " do not answer any more.",
    )
    message: Message = Field("", description="What is known, in a sentence.")
    step: NonNegativeInt | None = Field(
        None, description="The shadow step that all of this is of; absent of the first."
    )
    epoch: NonNegativeInt | None = Field(
        None, description="What was counted since; absent of the first step that copies."
    )
    earlier: Annotated[Items[Text], Field(max_length=20)] | None = Field(
        None, description="What was known at the end of each shadow step before, in a sentence."
    )
    tallies: Annotated[str, Field(max_length=131_072)] = Field(
        "", description="What each process of an edge has counted: JSON by zlib and base64."
    )


class MetricStatus(ApiBase):
    """What is known of one metric of one arm, beside stable."""

    name: Text = Field(description="As in the plan's guardrails, or outcomes.")
    role: Text = Field("", description="As in the plan: guardrail or harm; of an outcome success or secondary.")
    arm: Text = Field("", description="The arm that is judged; of a rollout canary.")
    events: Annotated[Items[NonNegativeInt], Field(max_length=2)] = Field(
        (),
        description="Of stable and of that arm, in what basis says: failures, answers that took too long or failed,"
        " rejections, or retries. Requests of that arm whose end nobody knows are counted as failures. Of an outcome units: of a rate those"
        " whose first value was above 0, of a mean those with any.",
    )
    ratio: float | None = Field(
        None,
        description="Of the rates of events, that arm's to stable's, as it seems; absent without any event. Of an outcome the arm's rate or"
        " mean to control's.",
    )
    interval: Annotated[Items[float], Field(max_length=2)] = Field(
        (),
        description="Lower and upper end around the ratio, right at every look, each where the test of the decision in basis has it: a gate"
        " passes by its margin when the upper end is at most allowed, and harm is found when the lower end is above it. An upper end that"
        " is not known yet is left out, and both where no one ratio fits all epochs.",
    )
    basis: Text = Field(
        "",
        description="The decision that was made or is pending, of which events, ratio, interval and allowed are. AllSteps: the gate, by all"
        " epochs of evidence. ThisStep: the gate, by the newest epoch alone, as before 100 % and for latencies. Harm: by all epochs, those"
        " of a bake among them. Empty for outcomes and shadows.",
    )
    allowed: float | None = Field(
        None,
        description="The ratio up to which the gate passes: the margin at the next weight, so 1.5 before 50 % and 1.25 before 100 %"
        " for 25 %. Of harm 1 and the margin. Of a latency 1, for its margin is in the times.",
    )
    verdict: Text = Field(
        "",
        description="Undecided: more is needed. Passed: the gate may. Harm: worse than the margin. NoData: an arm had no requests."
        " Heterogeneous: no one ratio fits all epochs. Suspended: a latency that unequal load could explain, for which a gate"
        " before the last does not wait. Invalid: the counters are no counts. Of an outcome also Better, Worse, and NoEffect: less than"
        " minimumEffect for certain.",
    )
    needed: float | None = Field(
        None,
        description="Events of both arms, of an outcome units, that typically decide, if the ratio is what it seems; absent where none"
        " would. A floor may decide earlier.",
    )
    eta: Duration | None = Field(
        None, description="How long that typically takes from countedAt on; absent where nobody can tell."
    )
    message: Message = Field("", description="All of that in a sentence.")
    note: Text | None = Field(
        None,
        description="Unlikely: it will probably not be decided before the experiment stops. ArmDropped: its arm gets no traffic any more.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_note(cls, data: Any) -> Any:
        return add_stored_metric_note(data)


class ExposureLogStatus(ApiBase):
    """What was written of spec.exposureLog last."""

    uri: Annotated[str, Field(max_length=2304)] = Field(
        description="Where it lies: below spec.exposureLog.uri by namespace, name, uid and sequence."
    )
    sequence: NonNegativeInt = Field(description="Counted from 1; each has a folder of its own, which stays.")
    written_at: Timestamp = Field(description="When it was read.")
    exposures: NonNegativeInt = Field(0, description="Rows of exposures.parquet.")
    outcomes: NonNegativeInt = Field(0, description="Rows of outcomes.parquet.")
    complete: bool = Field(False, description="Whether they are just what the sums in plan.json are of; as there.")
    final: bool = Field(False, description="Whether it was read after the end: then it is the last one.")


class Verdict(ApiBase):
    """What was decided, and whether by evidence."""

    decision: Text = Field(
        "Undecided",
        description="Promoted or RolledBack where evidence has decided; with strategy: shadow Passed where copies have, whoever promotes"
        " then; of a user's own Winner, NoWinner where no arm can win any more, or Harm where every arm was worse than it may be; else"
        " Undecided, also of one that ended.",
    )
    winner: Text = Field(
        "",
        description="Where evidence has decided: of a rollout the arm that has all traffic since, of a user's own the one that won.",
    )
    reason: Message = Field("", description="Of one that ended: how, and why; with Passed before that: what was found.")
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
        -1, description="The generation of the spec that all of this is about."
    )
    phase: Literal["Pending", "Queued", "Running", "Concluded", "Stopped"] = Field(
        "Pending",
        description="Pending until the candidate, or the arms, are ready; Queued while another goes first. Of a rollout Concluded was"
        " promoted, Stopped was not. Of a user's own Concluded has run its course, Stopped was ended before.",
    )
    plan: FrozenPlan = Field(FrozenPlan(), description="What was resolved at the start; later edits do not change it.")
    step: StepStatus | None = Field(None, description="Where the rollout is.")
    paused: PauseStatus | None = Field(None, description="Why nothing moves; absent while it does.")
    giving_back: TrafficReturnStatus | None = Field(
        None, description="Of a rollout in place: why it ends, while the candidate still has traffic; else absent."
    )
    epoch: Epoch = Field(Epoch(), description="The interval of constant weights that is in force, or is to be.")
    arms: Annotated[Items[ArmStatus], Field(max_length=11), ListType("map", "name")] = Field(
        (), description="Who gets what, and what was counted."
    )
    evidence_epochs: Annotated[Items[EvidenceEpoch], Field(max_length=40)] = Field(
        (), description="The epochs whose counts are evidence."
    )
    tallies: Annotated[str, Field(max_length=524_288)] = Field(
        "",
        description="What the edges have counted, as of the last decision or a minute ago: JSON by zlib and base64.",
    )
    metrics: Annotated[Items[MetricStatus], Field(max_length=400)] = Field(
        (), description="What is known of each guardrail, written once a minute and at each decision."
    )
    shadow: ShadowStatus | None = Field(
        None, description="What is known of the copies, written with the metrics; absent before a shadow step."
    )
    history: Annotated[Items[HistoryPoint], Field(max_length=48)] = Field(
        (),
        description="What was known at some of the looks, oldest first; the longer the rollout takes, the further apart. Written with what"
        " is written anyway.",
    )
    checks: Annotated[Items[CheckStatus], Field(max_length=10)] = Field(
        (), description="What Prometheus said of each of the plan's checks, in their order; empty before the first."
    )
    without_evidence: Annotated[Items[PassedStep], Field(max_length=24)] | None = Field(
        None,
        description="Of a rollout: the steps that were passed although evidence had not decided; absent where none was.",
    )
    verdict: Verdict = Field(Verdict(), description="How it ended, and whether evidence decided that.")
    last_command: Annotated[str, Field(max_length=64)] = Field(
        "", description="Id of the last command that acted on it."
    )
    since: Timestamp | None = Field(
        None, description="Of an Experiment of a user's own: when all edges had its first weights in force."
    )
    resumed_at: Timestamp | None = Field(
        None,
        description="When a pause was ended that a revision which was not ready in time had, or one which had not begun: its"
        " progressDeadline counts from then on.",
    )
    had_traffic: bool | None = Field(
        None,
        description="Of a rollout: whether its candidate was given requests, by its weight or by their headers. Absent where it began"
        " before this was told.",
    )
    counted_at: Timestamp | None = Field(None, description="When the counts of arms and metrics were read.")
    notices: Annotated[Items[RolloutNotice], Field(max_length=32)] = Field(
        (), description="What happened, in order; empty where the plan has no receivers."
    )
    deliveries: Annotated[Items[NotificationDelivery], Field(max_length=8)] = Field(
        (), description="How far each receiver is."
    )
    exposure_log: ExposureLogStatus | None = Field(
        None, description="What was written of spec.exposureLog last; absent before."
    )
    conditions: Annotated[Items[Condition], Field(max_length=16), ListType("map", "type")] = Field(
        (), description="See the conditions below."
    )
