"""Other ModelDeployments and Experiments of a namespace, as far as one bears on another."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core import revisions
from sundog_operator.core.edge import salts
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.experiments.admission import check_admission as accept_experiment
from sundog_operator.core.experiments.queue import UserExperiment
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import RolloutAttempt
from sundog_operator.core.rollout import commands
from sundog_operator.ports import (
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    Object,
)


async def list_salt_owners(world: Dependencies, namespace: str) -> tuple[SaltOwner, ...]:
    """Of all Experiments and ModelDeployments of a namespace that fix one."""
    experiments = await world.kube.views(EXPERIMENT, namespace, read_experiment)
    return read_salts(experiments, await world.kube.views(MODEL_DEPLOYMENT, namespace, read_neighbour))


def read_salts(
    experiments: Sequence["NeighbourExperiment"], deployments: Sequence["NeighbourDeployment"]
) -> tuple[SaltOwner, ...]:
    """All salts in use, with who uses each."""
    found = (*(each.salted for each in experiments), *(each.salted for each in deployments))
    return tuple(each for each in found if each is not None)


def is_ready(deployment: Object) -> bool:
    """Whether the wanted revision's pods were started: then they found what they need."""
    status = ModelDeploymentStatus.parse(deployment.get("status"))
    ready = any(each.type == "RevisionReady" and each.status == "True" for each in status.conditions)
    return ready and status.observed_generation == deployment["metadata"].get("generation")


def true_conditions(status: ModelDeploymentStatus) -> dict[str, str]:
    """Statuses of conditions by type."""
    return {condition.type: condition.status for condition in status.conditions}


def is_settled(deployment: Object, status: ModelDeploymentStatus) -> bool:
    """Whether a ModelDeployment has nothing under way."""
    truths = true_conditions(status)
    seen = status.observed_generation == deployment["metadata"].get("generation")
    settled = seen and truths.get("Promoted") == "True" and truths.get("CapacityAvailable") == "True"
    return settled and not _is_commanded(deployment, status)


def _is_commanded(deployment: Object, status: ModelDeploymentStatus) -> bool:
    """Whether there is a command that was not handled: it may bring a revision up."""
    text = (deployment["metadata"].get("annotations") or {}).get(names.ANNOTATION_COMMAND, "")
    last = status.last_command
    return bool(text) and (last is None or last.id != commands.parse_command(text).id)


def taken_revision_numbers(name: str, stored: Sequence[revisions.StoredRevision]) -> tuple[int, ...]:
    """Numbers in names of ControllerRevisions of this name pattern."""
    pattern = re.compile(re.escape(name) + r"-r([0-9]+)")
    matches = (pattern.fullmatch(each.name) for each in stored)
    return tuple(int(match[1]) for match in matches if match)


@dataclass(frozen=True, slots=True)
class NeighbourDeployment:
    """A ModelDeployment as far as others of its namespace are concerned: its name, age and host, its RayClusters, and its salt."""

    object: Object
    clusters: frozenset[str]
    salted: SaltOwner | None


def read_neighbour(obj: Object) -> NeighbourDeployment:
    """Another ModelDeployment of the namespace, as far as it bears on this one."""
    meta, endpoint = obj["metadata"], (obj.get("spec") or {}).get("endpoint")
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "creationTimestamp") if key in meta}
    clusters = desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status")))
    return NeighbourDeployment(
        {"metadata": kept, "spec": {"endpoint": endpoint}}, clusters, salts.find_salt_owner("ModelDeployment", obj)
    )


def without_spec(obj: Object) -> Object:
    """A RayCluster's spec has the pods of all its members."""
    return {key: value for key, value in obj.items() if key != "spec"}


@dataclass(frozen=True, slots=True)
class NeighbourExperiment:
    """A stored Experiment: `rollout` is None for one that can be none of ours, `own` for one that is no user's, or is being deleted."""

    name: str
    owners: tuple[str, ...] = ()
    rollout: RolloutAttempt | None = None
    own: UserExperiment | None = None
    model_deployment: str = ""
    salted: SaltOwner | None = None

    def is_of(self, service: str, uid: str) -> bool:
        """Whether it is a rollout of that ModelDeployment; a copy under another name only looks like it."""
        return (
            uid in self.owners
            and self.rollout is not None
            and names.is_rollout_experiment(self.name, service, self.rollout.revision)
        )


def read_experiment(obj: Object) -> NeighbourExperiment:
    """An Experiment of the namespace, accepted or refused."""
    meta = obj["metadata"]
    acceptance = accept_experiment(obj)
    if not acceptance.of_rollout:
        own = UserExperiment(
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
        return NeighbourExperiment(meta["name"], own=own, model_deployment=deployment, salted=salted)
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
