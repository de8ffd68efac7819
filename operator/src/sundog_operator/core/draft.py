"""What a plan reads, and the state it works on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sundog_operator.api import Condition, ExperimentStatus, ModelDeploymentSpec, ModelDeploymentStatus
from sundog_operator.api.installation import Installation
from sundog_operator.core import live, names, ray_groups, returning, revisions, traffic, valkey
from sundog_operator.core.capacity import Room
from sundog_operator.core.events import Event
from sundog_operator.core.observed import EdgeReport, ServeState, WebhookAnswer
from sundog_operator.core.ray_cluster import ClusterView
from sundog_operator.core.readiness import Readiness, of_revision
from sundog_operator.core.references import Found
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import machine, windows
from sundog_operator.core.rollout.judgement import Judgement
from sundog_operator.core.secrets import Keys
from sundog_operator.core.spec import Acceptance

HELD_OUTCOMES: Final = ("Aborted", "RolledBack")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout's Experiment as it is stored. Without steps until its plan is frozen."""

    name: str
    uid: str
    generation: int
    revision: int
    status: ExperimentStatus


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything a plan may look at.

    Attributes:
        deployment: the stored ModelDeployment.
        revisions: revisions in the ControllerRevisions that it owns.
        taken: revision numbers that any ControllerRevision of its name pattern holds, foreign and unreadable ones included.
        rollouts: the rollout Experiments that it owns.
        experiment_names: names of all Experiments in the namespace.
        clusters: its RayClusters by name.
        serves: what each of them serves.
        clusters_taken: the RayClusters of all other ModelDeployments in the namespace, each once per ModelDeployment.
        foreign: objects that stand where children of ours should, such as `ConfigMap sundog-edge`.
        url: where the edge answers for it; empty while no edge runs.
        split: its entry in the split document as it is stored; None where there is none.
        host_taken_by: the ModelDeployment that has the host this one asks for; empty when it may have it.
        image: what an empty `runtime.image` stands for.
        secrets: the keys of each Secret that its endpoint names; None for one that does not exist.
        installation: of a Kubernetes cluster; None in local mode.
        references: what its pods need beside it, as far as it was looked for.
        pods: pods of its revisions, heads and stores of its RayClusters; none in local mode.
        room: what is free of the accelerators that the spec asks for; None where it asks for none, or was not looked at.
        phases: seconds by phase of the newest revision's start, as one of its replicas tells; none where none was asked.
        route: the HTTPRoute of its name, where its endpoint names a Gateway.
        routes_served: whether the API server knows HTTPRoutes, as far as that was looked at.
        answer: the last one to the webhook of the step that the rollout is at; None where there is none yet.
    """

    deployment: Json
    revisions: tuple[Revision, ...]
    taken: tuple[int, ...]
    rollouts: tuple[Rollout, ...]
    experiment_names: frozenset[str]
    clusters: Mapping[str, ClusterView]
    serves: Mapping[str, ServeState]
    clusters_taken: tuple[str, ...]
    edges: tuple[EdgeReport, ...]
    foreign: tuple[str, ...] = ()
    url: str = ""
    split: Mapping[str, Any] | None = None
    host_taken_by: str = ""
    image: str = ""
    secrets: Keys = field(default_factory=dict)
    installation: Installation | None = None
    references: Found = field(default_factory=dict)
    pods: tuple[Json, ...] = ()
    room: Room | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    route: Json | None = None
    routes_served: bool = True
    answer: WebhookAnswer | None = None

    @property
    def in_cluster(self) -> bool:
        """Whether edges and replicas run in pods."""
        return self.installation is not None


@dataclass(slots=True)
class Draft:
    """The state a plan works on; changed in memory only.

    Attributes:
        before: the status as it is stored.
        wanted: the revision that the spec stands for; None while the spec is refused.
        rollout: the active rollout attempt.
        commit: (Experiment name, status) to write before anything else moves.
        rehearsal: what would begin if the spec did not ask for a dry run.
        no_room: (reason, message) of why its pods would find no place.
        judgement: what the evidence says of the active attempt; None where none is weighed.
    """

    seen: Observed
    now: datetime
    service: str
    before: ModelDeploymentStatus
    status: ModelDeploymentStatus
    acceptance: Acceptance
    spec: ModelDeploymentSpec | None
    wanted: Revision | None = None
    rollout: Rollout | None = None
    commit: tuple[str, ExperimentStatus] | None = None
    rehearsal: str = ""
    no_room: tuple[str, str] | None = None
    judgement: Judgement | None = None
    creates: list[Json] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def commit_rollout(self, status: ExperimentStatus) -> None:
        """Write this status of the active attempt first."""
        if self.rollout is not None:
            self.commit = (self.rollout.name, status)

    def set(self, **changes: Any) -> None:
        """Replace fields of the status."""
        self.status = self.status.model_copy(update=changes)

    def revision(self, number: int) -> Revision | None:
        """A revision by number, the one that this plan creates included."""
        if self.wanted is not None and self.wanted.number == number:
            return self.wanted
        return revisions.by_number(self.seen.revisions, number)

    def deployed_as(self, digest: str, numbers: Iterable[int]) -> int | None:
        """The number under which Serve runs content of that hash: a ControllerRevision that was deleted gets its number back."""
        for number in sorted(numbers):
            app = self.serve_of(number).applications.get(names.application(self.service, number))
            if app is not None and (app.config.get("args") or {}).get("revisionHash") == digest:
                return number
        return None

    def cluster_of(self, number: int) -> ClusterView | None:
        """The RayCluster of a revision, where it was looked at."""
        return self.seen.clusters.get(live.places(self.status).get(number, self.status.cluster))

    def serve_of(self, number: int) -> ServeState:
        """What the RayCluster of a revision serves; unknown where it was not looked at."""
        place = live.places(self.status).get(number, self.status.cluster)
        return self.seen.serves.get(place, ServeState(known=False))

    def readiness(self, number: int) -> Readiness:
        """What Serve reports of a revision."""
        revision = self.revision(number)
        if revision is None:
            return Readiness(0, False, False, True, "RevisionMissing", f"ControllerRevision {number} is gone")
        return of_revision(self.service, revision, self.serve_of(number))

    def pods_of(self, number: int) -> list[Json]:
        """The pods of a revision."""
        return self._pods_with({names.LABEL_MODEL_DEPLOYMENT: self.service, names.LABEL_REVISION: str(number)})

    def heads_of(self, number: int) -> list[Json]:
        """The pods of the head of a revision's RayCluster."""
        return self._pods_with({ray_groups.LABEL_CLUSTER: self._place(number), ray_groups.LABEL_NODE_TYPE: "head"})

    def stores_of(self, number: int) -> list[Json]:
        """The pods of the store of a revision's RayCluster."""
        return self._pods_with(valkey.selector(self._place(number)))

    def _place(self, number: int) -> str:
        return live.places(self.status).get(number, self.status.cluster)

    def _pods_with(self, labels: Mapping[str, str]) -> list[Json]:
        return [pod for pod in self.seen.pods if labels.items() <= (pod["metadata"].get("labels") or {}).items()]

    def available(self, number: int) -> int:
        """Replicas that Serve runs and every ready edge sees healthy."""
        readiness = self.readiness(number)
        healthy = traffic.healthy_replicas(self.service, number, self.seen.edges)
        return min(readiness.running, healthy) if readiness.ready else 0

    @property
    def stable_number(self) -> int | None:
        """The stable revision's number."""
        return self.status.stable.revision if self.status.stable else None

    @property
    def held(self) -> bool:
        """Whether rollouts stand still by the spec."""
        return self.spec is None or self.spec.paused or self.spec.rollout.paused or self.spec.rollout.dry_run

    @property
    def returns(self) -> bool:
        """Whether what the spec stands for was stable lately, and may be so again without steps."""
        if self.spec is None or self.wanted is None:
            return False
        return self.wanted.number in returning.window(self.spec.rollout, self.status.stable_before)

    @property
    def opens_at(self) -> datetime | None:
        """When traffic may move forward again by the windows of the spec; None while it may.

        What goes back to a revision that was stable waits for none.
        """
        progress = self.progress
        if self.spec is None or (progress is not None and progress.plan.reason):
            return None
        return windows.next_opening(self.spec.rollout.windows, self.now)

    @property
    def replicas(self) -> int:
        """Replicas for all of the traffic. A spec that is refused changes nothing.

        With autoscaling what Serve found stable to need, within the bounds; the fewest before there is a stable one.
        """
        known = self.status.stable or self.status.candidate
        if self.spec is None:
            return known.replicas if known else 1
        scaling = self.spec.autoscaling
        if scaling is None:
            return self.spec.replicas
        return max(scaling.min_replicas, min(self._found_to_need(), scaling.max_replicas))

    def _found_to_need(self) -> int:
        stable = self.status.stable
        if stable is None:
            return 0
        app = self.serve_of(stable.revision).applications.get(names.application(self.service, stable.revision))
        targets = sum(deployment.target_replicas for deployment in app.deployments) if app is not None else 0
        return targets or stable.replicas

    @property
    def progress(self) -> ExperimentStatus | None:
        """The active attempt's status as it will be after this plan; None before its plan is frozen."""
        if self.rollout is None:
            return None
        if self.commit is not None and self.commit[0] == self.rollout.name:
            return self.commit[1]
        return self.rollout.status if machine.is_frozen(self.rollout.status) else None

    def condition_before(self, type_: str) -> Condition | None:
        """A condition as it is stored."""
        return next((condition for condition in self.before.conditions if condition.type == type_), None)

    def is_held_back(self, number: int) -> bool:
        """Whether a revision was aborted or rolled back, and not retried since."""
        last = self.status.last_rollout
        return last is not None and last.revision == number and last.outcome in HELD_OUTCOMES
