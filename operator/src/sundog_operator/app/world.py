"""Everything outside the process that a reconciler uses."""

from dataclasses import dataclass

from sundog_operator.api.installation import Installation
from sundog_operator.ports import Clock, Edges, Kubernetes, Serve


@dataclass(frozen=True, slots=True)
class Settings:
    """What an installation decides.

    Attributes:
        identity: names this process in events.
        runtime_image: what an empty `runtime.image` stands for.
        edge_image: image of the edge's pods.
        workers: keys at work at the same time.
        installation: of a Kubernetes cluster; None in local mode, where nothing runs in pods.
    """

    identity: str = "sundog"
    runtime_image: str = "sundog/runtime"
    edge_image: str = "sundog/edge"
    workers: int = 4
    installation: Installation | None = None

    @classmethod
    def of(cls, installation: Installation, identity: str) -> "Settings":
        """The settings of an installation in a cluster."""
        return cls(
            identity=identity,
            runtime_image=installation.runtime_image,
            edge_image=installation.edge_image,
            workers=installation.workers,
            installation=installation,
        )


@dataclass(frozen=True, slots=True)
class World:
    """The ports, and the settings of this installation."""

    kube: Kubernetes
    serve: Serve
    edges: Edges
    clock: Clock
    settings: Settings = Settings()
