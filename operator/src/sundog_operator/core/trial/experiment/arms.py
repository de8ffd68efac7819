"""Revisions of an experiment's arms, and their parts of the traffic."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sundog_operator.api import (
    CONTROL,
    Arm,
    ExperimentSpec,
    ModelDeploymentSpec,
    Resources,
    Violation,
    find_unsupported_fields,
    find_violations,
)
from sundog_operator.api.installation import Installation
from sundog_operator.api.reasons import Cause
from sundog_operator.core import revisions
from sundog_operator.core.edge.buckets import BUCKETS
from sundog_operator.core.kubernetes import accelerators, joint_capacity
from sundog_operator.core.kubernetes.capacity import AvailableCapacity
from sundog_operator.core.kubernetes.joint_capacity import PodDemand
from sundog_operator.core.kubernetes.shared_pods import find_too_large, is_shared
from sundog_operator.core.revisions import Revision

Json = dict[str, Any]

_PARTS: Final = ("model", "runtime", "resources")


@dataclass(frozen=True, slots=True)
class PlannedArm:
    """An arm beside control.

    Attributes:
        name: name of the arm.
        content: content of its revision.
        hash: hash of the revision; arms with equal content have different hashes, because each has its own replicas.
        image: image of its pods.
        buckets: its number of buckets.
    """

    name: str
    content: Json
    hash: str
    image: str
    buckets: int


def plan_arms(stable: Revision, spec: ExperimentSpec) -> list[PlannedArm]:
    """Return the arms beside control, in order."""
    uses = Counter([revisions.content_hash(_control_content(stable))])
    buckets, found = planned_buckets(spec), []
    for arm in spec.arms:
        content = _content(stable, arm)
        digest = revisions.content_hash(content)
        # An arm without changes still has its own replicas beside control's.
        hashed = revisions.content_hash(content, uses[digest])
        uses[digest] += 1
        image = revisions.image_of(content, stable.image)
        found.append(PlannedArm(arm.name, content, hashed, image, buckets[arm.name]))
    return found


def _control_content(stable: Revision) -> Json:
    return revisions.content_of(revisions.spec_of(stable), revisions.own_user_config(stable))


def _content(stable: Revision, arm: Arm) -> Json:
    given = arm.runtime.user_config if arm.runtime is not None else None
    return revisions.content_of(
        merge_arm_spec(revisions.spec_of(stable), arm), revisions.own_user_config(stable) if given is None else given
    )


def describe_equal_arms(stable: Revision, spec: ExperimentSpec, deployment: ModelDeploymentSpec | None) -> str:
    """Return a sentence about arms that equal control or each other; empty where all differ.

    Args:
        stable: the revision of control.
        spec: the Experiment's spec.
        deployment: the ModelDeployment's spec, whose `userConfig` arms without one of their own have; None where that is refused.
    """
    contents = {CONTROL: _control_content(stable), **{arm.name: _content(stable, arm) for arm in spec.arms}}
    by_hash: dict[str, list[str]] = {}
    for name, content in contents.items():
        by_hash.setdefault(revisions.content_hash(_with_user_config(content, deployment)), []).append(name)
    equal = [_describe_equals(names) for names in by_hash.values() if len(names) > 1]
    if not equal:
        return ""
    return f"spec.arms: {'; '.join(equal)}. Only chance makes a difference between them; change one, unless you test that they are equal"


def _with_user_config(content: Json, deployment: ModelDeploymentSpec | None) -> Json:
    """Return a content with the `userConfig` that its replicas get; None leaves it unknown."""
    if deployment is None or "userConfig" in content.get("runtime", {}):
        return content
    return {**content, "runtime": {**content.get("runtime", {}), "userConfig": dict(deployment.runtime.user_config)}}


def _describe_equals(names: Sequence[str]) -> str:
    if names[0] == CONTROL:
        return f"{', '.join(names[1:])} equal{'s' if len(names) == 2 else ''} control"
    return f"{', '.join(names[:-1])} and {names[-1]} are equal"


def merge_arm_spec(stable: ModelDeploymentSpec, arm: Arm) -> ModelDeploymentSpec:
    """Return the stable revision's spec with the arm's fields. A digest stays only with the model that it belongs to."""
    parts = {name: _merge_fields(getattr(stable, name), getattr(arm, name)) for name in _PARTS}
    model = arm.model
    if model is not None and model.uri not in (None, stable.model.uri) and model.digest is None:
        parts["model"] = parts["model"].model_copy(update={"digest": ""})
    return stable.model_copy(update=parts)


def merge_arm_specs(stable: ModelDeploymentSpec, spec: ExperimentSpec) -> dict[str, ModelDeploymentSpec]:
    """Return the spec of each arm, control first."""
    return {CONTROL: stable, **{arm.name: merge_arm_spec(stable, arm) for arm in spec.arms}}


def _merge_fields(part: Any, given: Any) -> Any:
    if given is None:
        return part
    fields = {name: value for name in type(given).model_fields if (value := getattr(given, name)) is not None}
    return part.model_copy(update=fields)


def find_arm_violations(stable: Revision, spec: ExperimentSpec, installation: Installation | None) -> list[Violation]:
    """Return why arms could not run as revisions of the ModelDeployment."""
    return [
        replace(each, path=f"spec.arms[{index}].{each.path.removeprefix('spec.')}")
        for index, arm in enumerate(spec.arms)
        for each in _problems(_content(stable, arm), installation)
    ]


def find_experiment_violations(
    stable: Revision | None,
    spec: ExperimentSpec,
    deployment: ModelDeploymentSpec | None,
    installation: Installation | None,
) -> list[Violation]:
    """Return why an experiment cannot run beside its ModelDeployment; `deployment` is None where that spec is refused."""
    return _claim_violations(spec, deployment) or (
        [] if stable is None else find_arm_violations(stable, spec, installation)
    )


def _claim_violations(spec: ExperimentSpec, deployment: ModelDeploymentSpec | None) -> list[Violation]:
    """Return the violation of a unit that is a claim of tokens which the edge does not verify."""
    claim = spec.unit.jwt_claim
    if claim is None or deployment is None or deployment.endpoint.auth.jwt.jwks_secret_name:
        return []
    missing = f"ModelDeployment {spec.model_deployment} has no endpoint.auth.jwt.jwksSecretName"
    return [Violation("spec.unit.jwtClaim", f"{claim} is read from verified tokens, and {missing}")]


def _problems(content: Json, installation: Installation | None) -> list[Violation]:
    obj = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "arm"}}
    if wrong := find_violations({**obj, "spec": content}):
        return wrong
    spec = ModelDeploymentSpec.model_validate(content)
    if installation is not None and installation.require_digest and not spec.model.digest:
        return [Violation("spec.model.digest", "is required by the administrator of Sundog")]
    unsupported = find_unsupported_fields(spec, in_pods=installation is not None)
    return unsupported or [
        *find_too_large(spec, installation),
        *accelerators.find_unknown_memory(spec.resources.gpu),
    ]


def find_arm_shortage(
    stable: Revision,
    spec: ExperimentSpec,
    available: Mapping[str, AvailableCapacity],
    replicas: Mapping[str, int],
    installation: Installation | None,
    missing: tuple[int, int] = (0, 0),
) -> Cause | None:
    """Return why the pods of all arms must wait for capacity beside the running ones; None where they need not.

    Arms in pods that several models share do not count.

    Args:
        stable: the revision of control.
        spec: the Experiment's spec.
        available: what is free for the pods of each arm and of control, as far as it is known.
        replicas: the replicas of each arm.
        installation: the administrator's settings; None in local mode.
        missing: stable's pods without a node, and how many of these exist.
    """
    kinds: dict[Resources, list[str]] = {}
    for name, each in merge_arm_specs(revisions.spec_of(stable), spec).items():
        if name in available and not is_shared(each):
            kinds.setdefault(each.resources, []).append(name)
    demands = []
    for resources, names in kinds.items():
        lacking, created = missing if CONTROL in names else (0, 0)
        pods = sum(accelerators.count_pods(resources.gpu, replicas[name]) for name in names if name != CONTROL)
        demands.append(PodDemand(resources.gpu, pods + lacking, available[names[0]], created, lacking))
    return joint_capacity.find_shortage(demands, installation)


def planned_buckets(spec: ExperimentSpec) -> dict[str, int]:
    """Return buckets by arm, control first: the exposed buckets by weights, rounded by largest remainders."""
    names = [CONTROL, *(arm.name for arm in spec.arms)]
    exposed = round(float(spec.exposure.removesuffix("%")) / 100 * BUCKETS)
    weights = [spec.weights.get(name, 0) if spec.weights else 1 for name in names]
    exact = [exposed * weight / sum(weights) for weight in weights]
    found = [math.floor(each) for each in exact]
    by_remainder = sorted(range(len(names)), key=lambda place: (found[place] - exact[place], place))
    for place in by_remainder[: exposed - sum(found)]:
        found[place] += 1
    return dict(zip(names, found, strict=True))
