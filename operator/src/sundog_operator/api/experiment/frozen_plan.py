"""The frozen plan of a rollout or an experiment, which never changes once it is stored."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.experiment.arms import Bucket
from sundog_operator.api.model_deployment.status import NonNegativeInt, WholePercent
from sundog_operator.api.rollout.common import Comparator, PartComparator
from sundog_operator.api.rollout.guardrail_defaults import EdgeMetricName, PlanMetricName
from sundog_operator.api.rollout.lifecycle import NotificationReceiver
from sundog_operator.api.rollout.rollout import Strategy
from sundog_operator.api.scalars import (
    Alpha,
    Duration,
    HttpUrl,
    Integer,
    Items,
    Name,
    Text,
    Timestamp,
)


class PlanWebhook(ApiBase):
    """A webhook step, as frozen."""

    url: HttpUrl = Field(description="The step's webhook.url, including secrets.")
    timeout: Duration = Field(timedelta(seconds=10), description="The step's webhook.timeout.")


class PlanCheck(ApiBase):
    """A Prometheus check, as frozen."""

    name: Name = Field(description="Name of the guardrail or analysis.")
    query: Annotated[str, Field(max_length=4096)] = Field(description="prometheus.query with its placeholders.")
    min: float | None = Field(None, description="threshold.min.")
    max: float | None = Field(None, description="threshold.max.")
    interval: Duration = Field(timedelta(minutes=1), description="prometheus.interval.")
    failure_limit: NonNegativeInt = Field(3, description="prometheus.failureLimit.")
    inconclusive_limit: NonNegativeInt = Field(5, description="prometheus.inconclusiveLimit.")
    count: NonNegativeInt = Field(1, description="The count of the analysis.")


class PlanComparedPart(ApiBase):
    """A part of answers to compare, as frozen."""

    path: Annotated[str, Field(max_length=200)] = Field(description="The part's path.")
    by: PartComparator = Field("exact", description="The part's by.")
    atol: Annotated[float, Field(ge=0)] = Field(0.0, description="The part's atol.")
    rtol: Annotated[float, Field(ge=0)] = Field(0.0, description="The part's rtol.")


class PlanShadow(ApiBase):
    """A step that compares copies of requests, as frozen."""

    percent: Annotated[Integer, Field(ge=1, le=100)] = Field(description="The step's shadow.percent.")
    by: Comparator = Field("exact", description="shadow.compare.agreement.by.")
    atol: Annotated[float, Field(ge=0)] = Field(0.0, description="shadow.compare.agreement.atol.")
    rtol: Annotated[float, Field(ge=0)] = Field(0.0, description="shadow.compare.agreement.rtol.")
    path: Annotated[str, Field(max_length=200)] = Field(
        "", description="shadow.compare.agreement.path; empty compares the whole answer."
    )
    parts: Annotated[Items[PlanComparedPart], Field(max_length=8)] | None = Field(
        None, description="shadow.compare.agreement.parts."
    )
    min_agreement: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="shadow.compare.agreement.min; absent if agreement is only reported."
    )
    latency_margin: Annotated[float, Field(gt=0)] | None = Field(
        None, description="shadow.compare.latencyP99.margin, as a share: 0.1 is 10 %."
    )
    min_samples: Annotated[Integer, Field(ge=1)] = Field(2000, description="shadow.minSamples.")


class PlanHeader(ApiBase):
    """A header that a request must have, as frozen."""

    name: Annotated[str, Field(max_length=63)] = Field(description="In lower case.")
    value: Annotated[str, Field(max_length=256)] = Field(description="The exact value.")


class PlanStep(ApiBase):
    """A step with its gate, as frozen. An implied last step at 100 % has gate none."""

    weight: WholePercent = Field(description="The canary's percent of the traffic.")
    gate: Literal["evidence", "time", "manual", "webhook", "analysis", "scale", "shadow", "headers", "bake", "none"] = (
        Field(description="What ends the step; bake is the period of spec.rollout.bake.")
    )
    webhook: PlanWebhook | None = Field(None, description="With gate webhook: the webhook.")
    analysis: PlanCheck | None = Field(None, description="With gate analysis: the number that must be good.")
    replicas: NonNegativeInt | None = Field(
        None, description="Least replicas of the canary, from the last scale.replicas."
    )
    replicas_percent: WholePercent | None = Field(
        None, description="The same in percent of what the service needs, from the last scale.percent."
    )
    shadow: PlanShadow | None = Field(None, description="With gate shadow: what is copied and compared.")
    headers: Annotated[Items[PlanHeader], Field(max_length=8)] | None = Field(
        None, description="Headers that send requests to the canary, from the last headers step since the last weight."
    )
    min_duration: Duration = Field(
        timedelta(),
        description="With gate time or bake: its length. With evidence or shadow: its least length, including warm-up.",
    )
    max_duration: Duration | None = Field(
        None,
        description="With gate evidence or shadow: its greatest length. Then onInconclusive applies, or a pause if there is no"
        " traffic.",
    )


class PlanGuardrail(ApiBase):
    """A metric that the canary is compared by, as frozen."""

    metric: PlanMetricName = Field(
        description="A metric that the edge measures. rejections: 4xx answers, including 429, and requests that clients gave up."
        " retries: requests whose first replica did not answer, so that another one was tried."
    )
    role: Literal["guardrail", "harm", "measured"] = Field(
        "guardrail",
        description="guardrail: must pass at every evidence gate. harm: causes a rollback, and no gate waits for it. measured: of an"
        " Experiment, a latency of its success or secondary metrics; it is no guardrail.",
    )
    margin: Annotated[float, Field(ge=0)] = Field(
        description="How much worse than stable the canary may be, as a share: 0.25 is 25 %."
    )
    floor: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="A gate also passes a rate that is higher by at most this share of requests: 0.005 is 0.5 %; 0 is none.",
    )
    max: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Greatest share of the canary's requests at which a gate passes. If both arms are above it, the rollout"
        " pauses. Absent for none.",
    )
    max_microseconds: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="For a latency: an absolute limit. A gate passes only if the canary exceeds it no more often than the"
        " metric's name says. Absent for none.",
    )
    threshold_microseconds: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="For a latency: the time that stable exceeds as often as the metric's name says, such as one in a hundred for"
        " latencyP99. Absent until stable has given 100 answers.",
    )
    candidate_threshold_microseconds: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="For a latency: that time plus the margin, at least 1 ms more. The canary may exceed it no more often than"
        " stable exceeds its own. With the role measured, 1 ms less than stable's, or a fifth if that is less.",
    )


class PlanUnit(ApiBase):
    """The unit of assignment, as frozen."""

    kind: Literal["request", "header", "cookie", "jsonPath", "jwtClaim"] = Field(
        "request", description="Source of the unit."
    )
    name: Annotated[str, Field(max_length=256)] = Field(
        "", description="The header, the cookie, the path in the body, or the claim."
    )


class PlanArm(ApiBase):
    """An arm of a user's Experiment, as frozen."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="control, or one of spec.arms.")
    hash: Text = Field(description="Hash of what its replicas run.")
    buckets: Bucket = Field(description="How many of the 10000 buckets it has.")


