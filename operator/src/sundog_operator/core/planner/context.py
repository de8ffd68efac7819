"""What a plan reads, and the state it works on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sundog_operator.api import (
    Condition,
    ExperimentStatus,
    LastRollout,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    PlanInPlace,
    RevisionStatus,
    parse_timestamp,
)
from sundog_operator.api.installation import Installation
from sundog_operator.core import revisions
from sundog_operator.core.analysis import stable_traffic
from sundog_operator.core.edge import confirmation
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.edge.secrets import KeysBySecret
from sundog_operator.core.edge.split import Split
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.experiments.evaluation import ExperimentEvaluation as ExperimentEvaluation
from sundog_operator.core.experiments.queue import UserExperiment
from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.capacity import AvailableCapacity
from sundog_operator.core.kubernetes.references import KeysByObject
from sundog_operator.core.observed import EdgeReport, PrometheusResult, ServeState, WebhookResult
from sundog_operator.core.planner import desired_state, held_back_revisions, rollback_window
from sundog_operator.core.planner.admission import ModelDeploymentAcceptance
from sundog_operator.core.ray import groups, valkey
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.readiness import NOT_DEPLOYED, Readiness, evaluate_readiness
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import in_place, state, windows
from sundog_operator.core.rollout.evaluation import Evaluation
from sundog_operator.core.rollout.resolve import StableTraffic
from sundog_operator.core.rollout.shadow_comparison import ShadowComparison

REPORT_PERIOD: Final = timedelta(seconds=60)
TERMINATING_EDGE_PERIOD: Final = timedelta(seconds=5)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RolloutAttempt:
    """A rollout's Experiment as it is stored. Without steps until its plan is frozen."""

    name: str
    uid: str
    generation: int
    revision: int
    status: ExperimentStatus


