"""The plan of a rollout or an experiment, which never changes once it is stored."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.experiment.arms import Bucket
from sundog_operator.api.model_deployment.status import NonNegativeInt, WholePercent
from sundog_operator.api.rollout.defaults import Comparator, MetricName, PartComparator
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
    """What a step asks, as frozen."""

    url: HttpUrl = Field(description="As the step's webhook.url was, secrets included.")
    timeout: Duration = Field(timedelta(seconds=10), description="As the step's webhook.timeout was.")


class PlanCheck(ApiBase):
    """A number that Prometheus is asked for, as frozen."""

    name: Name = Field(description="As the guardrail's or the analysis' name was.")
    query: Annotated[str, Field(max_length=4096)] = Field(
        description="As prometheus.query was, places to fill included."
    )
    min: float | None = Field(None, description="As threshold.min was.")
    max: float | None = Field(None, description="As threshold.max was.")
    interval: Duration = Field(timedelta(minutes=1), description="As prometheus.interval was.")
    failure_limit: NonNegativeInt = Field(3, description="As prometheus.failureLimit was.")
    inconclusive_limit: NonNegativeInt = Field(5, description="As prometheus.inconclusiveLimit was.")
    count: NonNegativeInt = Field(1, description="As the analysis' count was.")


class PlanComparedPart(ApiBase):
    """A part of answers that is compared, as frozen."""

    path: Annotated[str, Field(max_length=200)] = Field(description="As its path was.")
    by: PartComparator = Field("exact", description="As its by was.")
    atol: Annotated[float, Field(ge=0)] = Field(0.0, description="As its atol was.")
    rtol: Annotated[float, Field(ge=0)] = Field(0.0, description="As its rtol was.")


class PlanShadow(ApiBase):
    """What a step that compares copies of requests does, as frozen."""

    percent: Annotated[Integer, Field(ge=1, le=100)] = Field(description="As the step's shadow.percent was.")
    by: Comparator = Field("exact", description="As shadow.compare.agreement.by was.")
    atol: Annotated[float, Field(ge=0)] = Field(0.0, description="As shadow.compare.agreement.atol was.")
    rtol: Annotated[float, Field(ge=0)] = Field(0.0, description="As shadow.compare.agreement.rtol was.")
    path: Annotated[str, Field(max_length=200)] = Field(
        "", description="As shadow.compare.agreement.path was; empty compares all of the answer."
    )
    parts: Annotated[Items[PlanComparedPart], Field(max_length=8)] | None = Field(
        None, description="As shadow.compare.agreement.parts were."
    )
    min_agreement: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="As shadow.compare.agreement.min was; absent where agreement is only reported."
    )
    latency_margin: Annotated[float, Field(gt=0)] | None = Field(
        None, description="As shadow.compare.latencyP99.margin was, as a share: 0.1 is 10 %."
    )
    min_samples: Annotated[Integer, Field(ge=1)] = Field(2000, description="As shadow.minSamples was.")


class PlanHeader(ApiBase):
    """A header that a request has to have, as frozen."""

    name: Annotated[str, Field(max_length=63)] = Field(description="In lower case.")
    value: Annotated[str, Field(max_length=256)] = Field(description="Exactly so.")


class PlanStep(ApiBase):
    """A weight with its gate, as frozen. The 100 % step that a list leaves implied has gate none."""

    weight: WholePercent = Field(description="The candidate's percent of the traffic.")
    gate: Literal["evidence", "time", "manual", "webhook", "analysis", "scale", "shadow", "headers", "bake", "none"] = (
        Field(description="What lets the rollout pass it; bake is the time that spec.rollout.bake asks for.")
    )
    webhook: PlanWebhook | None = Field(None, description="With gate webhook, what is asked.")
    analysis: PlanCheck | None = Field(None, description="With gate analysis, the number that has to be good.")
    replicas: NonNegativeInt | None = Field(
        None, description="The fewest replicas of the candidate, as scale.replicas was last."
    )
    replicas_percent: WholePercent | None = Field(
        None, description="The same in percent of what the service needs, as scale.percent was last."
    )
    shadow: PlanShadow | None = Field(None, description="With gate shadow, what is copied and compared.")
    headers: Annotated[Items[PlanHeader], Field(max_length=8)] | None = Field(
        None, description="Headers with which requests go to the candidate, as headers was since the last weight."
    )
    min_duration: Duration = Field(
        timedelta(),
        description="With gate time or bake, how long it lasts; with evidence, how long at least, warm-up included; likewise with shadow.",
    )
    max_duration: Duration | None = Field(
        None,
        description="With gate evidence or shadow, how long it may take; then onInconclusive follows, or without traffic a pause.",
    )


class PlanGuardrail(ApiBase):
    """What the candidate is judged by, as frozen."""

    metric: Literal[MetricName, "rejections", "retries"] = Field(
        description="A metric that the edge measures; rejections are 4xx answers, 429 included, and requests that clients gave up;"
        " retries are requests whose first replica did not answer, so that another one was tried."
    )
    role: Literal["guardrail", "harm"] = Field(
        "guardrail",
        description="guardrail: must pass at every gate of evidence. harm: rolls back, and no gate waits for it.",
    )
    margin: Annotated[float, Field(ge=0)] = Field(
        description="How much worse than stable the candidate may be, as a share: 0.25 is 25 %."
    )
    floor: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="A gate also passes a rate that is higher by no more than this share of requests: 0.005 is 0.5 %; 0 is none.",
    )
    max: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="The share of the candidate's requests up to which a gate lets it pass; where both arms are above it the rollout"
        " pauses. Absent for none.",
    )
    max_microseconds: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="Of a latency: the time that the candidate's answers may exceed no more often than the metric says, for a gate to"
        " let it pass. Absent for none.",
    )
    threshold_microseconds: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="Of a latency: the time that stable's answers exceed as seldom as the metric says, such as one in a hundred for"
        " latencyP99. Absent until stable has given 100 answers.",
    )
    candidate_threshold_microseconds: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="Of a latency: that time and the margin, a millisecond at least, which the candidate may exceed no more often than"
        " stable exceeds its own.",
    )


class PlanUnit(ApiBase):
    """What is assigned to an arm, as frozen."""

    kind: Literal["request", "header", "cookie", "jsonPath", "jwtClaim"] = Field(
        "request", description="Where the unit is read."
    )
    name: Annotated[str, Field(max_length=256)] = Field(
        "", description="The header, the cookie, the path in the body, or the claim."
    )


class PlanArm(ApiBase):
    """An arm of an Experiment of a user's own, as frozen."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="control, or one of spec.arms.")
    hash: Text = Field(description="Of what its replicas run.")
    buckets: Bucket = Field(description="How many of the 10000 buckets it has.")


