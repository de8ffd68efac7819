"""Experiment: two or more models side by side on the traffic of one ModelDeployment."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.conditions import Condition
from sundog_operator.api.model_deployment import (
    RESERVED_POD_LABELS,
    Batching,
    Count,
    Credentials,
    EnvVar,
    Gpu,
    ModelFormat,
    Percentage,
    Revision,
    Warmup,
)
from sundog_operator.api.part import Part
from sundog_operator.api.resource import Metadata, Resource, Status
from sundog_operator.api.rollout import (
    CEILING_FITS,
    ONE_GUARDRAIL_PER_METRIC,
    MetricGuardrail,
    MetricName,
    NoticeEvent,
    Notification,
    PositiveDuration,
    Strategy,
    Unit,
    Weight,
)
from sundog_operator.api.rules import ListType, Noun, Rule, Transition
from sundog_operator.api.scalars import (
    Alpha,
    Bytes,
    Cpu,
    Digest,
    Duration,
    Entrypoint,
    HttpUrl,
    Image,
    Instant,
    Integer,
    Items,
    Json,
    LabelValue,
    LogUri,
    Message,
    Name,
    Percent,
    QualifiedName,
    Share,
    Text,
    Uri,
)

CONTROL = "control"
"""The name of the arm that is the ModelDeployment's stable revision."""

IMMUTABLE = Transition(
    cel="self == oldSelf",
    holds=lambda old, new: bool(old == new),
    message="cannot be changed; create another Experiment",
)


class ArmModel(Part):
    """Fields of `spec.model` of the ModelDeployment that the arm replaces."""

    uri: Annotated[Uri, Field(min_length=1)] | None = Field(
        None, description="Replaces spec.model.uri of the deployment."
    )
    digest: Digest | None = Field(None, description="Replaces spec.model.digest of the deployment.")
    format: ModelFormat | None = Field(None, description="Replaces spec.model.format of the deployment.")
    entrypoint: Entrypoint | None = Field(None, description="Replaces spec.model.entrypoint of the deployment.")
    config: Json | None = Field(None, description="Replaces spec.model.config of the deployment.")
    trust_code: bool | None = Field(None, description="Replaces spec.model.trustCode of the deployment.")
    credentials: Credentials | None = Field(None, description="Replaces spec.model.credentials of the deployment.")

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


class ArmRuntime(Part):
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
    pod_labels: Annotated[dict[QualifiedName, LabelValue], Field(max_length=32), RESERVED_POD_LABELS] | None = Field(
        None, description="Replaces spec.runtime.podLabels of the deployment."
    )
    warmup: Warmup | None = Field(None, description="Replaces spec.runtime.warmup of the deployment.")
    user_config: Json | None = Field(None, description="Replaces spec.runtime.userConfig of the deployment.")


class ArmResources(Part):
    """Fields of `spec.resources` of the ModelDeployment that the arm replaces."""

    cpu: Cpu | None = Field(None, description="Replaces spec.resources.cpu of the deployment.")
    memory: Bytes | None = Field(None, description="Replaces spec.resources.memory of the deployment.")
    gpu: Gpu | None = Field(None, description="Replaces spec.resources.gpu of the deployment.")


class Arm(Part):
    """One alternative to the stable revision. Given fields replace the deployment's; none makes an A/A test."""

    name: Annotated[Name, Field(max_length=30)] = Field(description="Names the arm in status, headers and metrics.")
    model: ArmModel | None = Field(None, description="Fields of the deployment's model that are replaced.")
    runtime: ArmRuntime | None = Field(None, description="Fields of the deployment's runtime that are replaced.")
    resources: ArmResources | None = Field(None, description="Fields of the deployment's resources that are replaced.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.name != '{CONTROL}'",
            holds=lambda arm: arm.name != CONTROL,
            message=f"{CONTROL} is the stable revision's own name",
            field="name",
        ),
    )


class SuccessMetric(Part):
    """An outcome that an arm may win by."""

    name: Name = Field(description="Names it in status.")
    feedback: Annotated[
        str,
        Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][-A-Za-z0-9_.]*$"),
        Noun("a feedback metric such as converted"),
    ] = Field(description="The metric of the feedback API.")
    goal: Literal["increase", "decrease"] = Field("increase", description="Which way is better.")
    minimum_effect: Percent | None = Field(None, description="The smallest relative effect worth detecting.")


class Guardrail(MetricGuardrail):
    """A metric of the edge that may not get worse."""

    metric: MetricName = Field(description="A metric that the edge measures.")

    rules: ClassVar[tuple[Rule, ...]] = (CEILING_FITS,)


