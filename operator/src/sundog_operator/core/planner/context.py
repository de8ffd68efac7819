"""The context of a pass: its facts, and the draft of its result as one step leaves it to the next."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final, Self

from sundog_operator.api import (
    ExperimentStatus,
    LastRollout,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    PlanInPlace,
    RevisionStatus,
)
from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core import revisions
from sundog_operator.core.analysis import stable_traffic
from sundog_operator.core.edge import confirmation
from sundog_operator.core.edge.split import Split
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import accelerators, names
from sundog_operator.core.kubernetes.shared_pods import is_shared
from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.facts import Facts, Json, ObservedState, RolloutAttempt
from sundog_operator.core.planner.rollout import held_back_revisions, rollback_window
from sundog_operator.core.ray import groups, load, valkey
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.readiness import NOT_DEPLOYED, Readiness
from sundog_operator.core.ray.scaling import find_scaling, may_scale_to_zero
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.evaluation import ExperimentEvaluation, RolloutEvaluation
from sundog_operator.core.trial.experiment.queue import UserExperiment
from sundog_operator.core.trial.rollout import in_place, state, windows
from sundog_operator.core.trial.rollout.shadow_comparison import ShadowComparison

REPORT_PERIOD: Final = timedelta(seconds=60)
TERMINATING_EDGE_PERIOD: Final = timedelta(seconds=5)


def holds_rollouts(spec: ModelDeploymentSpec | None) -> bool:
    """Whether a spec holds rollouts: it is refused, paused or a dry run."""
    return spec is None or spec.paused or spec.rollout.paused or spec.rollout.dry_run


@dataclass(frozen=True)
class PlanContext:
    """The facts of a pass and the draft of its result. A step returns another draft with its part replaced.

    Attributes:
        status: the status to write.
        spec: the accepted spec; None while it is refused.
        before: the stored status.
        spec_revision: the revision of the spec; None while the spec is refused.
        rollout: the active rollout attempt.
        commit: (Experiment name, status) of an attempt to write before anything else changes. It may have ended in this plan.
        dry_run_message: the rollout that would start without `dryRun`.
        capacity_shortage: the shortage if the spec's revision's pods do not fit.
        evaluation: the evaluation of the active attempt; None if there is none.
        shadow: the comparison of the candidate's answers to copies of requests; None if it gets no copies now.
        experiment: the user's Experiment that is active.
        experiment_statuses: statuses of users' Experiments to write, by name, before anything else changes.
        experiment_evaluation: the evaluation of the active Experiment; None if there is none.
        evaluated_experiment: the name of the Experiment that `experiment_evaluation` is of. It may have ended in this plan.
        experiment_waits: causes by name, for users' Experiments that have not started.
        new_revisions: revisions that this plan creates.
        new_attempt: the name of the rollout Experiment that this plan creates; empty for none.
        edges_to_delete: edges whose pods this plan deletes.
    """

    facts: Facts
    status: ModelDeploymentStatus
    spec: ModelDeploymentSpec | None
    observed: ObservedState
    now: datetime
    service: str
    before: ModelDeploymentStatus
    spec_revision: Revision | None = None
    rollout: RolloutAttempt | None = None
    commit: tuple[str, ExperimentStatus] | None = None
    dry_run_message: str = ""
    capacity_shortage: Cause | None = None
    evaluation: RolloutEvaluation | None = None
    shadow: ShadowComparison | None = None
    experiment: UserExperiment | None = None
    experiment_statuses: Mapping[str, ExperimentStatus] = field(default_factory=dict)
    experiment_evaluation: ExperimentEvaluation | None = None
    evaluated_experiment: str = ""
    experiment_waits: Mapping[str, Cause] = field(default_factory=dict)
    new_revisions: tuple[Revision, ...] = ()
    new_attempt: str = ""
    edges_to_delete: tuple[EdgeReport, ...] = ()
    events: tuple[KubernetesEvent, ...] = ()

    def set(self, **changes: Any) -> Self:
        """Return the draft with these fields of its status replaced; itself, with what it has derived, if none changes."""
        if all(getattr(self.status, name) == value for name, value in changes.items()):
            return self
        return replace(self, status=self.status.model_copy(update=changes))

    def report(self, *events: KubernetesEvent) -> Self:
        """Return the draft with these events added."""
        return replace(self, events=(*self.events, *events)) if events else self

    def commit_rollout(self, status: ExperimentStatus) -> Self:
        """Return the draft with this status of the active attempt to write."""
        return self if self.rollout is None else replace(self, commit=(self.rollout.name, status))

    def commit_experiment(self, name: str, status: ExperimentStatus) -> Self:
        """Return the draft with this status of a user's Experiment to write."""
        return replace(self, experiment_statuses={**self.experiment_statuses, name: status})

    @cached_property
    def progress(self) -> ExperimentStatus | None:
        """The active attempt's status as it will be after this plan; None before its plan is frozen."""
        if self.rollout is None:
            return None
        if self.commit is not None and self.commit[0] == self.rollout.name:
            return self.commit[1]
        return self.rollout.status if state.is_frozen(self.rollout.status) else None

    def is_report_due(self, status: ExperimentStatus) -> bool:
        """Whether a report is due without a transition. A status must not change with each request."""
        return self._is_older(status, REPORT_PERIOD)

    def has_terminating_edge(self, status: ExperimentStatus) -> bool:
        """Whether an edge terminates and the last report is old. Its counters will be gone, so they are written more often."""
        return self.facts.has_terminating_edge and self._is_older(status, TERMINATING_EDGE_PERIOD)

    def _is_older(self, status: ExperimentStatus, period: timedelta) -> bool:
        """Whether the last report is older than `period`, or in the future because the clock was set back."""
        at = status.counted_at
        return at is None or not timedelta(0) <= self.now - at < period

    def find_rollout(self, name: str) -> RolloutAttempt | None:
        """Return an observed rollout by the name of its Experiment."""
        return next((each for each in self.observed.rollouts if each.name == name), None)

    def revision(self, number: int) -> Revision | None:
        """Return a revision by number, including those that this plan creates."""
        if self.spec_revision is not None and self.spec_revision.number == number:
            return self.spec_revision
        return revisions.find_by_number(self.new_revisions, number) or self.facts.revisions.get(number)

    def find_deployed_number(self, digest: str, numbers: Iterable[int]) -> int | None:
        """Return the number under which Serve runs content of that hash, so that a deleted ControllerRevision keeps its number."""
        for number in sorted(numbers):
            app = self.facts.application(number, self._cluster_name(number))
            if app is not None and (app.config.get("args") or {}).get("revisionHash") == digest:
                return number
        return None

    def cluster_of(self, number: int) -> ClusterView | None:
        """Return the RayCluster of a revision, if it was observed."""
        return self.observed.clusters.get(self._cluster_name(number))

    def serve_state_of(self, number: int) -> ServeState:
        """Return the Serve state of a revision's RayCluster; unknown if it was not observed."""
        return self.facts.serve_state(self._cluster_name(number))

    def readiness(self, number: int) -> Readiness:
        """Return the readiness of a revision, as Serve reports it."""
        revision = self.revision(number)
        if revision is None:
            return Readiness(
                0, False, False, True, DeploymentReason.REVISION_MISSING, f"ControllerRevision {number}: not found"
            )
        cluster = self._cluster_name(number)
        if number not in self.facts.revisions and cluster not in self.observed.serves:
            # This plan creates it. No status has it yet, and Serve is configured from statuses alone.
            return NOT_DEPLOYED
        return self.facts.readiness(revision, cluster)

    def pods_of(self, number: int) -> list[Json]:
        """Return the pods of a revision."""
        return self.facts.pods.get(number, [])

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
        return (
            self.facts.find_pods(groups.shared_pod_labels(self._cluster_name(number))) if self.is_shared(number) else []
        )

    def worker_pods_of(self, number: int) -> list[Json]:
        """Return the pods in which replicas of a revision run: its own, or shared ones."""
        return self.shared_pods_of(number) if self.is_shared(number) else self.pods_of(number)

    def head_pods_of(self, number: int) -> list[Json]:
        """Return the head pods of a revision's RayCluster."""
        return self.facts.find_pods({groups.LABEL_CLUSTER: self._cluster_name(number), groups.LABEL_NODE_TYPE: "head"})

    def store_pods_of(self, number: int) -> list[Json]:
        """Return the store pods of a revision's RayCluster."""
        return self.facts.find_pods(valkey.store_selector(self._cluster_name(number)))

    def _cluster_name(self, number: int) -> str:
        return self._clusters.get(number, self.status.cluster)

    @cached_property
    def _clusters(self) -> Mapping[int, str]:
        return desired_state.clusters_by_revision(self.status)

    def available(self, number: int) -> int:
        """Return the replicas that run in Serve and are healthy at every ready edge; 0 while the revision is not ready."""
        return self.serving(number) if self.readiness(number).ready else 0

    def serving(self, number: int) -> int:
        """Return the replicas that run in Serve and are healthy at every ready edge, also while others start."""
        return min(self.readiness(number).running, self.facts.healthy_replicas(number))

    def desired_split(self) -> Split | None:
        """Return the split that the edges should have after this plan; None while no revision is ready to serve."""
        active = self.experiment if self.experiment is not None else self.rollout
        progress = self.experiment_progress if self.experiment is not None else self.progress
        uid = active.uid if active is not None else ""
        return desired_state.desired_split(self.observed.deployment, self.status, uid, progress)

    def traffic_of(self, stable: int, attempt: str = "", epoch: int = 0) -> StableTraffic:
        """Return the service's traffic and stable's latencies, from the time with all traffic and from `attempt`.

        `epoch`: see `stable_traffic.measure_traffic`.
        """
        meta = self.observed.deployment["metadata"]
        attempts = [names.stable_attempt(self.service, stable, meta["uid"]), *([attempt] if attempt else ())]
        created = self.facts.created
        now_s, created_s = self.now.timestamp(), created.timestamp() if created else 0.0
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
        app = self.facts.application(stable.revision, self._cluster_name(stable.revision))
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
        app = self.facts.application(number, self._cluster_name(number))
        return sum(deployment.target_replicas for deployment in app.deployments) if app is not None else 0

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


def make_context(observed: ObservedState, now: datetime) -> PlanContext:
    """Return the state of a pass before its first step."""
    facts = Facts(observed, now.replace(microsecond=0))
    return PlanContext(
        facts, observed.status, observed.acceptance.spec, observed, facts.now, facts.service, before=observed.status
    )
