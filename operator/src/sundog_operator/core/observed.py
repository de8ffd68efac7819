"""What the world reports, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
class EdgeReport:
    """One edge pod and the evidence document it gave; `evidence` is None when it could not be read, and `error` says why.

    `uid` is the pod's.
    """

    pod: str
    ready: bool
    terminating: bool
    evidence: Mapping[str, Any] | None
    error: str = ""
    uid: str = ""
