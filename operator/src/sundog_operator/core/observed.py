"""What the world reports, as plain data."""

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
    """One Serve application, as Serve reports it. `config` echoes what was PUT last."""

    name: str
    status: str
    message: str
    config: Mapping[str, Any]
    deployments: tuple[DeploymentState, ...]


@dataclass(frozen=True, slots=True)
class ServeState:
    """What one Ray cluster serves.

    `known` is False while Serve's controller is not running or cannot be asked: never read that as "no applications".
    """

    known: bool
    applications: Mapping[str, ApplicationState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplicaStart:
    """How a replica started, as it reported itself to an edge.

    Attributes:
        phases: seconds by phase; empty where the edge could not ask it.
        began: when it began to download, by its own clock; None where it does not report that.
    """

    phases: Mapping[str, float] = field(default_factory=dict)
    began: datetime | None = None


@dataclass(frozen=True, slots=True)
class WebhookResult:
    """What came of one POST: a status, or without an answer why there is none.

    `problem` follows on the name of a receiver and holds nothing of its address, such as `did not answer within 10 s`.
    """

    status: int | None = None
    problem: str = ""

    @property
    def confirms(self) -> bool:
        """Whether it lets a rollout go on, as Flagger takes it: 200 to 202."""
        return self.status is not None and 200 <= self.status <= 202

    @property
    def accepts(self) -> bool:
        """Whether it says that what was posted has arrived: 200 to 299."""
        return self.status is not None and 200 <= self.status <= 299

    @property
    def told(self) -> str:
        """It in words."""
        return self.problem if self.status is None else f"answered {self.status}"


@dataclass(frozen=True, slots=True)
class PrometheusResult:
    """What Prometheus gave for one query: a finite number, or without one why there is none.

    `problem` follows on the name of a check, such as `gives no data`; `at` is when it was asked.
    """

    value: float | None = None
    problem: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ExposureLogResult:
    """What came of writing an exposure log, or in a sentence why none was written, which names edge or place and no credentials.

    Attributes:
        at: when it was read.
        exposures: rows of it.
        outcomes: likewise.
        complete: whether they are just what the sums beside them are of.
        final: whether it was read after the end of the experiment.
    """

    at: datetime
    exposures: int = 0
    outcomes: int = 0
    complete: bool = False
    final: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EdgeReport:
    """One edge pod and the evidence document it gave; `evidence` is None when it could not be read, and `error` says why.

    `uid` is the pod's; `unready` is why it is not ready, as its own condition says, and empty where it says nothing.
    """

    pod: str
    ready: bool
    terminating: bool
    evidence: Mapping[str, Any] | None
    error: str = ""
    uid: str = ""
    unready: str = ""