class PlanOutcome(ApiBase):
    """An outcome that comes by feedback, as frozen."""

    name: Text = Field(description="As in spec.metrics.")
    role: Literal["success", "secondary"] = Field(description="Whether an arm may win by it.")
    feedback: Text = Field(description="The metric of the feedback API.")
    type: Literal["rate", "mean"] = Field("rate", description="As in spec.metrics.")
    goal: Literal["increase", "decrease"] = Field("increase", description="Which way is better.")
    minimum_effect: Annotated[float, Field(ge=0)] | None = Field(
        None, description="The smallest relative effect worth detecting, as a share: 0.02 is 2 %."
    )


class PlanAllocation(ApiBase):
    """How weights move towards the better arm, as frozen."""

    floor: Annotated[float, Field(ge=0, le=1)] = Field(
        description="As spec.allocation.floor was, as a share of the units of the experiment."
    )
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(description="As spec.allocation.delta was.")
    pace: Duration = Field(description="How long weights stay at least: an hour, or a thirtieth of maxDuration.")


class PlanComparison(ApiBase):
    """What an Experiment of a user's own has beside what a rollout has, as frozen."""

    arms: Annotated[Items[PlanArm], Field(max_length=10)] = Field(
        description="control and the arms; all other buckets stay with stable, outside of the experiment."
    )
    outcomes: Annotated[Items[PlanOutcome], Field(max_length=25)] = Field(
        (),
        description="The metrics that come by feedback: those an arm may win by, then those that are reported beside.",
    )
    max_duration: Duration = Field(description="As spec.stop.maxDuration was.")
    max_units: NonNegativeInt = Field(description="As spec.stop.maxUnits was.")
    on_win: Literal["none", "pause"] = Field("none", description="As spec.onWin was.")
    allocation: PlanAllocation | None = Field(
        None, description="With spec.allocation.mode thompson; absent where weights stay."
    )


