"""`spec` of an Experiment."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.experiment.arms import CONTROL, IMMUTABLE_RULE, Arm
from sundog_operator.api.experiment.metrics import ExperimentMetrics
from sundog_operator.api.rollout.common import PositiveDuration, Weight
from sundog_operator.api.rollout.units import Unit
from sundog_operator.api.scalars import (
    Alpha,
    Integer,
    Items,
    LogUri,
    Name,
    PercentUpTo100Text,
)
from sundog_operator.api.schema.rules import ListType, Rule, nonzero_rule

ExposurePercent = Annotated[
    PercentUpTo100Text,
    nonzero_rule("0% leaves every arm without units; expected more. Set stopped: true to end an experiment"),
]


class Allocation(ApiBase):
    """Whether weights stay fixed or move towards the better arm."""

    mode: Literal["fixed", "thompson"] = Field(
        "fixed",
        description="fixed: weights do not change. thompson: weights move towards the better arm. Default fixed.",
    )
    floor: PercentUpTo100Text | None = Field(
        None,
        description="With thompson: least weight of an active arm; default 5 %. For all arms together, including control, at most"
        " 100 %.",
    )
    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="With thompson: share of the exposed units that is always split equally over all arms; default 0.2. It keeps"
        " comparisons valid and every arm measured.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.mode == 'thompson' || !has(self.floor) && !has(self.delta)",
            message="floor or delta with mode fixed; expected them only with mode thompson",
        ),
    )


class StoppingRule(ApiBase):
    """Limits that end an experiment without a verdict."""

    max_duration: PositiveDuration = Field(
        timedelta(days=14), description="Greatest length of the experiment; default 14d."
    )
    max_units: Annotated[Integer, Field(ge=1, le=1_000_000_000)] = Field(
        2_000_000, description="Greatest number of units; default 2000000."
    )


WinRule = Literal["anyMetric", "everyMetric", "noHarm"]
Preset = Literal["clearSignal", "doNoHarm"]


class ExposureLog(ApiBase):
    """Destination of exposures and outcomes, written at the end and sometimes before. An empty uri keeps them in the namespace's store."""

    uri: LogUri = Field(
        "",
        description="Location to write below: s3://, gs://, or pvc:// of a claim that the operator mounts; in local mode file://."
        " In a cluster the administrator must allow it. Empty keeps them in the namespace's store, bounded.",
    )
    format: Literal["parquet", "jsonl"] = Field(
        "parquet", description="Format of exposures and outcomes. jsonl is JSON lines, compressed by gzip."
    )


def _floors_fit(spec: "ExperimentSpec") -> bool:
    floor = spec.allocation.floor
    return floor is None or float(floor.removesuffix("%")) * (len(spec.arms) + 1) <= 100