class Metrics(Part):
    """What is compared."""

    success: Annotated[Items[SuccessMetric], Field(max_length=5), ListType("map", "name")] = Field(
        (), description="What an arm may win by."
    )
    guardrails: Annotated[Items[Guardrail], Field(max_length=10), ONE_GUARDRAIL_PER_METRIC] = Field(
        (), description="What may not get worse."
    )
    secondary: Annotated[Items[SuccessMetric], Field(max_length=20), ListType("map", "name")] = Field(
        (), description="What is reported beside."
    )


class Allocation(Part):
    """How weights move: not at all, or towards the better arm."""

    mode: Literal["fixed", "thompson"] = Field(
        "fixed", description="fixed keeps the weights; thompson moves them towards the better arm."
    )
    floor: Share | None = Field(None, description="The least weight of an arm; with thompson.")
    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="The share of traffic that may move at once; with thompson."
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


class Stop(Part):
    """What ends an experiment without a verdict."""

    max_duration: PositiveDuration = Field(timedelta(days=14), description="How long it runs at most.")
    max_units: Annotated[Integer, Field(ge=1, le=1_000_000_000)] = Field(
        2_000_000, description="How many units it takes at most."
    )


class ExposureLog(Part):
    """Where exposures are written; an empty uri keeps them in the namespace's store, bounded."""

    uri: LogUri = Field("", description="Where; empty keeps them in the namespace's store, bounded.")
    format: Literal["parquet"] = Field("parquet", description="How they are written.")


def _weights_name_arms(spec: "ExperimentSpec") -> bool:
    return not spec.weights or set(spec.weights) == {CONTROL, *(arm.name for arm in spec.arms)}


class ExperimentSpec(Part):
    """What is compared with what, on whose traffic, until when."""

    model_deployment: Annotated[Name, Field(max_length=40), IMMUTABLE] = Field(
        description="The ModelDeployment whose stable revision is the control arm."
    )
    arms: Annotated[Items[Arm], Field(min_length=1, max_length=9), ListType("map", "name")] = Field(
        description="What is compared with the stable revision."
    )
    weights: Annotated[dict[str, Weight], Field(max_length=10)] = Field(
        {}, description="Percent of the exposed units by arm, control included; none means equal."
    )
    exposure: Share = Field("20%", description="The share of units in the experiment; the rest stay on stable.")
    unit: Unit = Field(Unit(), description="What is assigned to an arm and stays there.")
    metrics: Metrics = Field(Metrics(), description="What is compared.")
    allocation: Allocation = Field(Allocation(), description="How weights move.")
    stop: Stop = Field(Stop(), description="What ends the experiment without a verdict.")
    stopped: bool = Field(False, description="true ends the experiment with the evidence so far.")
    exposure_log: ExposureLog = Field(ExposureLog(), description="Where exposures are written.")
    alpha: Alpha = Field(0.05, description="The error of each direction.")
    on_win: Literal["none", "pause"] = Field(
        "none", description="What follows when an arm wins; the ModelDeployment is never edited."
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
    )


class PlanWebhook(Part):
    """What a step asks, as frozen."""

    url: HttpUrl = Field(description="As the step's webhook.url was, secrets included.")
    timeout: Duration = Field(timedelta(seconds=10), description="As the step's webhook.timeout was.")


class PlanStep(Part):
    """A weight with its gate, as frozen. The 100 % step that a list leaves implied has gate none."""

    weight: Percentage = Field(description="The candidate's percent of the traffic.")
    gate: Literal["evidence", "time", "manual", "webhook", "none"] = Field(description="What lets the rollout pass it.")
    webhook: PlanWebhook | None = Field(None, description="With gate webhook, what is asked.")
    min_duration: Duration = Field(
        timedelta(),
        description="With gate time, how long it lasts; with evidence, how long at least, warm-up included.",
    )
    max_duration: Duration | None = Field(
        None,
        description="With gate evidence, how long it may take; then onInconclusive follows, or without traffic a pause.",
    )


class PlanGuardrail(Part):
    """What the candidate is judged by, as frozen."""

    metric: Literal[MetricName, "rejections"] = Field(
        description="A metric that the edge measures; rejections are 4xx answers, 429 included, and requests that clients gave up."
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
    threshold_microseconds: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="Of a latency: the time that stable's answers exceed as seldom as the metric says, such as one in a hundred for"
        " latencyP99. Absent until stable has given 100 answers.",
    )
    candidate_threshold_microseconds: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="Of a latency: that time and the margin, which the candidate may exceed no more often than stable exceeds its own.",
    )


class PlanUnit(Part):
    """What is assigned to an arm, as frozen."""

    kind: Literal["request", "header", "cookie", "jsonPath"] = Field("request", description="Where the unit is read.")
    name: Annotated[str, Field(max_length=256)] = Field(
        "", description="The header, the cookie, or the path in the body."
    )


