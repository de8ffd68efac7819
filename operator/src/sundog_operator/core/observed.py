"""State that Ray, the edges, webhooks and Prometheus report, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One Serve replica."""

    id: str
    state: str


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """One deployment of a Serve application, as Serve reports it."""

    name: str
    status: str
    message: str
    target_replicas: int
    replicas: tuple[ReplicaState, ...]

    @property
    def running(self) -> int:
        """Replicas in state RUNNING."""
        return sum(replica.state == "RUNNING" for replica in self.replicas)


@dataclass(frozen=True, slots=True)
class ApplicationState:
    """One Serve application, as Serve reports it. `config` is the configuration of the last PUT."""

    name: str
    status: str
    message: str
    config: Mapping[str, Any]
    deployments: tuple[DeploymentState, ...]


@dataclass(frozen=True, slots=True)
class ServeState:
    """The Serve applications of one RayCluster.

    `known` is False while Serve's controller does not run or does not answer. That does not mean "no applications".
    """

    known: bool
    applications: Mapping[str, ApplicationState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplicaStart:
    """The start of a replica, as the replica reported it to an edge.

    Attributes:
        phases: seconds by phase; empty if the edge could not ask the replica.
        began: start of the download by the replica's clock; None if the replica does not report it.
        woken: after a cold start, when Serve first wanted the replica, by the edge's clock.
        answers: after a cold start, when the edge had the replica.
    """

    phases: Mapping[str, float] = field(default_factory=dict)
    began: datetime | None = None
    woken: datetime | None = None
    answers: datetime | None = None


@dataclass(frozen=True, slots=True)
class WebhookResult:
    """The result of one POST: a status, or the reason why no answer came.

    `problem` completes a sentence that starts with the receiver's name, such as `did not answer within 10 s`. It contains
    nothing of the receiver's address.
    """

    status: int | None = None
    problem: str = ""

    @property
    def confirms(self) -> bool:
        """Whether the answer lets a rollout continue: 200 to 202, as in Flagger."""
        return self.status is not None and 200 <= self.status <= 202

    @property
    def accepts(self) -> bool:
        """Whether the receiver got the document: 200 to 299."""
        return self.status is not None and 200 <= self.status <= 299

    @property
    def description(self) -> str:
        """Return the result as text."""
        return self.problem if self.status is None else f"answered {self.status}"


@dataclass(frozen=True, slots=True)
class PrometheusResult:
    """The result of one Prometheus query: a finite number, or the reason why there is none.

    `problem` completes a sentence that starts with the check's name, such as `gives no data`. `at` is the time of the query.
    """

    value: float | None = None
    problem: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ExposureLogResult:
    """The result of writing an exposure log.

    Attributes:
        at: when the log was read.
        exposures: rows of exposures.
        outcomes: rows of outcomes.
        complete: whether the rows are exactly those that the sums in the status count.
        final: whether the log was read after the end of the experiment.
        problem: why no log was written; empty if one was. It names the edge or the destination, and no credentials.
        feedback: the sums of the log's rows, as in an edge's report.
    """

    at: datetime
    exposures: int = 0
    outcomes: int = 0
    complete: bool = False
    final: bool = False
    problem: str = ""
    feedback: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class EdgeReport:
    """One edge pod and its evidence document.

    Attributes:
        evidence: the document; None if the operator could not read it.
        error: why there is no document.
        uid: the pod's.
        unready: why the pod is not ready, from its own condition; may be empty.
    """

    pod: str
    ready: bool
    terminating: bool
    evidence: Mapping[str, Any] | None
    error: str = ""
    uid: str = ""
    unready: str = ""
