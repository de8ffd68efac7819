"""ModelDeployment: one model, its endpoint, and the rollouts of its revisions."""

from typing import ClassVar, Literal

from sundog_operator.api.model_deployment.spec import ModelDeploymentSpec
from sundog_operator.api.model_deployment.status import ModelDeploymentStatus
from sundog_operator.api.resource import Metadata, Resource
from sundog_operator.api.schema.rules import Rule

MAX_NAME_LENGTH = 40
_SERVICE_NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"


class ModelDeployment(Resource):
    """A model, its endpoint and its rollouts."""

    kind: Literal["ModelDeployment"] = "ModelDeployment"
    metadata: Metadata
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus = ModelDeploymentStatus()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
            message=f"{{metadata.name}} is too long; expected at most {MAX_NAME_LENGTH} characters",
            field="metadata.name",
        ),
        Rule(
            cel=f"self.metadata.name.matches('{_SERVICE_NAME}')",
            message="{metadata.name} is no name of a Service; expected a DNS label that starts with a letter",
            field="metadata.name",
        ),
    )