class FrozenPlan(Part):
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
    steps: Annotated[Items[PlanStep], Field(max_length=22)] = Field((), description="The steps, the last one at 100 %.")
    reason: Text = Field("", description="Why the steps are not those of the spec; empty where they are.")
    alpha: Alpha | None = Field(None, description="As spec.rollout.alpha was.")
    guardrails: Annotated[Items[PlanGuardrail], Field(max_length=12)] = Field(
        (),
        description="What the candidate is judged by; empty where no step has a gate of evidence, and no evidence is weighed.",
    )
    warmup_requests: Count = Field(0, description="As spec.rollout.warmup.requests was.")
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
    notify: Annotated[Items[Notification], Field(max_length=8)] = Field((), description="As spec.rollout.notify was.")
    frozen_at: Instant | None = Field(None, description="When the plan was frozen.")


class StepStatus(Part):
    """Where a rollout is. `index` counts from 1; `gate` is that of the step, or none once a command opened it."""

    index: Count = Field(1, description="Counted from 1.")
    of: Count = Field(0, description="How many there are, the one at 100 % included.")
    since: Instant | None = Field(
        None, description="When all edges had its weight in force, or when a pause for too long a step was ended."
    )
    gate: Text = Field("", description="The step's gate, or none once a command opened it.")
    reason: Message = Field("", description="What it waits for.")
    held_since: Instant | None = Field(
        None, description="Since when the spec or its windows hold it; with gate evidence."
    )
    warm: bool = Field(False, description="Whether its warm-up is over, and what is counted is evidence.")


class Paused(Part):
    """Why nothing moves."""

    reason: Text = Field(
        description="Manual: by command. Inconclusive: a step took longer than maxDuration. NoData: an arm had no requests."
        " SampleRatio: requests do not fall to the arms by their weights. ControlUnhealthy: both arms are above max."
        " ControlDegraded: stable is much worse than before the rollout."
    )
    message: Message = Field("", description="The same with numbers, as far as there are some.")
    since: Instant = Field(description="Since when.")


class Epoch(Part):
    """An interval of constant weights. `confirmed` once every edge has applied it."""

    number: Count = Field(0, description="Rises with every change of weights; 0 has no traffic on the candidate.")
    since: Instant | None = Field(None, description="When it was committed, then when it was confirmed.")
    confirmed: bool = Field(False, description="Whether every edge has it in force.")


class EvidenceEpoch(Part):
    """An epoch whose counts are evidence; those of a warm-up are not."""

    number: Count = Field(description="As in status.epoch.")
    weight: Percentage = Field(description="The candidate's percent of the traffic in it.")
    troubled: bool = Field(
        False,
        description="Whether stable was no measure in it: gates leave it out, and harm is looked for in it all the same.",
    )


Bucket = Annotated[Integer, Field(ge=0, le=10_000)]
BucketRange = Annotated[Items[Bucket], Field(min_length=2, max_length=2)]