@dataclass(frozen=True, slots=True)
class ObservedState:
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
        route: the HTTPRoute of its name, where its endpoint names a Gateway.
        routes_served: whether the API server knows HTTPRoutes, as far as that was looked at.
        answer: the last one to the webhook of the step that the rollout is at; None where there is none yet.
        readings: what Prometheus gave last, by slot (`rollout.checking`).
        own: the Experiments of users on it.
        salts: of all Experiments and ModelDeployments of the namespace that fix one, its own included.
        storeless: why the edges can keep no outcomes although one of those asks for them, as a reason and a sentence; else empty.
        arm_rooms: like `room`, by Experiment and arm, of those that may be the next to begin.
    """

    deployment: Json
    revisions: tuple[Revision, ...]
    taken: tuple[int, ...]
    rollouts: tuple[RolloutAttempt, ...]
    experiment_names: frozenset[str]
    clusters: Mapping[str, ClusterView]
    serves: Mapping[str, ServeState]
    clusters_of_others: tuple[str, ...]
    edges: tuple[EdgeReport, ...]
    foreign: tuple[str, ...] = ()
    url: str = ""
    split: Mapping[str, Any] | None = None
    host_taken_by: str = ""
    image: str = ""
    secrets: KeysBySecret = field(default_factory=dict)
    installation: Installation | None = None
    references: KeysByObject = field(default_factory=dict)
    pods: tuple[Json, ...] = ()
    room: AvailableCapacity | None = None
    route: Json | None = None
    routes_served: bool = True
    answer: WebhookResult | None = None
    readings: Mapping[str, PrometheusResult] = field(default_factory=dict)
    own: tuple[UserExperiment, ...] = ()
    salts: tuple[SaltOwner, ...] = ()
    storeless: tuple[str, str] = ("", "")
    arm_rooms: Mapping[tuple[str, str], AvailableCapacity] = field(default_factory=dict)

    @property
    def in_cluster(self) -> bool:
        """Whether edges and replicas run in pods."""
        return self.installation is not None


@dataclass(slots=True)
class PlanContext:
    """The state a plan works on; changed in memory only.

    Attributes:
        before: the status as it is stored.
        wanted: the revision that the spec stands for; None while the spec is refused.
        rollout: the active rollout attempt.
        commit: (Experiment name, status) to write before anything else moves.
        rehearsal: what would begin if the spec did not ask for a dry run.
        no_room: (reason, message) of why its pods would find no place.
        shared: how what begins would share stable's replicas; None where its own come on top.
        judgement: what the evidence says of the active attempt; None where none is weighed.
        shadow: how its candidate answers copies of requests; None where it gets none now.
        experiment: the Experiment of a user that is under way.
        own_statuses: what to write of Experiments of users, by name, before anything else moves.
        own_judgement: what the evidence says of the one that is under way; None where none was weighed.
        own_judged: the name of the one that this is of, which may have ended by it.
        own_waits: why those of users that have not begun wait, by name, as (reason, message).
        new_revisions: revisions that this plan creates beside the wanted one.
    """

    observed: ObservedState
    now: datetime
    service: str
    before: ModelDeploymentStatus
    status: ModelDeploymentStatus
    acceptance: ModelDeploymentAcceptance
    spec: ModelDeploymentSpec | None
    wanted: Revision | None = None
    rollout: RolloutAttempt | None = None
    commit: tuple[str, ExperimentStatus] | None = None
    dry_run_message: str = ""
    capacity_shortage: tuple[str, str] | None = None
    shared: PlanInPlace | None = None
    evaluation: Evaluation | None = None
    shadow: ShadowComparison | None = None
    experiment: UserExperiment | None = None
    experiment_statuses: dict[str, ExperimentStatus] = field(default_factory=dict)
    experiment_evaluation: ExperimentEvaluation | None = None
    evaluated_experiment: str = ""
    experiment_waits: dict[str, tuple[str, str]] = field(default_factory=dict)
    new_revisions: list[Revision] = field(default_factory=list)
    objects_to_create: list[Json] = field(default_factory=list)
    events: list[KubernetesEvent] = field(default_factory=list)

    def is_report_due(self, status: ExperimentStatus) -> bool:
        """Whether what is known is to be told again, though nothing moves: a status must not change with each request."""
        return self._is_older(status, REPORT_PERIOD)

    def has_terminating_edge(self, status: ExperimentStatus) -> bool:
        """Whether an edge leaves: what it has counted will not be there to be read again, so it is written more often."""
        return self._is_older(status, TERMINATING_EDGE_PERIOD) and any(edge.terminating for edge in self.observed.edges)

    def _is_older(self, status: ExperimentStatus, period: timedelta) -> bool:
        """Whether what is told was counted so long ago. Of a time to come nothing was: the clock was set back."""
        at = status.counted_at
        return at is None or not timedelta(0) <= self.now - at < period

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
        return revisions.find_by_number((*self.new_revisions, *self.observed.revisions), number)

    def find_deployed_number(self, digest: str, numbers: Iterable[int]) -> int | None:
        """The number under which Serve runs content of that hash: a ControllerRevision that was deleted gets its number back."""
        for number in sorted(numbers):
            app = self.serve_state_of(number).applications.get(names.application(self.service, number))
            if app is not None and (app.config.get("args") or {}).get("revisionHash") == digest:
                return number
        return None

    def cluster_of(self, number: int) -> ClusterView | None:
        """The RayCluster of a revision, where it was looked at."""
        return self.observed.clusters.get(
            desired_state.clusters_by_revision(self.status).get(number, self.status.cluster)
        )

    def serve_state_of(self, number: int) -> ServeState:
        """What the RayCluster of a revision serves; unknown where it was not looked at."""
        place = desired_state.clusters_by_revision(self.status).get(number, self.status.cluster)
        return self.observed.serves.get(place, ServeState(known=False))

    def readiness(self, number: int) -> Readiness:
        """What Serve reports of a revision."""
        revision = self.revision(number)
        if revision is None:
            return Readiness(0, False, False, True, "RevisionMissing", f"ControllerRevision {number} is gone")
        if (
            revisions.find_by_number(self.observed.revisions, number) is None
            and self._place(number) not in self.observed.serves
        ):
            # Made by this plan: no status tells of it yet, and Serve is given what statuses tell.
            return NOT_DEPLOYED
        return evaluate_readiness(self.service, revision, self.serve_state_of(number))

    def pods_of(self, number: int) -> list[Json]:
        """The pods of a revision."""
        return self._pods_with({names.LABEL_MODEL_DEPLOYMENT: self.service, names.LABEL_REVISION: str(number)})

    def head_pods_of(self, number: int) -> list[Json]:
        """The pods of the head of a revision's RayCluster."""
        return self._pods_with({groups.LABEL_CLUSTER: self._place(number), groups.LABEL_NODE_TYPE: "head"})

    def store_pods_of(self, number: int) -> list[Json]:
        """The pods of the store of a revision's RayCluster."""
        return self._pods_with(valkey.store_selector(self._place(number)))

    def _place(self, number: int) -> str:
        return desired_state.clusters_by_revision(self.status).get(number, self.status.cluster)

    def _pods_with(self, labels: Mapping[str, str]) -> list[Json]:
        return [pod for pod in self.observed.pods if labels.items() <= (pod["metadata"].get("labels") or {}).items()]

    def available(self, number: int) -> int:
        """Replicas that Serve runs and every ready edge sees healthy; none while Serve does not call the revision ready."""
        return self.serving(number) if self.readiness(number).ready else 0

    def serving(self, number: int) -> int:
        """Replicas that Serve runs and every ready edge sees healthy, also while others of the revision start."""
        healthy = confirmation.healthy_replicas(self.service, number, self.observed.edges)
        return min(self.readiness(number).running, healthy)

    def desired_split(self) -> Split | None:
        """What the edges should have in force after this plan; None while nothing is ready to serve."""
        if self.experiment is not None:
            return desired_state.desired_split(
                self.observed.deployment, self.status, self.experiment.uid, self.experiment_progress
            )
        uid = self.rollout.uid if self.rollout else ""
        return desired_state.desired_split(self.observed.deployment, self.status, uid, self.progress)

    @property
    def created(self) -> datetime | None:
        """When the ModelDeployment was; None for one that is not stored yet."""
        text = self.observed.deployment["metadata"].get("creationTimestamp")
        return parse_timestamp(text) if text else None

    def traffic_of(self, stable: int, attempt: str = "", epoch: int = 0) -> StableTraffic:
        """What came to the service, with how long a revision takes that had all traffic: then, and under an attempt that goes on.

        `epoch`: see `stable_traffic.of_attempts`.
        """
        meta = self.observed.deployment["metadata"]
        attempts = [names.stable_attempt(self.service, stable, meta["uid"]), *([attempt] if attempt else ())]
        now_s, made_s = self.now.timestamp(), self.created.timestamp() if self.created else 0.0
        return stable_traffic.measure_traffic(self.service, attempts, self.observed.edges, now_s, made_s, epoch)

    @property
    def is_split_confirmed(self) -> bool:
        """Whether every edge has that split in force."""
        split = self.desired_split()
        return split is not None and confirmation.confirm(self.service, split, self.observed.edges).confirmed

    @property
    def experiment_progress(self) -> ExperimentStatus | None:
        """The status of the Experiment of a user that is under way, as it will be after this plan."""
        return (
            None
            if self.experiment is None
            else self.experiment_statuses.get(self.experiment.name, self.experiment.status)
        )

    @property
    def stable_number(self) -> int | None:
        """The stable revision's number."""
        return self.status.stable.revision if self.status.stable else None

    @property
    def is_held(self) -> bool:
        """Whether rollouts stand still by the spec."""
        return self.spec is None or self.spec.paused or self.spec.rollout.paused or self.spec.rollout.dry_run

    @property
    def is_fast_rollback(self) -> bool:
        """Whether what the spec stands for was stable lately, and may be so again without steps."""
        if self.spec is None or self.wanted is None:
            return False
        return self.wanted.number in rollback_window.revisions_in_window(self.spec.rollout, self.status.stable_before)

    @property
    def window_opens_at(self) -> datetime | None:
        """When traffic may move forward again by the windows of the spec; None while it may.

        What goes back to a revision that was stable waits for none.
        """
        progress = self.progress
        if self.spec is None or (progress is not None and state.is_fast_rollback(progress)):
            return None
        return windows.next_opening(self.spec.rollout.windows, self.now)

    @property
    def replicas(self) -> int:
        """Replicas for all of the traffic. A spec that is refused changes nothing.

        With autoscaling what Serve found stable to need, within the bounds; the fewest before there is a stable one. A number that two
        revisions share is fixed until they do not.
        """
        known = self.status.stable or self.status.candidate
        # In place no revision has all of them.
        shared = self.status.capacity.needed_replicas if self.status.capacity else None
        if self.spec is None:
            # By load its replicas may have become more since.
            return shared or (max(known.replicas, self.targets(known.revision)) if known else 1)
        scaling = self.spec.autoscaling
        if scaling is None:
            return self.spec.replicas
        if shared:
            return shared
        return max(scaling.min_replicas, min(self._found_to_need(), scaling.max_replicas))

    def _found_to_need(self) -> int:
        stable = self.status.stable
        if stable is None:
            return 0
        found = self.targets(stable.revision) or stable.replicas
        # Of its small share stable learns nothing, and an abort must not find it too small.
        return max((found, *map(self.targets, self._with_more_than(stable))))

    def _with_more_than(self, stable: RevisionStatus) -> list[int]:
        """Revisions that have more of the traffic than stable, and for long. One with less may need many replicas because it is slow."""
        candidate, progress = self.status.candidate, self.progress
        if candidate is not None and progress is not None and state.is_baking(progress):
            return [candidate.revision]
        return [arm.revision for arm in self.status.arms or () if arm.weight > stable.weight]

    def targets(self, number: int) -> int:
        """Replicas that Serve wants of a revision; 0 where nobody knows."""
        app = self.serve_state_of(number).applications.get(names.application(self.service, number))
        return sum(deployment.target_replicas for deployment in app.deployments) if app is not None else 0

    @property
    def progress(self) -> ExperimentStatus | None:
        """The active attempt's status as it will be after this plan; None before its plan is frozen."""
        if self.rollout is None:
            return None
        if self.commit is not None and self.commit[0] == self.rollout.name:
            return self.commit[1]
        return self.rollout.status if state.is_frozen(self.rollout.status) else None

    @property
    def in_place(self) -> PlanInPlace | None:
        """How the candidate shares stable's replicas; None where its own come on top. Before its plan is frozen the status says so."""
        if self.progress is not None:
            return self.progress.plan.in_place
        if self.status.candidate is None or not self.status.experiment:
            return None
        return in_place.in_place_from_capacity(self.status.capacity)

    @property
    def is_giving_back(self) -> bool:
        """Whether a candidate in place is on its way out, and has traffic still."""
        return self.progress is not None and self.progress.giving_back is not None

    def stored_condition(self, type_: str) -> Condition | None:
        """A condition as it is stored."""
        return next((condition for condition in self.before.conditions if condition.type == type_), None)

    def is_held_back(self, number: int) -> bool:
        """Whether a revision was aborted or rolled back, and not retried since."""
        return held_back_revisions.find_hold(self.status, number) is not None

    @property
    def hold(self) -> LastRollout | None:
        """What the revision that the spec stands for is held back for; None where it is not."""
        return held_back_revisions.find_hold(self.status, self.wanted.number) if self.wanted is not None else None