class PlanOutcome(ApiBase):
    """An outcome from feedback, or a success or secondary metric of the edge, as frozen."""

    name: Text = Field(description="As in spec.metrics or spec.rollout.guardrails.")
    role: Literal["success", "guardrail", "secondary"] = Field(
        description="success: an arm may win by it. guardrail: it must pass before an arm wins, or before an evidence gate opens."
        " secondary: it is only reported."
    )
    feedback: Text = Field("", description="The metric of the feedback API; empty for a metric of the edge.")
    metric: EdgeMetricName | None = Field(None, description="The metric of the edge; absent for one from feedback.")
    type: Literal["rate", "mean", "ratio"] = Field("rate", description="As in the spec.")
    rate_by: Literal["units"] | None = Field(
        None,
        description="Of a rate from feedback: units, because it is tested by the known numbers of exposed units. Absent otherwise, and in"
        " plans of earlier releases, which test events by the planned shares.",
    )
    denominator: Text | None = Field(
        None, description="Of a ratio: the metric of the feedback API whose sum it is divided by. Absent otherwise."
    )
    covariate: Text | None = Field(
        None,
        description="Of a mean: the metric of the feedback API whose total from before the first exposure adjusts it. Absent for"
        " none.",
    )
    goal: Literal["increase", "decrease"] = Field("increase", description="Which direction is better.")
    minimum_effect: Annotated[float, Field(ge=0)] | None = Field(
        None, description="The smallest relative effect worth detecting, as a share: 0.02 is 2 %."
    )
    cap: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Of a mean: a unit's total above this counts as this. Absent for none."
    )
    window: Duration | None = Field(None, description="The conversion window. Absent for none.")
    after: Duration | None = Field(
        None, description="Of retention: only outcomes at least this long after the exposure count. Absent for all."
    )
    margin: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Of a guardrail: how much worse than control, or stable, an arm may be, as a share: 0.03 is 3 %. Absent"
        " otherwise.",
    )


class PlanAllocation(ApiBase):
    """How weights move towards the better arm, as frozen."""

    floor: Annotated[float, Field(ge=0, le=1)] = Field(
        description="spec.allocation.floor, as a share of the experiment's units."
    )
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(description="spec.allocation.delta.")
    pace: Duration = Field(
        description="Least time between two changes of weights: an hour, or a thirtieth of maxDuration."
    )


