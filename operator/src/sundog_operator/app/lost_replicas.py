"""Find replicas that were lost since the last pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sundog_operator.app.queue.keys import Key
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ApplicationState, EdgeReport
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.ray import lost_replicas, startup


@dataclass(slots=True)
class ReplicaTracker:
    """The applications of each ModelDeployment in Serve's last report.

    They are in memory only, so replicas that are lost while no operator runs go unnoticed.
    """

    _known: dict[Key, dict[tuple[str, str], ApplicationState]] = field(default_factory=dict)
    """Applications by RayCluster and name."""
    _woken: dict[tuple[Key, str], datetime] = field(default_factory=dict)
    """When the last cold start of an application began."""

    def update(self, key: Key, observed: ObservedState) -> list[KubernetesEvent]:
        """Store the observed applications, and return events of the replicas that were lost since the last call.

        A RayCluster whose Serve does not answer keeps its stored applications.
        """
        lost: list[KubernetesEvent] = []
        known = self._known.setdefault(key, {})
        for cluster, serve in observed.serves.items():
            for revision in observed.revisions if serve.known else ():
                application = names.application(key.name, revision.number)
                now, before = serve.applications.get(application), known.pop((cluster, application), None)
                if now is not None:
                    known[cluster, application] = now
                was_at_zero = self._has_woken(key, application, observed.edges)
                if now is not None and before is not None and not was_at_zero:
                    lost += lost_replicas.make_lost_replica_events(revision.number, before, now)
        return lost

    def forget(self, key: Key) -> None:
        """Forget a deleted ModelDeployment."""
        self._known.pop(key, None)
        self._woken = {known: at for known, at in self._woken.items() if known[0] != key}

    def _has_woken(self, key: Key, application: str, reports: Sequence[EdgeReport]) -> bool:
        """Store the last cold start that edges report, and return whether it is another one than before."""
        start = startup.find_reported_start(key.name, application, reports)
        if start is None or start.woken is None:
            return False
        before, self._woken[key, application] = self._woken.get((key, application)), start.woken
        return before is None or startup.find_new_cold_start(start, before) is not None
