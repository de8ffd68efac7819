"""The observed state that a plan reads, and the context that its steps change."""

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
from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core import revisions
from sundog_operator.core.analysis import stable_traffic
from sundog_operator.core.edge import confirmation
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.edge.secrets import KeysBySecret
from sundog_operator.core.edge.split import Split
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import accelerators, names
from sundog_operator.core.kubernetes.capacity import AvailableCapacity
from sundog_operator.core.kubernetes.references import KeysByObject
from sundog_operator.core.kubernetes.shared_pods import is_shared
from sundog_operator.core.observed import EdgeReport, PrometheusResult, ServeState, WebhookResult
from sundog_operator.core.planner import desired_state, held_back_revisions, rollback_window
from sundog_operator.core.planner.admission import ModelDeploymentAcceptance
from sundog_operator.core.ray import groups, load, valkey
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.readiness import NOT_DEPLOYED, Readiness, evaluate_readiness
from sundog_operator.core.ray.scaling import find_scaling, may_scale_to_zero
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.evaluation import Evaluation
from sundog_operator.core.trial.experiment.evaluation import ExperimentEvaluation
from sundog_operator.core.trial.experiment.queue import UserExperiment
from sundog_operator.core.trial.rollout import in_place, state, windows
from sundog_operator.core.trial.rollout.shadow_comparison import ShadowComparison

REPORT_PERIOD: Final = timedelta(seconds=60)
TERMINATING_EDGE_PERIOD: Final = timedelta(seconds=5)

Json = dict[str, Any]


def holds_rollouts(spec: ModelDeploymentSpec | None) -> bool:
    """Whether a spec holds rollouts: it is refused, paused or a dry run."""
    return spec is None or spec.paused or spec.rollout.paused or spec.rollout.dry_run


@dataclass(frozen=True, slots=True)
class RolloutAttempt:
    """The stored Experiment of a rollout. It has no steps until its plan is frozen."""

    name: str
    uid: str
    generation: int
    revision: int
    status: ExperimentStatus