class ArmStatus(Part):
    """One arm: its revision, its half-open bucket ranges, and what was counted."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="Of a rollout: stable or canary.")
    revision: Revision | None = Field(None, description="The revision that answers for it.")
    weight: Percentage = Field(0, description="Its percent of the traffic.")
    ranges: Annotated[Items[BucketRange], Field(max_length=128)] = Field(
        (), description="Its half-open intervals of the 10000 buckets."
    )
    units: Count = Field(0, description="Not filled in yet.")
    requests: Count = Field(0, description="Requests assigned to it, at most a minute old while no weight changes.")
    errors: Count = Field(0, description="Of those, server errors, timeouts, cut and invalid answers.")


class MetricStatus(Part):
    """What is known of one metric of one arm, beside stable."""

    name: Text = Field(description="As in the plan's guardrails.")
    role: Text = Field("", description="As in the plan: guardrail or harm.")
    arm: Text = Field("", description="The arm that is judged; of a rollout canary.")
    events: Annotated[Items[Count], Field(max_length=2)] = Field(
        (),
        description="Of stable and of that arm, over all epochs of evidence: failures, answers that took too long or failed, or"
        " rejections. Requests of that arm whose end nobody knows are counted as failures.",
    )
    ratio: float | None = Field(
        None, description="Of the rates of events, that arm's to stable's, as it seems; absent without any event."
    )
    interval: Annotated[Items[float], Field(max_length=2)] = Field(
        (),
        description="Lower and upper end around the ratio, right at every look; an upper end that is not known yet is left out, and"
        " both where no one ratio fits all epochs.",
    )
    allowed: float | None = Field(
        None,
        description="The ratio up to which the gate passes: the margin at the next weight, so 1.5 before 50 % and 1.25 before 100 %"
        " for 25 %. Of a latency 1, for its margin is in the times.",
    )
    verdict: Text = Field(
        "",
        description="Undecided: more is needed. Passed: the gate may. Harm: worse than the margin. NoData: an arm had no requests."
        " Heterogeneous: no one ratio fits all epochs. Suspended: a latency that unequal load could explain, for which a gate"
        " before the last does not wait. Invalid: the counters are no counts.",
    )
    needed: float | None = Field(
        None,
        description="Events of both arms that typically decide, if the ratio is what it seems; absent where none would. A floor may"
        " decide earlier.",
    )
    eta: Duration | None = Field(
        None, description="How long that typically takes from countedAt on; absent where nobody can tell."
    )
    message: Message = Field("", description="All of that in a sentence.")


class HistoryMetric(Part):
    """What was known of one metric at one look."""

    name: Text = Field(description="As in the plan's guardrails.")
    ratio: float | None = Field(
        None, description="Of the rates of events, the candidate's to stable's; absent where stable had none."
    )
    lower: float | None = Field(
        None, description="Lower end of the interval around it; absent where no one ratio fits all epochs."
    )
    upper: float | None = Field(None, description="Upper end; absent while it is not known.")
    verdict: Text | None = Field(None, description="As in status.metrics; absent for Undecided.")


class HistoryPoint(Part):
    """What was known at one look."""

    at: Instant = Field(description="When it was looked.")
    epoch: Count = Field(description="As in status.epoch.")
    weight: Percentage = Field(description="The candidate's percent of the traffic.")
    requests: Annotated[Items[Count], Field(max_length=2)] = Field(
        (), description="Of stable and of the candidate, since the rollout began."
    )
    errors: Annotated[Items[Count], Field(max_length=2)] = Field((), description="Of those, the ones that failed.")
    metrics: Annotated[Items[HistoryMetric], Field(max_length=12)] | None = Field(
        None, description="Those of which there were any events; absent where there are none."
    )


class Notice(Part):
    """Something that happened, of which those in the plan's notify are told."""

    event: NoticeEvent = Field(description="What: one that spec.rollout.notify[].events can name.")
    step: Count = Field(0, description="At which step; 0 before the first.")
    weight: Percentage = Field(0, description="The candidate's percent of the traffic then.")
    reason: Text = Field("", description="Why: a word, a colon, and a sentence.")
    verdict: Text = Field("", description="What evidence had decided by then, as in status.verdict.decision.")
    time: Instant = Field(description="When.")


class Delivery(Part):
    """How far one receiver is. Absent until it was told something, or could not be."""

    receiver: Count = Field(description="Its place in the plan's notify, from 0.")
    told: Count = Field(0, description="The last notice that it is done with, counted from 1.")
    lost: Count = Field(0, description="How many were given up after an hour.")
    problem: Text = Field("", description="Why it could not be told the next one, or the last one that was given up.")


class Verdict(Part):
    """What was decided, and whether by evidence."""

    decision: Text = Field(
        "Undecided",
        description="Promoted or RolledBack where evidence has decided; else Undecided, also of one that ended.",
    )
    winner: Text = Field(
        "", description="Where evidence has decided: the arm that has all traffic since, of a rollout stable or canary."
    )
    reason: Message = Field("", description="Of one that ended: how, and why.")


class ExperimentStatus(Status):
    """The record of an experiment."""

    observed_generation: Annotated[Integer, Field(ge=-1)] = Field(
        -1, description="The generation of the spec that all of this is about."
    )
    phase: Literal["Pending", "Queued", "Running", "Concluded", "Stopped"] = Field(
        "Pending", description="Pending until the candidate is ready; Concluded was promoted, Stopped was not."
    )
    plan: FrozenPlan = Field(FrozenPlan(), description="What was resolved at the start; later edits do not change it.")
    step: StepStatus | None = Field(None, description="Where the rollout is.")
    paused: Paused | None = Field(None, description="Why nothing moves; absent while it does.")
    epoch: Epoch = Field(Epoch(), description="The interval of constant weights that is in force, or is to be.")
    arms: Annotated[Items[ArmStatus], Field(max_length=10), ListType("map", "name")] = Field(
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
    history: Annotated[Items[HistoryPoint], Field(max_length=48)] = Field(
        (),
        description="What was known at some of the looks, oldest first; the longer the rollout takes, the further apart. Written with what"
        " is written anyway.",
    )
    verdict: Verdict = Field(Verdict(), description="How it ended, and whether evidence decided that.")
    last_command: Annotated[str, Field(max_length=64)] = Field(
        "", description="Id of the last command that acted on it."
    )
    counted_at: Instant | None = Field(None, description="When the counts of arms and metrics were read.")
    notices: Annotated[Items[Notice], Field(max_length=32)] = Field(
        (), description="What happened, in order; empty where the plan has no receivers."
    )
    deliveries: Annotated[Items[Delivery], Field(max_length=8)] = Field((), description="How far each receiver is.")
    conditions: Annotated[Items[Condition], Field(max_length=16), ListType("map", "type")] = Field(
        (), description="See the conditions below."
    )


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
    )
