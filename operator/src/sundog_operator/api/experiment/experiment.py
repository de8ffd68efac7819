"""Experiment: two or more models in parallel on the traffic of one ModelDeployment."""

from typing import ClassVar, Literal

from sundog_operator.api.experiment.arms import CANARY, ROLLOUT_NAME_SUFFIX
from sundog_operator.api.experiment.spec import ExperimentSpec
from sundog_operator.api.experiment.status import ExperimentStatus
from sundog_operator.api.resource import Metadata, Resource
from sundog_operator.api.schema.rules import Rule


class Experiment(Resource):
    """Models compared on one ModelDeployment's traffic. The statistics stay valid however often you look."""

    kind: Literal["Experiment"] = "Experiment"
    metadata: Metadata
    spec: ExperimentSpec
    status: ExperimentStatus = ExperimentStatus()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.metadata.name.size() <= 63",
            message="{metadata.name} is too long; expected at most 63 characters",
            field="metadata.name",
        ),
        Rule(
            cel="!self.metadata.name.contains('.')",
            message="{metadata.name} is not a DNS label; expected a name without dots",
            field="metadata.name",
        ),
        Rule(
            cel=(
                f"!self.spec.arms.exists(a, a.name == '{CANARY}') || self.metadata.name.startsWith(self.spec.modelDeployment + '-r')"
                f" && self.metadata.name.matches('{ROLLOUT_NAME_SUFFIX}')"
            ),
            message=f"{CANARY} is the name of a rollout's own arm; expected another name",
            field="spec.arms",
            applies_to_new_only=True,
        ),
    )