class PlanInPlace(ApiBase):
    """That the candidate's replicas take the place of stable's, as frozen."""

    spare: NonNegativeInt = Field(
        0, description="Replicas beyond those that the service needs for which there was room, 0 or 1."
    )


class FrozenPlan(ApiBase):
    """What was resolved when the experiment started, and is not changed by later edits."""

    hash: Text = Field(
        "", description="Of all of this as it was first frozen; a latency's time that is found later is not in it."
    )
    strategy: Strategy | None = Field(None, description="As spec.rollout.strategy was.")
    unit: PlanUnit | None = Field(None, description="What is assigned to an arm.")
    unit_header: Annotated[str, Field(max_length=63)] = Field(
        "", description="The header that names the unit, in plans that were frozen without `unit`."
    )
    salt: Annotated[str, Field(max_length=63)] = Field(
        "", description="As spec.rollout.unit.salt was; empty means that of this Experiment."
    )
    steps: Annotated[Items[PlanStep], Field(max_length=24)] = Field((), description="The steps, the last one at 100 %.")
    reason: Text = Field("", description="Why the steps are not those of the spec; empty where they are.")
    alpha: Alpha | None = Field(None, description="As spec.rollout.alpha was.")
    harm_shares: Annotated[NonNegativeInt, Field(ge=1)] | None = Field(
        None,
        description="Of a rollout: among how many `alpha` is shared for rolling back, each shadow step and traffic where harm is looked"
        " for in it; absent where all of it is for one.",
    )
    early_harm: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Of a rollout: of what traffic has of `alpha` for rolling back, the share for errors in the candidate's first blocks;"
        " absent where none are looked for there.",
    )
    mixture: Annotated[Items[Annotated[float, Field(gt=0)]], Field(max_length=8)] | None = Field(
        None,
        description="Concentrations of the mixture by which counts are tested; absent for those of version 0.1, 2 and 50.",
    )
    guardrails: Annotated[Items[PlanGuardrail], Field(max_length=12)] = Field(
        (),
        description="What the candidate is judged by; empty where no step has a gate of evidence and there is no bake, for nothing is"
        " weighed then.",
    )
    checks: Annotated[Items[PlanCheck], Field(max_length=10)] = Field(
        (), description="The guardrails that are read from Prometheus."
    )
    warmup_requests: NonNegativeInt = Field(0, description="As spec.rollout.warmup.requests was.")
    warmup_duration: Duration = Field(timedelta(), description="As spec.rollout.warmup.duration was.")
    on_inconclusive: Literal["pause", "rollback", "promote"] = Field(
        "pause", description="As spec.rollout.onInconclusive was."
    )
    on_no_data: Literal["hold", "pause", "promote"] = Field("hold", description="As spec.rollout.onNoData was.")
    requests_per_second: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Stable's traffic when the plan was frozen, of the last hour at most; absent where less than a minute was seen.",
    )
    error_rate: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="The share of stable's requests that failed in that time; absent where that is."
    )
    notify: Annotated[Items[NotificationReceiver], Field(max_length=8)] = Field(
        (), description="As spec.rollout.notify was."
    )
    comparison: PlanComparison | None = Field(
        None, description="Of an Experiment of a user's own: its arms, outcomes and end; absent of a rollout."
    )
    in_place: PlanInPlace | None = Field(
        None,
        description="Of a rollout: what spec.rollout.capacity was resolved to; absent with surge.",
    )
    frozen_at: Timestamp | None = Field(None, description="When the plan was frozen.")
