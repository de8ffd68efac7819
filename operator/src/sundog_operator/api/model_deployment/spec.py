"""`spec` of a ModelDeployment."""

from typing import ClassVar, Final

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
from sundog_operator.api.schema.rules import MessageValue, Rule


class Baseline(ApiBase):
    """The stable model during a rollout, pinned in Git so that a rebuilt cluster serves it first."""

    uri: Uri = Field("", description="Location of the stable model, in the form of spec.model.uri.")
    digest: Digest = Field("", description="Its digest, in the form of spec.model.digest.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.digest == '' || self.uri != ''",
            message="digest without uri; expected both",
            field="uri",
        ),
    )


_TARGET: Final = "self.autoscaling.targetOngoingRequests"
_TARGET_CEL: Final = f"has({_TARGET}) ? {_TARGET} : self.runtime.batching.maxSize == 1 ? 1 : 2"


def _can_scale_up(spec: "ModelDeploymentSpec") -> bool:
    scaling, runtime = spec.autoscaling, spec.runtime
    return scaling is None or scaling.target_requests(runtime.batching.max_size) * 2 <= runtime.max_ongoing_requests


AUTOSCALING_TARGET_RULE = Rule(
    # Replicas report only the requests that they admit, so the load never exceeds a target above half of maxOngoingRequests.
    cel=f"!has(self.autoscaling) || ({_TARGET_CEL}) * 2 <= self.runtime.maxOngoingRequests",
    python=_can_scale_up,
    message=(
        "{target} is more than half of runtime.maxOngoingRequests; expected at most half"
        " of {runtime.maxOngoingRequests}"
    ),
    field="autoscaling.targetOngoingRequests",
    found=(
        MessageValue(
            "target", _TARGET_CEL, lambda spec: str(spec.autoscaling.target_requests(spec.runtime.batching.max_size))
        ),
    ),
)
JWT_CLAIM_UNIT_RULE = Rule(
    cel="!has(self.rollout.unit.jwtClaim) || self.endpoint.auth.jwt.jwksSecretName != ''",
    message="{rollout.unit.jwtClaim} without endpoint.auth.jwt.jwksSecretName; expected that Secret, because the claim is"
    " read from verified tokens",
    field="rollout.unit.jwtClaim",
)
IN_PLACE_REPLICAS_RULE = Rule(
    cel=f"!has(self.autoscaling) || self.rollout.capacity != '{CAPACITY_IN_PLACE}'",
    message="inPlace with autoscaling; expected a fixed number of replicas. Otherwise use capacity: auto",
    field="rollout.capacity",
)

IN_PLACE_SHARING_RULE = Rule(
    cel=f"self.resources.gpu.sharing.mode != 'fraction' || self.rollout.capacity != '{CAPACITY_IN_PLACE}'",
    message="inPlace with gpu.sharing.mode fraction; expected auto or surge, because a GPU is free only once all replicas on"
    " it are gone",
    field="rollout.capacity",
)

NODES_RULES = (
    Rule(
        cel="self.resources.gpu.topology.nodes == 1 || self.model.format == 'python'",
        message="{model.format} with gpu.topology.nodes {resources.gpu.topology.nodes}; expected python, because only a predictor"
        " class can use the devices of several pods",
        field="model.format",
    ),
    Rule(
        cel="self.resources.gpu.topology.nodes == 1 || self.scheduling.queue == ''",
        message="{scheduling.queue} with gpu.topology.nodes {resources.gpu.topology.nodes}; expected none, because Kueue admits each"
        " pod alone, and a part of a replica would hold quota",
        field="scheduling.queue",
    ),
)
"""What a replica over several pods needs."""

QUEUED_CLAIM_RULE = Rule(
    cel="self.resources.gpu.allocation != 'dra' || self.resources.gpu.type.size() < 2 || self.scheduling.queue == ''",
    message="several with allocation dra and scheduling.queue {scheduling.queue}; expected one, because Kueue admits no claim with"
    " alternatives (firstAvailable). Otherwise leave out the queue, or use allocation: devicePlugin",
    field="resources.gpu.type",
)


def _own_pod_rule(field: str, cel: str, message: str) -> Rule:
    """Make the rule that a field is unset where pods are shared. `cel` is true for an unset field."""
    return Rule(
        cel=f"self.runtime.placement != 'shared' || {cel}",
        message=f"{message} Otherwise use runtime.placement: dedicated",
        field=field,
    )


