"""`spec` of a ModelDeployment."""

from typing import ClassVar

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.model_deployment.endpoint import Endpoint
from sundog_operator.api.model_deployment.model import ModelSource, Runtime
from sundog_operator.api.model_deployment.resources import Autoscaling, ReplicaCount, Resources, Scheduling
from sundog_operator.api.rollout.rollout import CAPACITY_IN_PLACE, IN_PLACE_RULES, Rollout
from sundog_operator.api.scalars import (
    Digest,
    Uri,
)
from sundog_operator.api.schema.rules import Rule


class Baseline(ApiBase):
    """Pins the stable model in Git while a rollout runs, so that a rebuilt cluster serves it first."""

    uri: Uri = Field("", description="As spec.model.uri.")
    digest: Digest = Field("", description="As spec.model.digest.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.digest == '' || self.uri != ''",
            holds=lambda baseline: not baseline.digest or baseline.uri != "",
            message="a digest is given without a uri",
            field="uri",
        ),
    )


def _scales_before_full(spec: "ModelDeploymentSpec") -> bool:
    return spec.autoscaling is None or spec.autoscaling.target_ongoing_requests * 2 <= spec.runtime.max_ongoing_requests


AUTOSCALING_TARGET_RULE = Rule(
    # Replicas report only the requests they have let in; a target above half of that is never exceeded.
    cel="!has(self.autoscaling) || self.autoscaling.targetOngoingRequests * 2 <= self.runtime.maxOngoingRequests",
    holds=_scales_before_full,
    message=(
        "{autoscaling.targetOngoingRequests} is more than half of runtime.maxOngoingRequests,"
        " {runtime.maxOngoingRequests}"
    ),
    field="autoscaling.targetOngoingRequests",
)
JWT_CLAIM_UNIT_RULE = Rule(
    cel="!has(self.rollout.unit.jwtClaim) || self.endpoint.auth.jwt.jwksSecretName != ''",
    holds=lambda spec: spec.rollout.unit.jwt_claim is None or bool(spec.endpoint.auth.jwt.jwks_secret_name),
    message="{rollout.unit.jwtClaim} is read from verified tokens, and endpoint.auth.jwt.jwksSecretName is not set",
    field="rollout.unit.jwtClaim",
)
IN_PLACE_REPLICAS_RULE = Rule(
    cel=f"!has(self.autoscaling) || self.rollout.capacity != '{CAPACITY_IN_PLACE}'",
    holds=lambda spec: spec.autoscaling is None or spec.rollout.capacity != CAPACITY_IN_PLACE,
    message="inPlace shares a fixed number of replicas, and autoscaling is set; leave it at auto",
    field="rollout.capacity",
)


def find_in_place_conflict(spec: "ModelDeploymentSpec") -> str:
    """What in a spec does not go with `rollout.capacity: inPlace`, whatever that is; empty for nothing."""
    rollout = spec.rollout.model_copy(update={"capacity": CAPACITY_IN_PLACE})
    asked = spec.model_copy(update={"rollout": rollout})
    broken = [rule for rule in IN_PLACE_RULES if not rule.holds(rollout)]
    broken += [] if IN_PLACE_REPLICAS_RULE.holds(asked) else [IN_PLACE_REPLICAS_RULE]
    return next((rule.message for rule in broken), "")


class ModelDeploymentSpec(ApiBase):
    """What a team asks for."""

    model: ModelSource = Field(description="What is served. A change makes a revision.")
    runtime: Runtime = Field(Runtime(), description="How it is run. A change makes a revision, userConfig excepted.")
    resources: Resources = Field(Resources(), description="What one replica gets. A change makes a revision.")
    replicas: ReplicaCount = Field(1, description="Ignored while autoscaling is set.")
    autoscaling: Autoscaling | None = Field(None, description="Replicas by load; left out means a fixed number.")
    rollout: Rollout = Field(
        Rollout(),
        description="How a new revision takes over; {} is a canary decided on evidence.",
    )
    scheduling: Scheduling = Field(Scheduling(), description="Where the replicas' pods run. A change makes a revision.")
    endpoint: Endpoint = Field(Endpoint(), description="The edge's part. A change makes no revision.")
    baseline: Baseline = Field(Baseline(), description="Pins the stable model in Git while a rollout runs.")
    paused: bool = Field(False, description="Freeze rollouts, keep serving.")

    rules: ClassVar[tuple[Rule, ...]] = (AUTOSCALING_TARGET_RULE, JWT_CLAIM_UNIT_RULE, IN_PLACE_REPLICAS_RULE)
