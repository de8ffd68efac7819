"""Remembers which replicas ran at the last pass, and tells of those that were lost since."""

from dataclasses import dataclass, field

from sundog_operator.app.queue.keys import Key
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ApplicationState
from sundog_operator.core.planner.context import ObservedState
from sundog_operator.core.ray import lost_replicas


@dataclass(slots=True)
class ReplicaTracker:
    """The applications of each ModelDeployment as Serve reported them last.

    This is memory of the process alone: what is lost while no operator runs is not told.
    """

    _known: dict[Key, dict[tuple[str, str], ApplicationState]] = field(default_factory=dict)
    """By RayCluster and name of the application."""

    def lost(self, key: Key, seen: ObservedState) -> list[KubernetesEvent]:
        """Events of what was lost since the last call. A Ray that does not answer changes nothing of what is known."""
        told: list[KubernetesEvent] = []
        known = self._known.setdefault(key, {})
        for cluster, serve in seen.serves.items():
            for revision in seen.revisions if serve.known else ():
                place = cluster, names.application(key.name, revision.number)
                now, before = serve.applications.get(place[1]), known.pop(place, None)
                if now is not None:
                    known[place] = now
                if now is not None and before is not None:
                    told += lost_replicas.make_lost_replica_events(revision.number, before, now)
        return told

    def forget(self, key: Key) -> None:
        """A ModelDeployment is gone."""
        self._known.pop(key, None)