class ExperimentSpec(ApiBase):
    """The arms, their traffic, the metrics and the end of an experiment."""

    model_deployment: Annotated[Name, Field(max_length=40), IMMUTABLE_RULE] = Field(
        description="The ModelDeployment whose stable revision is the control arm."
    )
    arms: Annotated[Items[Arm], Field(min_length=1, max_length=9), ListType("map", "name")] = Field(
        description="Arms to compare with the stable revision."
    )
    weights: Annotated[dict[str, Weight], Field(max_length=10)] = Field(
        {}, description="Percent of the exposed units by arm, including control; default equal."
    )
    exposure: ExposurePercent = Field(
        "20%", description="Share of units in the experiment; default 20%. The rest stays on stable."
    )
    unit: Unit = Field(Unit(), description="What is assigned to an arm and stays there.")
    metrics: ExperimentMetrics = Field(ExperimentMetrics(), description="Metrics of the comparison.")
    allocation: Allocation = Field(Allocation(), description="Whether weights move.")
    stop: StoppingRule = Field(StoppingRule(), description="Limits that end the experiment without a verdict.")
    stopped: bool = Field(False, description="Set true to end the experiment with the evidence so far.")
    exposure_log: ExposureLog = Field(ExposureLog(), description="Destination of exposures and outcomes.")
    alpha: Alpha = Field(0.05, description="Probability of an error in each direction; default 0.05.")
    preset: Preset | None = Field(
        None,
        description="Values for fields that the spec leaves out, resolved when the plan is frozen. Both add the guardrails"
        " that rollouts have by default: errorRate, and a latency unless the spec has one. clearSignal: winBy everyMetric."
        " doNoHarm: winBy noHarm.",
    )
    win_by: WinRule | None = Field(
        None,
        description="When an arm wins, once every guardrail has passed. anyMetric: one success metric is better, and none is"
        " worse. everyMetric: every success metric is better. noHarm: every success metric is known to be worse than control's"
        " by less than 10%, or better; a guardrail of the same outcome sets another margin. Default: as of the preset, else"
        " anyMetric.",
    )
    on_win: Literal["none", "pause"] = Field(
        "none",
        description="What happens when an arm wins; default none. none ends the experiment, and stable gets all traffic. pause"
        " changes nothing until you end it, or stop does. The operator never edits the ModelDeployment.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                f"self.weights.size() == 0 || self.weights.size() == self.arms.size() + 1"
                f" && '{CONTROL}' in self.weights && self.arms.all(a, a.name in self.weights)"
            ),
            message=f"wrong names; expected {CONTROL} and every arm, and nothing else",
            field="weights",
        ),
        Rule(
            cel="self.weights.size() == 0 || self.weights.map(k, self.weights[k]).sum() == 100",
            message="wrong sum; expected weights that sum to 100",
            field="weights",
        ),
        Rule(
            cel="self.allocation.mode != 'thompson' || self.metrics.success.size() > 0",
            message="no success metric with mode thompson; expected one, because weights follow the first of metrics.success",
            field="allocation.mode",
        ),
        Rule(
            cel="self.allocation.mode != 'thompson' || self.metrics.success.size() == 0 || has(self.metrics.success[0].feedback)",
            message="a metric of the edge is first with mode thompson; expected one with feedback first, because weights follow units,"
            " and the edge counts requests",
            field="metrics.success",
        ),
        Rule(
            cel="self.metrics.success.all(s, self.metrics.secondary.all(t, (!has(s.name) || !has(t.name) || t.name != s.name)"
            " && (!has(s.metric) || !has(t.metric) || t.metric != s.metric)))",
            message="name of a success metric; expected another one, because status could not distinguish them",
            field="metrics.secondary",
            applies_to_new_only=True,
        ),
        Rule(
            cel="self.metrics.guardrails.all(g, !has(g.name) || self.metrics.success.all(s, !has(s.name) || s.name != g.name)"
            " && self.metrics.secondary.all(t, !has(t.name) || t.name != g.name))",
            message="name of another metric; expected another one, because status could not distinguish them",
            field="metrics.guardrails",
            applies_to_new_only=True,
        ),
        Rule(
            cel=(
                "!has(self.allocation.floor)"
                " || double(self.allocation.floor.split('%')[0]) * double(self.arms.size() + 1) <= 100.0"
            ),
            python=_floors_fit,
            message="{allocation.floor} for each arm, including control, is more than 100% together; expected less",
            field="allocation.floor",
            applies_to_new_only=True,
        ),
        Rule(
            cel="!has(self.preset) && !has(self.winBy) || self.metrics.success.size() > 0",
            message="preset or winBy without a success metric; expected one, because an arm wins by these",
            field="metrics.success",
        ),
        Rule(
            cel="has(self.unit.header) || has(self.unit.cookie) || has(self.unit.jsonPath) || has(self.unit.jwtClaim)"
            " || self.metrics.success.all(m, !has(m.covariate)) && self.metrics.guardrails.all(m, !has(m.covariate))"
            " && self.metrics.secondary.all(m, !has(m.covariate))",
            message="covariate while each request is a unit; expected a unit such as header, because a request has no history",
            field="metrics",
        ),
        Rule(
            cel="self.exposureLog.uri == '' || self.metrics.success.exists(m, has(m.feedback))"
            " || self.metrics.secondary.exists(m, has(m.feedback)) || self.metrics.guardrails.exists(g, has(g.feedback))",
            message="nothing to write; expected an outcome in metrics, because exposures are kept only for these",
            field="exposureLog.uri",
        ),
    )
