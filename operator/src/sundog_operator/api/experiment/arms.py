"""The arms of an Experiment."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.model_deployment.model import (
    FOREIGN_QUEUES_RULE,
    RESERVED_POD_LABELS_RULE,
    TRUST_CODE_RULE,
    Batching,
    EnvVar,
    ModelCredentials,
    ModelFormat,
    Warmup,
)
from sundog_operator.api.model_deployment.resources import Gpu
from sundog_operator.api.scalars import (
    Bytes,
    Cpu,
    Digest,
    Entrypoint,
    Image,
    Integer,
    Items,
    Json,
    LabelValue,
    Name,
    QualifiedName,
    Uri,
)
from sundog_operator.api.schema.rules import ListType, Rule, TransitionRule

Bucket = Annotated[Integer, Field(ge=0, le=10_000)]
BucketRange = Annotated[Items[Bucket], Field(min_length=2, max_length=2)]
STABLE = "stable"
"""Name under which the edges count the traffic outside of an experiment."""
CONTROL = "control"
"""Name of the arm that is the ModelDeployment's stable revision."""
CANARY = "canary"
"""Name of a rollout's only treatment arm."""
ROLLOUT_NAME_SUFFIX = "-r[0-9]+(-a[0-9]+)?$"
"""Pattern of the suffix of the name of a rollout's Experiment, after the ModelDeployment's name: the numbers of revision and attempt."""
IMMUTABLE_RULE = TransitionRule(
    cel="self == oldSelf",
    holds=lambda old, new: bool(old == new),
    message="cannot be changed; create another Experiment",
)


class ArmModel(ApiBase):
    """Fields that replace those of the ModelDeployment's `spec.model`."""

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
        replace(
            TRUST_CODE_RULE,
            cel="!has(self.format) || !(self.format in ['exported', 'torchscript']) || has(self.trustCode) && self.trustCode",
        ),
    )


class ArmRuntime(ApiBase):
    """Fields that replace those of the ModelDeployment's `spec.runtime`."""

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
    pod_labels: (
        Annotated[dict[QualifiedName, LabelValue], Field(max_length=32), RESERVED_POD_LABELS_RULE, FOREIGN_QUEUES_RULE]
        | None
    ) = Field(None, description="Replaces spec.runtime.podLabels of the deployment.")
    warmup: Warmup | None = Field(None, description="Replaces spec.runtime.warmup of the deployment.")
    user_config: Json | None = Field(
        None,
        description="Replaces all of the deployment's spec.runtime.userConfig while the arm runs. If absent, the arm uses the"
        " deployment's, including later edits.",
    )


class ArmResources(ApiBase):
    """Fields that replace those of the ModelDeployment's `spec.resources`."""

    cpu: Cpu | None = Field(None, description="Replaces spec.resources.cpu of the deployment.")
    memory: Bytes | None = Field(None, description="Replaces spec.resources.memory of the deployment.")
    gpu: Gpu | None = Field(None, description="Replaces spec.resources.gpu of the deployment.")


class Arm(ApiBase):
    """One alternative to the stable revision. Its fields replace the deployment's. An arm without such fields makes an A/A test."""

    name: Annotated[Name, Field(max_length=30)] = Field(description="Name of the arm in status, headers and metrics.")
    model: ArmModel | None = Field(None, description="Fields that replace the deployment's model.")
    runtime: ArmRuntime | None = Field(None, description="Fields that replace the deployment's runtime.")
    resources: ArmResources | None = Field(None, description="Fields that replace the deployment's resources.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.name != '{CONTROL}' && self.name != '{STABLE}'",
            message=f"{CONTROL} and {STABLE} are reserved for the stable revision; expected another name",
            field="name",
        ),
    )