class PlanComparison(ApiBase):
    """The part of the plan that only a user's Experiment has, as frozen."""

    arms: Annotated[Items[PlanArm], Field(max_length=10)] = Field(
        description="control and the arms. All other buckets stay with stable, outside of the experiment."
    )
    outcomes: Annotated[Items[PlanOutcome], Field(max_length=40)] = Field(
        (),
        description="Metrics from feedback or of the edge: first those that an arm may win by, then guardrails, then those that are"
        " only reported.",
    )
    max_duration: Duration = Field(description="spec.stop.maxDuration.")
    max_units: NonNegativeInt = Field(description="spec.stop.maxUnits.")
    on_win: Literal["none", "pause"] = Field("none", description="spec.onWin.")
    win_by: Literal["everyMetric", "noHarm"] | None = Field(
        None, description="spec.winBy, by spec.preset if that is not set. Absent for anyMetric."
    )
    allocation: PlanAllocation | None = Field(
        None, description="With spec.allocation.mode thompson; absent if weights are fixed."
    )
    guardrails_by_unit: bool | None = Field(
        None,
        description="true where guardrails of the edge are tested by units: these stay with an arm, and weights are fixed. Absent"
        " otherwise, and in plans of earlier releases.",
    )

    @property
    def feedback_outcomes(self) -> tuple[PlanOutcome, ...]:
        """Outcomes from feedback, without metrics of the edge."""
        return tuple(each for each in self.outcomes if each.metric is None)


class PlanInPlace(ApiBase):
    """In-place replacement: the canary's replicas replace stable's, as frozen."""

    spare: NonNegativeInt = Field(
        0, description="Replicas beyond those that the service needs for which there was capacity, 0 or 1."
    )


class FrozenPlan(ApiBase):
    """The plan that was resolved when the experiment started. Later edits do not change it."""

    hash: Text = Field(
        "", description="Hash of the plan as first frozen, without latency thresholds that were found later."
    )
    strategy: Strategy | None = Field(None, description="spec.rollout.strategy.")
    unit: PlanUnit | None = Field(None, description="What is assigned to an arm.")
    unit_header: Annotated[str, Field(max_length=63)] = Field(
        "", description="The header that names the unit, in old plans without `unit`."
    )
    salt: Annotated[str, Field(max_length=63)] = Field(
        "", description="spec.rollout.unit.salt; empty means the salt of this Experiment."
    )
    steps: Annotated[Items[PlanStep], Field(max_length=24)] = Field((), description="The steps, the last one at 100 %.")
    reason: Text = Field("", description="Why the steps differ from the spec's; empty if they do not.")
    attempt: Annotated[NonNegativeInt, Field(ge=1)] | None = Field(
        None,
        description="For a rollout: number of the attempt to roll out this revision, from the second one on. Each attempt has an alpha"
        " of its own, so the chance that a worse revision is promoted adds up.",
    )
    alpha: Alpha | None = Field(None, description="spec.rollout.alpha.")
    harm_shares: Annotated[NonNegativeInt, Field(ge=1)] | None = Field(
        None,
        description="For a rollout: number of equal parts of `alpha` for rollbacks. Each shadow step has one, and traffic that is"
        " checked for harm has one. Absent for one part.",
    )
    early_harm: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="The share of traffic's part of `alpha` for harm that goes to errors in the first blocks of the canary, or of each arm."
        " Absent if these are not tested, as in plans of Experiments of earlier releases.",
    )
    mixture: Annotated[Items[Annotated[float, Field(gt=0)]], Field(max_length=8)] | None = Field(
        None,
        description="Concentrations of the mixture that tests counts; absent for those of version 0.1, 2 and 50.",
    )
    guardrails: Annotated[Items[PlanGuardrail], Field(max_length=12)] = Field(
        (),
        description="Metrics that the canary is compared by. Empty without evidence gates and without a bake, because then"
        " nothing is tested.",
    )
    outcomes: Annotated[Items[PlanOutcome], Field(max_length=10)] | None = Field(
        None, description="For a rollout: the guardrails that are outcomes. Absent without any."
    )
    checks: Annotated[Items[PlanCheck], Field(max_length=10)] = Field((), description="The guardrails from Prometheus.")
    warmup_requests: NonNegativeInt = Field(0, description="spec.rollout.warmup.requests.")
    warmup_duration: Duration = Field(timedelta(), description="spec.rollout.warmup.duration.")
    on_inconclusive: Literal["pause", "rollback", "promote"] = Field(
        "pause", description="spec.rollout.onInconclusive."
    )
    on_no_data: Literal["hold", "pause", "promote"] = Field("hold", description="spec.rollout.onNoData.")
    requests_per_second: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Stable's requests per second when the plan was frozen, over the last hour at most. Absent if less than a"
        " minute was seen.",
    )
    error_rate: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of stable's requests that failed in that time; absent likewise."
    )
    notify: Annotated[Items[NotificationReceiver], Field(max_length=8)] = Field((), description="spec.rollout.notify.")
    comparison: PlanComparison | None = Field(
        None, description="For a user's Experiment: its arms, outcomes and end. Absent in a rollout."
    )
    in_place: PlanInPlace | None = Field(
        None,
        description="For a rollout: the resolved spec.rollout.capacity; absent for surge.",
    )
    frozen_at: Timestamp | None = Field(None, description="When the plan was frozen.")