_OWN_PODS: Final = "set with runtime.placement: shared; expected none, because"
_OF_THE_POD: Final = f"{_OWN_PODS} pods with several models have only the administrator's."
SHARED_PLACEMENT_RULES = (
    _own_pod_rule(
        "resources.gpu.count",
        "self.resources.gpu.count == 0",
        "{resources.gpu.count} with runtime.placement: shared; expected 0, because shared pods have no devices.",
    ),
    _own_pod_rule(
        "model.uri",
        "!self.model.uri.startsWith('pvc://')",
        "pvc:// with runtime.placement: shared; expected another scheme, because shared pods mount no claim.",
    ),
    _own_pod_rule(
        "model.credentials.secretName",
        "self.model.credentials.secretName == ''",
        f"{_OWN_PODS} the other models of the pod could read the Secret.",
    ),
    _own_pod_rule(
        "model.credentials.serviceAccountName",
        "self.model.credentials.serviceAccountName == ''",
        f"{_OWN_PODS} the other models of the pod could act as the ServiceAccount.",
    ),
    _own_pod_rule(
        "runtime.env",
        "self.runtime.env.size() == 0",
        f"{_OWN_PODS} the other models of the pod would have the variables too.",
    ),
    _own_pod_rule(
        "runtime.podLabels",
        "self.runtime.podLabels.size() == 0",
        _OF_THE_POD,
    ),
    _own_pod_rule("scheduling.queue", "self.scheduling.queue == ''", _OF_THE_POD),
    _own_pod_rule(
        "scheduling.spot",
        "self.scheduling.spot == 'never'",
        "{scheduling.spot} with runtime.placement: shared; expected never, because pods with several models have only"
        " the administrator's tolerations.",
    ),
    _own_pod_rule(
        "scheduling.priorityClassName",
        "self.scheduling.priorityClassName == ''",
        _OF_THE_POD,
    ),
    _own_pod_rule(
        "scheduling.runtimeClassName",
        "self.scheduling.runtimeClassName == ''",
        _OF_THE_POD,
    ),
    _own_pod_rule(
        "scheduling.nodeSelector",
        "self.scheduling.nodeSelector.size() == 0",
        _OF_THE_POD,
    ),
    _own_pod_rule(
        "scheduling.tolerations",
        "self.scheduling.tolerations.size() == 0",
        _OF_THE_POD,
    ),
)
"""What needs pods of a revision's own. `runtime.image` does not, because each image has its own RayCluster."""


def find_in_place_conflict(spec: "ModelDeploymentSpec") -> str:
    """Return why a spec could not have `rollout.capacity: inPlace`; empty if it could. Its present capacity is ignored."""
    rollout = spec.rollout.model_copy(update={"capacity": CAPACITY_IN_PLACE})
    in_place = spec.model_copy(update={"rollout": rollout})
    broken = [rule for rule in IN_PLACE_RULES if not rule.holds(rollout)]
    broken += [rule for rule in (IN_PLACE_REPLICAS_RULE, IN_PLACE_SHARING_RULE) if not rule.holds(in_place)]
    return next((rule.message for rule in broken), "")


class ModelDeploymentSpec(ApiBase):
    """The desired state of a model, its endpoint and its rollouts."""

    model: ModelSource = Field(description="The model. A change makes a new revision.")
    runtime: Runtime = Field(
        Runtime(), description="How the model runs. A change makes a new revision, except in userConfig."
    )
    resources: Resources = Field(
        Resources(), description="Resources of one replica, or of each of its pods. A change makes a new revision."
    )
    replicas: ReplicaCount = Field(
        1,
        description="Number of replicas; default 1. 0 means one on request, which ends a minute after the last request."
        " Ignored while autoscaling is set.",
    )
    autoscaling: Autoscaling | None = Field(
        None, description="Change the number of replicas with the load; by default it is fixed."
    )
    rollout: Rollout = Field(
        Rollout(),
        description="How a new revision replaces the stable one; by default, a canary that is decided on evidence.",
    )
    scheduling: Scheduling = Field(
        Scheduling(), description="Where the replicas' pods run. A change makes a new revision."
    )
    endpoint: Endpoint = Field(Endpoint(), description="How clients reach the model. A change makes no new revision.")
    baseline: Baseline = Field(Baseline(), description="The stable model during a rollout, pinned in Git.")
    paused: bool = Field(False, description="Whether rollouts are held where they are; the model is still served.")

    rules: ClassVar[tuple[Rule, ...]] = (
        AUTOSCALING_TARGET_RULE,
        JWT_CLAIM_UNIT_RULE,
        IN_PLACE_REPLICAS_RULE,
        IN_PLACE_SHARING_RULE,
        *NODES_RULES,
        QUEUED_CLAIM_RULE,
        *SHARED_PLACEMENT_RULES,
    )
