"""State of one edge on this machine: its files, its ports and its two processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from sundog_operator.adapters.local.object_directories import ObjectDirectory, RestartBackoff
from sundog_operator.core.kubernetes import names

HAPROXY: Final = "haproxy"
AGENT: Final = "agent"
HTTPS: Final = "https"
# HAProxy first: it must not lose the agent before it has drained.
PARTS: Final = (HAPROXY, AGENT)
"""The two processes of an edge, in the order of their termination."""
LISTENERS: Final = {HAPROXY: (HAPROXY, HTTPS), AGENT: (AGENT,)}
"""The listeners of each process. Each has a port."""


@dataclass(slots=True)
class EdgeProcess:
    """One of the two processes, as known in this run.

    Attributes:
        restarts: its back-off.
        ran: whether it was seen running.
        failure: why it ended or does not start; empty while it runs well.
    """

    restarts: RestartBackoff = field(default_factory=RestartBackoff)
    ran: bool = False
    failure: str = ""


@dataclass(slots=True)
class EdgeDirectory:
    """State of an edge in this run.

    Attributes:
        entry: its directory and remembered ports.
        parts: its processes, by name.
        healthy_at: time of the last successful probe.
        secret_names: the Secrets that its document names; None before there was a document.
        ports_checked: whether its ports were checked in this run. They stay the same until the next run.
    """

    entry: ObjectDirectory
    parts: Mapping[str, EdgeProcess] = field(default_factory=lambda: {name: EdgeProcess() for name in PARTS})
    healthy_at: datetime | None = None
    secret_names: frozenset[str] | None = None
    ports_checked: bool = False

    @property
    def split(self) -> Path:
        """File of the split document."""
        return self.entry.directory / names.SPLIT_KEY

    @property
    def secrets(self) -> Path:
        """Directory of the Secrets that the document names."""
        return self.entry.directory / "secrets"

    @property
    def outcomes(self) -> Path:
        """The agent's database of exposures and outcomes. It is removed with the edge."""
        return self.entry.directory / "outcomes.sqlite"

    @property
    def state(self) -> Path:
        """Directory for the files of HAProxy and the agent."""
        return self.entry.directory / "state"

    def process_name(self, part: str) -> str:
        """Return the name of a process in the state directory."""
        return f"{self.entry.name}-{part}"

    def port(self, listener: str) -> int:
        """Return the port of a listener; 0 before it has one."""
        return self.entry.number(port_fact(listener)) or 0

    def ports(self, part: str) -> tuple[int, ...]:
        """Return all ports of a process."""
        return tuple(self.port(listener) for listener in LISTENERS[part])


def port_fact(listener: str) -> str:
    """Return the name of the fact that remembers the port of a listener."""
    return f"{listener}Port"