@dataclass(frozen=True, slots=True)
class ObservedState:
    """Everything that a plan may read about one ModelDeployment.

    Attributes:
        deployment: the stored ModelDeployment.
        revisions: the revisions in its ControllerRevisions.
        taken: revision numbers of all ControllerRevisions of its name pattern, foreign and unreadable ones included.
        rollouts: its rollout Experiments.
        experiment_names: names of all Experiments in the namespace.
        clusters: its RayClusters by name.
        serves: the Serve state of each of them.
        clusters_of_others: the RayClusters of all other ModelDeployments in the namespace, each once per ModelDeployment.
        edges: the namespace's edge pods and their evidence.
        edge_refusal: why the API server refuses pods of the edge while there are none; may be empty.
        foreign: objects of other owners that have the names of its children, such as `ConfigMap sundog-edge`.
        url: its address at the edge; empty while no edge runs.
        split: its entry in the stored split document; None if there is none.
        host_taken_by: the ModelDeployment that has the requested host; empty if the host is free.
        domain: the cluster's DNS domain.
        image: the default for an empty `runtime.image`.
        secrets: the keys of each Secret that its endpoint names; None for a Secret that does not exist.
        installation: of a Kubernetes cluster; None in local mode.
        references: other objects that its pods need, as far as the operator looked for them.
        pods: pods of its revisions, shared ones included, and of the heads and stores of its RayClusters; none in local mode.
        room: free resources for pods of the spec; None if nothing is known, or the operator did not look.
        route: the HTTPRoute of its name, if its endpoint names a Gateway.
        routes_served: whether the API server has the HTTPRoute API, as far as the operator looked.
        claims_served: whether the API server has the API of claims to devices, as far as the operator looked.
        answer: the last answer of the current step's webhook; None if there is none yet.
        readings: the newest result of each Prometheus query, by slot (`rollout.prometheus_checks`).
        user_experiments: the users' Experiments on it.
        salts: fixed salts of all Experiments and ModelDeployments in the namespace, its own included.
        storeless: why the edges cannot store the outcomes that a user's Experiment or the rollout needs; None where they can.
        queued: why Kueue has not admitted a pod, by the pod's uid, as far as the operator looked.
        arm_rooms: like `room`, by Experiment and arm, control included, for the Experiments that may start next.
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
    edge_refusal: str = ""
    foreign: tuple[str, ...] = ()
    url: str = ""
    split: Mapping[str, Any] | None = None
    host_taken_by: str = ""
    domain: str = names.CLUSTER_DOMAIN
    image: str = ""
    secrets: KeysBySecret = field(default_factory=dict)
    installation: Installation | None = None
    references: KeysByObject = field(default_factory=dict)
    pods: tuple[Json, ...] = ()
    room: AvailableCapacity | None = None
    route: Json | None = None
    routes_served: bool = True
    claims_served: bool = True
    answer: WebhookResult | None = None
    readings: Mapping[str, PrometheusResult] = field(default_factory=dict)
    user_experiments: tuple[UserExperiment, ...] = ()
    salts: tuple[SaltOwner, ...] = ()
    storeless: Cause | None = None
    queued: Mapping[str, str] = field(default_factory=dict)
    arm_rooms: Mapping[tuple[str, str], AvailableCapacity] = field(default_factory=dict)

    @property
    def in_cluster(self) -> bool:
        """Whether edges and replicas run in pods."""
        return self.installation is not None


@dataclass(slots=True)
class PlanContext:
    """The state that the steps of a plan read and change, in memory only.

    Attributes:
        before: the stored status.
        status: the status to write.
        spec_revision: the revision of the spec; None while the spec is refused.
        rollout: the active rollout attempt.
        commit: (Experiment name, status) to write before anything else changes.
        dry_run_message: the rollout that would start without `dryRun`.
        capacity_shortage: the shortage if the spec's revision's pods do not fit.
        shared: how a new candidate would share stable's replicas; None if it gets replicas of its own.
        evaluation: the evaluation of the active attempt; None if there is none.
        shadow: the comparison of the candidate's answers to copies of requests; None if it gets no copies now.
        experiment: the user's Experiment that is active.
        experiment_statuses: statuses of users' Experiments to write, by name, before anything else changes.
        experiment_evaluation: the evaluation of the active Experiment; None if there is none.
        evaluated_experiment: the name of the Experiment that `experiment_evaluation` is of. It may have ended in this plan.
        experiment_waits: causes by name, for users' Experiments that have not started.
        new_revisions: revisions that this plan creates beside the spec's.
    """

    observed: ObservedState
    now: datetime
    service: str
    before: ModelDeploymentStatus
    status: ModelDeploymentStatus
    acceptance: ModelDeploymentAcceptance
    spec: ModelDeploymentSpec | None
    spec_revision: Revision | None = None
    rollout: RolloutAttempt | None = None
    commit: tuple[str, ExperimentStatus] | None = None
    dry_run_message: str = ""
    capacity_shortage: Cause | None = None
    shared: PlanInPlace | None = None
    evaluation: Evaluation | None = None
    shadow: ShadowComparison | None = None
    experiment: UserExperiment | None = None
    experiment_statuses: dict[str, ExperimentStatus] = field(default_factory=dict)
    experiment_evaluation: ExperimentEvaluation | None = None
    evaluated_experiment: str = ""
    experiment_waits: dict[str, Cause] = field(default_factory=dict)
    new_revisions: list[Revision] = field(default_factory=list)
    objects_to_create: list[Json] = field(default_factory=list)
    events: list[KubernetesEvent] = field(default_factory=list)

    def is_report_due(self, status: ExperimentStatus) -> bool:
        """Whether a report is due without a transition. A status must not change with each request."""
        return self._is_older(status, REPORT_PERIOD)

    def has_terminating_edge(self, status: ExperimentStatus) -> bool:
        """Whether an edge terminates and the last report is old. Its counters will be gone, so they are written more often."""
        return self._is_older(status, TERMINATING_EDGE_PERIOD) and any(edge.terminating for edge in self.observed.edges)

    def _is_older(self, status: ExperimentStatus, period: timedelta) -> bool:
        """Whether the last report is older than `period`, or in the future because the clock was set back."""
        at = status.counted_at
        return at is None or not timedelta(0) <= self.now - at < period

    def commit_rollout(self, status: ExperimentStatus) -> None:
        """Write this status of the active attempt before anything else."""
        if self.rollout is not None:
            self.commit = (self.rollout.name, status)

    def set(self, **changes: Any) -> None:
        """Replace fields of the status."""
        self.status = self.status.model_copy(update=changes)

    def revision(self, number: int) -> Revision | None:
        """Return a revision by number, including those that this plan creates."""
        if self.spec_revision is not None and self.spec_revision.number == number:
            return self.spec_revision
        return revisions.find_by_number((*self.new_revisions, *self.observed.revisions), number)

    def find_deployed_number(self, digest: str, numbers: Iterable[int]) -> int | None:
        """Return the number under which Serve runs content of that hash, so that a deleted ControllerRevision keeps its number."""
        for number in sorted(numbers):
            app = self.serve_state_of(number).applications.get(names.application(self.service, number))
            if app is not None and (app.config.get("args") or {}).get("revisionHash") == digest:
                return number
        return None

    def cluster_of(self, number: int) -> ClusterView | None:
        """Return the RayCluster of a revision, if it was observed."""
        return self.observed.clusters.get(self._cluster_name(number))

    def serve_state_of(self, number: int) -> ServeState:
        """Return the Serve state of a revision's RayCluster; unknown if it was not observed."""
        return self.observed.serves.get(self._cluster_name(number), ServeState(known=False))

    def readiness(self, number: int) -> Readiness:
        """Return the readiness of a revision, as Serve reports it."""
        revision = self.revision(number)
        if revision is None:
            return Readiness(
                0, False, False, True, DeploymentReason.REVISION_MISSING, f"ControllerRevision {number}: not found"
            )
        is_stored = revisions.find_by_number(self.observed.revisions, number) is not None
        if not is_stored and self._cluster_name(number) not in self.observed.serves:
            # This plan creates it. No status has it yet, and Serve is configured from statuses alone.
            return NOT_DEPLOYED
        return evaluate_readiness(self.service, revision, self.serve_state_of(number))

    def pods_of(self, number: int) -> list[Json]:
        """Return the pods of a revision."""
        return self.find_pods({names.LABEL_MODEL_DEPLOYMENT: self.service, names.LABEL_REVISION: str(number)})

    def count_pods(self, number: int, replicas: int) -> int:
        """Return the number of own pods of so many replicas of a revision; one each for an unknown revision."""
        revision = self.revision(number)
        if revision is None or self.is_shared(number):
            return replicas if revision is None else 0
        return accelerators.count_pods(revisions.spec_of(revision).resources.gpu, replicas)

    def pods_per_replica(self, number: int) -> int:
        """Return in how many pods one replica of a revision runs; 1 where several replicas share a pod."""
        return max(self.count_pods(number, 1), 1)

    def is_shared(self, number: int) -> bool:
        """Whether a revision's replicas run in pods with those of other models."""
        revision = self.revision(number)
        return revision is not None and is_shared(revisions.spec_of(revision))

    def shared_pods_of(self, number: int) -> list[Json]:
        """Return the pods that models of a revision's RayCluster share; none for a revision with own pods."""
        return self.find_pods(groups.shared_pod_labels(self._cluster_name(number))) if self.is_shared(number) else []

    def worker_pods_of(self, number: int) -> list[Json]:
        """Return the pods in which replicas of a revision run: its own, or shared ones."""
        return self.shared_pods_of(number) if self.is_shared(number) else self.pods_of(number)

    def head_pods_of(self, number: int) -> list[Json]:
        """Return the head pods of a revision's RayCluster."""
        return self.find_pods({groups.LABEL_CLUSTER: self._cluster_name(number), groups.LABEL_NODE_TYPE: "head"})

    def store_pods_of(self, number: int) -> list[Json]:
        """Return the store pods of a revision's RayCluster."""
        return self.find_pods(valkey.store_selector(self._cluster_name(number)))

    def _cluster_name(self, number: int) -> str:
        return desired_state.clusters_by_revision(self.status).get(number, self.status.cluster)

    def find_pods(self, labels: Mapping[str, str]) -> list[Json]:
        """Return the observed pods with these labels."""
        return [pod for pod in self.observed.pods if labels.items() <= (pod["metadata"].get("labels") or {}).items()]

    def available(self, number: int) -> int:
        """Return the replicas that run in Serve and are healthy at every ready edge; 0 while the revision is not ready."""
        return self.serving(number) if self.readiness(number).ready else 0

    def serving(self, number: int) -> int:
        """Return the replicas that run in Serve and are healthy at every ready edge, also while others start."""
        healthy = confirmation.healthy_replicas(self.service, number, self.observed.edges)
        return min(self.readiness(number).running, healthy)

    def desired_split(self) -> Split | None:
        """Return the split that the edges should have after this plan; None while no revision is ready to serve."""
        if self.experiment is not None:
            return desired_state.desired_split(
                self.observed.deployment, self.status, self.experiment.uid, self.experiment_progress
            )
        uid = self.rollout.uid if self.rollout else ""
        return desired_state.desired_split(self.observed.deployment, self.status, uid, self.progress)

    def wanted_entry_hash(self, split: Split) -> str:
        """Return the hash of the entry that the split document should have after this plan; empty where it has none."""
        entry = desired_state.desired_entry(
            self.observed.deployment,
            self.status,
            split,
            self.spec,
            self.observed.split,
            self.observed.revisions,
            has_host=not self.observed.host_taken_by,
            domain=self.observed.domain,
        )
        return str((entry or {}).get("hash", ""))

    @property
    def model_files(self) -> str:
        """The digest of the files at `spec.model.uri` as local mode sees them; empty if no one reports it."""
        annotations = self.observed.deployment["metadata"].get("annotations") or {}
        return str(annotations.get(names.ANNOTATION_MODEL_FILES, ""))[:128]

    @property
    def created(self) -> datetime | None:
        """When the ModelDeployment was created; None if it is not stored yet."""
        text = self.observed.deployment["metadata"].get("creationTimestamp")
        return parse_timestamp(text) if text else None

    def traffic_of(self, stable: int, attempt: str = "", epoch: int = 0) -> StableTraffic:
        """Return the service's traffic and stable's latencies, from the time with all traffic and from `attempt`.

        `epoch`: see `stable_traffic.measure_traffic`.
        """
        meta = self.observed.deployment["metadata"]
        attempts = [names.stable_attempt(self.service, stable, meta["uid"]), *([attempt] if attempt else ())]
        now_s, created_s = self.now.timestamp(), self.created.timestamp() if self.created else 0.0
        return stable_traffic.measure_traffic(self.service, attempts, self.observed.edges, now_s, created_s, epoch)

    @property
    def is_split_confirmed(self) -> bool:
        """Whether every edge has the desired split in force."""
        split = self.desired_split()
        return split is not None and confirmation.confirm(self.service, split, self.observed.edges).confirmed

    @property
    def experiment_progress(self) -> ExperimentStatus | None:
        """The status of the active user's Experiment, as it will be after this plan."""
        experiment = self.experiment
        return None if experiment is None else self.experiment_statuses.get(experiment.name, experiment.status)

    @property
    def stable_number(self) -> int | None:
        """The stable revision's number."""
        return self.status.stable.revision if self.status.stable else None

    @property
    def is_held(self) -> bool:
        """Whether the spec holds rollouts."""
        return holds_rollouts(self.spec)

    @property
    def is_fast_rollback(self) -> bool:
        """Whether the spec's revision is in the rollback window, and may become stable without steps."""
        if self.spec is None or self.spec_revision is None:
            return False
        return self.spec_revision.number in rollback_window.revisions_in_window(
            self.spec.rollout, self.status.stable_before
        )

    @property
    def window_opens_at(self) -> datetime | None:
        """When the spec's windows let traffic advance again; None if they are open, and for a fast rollback."""
        progress = self.progress
        if self.spec is None or (progress is not None and state.is_fast_rollback(progress)):
            return None
        return windows.next_opening(self.spec.rollout.windows, self.now)

    @property
    def replicas(self) -> int:
        """The replicas needed for all traffic. A refused spec changes nothing.

        With autoscaling this is Serve's target for stable, or what the requests at the edges need if that is more, within the
        bounds; the minimum before there is a stable revision. The number is fixed while two revisions share it.
        """
        known = self.status.stable or self.status.candidate
        # In place, no single revision has all of them.
        shared = self.status.capacity.needed_replicas if self.status.capacity else None
        if self.spec is None:
            # Autoscaling may have raised its replicas meanwhile.
            return shared or (max(known.replicas, self.target_replicas(known.revision), 1) if known else 1)
        scaling = find_scaling(self.spec)
        if scaling is None:
            return self.spec.replicas
        if shared:
            return shared
        # Every decision needs a replica, also about a service that has none now.
        needed = max(self._autoscaled_replicas(), load.replicas_in_force(self.status))
        return max(1, load.within_bounds(needed, scaling))

    @property
    def replicas_by_serve(self) -> int | None:
        """The replicas for all traffic by Ray Serve's autoscaling alone, within the bounds; None without it, or if unknown."""
        scaling, stable = self.spec.autoscaling if self.spec else None, self.status.stable
        if scaling is None or stable is None or not self.target_replicas(stable.revision):
            return None
        return load.within_bounds(self._autoscaled_replicas(), scaling)

    @property
    def is_at_zero(self) -> bool:
        """Whether stable has no replica because Serve has scaled it to zero, or starts its first one for a request.

        The deployed configuration decides, because a refused spec changes nothing. No revision beside stable is live then.
        """
        status, stable = self.status, self.status.stable
        if stable is None or status.candidate is not None or status.arms or status.retiring:
            return False
        app = self.serve_state_of(stable.revision).applications.get(names.application(self.service, stable.revision))
        if app is None or not may_scale_to_zero(app.config):
            return False
        readiness = self.readiness(stable.revision)
        return readiness.known and not readiness.failed and readiness.running == 0

    @property
    def is_rollout_at_zero(self) -> bool:
        """Whether the revisions of a rollout have no replicas because no request comes, or start their first ones."""
        return self.status.idle is not None and self.status.idle.state in ("AtZero", "Waking")

    def _autoscaled_replicas(self) -> int:
        stable = self.status.stable
        if stable is None:
            return 0
        own = self.target_replicas(stable.revision) or stable.replicas
        # With its small share stable needs few replicas, but an abort gives it all traffic at once.
        return max((own, *map(self.target_replicas, self._revisions_with_more_traffic(stable))))

    def _revisions_with_more_traffic(self, stable: RevisionStatus) -> list[int]:
        """Return revisions with more traffic than stable. A revision with less may need many replicas because it is slow."""
        candidate, progress = self.status.candidate, self.progress
        if candidate is not None and progress is not None and state.is_baking(progress):
            return [candidate.revision]
        return [arm.revision for arm in self.status.arms or () if arm.weight > stable.weight]

    def target_replicas(self, number: int) -> int:
        """Return the replicas that Serve targets for a revision; 0 if unknown."""
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
        """How the candidate shares stable's replicas; None if it has its own. Before its plan is frozen this is in the status."""
        if self.progress is not None:
            return self.progress.plan.in_place
        if self.status.candidate is None or not self.status.experiment:
            return None
        return in_place.in_place_from_capacity(self.status.capacity)

    @property
    def is_giving_back(self) -> bool:
        """Whether a candidate in place ended and still gives its traffic back."""
        return self.progress is not None and self.progress.giving_back is not None

    def stored_condition(self, type_: str) -> Condition | None:
        """Return a stored condition of the ModelDeployment."""
        return next((condition for condition in self.before.conditions if condition.type == type_), None)

    def is_held_back(self, number: int) -> bool:
        """Whether a revision was aborted or rolled back, and not retried since then."""
        return held_back_revisions.find_hold(self.status, number) is not None

    @property
    def hold(self) -> LastRollout | None:
        """The rollout for which the spec's revision is held back; None if it is not held back."""
        return (
            held_back_revisions.find_hold(self.status, self.spec_revision.number)
            if self.spec_revision is not None
            else None
        )
