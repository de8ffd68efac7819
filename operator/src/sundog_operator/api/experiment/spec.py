"""`spec` of an Experiment."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.experiment.arms import CONTROL, IMMUTABLE_RULE, Arm
from sundog_operator.api.experiment.metrics import ExperimentMetrics, SuccessMetric
from sundog_operator.api.rollout.defaults import PositiveDuration, Weight
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
    nonzero_rule("0% leaves every arm without units; set stopped: true to end an experiment"),
]


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
