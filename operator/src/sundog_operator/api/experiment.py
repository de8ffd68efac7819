"""Experiment: two or more models side by side on the traffic of one ModelDeployment."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.conditions import Condition
from sundog_operator.api.model_deployment import (
    RESERVED_POD_LABELS_RULE,
    Batching,
    EnvVar,
    Gpu,
    ModelCredentials,
    ModelFormat,
    NonNegativeInt,
    RevisionNumber,
    Warmup,
    WholePercent,
)
from sundog_operator.api.resource import Metadata, Resource, Status
from sundog_operator.api.rollout import (
    MAX_FITS_METRIC_RULE,
    MAX_LATENCY_GUARDRAILS,
    MAX_LATENCY_GUARDRAILS_RULE,
    ONE_GUARDRAIL_PER_METRIC_RULE,
    Comparator,
    MetricGuardrail,
    MetricName,
    NotificationEvent,
    NotificationReceiver,
    PartComparator,
    PositiveDuration,
    Strategy,
    Unit,
    Weight,
)
from sundog_operator.api.scalars import (
    Alpha,
    Bytes,
    Cpu,
    Digest,
    Duration,
    Entrypoint,
    HttpUrl,
    Image,
    Integer,
    Items,
    Json,
    LabelValue,
    LogUri,
    Message,
    Name,
    PercentNumber,
    PercentText,
    PercentUpTo100Text,
    QualifiedName,
    Text,
    Timestamp,
    Uri,
)
from sundog_operator.api.schema.rules import ExpectedNoun, ListType, Rule, TransitionRule, nonzero_rule

Bucket = Annotated[Integer, Field(ge=0, le=10_000)]
BucketRange = Annotated[Items[Bucket], Field(min_length=2, max_length=2)]

STABLE = "stable"
"""The name under which what is outside of an experiment is counted."""

CONTROL = "control"
"""The name of the arm that is the ModelDeployment's stable revision."""

CANARY = "canary"
"""The name of the one arm of a rollout."""

_OF_A_ROLLOUT = re.compile("-r[0-9]+(-a[0-9]+)?$")
"""How the name of an Experiment of a rollout ends, after that of its ModelDeployment."""

IMMUTABLE_RULE = TransitionRule(
    cel="self == oldSelf",
    holds=lambda old, new: bool(old == new),
    message="cannot be changed; create another Experiment",
)


class ArmModel(ApiBase):
    """Fields of `spec.model` of the ModelDeployment that the arm replaces."""

    uri: Annotated[Uri, Field(min_length=1)] | None = Field(
        None, description="Replaces spec.model.uri of the deployment."
    )
    digest: Digest | None = Field(None, description="Replaces spec.model.digest of the deployment.")
    format: ModelFormat | None = Field(None, description="Replaces spec.model.format of the deployment.")
    entrypoint: Entrypoint | None = Field(None, description="Replaces spec.model.entrypoint of the deployment.")
    config: Json | None = Field(None, description="Replaces spec.model.config of the deployment.")
    trust_code: bool | None = Field(None, description="Replaces spec.model.trustCode of the deployment.")
    credentials: ModelCredentials | None = Field(None, description="Replaces spec.model.credentials of the deployment.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "!has(self.format) || !(self.format in ['exported', 'torchscript'])"
                " || has(self.trustCode) && self.trustCode"
            ),
            holds=lambda model: model.format not in ("exported", "torchscript") or model.trust_code is True,
            message="{format} archives can run code when they are loaded; set trustCode: true to accept that",
            field="format",
        ),
    )


class ArmRuntime(ApiBase):
    """Fields of `spec.runtime` of the ModelDeployment that the arm replaces."""

    image: Image | None = Field(None, description="Replaces spec.runtime.image of the deployment.")
    env: Annotated[Items[EnvVar], Field(max_length=100), ListType("map", "name")] | None = Field(
        None, description="Replaces spec.runtime.env of the deployment."
    )
    max_ongoing_requests: Annotated[Integer, Field(ge=1, le=10_000)] | None = Field(
        None, description="Replaces spec.runtime.maxOngoingRequests of the deployment."
    )
    batching: Batching | None = Field(None, description="Replaces spec.runtime.batching of the deployment.")
    placement: Literal["dedicated", "shared"] | None = Field(
        None, description="Replaces spec.runtime.placement of the deployment."
    )
    pod_labels: Annotated[dict[QualifiedName, LabelValue], Field(max_length=32), RESERVED_POD_LABELS_RULE] | None = (
        Field(None, description="Replaces spec.runtime.podLabels of the deployment.")
    )
    warmup: Warmup | None = Field(None, description="Replaces spec.runtime.warmup of the deployment.")
    user_config: Json | None = Field(
        None,
        description="Replaces spec.runtime.userConfig of the deployment, all of it, for as long as the arm runs. Without it the arm"
        " has what the deployment has, edits of that included.",
    )


