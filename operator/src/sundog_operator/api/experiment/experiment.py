"""Experiment: two or more models side by side on the traffic of one ModelDeployment."""

from typing import ClassVar, Literal

from sundog_operator.api.experiment.arms import CANARY, OF_A_ROLLOUT
from sundog_operator.api.experiment.spec import ExperimentSpec
from sundog_operator.api.experiment.status import ExperimentStatus
from sundog_operator.api.resource import Metadata, Resource
from sundog_operator.api.schema.rules import Rule


def _names_no_canary(experiment: "Experiment") -> bool:
    return all(arm.name != CANARY for arm in experiment.spec.arms)


def _is_named_as_of_a_rollout(experiment: "Experiment") -> bool:
    name = experiment.metadata.name
    begins = name.startswith(f"{experiment.spec.model_deployment}-r")
    return begins and OF_A_ROLLOUT.search(name) is not None


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
                f" && self.metadata.name.matches('{OF_A_ROLLOUT.pattern}')"
            ),
            holds=lambda experiment: _names_no_canary(experiment) or _is_named_as_of_a_rollout(experiment),
            message=f"{CANARY} is the name of a rollout's own arm; give the arm another one",
            field="spec.arms",
            applies_to_new_only=True,
        ),
    )
