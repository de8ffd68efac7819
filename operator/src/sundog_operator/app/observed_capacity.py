"""Read the free resources for the pods of a ModelDeployment and of its Experiments' arms."""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from sundog_operator.api import ModelDeploymentSpec, ModelDeploymentStatus
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.neighbours import (
    needs_capacity,
)
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import capacity
from sundog_operator.core.kubernetes.capacity import AvailableCapacity
from sundog_operator.core.trial.experiment import arms
from sundog_operator.core.trial.experiment.queue import UserExperiment, order_waiting
from sundog_operator.errors import DependencyError
from sundog_operator.ports import (
    Object,
)

log = logging.getLogger("sundog.operator")
_OWN_SPEC: Final = ("", "")
"""Stands for the ModelDeployment's own spec, in place of an Experiment and its arm."""


async def read_capacity(
    deps: Dependencies, deployment: Object, spec: ModelDeploymentSpec | None, status: ModelDeploymentStatus
) -> AvailableCapacity | None:
    """Return the free resources for the spec while they matter; else None.

    Without permission to read nodes and pods of other namespaces nothing is known, and the scheduler alone decides.
    """
    if spec is None or not needs_capacity(deployment, status):
        return None
    return (await _read_capacities(deps, deployment["metadata"]["namespace"], {_OWN_SPEC: spec})).get(_OWN_SPEC)


async def read_arm_capacity(
    deps: Dependencies,
    namespace: str,
    status: ModelDeploymentStatus,
    user_experiments: Sequence[UserExperiment],
    known: Sequence[revisions.Revision],
) -> Mapping[tuple[str, str], AvailableCapacity]:
    """Return the free resources for control and the arms of waiting Experiments, by both names; empty while a rollout runs."""
    stable = next((each for each in known if status.stable and each.number == status.stable.revision), None)
    if stable is None or status.experiment or status.candidate is not None:
        return {}
    of_stable = revisions.spec_of(stable)
    specs = {
        (each.name, name): arm
        for each in order_waiting(user_experiments)
        if (spec := each.acceptance.spec) is not None
        for name, arm in arms.merge_arm_specs(of_stable, spec).items()
    }
    return await _read_capacities(deps, namespace, specs)


async def _read_capacities(
    deps: Dependencies, namespace: str, specs: Mapping[tuple[str, str], ModelDeploymentSpec]
) -> Mapping[tuple[str, str], AvailableCapacity]:
    """Return the free resources for the pods of each spec.

    An operator with permissions in some namespaces only sees their quotas, but no nodes.
    """
    installation = deps.settings.installation
    if installation is None or not specs:
        return {}
    try:
        quotas = await deps.devices.read_quotas(deps.kube, namespace, deps.clock)
        devices = await deps.devices.read(deps.server or deps.kube, deps.kube, deps.clock)
    except DependencyError as err:
        log.debug("free resources are unknown: %s", err)
        return {}
    installation = await deps.devices.set_profiles(installation, deps.server or deps.kube, deps.clock)
    found = {
        name: capacity.find_available_capacity(spec, devices, quotas, installation) for name, spec in specs.items()
    }
    return {name: available for name, available in found.items() if available is not None}