class ArmResources(ApiBase):
    """Fields of `spec.resources` of the ModelDeployment that the arm replaces."""

    cpu: Cpu | None = Field(None, description="Replaces spec.resources.cpu of the deployment.")
    memory: Bytes | None = Field(None, description="Replaces spec.resources.memory of the deployment.")
    gpu: Gpu | None = Field(None, description="Replaces spec.resources.gpu of the deployment.")


class Arm(ApiBase):
    """One alternative to the stable revision. Given fields replace the deployment's; none makes an A/A test."""

    name: Annotated[Name, Field(max_length=30)] = Field(description="Names the arm in status, headers and metrics.")
    model: ArmModel | None = Field(None, description="Fields of the deployment's model that are replaced.")
    runtime: ArmRuntime | None = Field(None, description="Fields of the deployment's runtime that are replaced.")
    resources: ArmResources | None = Field(None, description="Fields of the deployment's resources that are replaced.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.name != '{CONTROL}' && self.name != '{STABLE}'",
            holds=lambda arm: arm.name not in (CONTROL, STABLE),
            message=f"{CONTROL} and {STABLE} are the stable revision's own names",
            field="name",
        ),
    )


MinimumEffect = Annotated[
    PercentText,
    nonzero_rule("0% is never told from no effect; leave it out for one of about 5 %"),
]
ExposurePercent = Annotated[
    PercentUpTo100Text,
    nonzero_rule("0% leaves every arm without units; set stopped: true to end an experiment"),
]


RESERVED_METRIC_NAMES = ("rejections", "retries")
"""Metrics that edges measure by names that an outcome could have too: others have capitals. They are judged of every arm."""

NOT_RESERVED_METRIC_NAME_RULE = Rule(
    cel="!(self in [" + ", ".join(f"'{name}'" for name in RESERVED_METRIC_NAMES) + "])",
    holds=lambda name: name not in RESERVED_METRIC_NAMES,
    message="{} is a metric of the edge that is always judged, and reports would mix both; expected another name",
)


class SuccessMetric(ApiBase):
    """An outcome that an arm may win by."""

    name: Annotated[Name, NOT_RESERVED_METRIC_NAME_RULE] = Field(
        description="Names it in status. No metric of the edge may be called so."
    )
    feedback: Annotated[
        str,
        Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][-A-Za-z0-9_.]*$"),
        ExpectedNoun("a feedback metric such as converted"),
    ] = Field(description="The metric of the feedback API.")
    type: Literal["rate", "mean"] = Field(
        "rate",
        description="rate is the share of exposed units whose first value was above 0; mean is the sum of a unit's values, 0 without any,"
        " by exposed unit.",
    )
    goal: Literal["increase", "decrease"] = Field("increase", description="Which way is better.")
    minimum_effect: MinimumEffect | None = Field(
        None,
        description="The smallest relative effect worth detecting. Evidence is the quickest about effects of that size and a few times it,"
        " without one about 5 %; and an arm whose effect is known to be smaller has none.",
    )


class ExperimentGuardrail(MetricGuardrail):
    """A metric of the edge that may not get worse."""

    metric: MetricName = Field(description="A metric that the edge measures.")

    rules: ClassVar[tuple[Rule, ...]] = (MAX_FITS_METRIC_RULE,)


class ExperimentMetrics(ApiBase):
    """What is compared."""

    success: Annotated[Items[SuccessMetric], Field(max_length=5), ListType("map", "name")] = Field(
        (), description="What an arm may win by."
    )
    guardrails: Annotated[
        Items[ExperimentGuardrail], Field(max_length=10), ONE_GUARDRAIL_PER_METRIC_RULE, MAX_LATENCY_GUARDRAILS_RULE
    ] = Field((), description=f"What may not get worse. At most {MAX_LATENCY_GUARDRAILS} latencies.")
    secondary: Annotated[Items[SuccessMetric], Field(max_length=20), ListType("map", "name")] = Field(
        (), description="What is reported beside."
    )


class Allocation(ApiBase):
    """How weights move: not at all, or towards the better arm."""

    mode: Literal["fixed", "thompson"] = Field(
        "fixed", description="fixed keeps the weights; thompson moves them towards the better arm."
    )
    floor: PercentUpTo100Text | None = Field(
        None,
        description="The least weight of an arm that is not out; with thompson. 5 % where it is not given. Of all arms together, control"
        " included, no more than 100 %.",
    )
    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="The share of the exposed units that always falls to all arms alike, whatever seems better; with thompson. It keeps"
        " comparisons valid and every arm measured. 0.2 where it is not given.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.mode == 'thompson' || !has(self.floor) && !has(self.delta)",
            holds=lambda allocation: (
                allocation.mode == "thompson" or (allocation.floor is None and allocation.delta is None)
            ),
            message="floor and delta go with mode thompson only",
        ),
    )


