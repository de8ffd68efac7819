"""The observed state of a ModelDeployment, and the facts that follow from it alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from sundog_operator.api import (
    Condition,
    ExperimentStatus,
    ModelDeploymentStatus,
    parse_timestamp,
)
from sundog_operator.api.installation import Installation
from sundog_operator.api.reasons import Cause
from sundog_operator.core.edge import confirmation
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.edge.secrets import KeysBySecret
from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.capacity import AvailableCapacity
from sundog_operator.core.kubernetes.references import KeysByObject
from sundog_operator.core.observed import ApplicationState, EdgeReport, PrometheusResult, ServeState, WebhookResult
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.admission import ModelDeploymentAcceptance
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.readiness import Readiness, evaluate_readiness
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial.experiment.queue import UserExperiment

Json = dict[str, Any]


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
        status: its stored status, parsed.
        acceptance: its spec, or why it is refused.
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
        available: free resources for pods of the spec; None if nothing is known, or the operator did not look.
        route: the HTTPRoute of its name, if its endpoint names a Gateway.
        routes_served: whether the API server has the HTTPRoute API, as far as the operator looked.
        claims_served: whether the API server has the API of claims to devices, as far as the operator looked.
        answer: the last answer of the current step's webhook; None if there is none yet.
        readings: the newest result of each Prometheus query, by slot (`trial.rollout.prometheus_checks`).
        user_experiments: the users' Experiments on it.
        salts: fixed salts of all Experiments and ModelDeployments in the namespace, its own included.
        storeless: why the edges cannot store the outcomes that a user's Experiment or the rollout needs; None where they can.
        queued: why Kueue has not admitted a pod, by the pod's uid, as far as the operator looked.
        arm_capacities: like `available`, by Experiment and arm, control included, for the Experiments that may start next.
    """

    deployment: Json
    status: ModelDeploymentStatus
    acceptance: ModelDeploymentAcceptance
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
    available: AvailableCapacity | None = None
    route: Json | None = None
    routes_served: bool = True
    claims_served: bool = True
    answer: WebhookResult | None = None
    readings: Mapping[str, PrometheusResult] = field(default_factory=dict)
    user_experiments: tuple[UserExperiment, ...] = ()
    salts: tuple[SaltOwner, ...] = ()
    storeless: Cause | None = None
    queued: Mapping[str, str] = field(default_factory=dict)
    arm_capacities: Mapping[tuple[str, str], AvailableCapacity] = field(default_factory=dict)

    @property
    def in_cluster(self) -> bool:
        """Whether edges and replicas run in pods."""
        return self.installation is not None


_UNKNOWN_SERVE: Final = ServeState(known=False)


@dataclass(frozen=True)
class Facts:
    """Everything that follows from one observation alone. Each fact is derived once, when a step first asks for it.

    What also depends on the status that the plan makes is in `PlanContext`.
    """

    observed: ObservedState
    now: datetime

    @cached_property
    def service(self) -> str:
        """The name of the ModelDeployment."""
        return str(self.observed.deployment["metadata"]["name"])

    @cached_property
    def generation(self) -> int:
        """The generation of the stored ModelDeployment; 0 if it is not stored yet."""
        return int(self.observed.deployment["metadata"].get("generation", 0))

    @cached_property
    def created(self) -> datetime | None:
        """When the ModelDeployment was created; None if it is not stored yet."""
        text = self.observed.deployment["metadata"].get("creationTimestamp")
        return parse_timestamp(text) if text else None

    @cached_property
    def model_files(self) -> str:
        """The digest of the files at `spec.model.uri` as local mode sees them; empty if no one reports it."""
        annotations = self.observed.deployment["metadata"].get("annotations") or {}
        return str(annotations.get(names.ANNOTATION_MODEL_FILES, ""))[:128]

    @cached_property
    def conditions(self) -> Mapping[str, Condition]:
        """The stored conditions by type."""
        return {condition.type: condition for condition in self.observed.status.conditions}

    @cached_property
    def revisions(self) -> Mapping[int, Revision]:
        """The stored revisions by number; the first one where several claim the same number."""
        return {revision.number: revision for revision in reversed(self.observed.revisions)}

    @cached_property
    def pods(self) -> Mapping[int, list[Json]]:
        """The own pods of each revision, by its number."""
        found: dict[int, list[Json]] = {}
        for pod in self.find_pods({names.LABEL_MODEL_DEPLOYMENT: self.service}):
            number = pod["metadata"]["labels"].get(names.LABEL_REVISION, "")
            # A number has one spelling: `01` names no revision.
            if number.isdecimal() and str(int(number)) == number:
                found.setdefault(int(number), []).append(pod)
        return found

    @cached_property
    def has_terminating_edge(self) -> bool:
        """Whether an edge terminates, so that its counters will be gone."""
        return any(edge.terminating for edge in self.observed.edges)

    def find_pods(self, labels: Mapping[str, str]) -> list[Json]:
        """Return the observed pods with these labels."""
        return [pod for pod in self.observed.pods if labels.items() <= (pod["metadata"].get("labels") or {}).items()]

    def serve_state(self, cluster: str) -> ServeState:
        """Return the Serve state of a RayCluster; unknown if it was not observed."""
        return self.observed.serves.get(cluster, _UNKNOWN_SERVE)

    def application(self, number: int, cluster: str) -> ApplicationState | None:
        """Return a revision's application in a RayCluster; None if Serve reports none."""
        return self.serve_state(cluster).applications.get(names.application(self.service, number))

    def readiness(self, revision: Revision, cluster: str) -> Readiness:
        """Return the readiness of a revision in a RayCluster, as Serve reports it."""
        key = (revision.number, revision.hash, cluster)
        found = self._readiness.get(key)
        if found is None:
            found = self._readiness[key] = evaluate_readiness(self.service, revision, self.serve_state(cluster))
        return found

    def healthy_replicas(self, number: int) -> int:
        """Return a revision's replicas that every ready edge sees as healthy."""
        if number not in self._healthy_replicas:
            self._healthy_replicas[number] = confirmation.healthy_replicas(self.service, number, self.observed.edges)
        return self._healthy_replicas[number]

    @cached_property
    def _readiness(self) -> dict[tuple[int, str, str], Readiness]:
        return {}

    @cached_property
    def _healthy_replicas(self) -> dict[int, int]:
        return {}

    def to_json(self) -> Json:
        """Return the facts that decide most passes, for a log."""
        status, numbers = self.observed.status, sorted(self.revisions)
        places = {each.revision: each.cluster or status.cluster for each in desired_state.revisions_in_status(status)}
        return {
            "generation": self.generation,
            "refused": self.observed.acceptance.message,
            "revisions": numbers,
            "pods": {number: len(pods) for number, pods in self.pods.items()},
            "healthyReplicas": {number: self.healthy_replicas(number) for number in numbers},
            "readiness": {
                number: self.readiness(self.revisions[number], cluster).message
                for number, cluster in places.items()
                if number in self.revisions
            },
            "conditions": {type_: f"{each.status} {each.reason}" for type_, each in self.conditions.items()},
            "edges": {edge.pod: edge.error or ("ready" if edge.ready else "not ready") for edge in self.observed.edges},
        }
