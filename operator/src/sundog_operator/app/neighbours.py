"""Read the other ModelDeployments and Experiments of a namespace, as far as they affect a ModelDeployment."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core import revisions
from sundog_operator.core.edge import salts
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.conditions.model_deployment import PLACEMENT_REASONS
from sundog_operator.core.planner.facts import RolloutAttempt
from sundog_operator.core.trial.experiment.admission import check_admission
from sundog_operator.core.trial.experiment.queue import UserExperiment
from sundog_operator.core.trial.rollout import commands
from sundog_operator.ports import (
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    Object,
)


async def list_salt_owners(deps: Dependencies, namespace: str) -> tuple[SaltOwner, ...]:
    """Return the Experiments and ModelDeployments of a namespace that set a salt. Raises DependencyError."""
    experiments = await deps.kube.views(EXPERIMENT, namespace, read_experiment)
    return read_salts(experiments, await deps.kube.views(MODEL_DEPLOYMENT, namespace, read_neighbour))


def read_salts(
    experiments: Sequence["NeighbourExperiment"], deployments: Sequence["NeighbourDeployment"]
) -> tuple[SaltOwner, ...]:
    """Return the owners of all salts in use."""
    found = (*(each.salted for each in experiments), *(each.salted for each in deployments))
    return tuple(each for each in found if each is not None)


def is_ready(deployment: Object, status: ModelDeploymentStatus) -> bool:
    """Return whether the wanted revision was ready for this generation, so that its pods have found all objects they need."""
    ready = any(each.type == "RevisionReady" and each.status == "True" for each in status.conditions)
    return ready and status.observed_generation == deployment["metadata"].get("generation")


def true_conditions(status: ModelDeploymentStatus) -> dict[str, str]:
    """Return the status of each condition by type."""
    return {condition.type: condition.status for condition in status.conditions}


def is_settled(deployment: Object, status: ModelDeploymentStatus) -> bool:
    """Return whether a ModelDeployment has no rollout and no unhandled command."""
    conditions = true_conditions(status)
    observed = status.observed_generation == deployment["metadata"].get("generation")
    settled = observed and conditions.get("Promoted") == "True" and conditions.get("CapacityAvailable") == "True"
    return settled and not _has_unhandled_command(deployment, status)


def needs_capacity(deployment: Object, status: ModelDeploymentStatus) -> bool:
    """Return whether free resources matter: a revision is not settled, or pods of a settled one wait for resources.

    A settled revision may lose a node or its quota, or may need more replicas than fit.
    """
    waiting = any(each.type == "RevisionReady" and each.reason in PLACEMENT_REASONS for each in status.conditions)
    return waiting or not is_settled(deployment, status)


def _has_unhandled_command(deployment: Object, status: ModelDeploymentStatus) -> bool:
    """Return whether a command is not handled yet. It may start a revision."""
    text = (deployment["metadata"].get("annotations") or {}).get(names.ANNOTATION_COMMAND, "")
    last = status.last_command
    return bool(text) and (last is None or last.id != commands.parse_command(text).id)


def taken_revision_numbers(name: str, used: Iterable[str]) -> tuple[int, ...]:
    """Return the revision numbers in those of the used names that have this ModelDeployment's name pattern."""
    pattern = re.compile(re.escape(name) + r"-r([0-9]+)")
    matches = map(pattern.fullmatch, used)
    return tuple(int(match[1]) for match in matches if match)


@dataclass(frozen=True, slots=True)
class NeighbourDeployment:
    """The parts of a ModelDeployment that affect others of its namespace.

    Attributes:
        object: its name, uid, age and endpoint.
        clusters: the RayClusters that it needs.
        salted: its salt; None without one.
    """

    object: Object
    clusters: frozenset[str]
    salted: SaltOwner | None


def read_neighbour(obj: Object) -> NeighbourDeployment:
    """Read the parts of a ModelDeployment that affect others of its namespace."""
    meta, endpoint = obj["metadata"], (obj.get("spec") or {}).get("endpoint")
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "creationTimestamp") if key in meta}
    clusters = desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status")))
    return NeighbourDeployment(
        {"metadata": kept, "spec": {"endpoint": endpoint}}, clusters, salts.find_salt_owner("ModelDeployment", obj)
    )


def without_spec(obj: Object) -> Object:
    """Return an object without its spec. A RayCluster's spec is large: it has the pod templates of all its members."""
    return {key: value for key, value in obj.items() if key != "spec"}


@dataclass(frozen=True, slots=True)
class NeighbourExperiment:
    """A stored Experiment.

    Attributes:
        owners: uids of its owners.
        rollout: the rollout attempt; None for an Experiment that is none.
        user_experiment: the user's Experiment; None for a rollout's, and for one that is being deleted.
        model_deployment: the ModelDeployment that a user's Experiment names.
        salted: its salt; None without one.
    """

    name: str
    owners: tuple[str, ...] = ()
    rollout: RolloutAttempt | None = None
    user_experiment: UserExperiment | None = None
    model_deployment: str = ""
    salted: SaltOwner | None = None

    def is_of(self, service: str, uid: str) -> bool:
        """Return whether it is a rollout of that ModelDeployment. A copy under another name is none."""
        return (
            uid in self.owners
            and self.rollout is not None
            and names.is_rollout_experiment(self.name, service, self.rollout.revision)
        )


def read_experiment(obj: Object) -> NeighbourExperiment:
    """Read an Experiment of the namespace. Its spec may be invalid."""
    meta = obj["metadata"]
    acceptance = check_admission(obj)
    if not acceptance.of_rollout:
        user_experiment = UserExperiment(
            name=meta["name"],
            uid=meta["uid"],
            generation=int(meta.get("generation", 0)),
            created=str(meta.get("creationTimestamp") or ""),
            acceptance=acceptance,
            status=ExperimentStatus.parse(obj.get("status")),
        )
        deployment = str((obj.get("spec") or {}).get("modelDeployment") or "")
        if "deletionTimestamp" in meta:
            return NeighbourExperiment(meta["name"], model_deployment=deployment)
        salted = salts.find_salt_owner("Experiment", obj) if acceptance.spec is not None else None
        return NeighbourExperiment(
            meta["name"], user_experiment=user_experiment, model_deployment=deployment, salted=salted
        )
    number = (meta.get("labels") or {}).get(names.LABEL_REVISION, "")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        return NeighbourExperiment(meta["name"])
    rollout = RolloutAttempt(
        name=meta["name"],
        uid=meta["uid"],
        generation=int(meta.get("generation", 0)),
        revision=int(number),
        status=ExperimentStatus.parse(obj.get("status")),
    )
    return NeighbourExperiment(meta["name"], revisions.owner_uids(obj), rollout)