class StoppingRule(ApiBase):
    """What ends an experiment without a verdict."""

    max_duration: PositiveDuration = Field(timedelta(days=14), description="How long it runs at most.")
    max_units: Annotated[Integer, Field(ge=1, le=1_000_000_000)] = Field(
        2_000_000, description="How many units it takes at most."
    )


class ExposureLog(ApiBase):
    """Where exposures and outcomes are written, at the end and now and then before; an empty uri leaves them in the namespace's store."""

    uri: LogUri = Field(
        "",
        description="Below which place: s3://, gs://, pvc:// of a claim that the operator has mounted, in local mode file://;"
        " of a cluster one that its administrator allows. Empty leaves them in the namespace's store, bounded.",
    )
    format: Literal["parquet"] = Field("parquet", description="How they are written.")


def _weights_name_arms(spec: "ExperimentSpec") -> bool:
    return not spec.weights or set(spec.weights) == {CONTROL, *(arm.name for arm in spec.arms)}


def _names(metrics: Sequence[SuccessMetric]) -> set[str]:
    return {each.name for each in metrics}


def _floors_fit(spec: "ExperimentSpec") -> bool:
    floor = spec.allocation.floor
    return floor is None or float(floor.removesuffix("%")) * (len(spec.arms) + 1) <= 100


class ExperimentSpec(ApiBase):
    """What is compared with what, on whose traffic, until when."""

    model_deployment: Annotated[Name, Field(max_length=40), IMMUTABLE_RULE] = Field(
        description="The ModelDeployment whose stable revision is the control arm."
    )
    arms: Annotated[Items[Arm], Field(min_length=1, max_length=9), ListType("map", "name")] = Field(
        description="What is compared with the stable revision."
    )
    weights: Annotated[dict[str, Weight], Field(max_length=10)] = Field(
        {}, description="Percent of the exposed units by arm, control included; none means equal."
    )
    exposure: ExposurePercent = Field(
        "20%", description="The share of units in the experiment; the rest stay on stable."
    )
    unit: Unit = Field(Unit(), description="What is assigned to an arm and stays there.")
    metrics: ExperimentMetrics = Field(ExperimentMetrics(), description="What is compared.")
    allocation: Allocation = Field(Allocation(), description="How weights move.")
    stop: StoppingRule = Field(StoppingRule(), description="What ends the experiment without a verdict.")
    stopped: bool = Field(False, description="true ends the experiment with the evidence so far.")
    exposure_log: ExposureLog = Field(ExposureLog(), description="Where exposures and outcomes are written.")
    alpha: Alpha = Field(0.05, description="The error of each direction.")
    on_win: Literal["none", "pause"] = Field(
        "none",
        description="What follows when an arm wins: none ends the experiment, and stable has all traffic; pause leaves all as it is until"
        " somebody ends it, or stop does. The ModelDeployment is never edited.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                f"self.weights.size() == 0 || self.weights.size() == self.arms.size() + 1"
                f" && '{CONTROL}' in self.weights && self.arms.all(a, a.name in self.weights)"
            ),
            holds=_weights_name_arms,
            message=f"the weights have to name {CONTROL} and every arm, and nothing else",
            field="weights",
        ),
        Rule(
            cel="self.weights.size() == 0 || self.weights.map(k, self.weights[k]).sum() == 100",
            holds=lambda spec: not spec.weights or sum(spec.weights.values()) == 100,
            message="the weights do not sum to 100",
            field="weights",
        ),
        Rule(
            cel="self.allocation.mode != 'thompson' || self.metrics.success.size() > 0",
            holds=lambda spec: spec.allocation.mode != "thompson" or bool(spec.metrics.success),
            message="thompson follows the first of metrics.success, and there is none",
            field="allocation.mode",
        ),
        Rule(
            cel="self.metrics.success.all(s, self.metrics.secondary.all(t, t.name != s.name))",
            holds=lambda spec: not _names(spec.metrics.success) & _names(spec.metrics.secondary),
            message="a success metric has the same name; what is told of one of them could be of the other",
            field="metrics.secondary",
            applies_to_new_only=True,
        ),
        Rule(
            cel=(
                "!has(self.allocation.floor)"
                " || double(self.allocation.floor.split('%')[0]) * double(self.arms.size() + 1) <= 100.0"
            ),
            holds=_floors_fit,
            message="{allocation.floor} of each arm, control included, is more than 100% of all",
            field="allocation.floor",
            applies_to_new_only=True,
        ),
        Rule(
            cel="self.exposureLog.uri == '' || self.metrics.success.size() > 0 || self.metrics.secondary.size() > 0",
            holds=lambda spec: not spec.exposure_log.uri or bool(spec.metrics.success) or bool(spec.metrics.secondary),
            message="there is nothing to write: exposures are kept where metrics.success or metrics.secondary has one",
            field="exposureLog.uri",
        ),
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


class HistoryMetric(ApiBase):
    """What was known of one metric at one look."""

    name: Text = Field(description="As in the plan's guardrails, or outcomes.")
    role: Text | None = Field(None, description="As in status.metrics; absent of a rollout.")
    arm: Text | None = Field(None, description="The arm that was judged; absent of a rollout.")
    ratio: float | None = Field(
        None, description="Of the rates of events, the candidate's to stable's; absent where stable had none."
    )
    lower: float | None = Field(
        None, description="Lower end of the interval around it; absent where no one ratio fits all epochs."
    )
    upper: float | None = Field(None, description="Upper end; absent while it is not known.")
    basis: Text | None = Field(
        None,
        description="The decision that ratio and interval are of, as in status.metrics: ThisStep or Harm; absent for AllSteps, of"
        " outcomes, and of points of before it was kept.",
    )
    verdict: Text | None = Field(None, description="As in status.metrics; absent for Undecided.")


class HistoryPoint(ApiBase):
    """What was known at one look."""

    at: Timestamp = Field(description="When it was looked.")
    epoch: NonNegativeInt = Field(description="As in status.epoch.")
    weight: WholePercent = Field(
        description="The candidate's percent of the traffic; of an Experiment of a user's own that of its arms beside control together,"
        " to a whole number."
    )
    weights: Annotated[Items[PercentNumber], Field(max_length=11)] | None = Field(
        None, description="Percent of the traffic of each of status.arms; absent of a rollout."
    )
    requests: Annotated[Items[NonNegativeInt], Field(max_length=11)] = Field(
        (), description="Of stable and of the candidate, since the rollout began; else of each of status.arms."
    )
    errors: Annotated[Items[NonNegativeInt], Field(max_length=11)] = Field(
        (), description="Of those, the ones that failed."
    )
    metrics: Annotated[Items[HistoryMetric], Field(max_length=24)] | None = Field(
        None, description="Those of which there were any events; absent where there are none."
    )


class RolloutNotice(ApiBase):
    """Something that happened, of which those in the plan's notify are told."""

    event: NotificationEvent = Field(description="What: one that spec.rollout.notify[].events can name.")
    step: NonNegativeInt = Field(0, description="At which step; 0 before the first.")
    weight: WholePercent = Field(0, description="The candidate's percent of the traffic then.")
    reason: Text = Field("", description="Why: a word, a colon, and a sentence.")
    verdict: Text = Field("", description="What evidence had decided by then, as in status.verdict.decision.")
    time: Timestamp = Field(description="When.")


class NotificationDelivery(ApiBase):
    """How far one receiver is. Absent until it was told something, or could not be."""

    receiver: NonNegativeInt = Field(description="Its place in the plan's notify, from 0.")
    told: NonNegativeInt = Field(0, description="The last notice that it is done with, counted from 1.")
    lost: NonNegativeInt = Field(0, description="How many were given up after an hour.")
    problem: Text = Field("", description="Why it could not be told the next one, or the last one that was given up.")


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


def _names_no_canary(experiment: "Experiment") -> bool:
    return all(arm.name != CANARY for arm in experiment.spec.arms)


def _is_named_as_of_a_rollout(experiment: "Experiment") -> bool:
    name = experiment.metadata.name
    begins = name.startswith(f"{experiment.spec.model_deployment}-r")
    return begins and _OF_A_ROLLOUT.search(name) is not None


class Experiment(Resource):
    """Models side by side on one ModelDeployment's traffic, with statistics that stay right however often they are looked at."""

    kind: Literal["Experiment"] = "Experiment"
    metadata: Metadata
    spec: ExperimentSpec
    status: ExperimentStatus = ExperimentStatus()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.metadata.name.size() <= 63",
            holds=lambda experiment: len(experiment.metadata.name) <= 63,
            message="{metadata.name} is longer than 63 characters",
            field="metadata.name",
        ),
        Rule(
            cel="!self.metadata.name.contains('.')",
            holds=lambda experiment: "." not in experiment.metadata.name,
            message="{metadata.name} is not a DNS label",
            field="metadata.name",
        ),
        Rule(
            cel=(
                f"!self.spec.arms.exists(a, a.name == '{CANARY}') || self.metadata.name.startsWith(self.spec.modelDeployment + '-r')"
                f" && self.metadata.name.matches('{_OF_A_ROLLOUT.pattern}')"
            ),
            holds=lambda experiment: _names_no_canary(experiment) or _is_named_as_of_a_rollout(experiment),
            message=f"{CANARY} is the name of a rollout's own arm; give the arm another one",
            field="spec.arms",
            applies_to_new_only=True,
        ),
    )
