"""Keys at rest: a pass that would see what the last one saw would decide the same, and is left out.

Watches report what the API server keeps, and nothing reports what Serve and the edges say. So these are looked at once for all that rest in
a namespace (`app.look`), and a key is worked on where what its last pass saw has changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api import ModelDeployment, ModelDeploymentStatus
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.edge import secrets as edge_secrets
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner import desired_state
from sundog_operator.errors import SpecError
from sundog_operator.ports import Object

MAX_IDLE_S: Final = 900.0
"""A pass is made after so long whatever was seen: for what depends on time alone, and for objects that are not ours."""

_CHANGING: Final = frozenset({"inFlight", "refused", "feedback"})
"""What an edge reports of a service and no decision at rest depends on."""

_AT_REST: Final = dict.fromkeys(
    ("Ready", "SpecAccepted", "RevisionReady", "TrafficSynced", "CapacityAvailable"), "True"
)


@dataclass(frozen=True, slots=True)
class IdleDeployment:
    """Where the only revision of a ModelDeployment runs that has nothing under way, and the Secrets that its endpoint names.

    What else a spec names is needed by pods that start, and no pass looks for it once they run.
    """

    cluster: str
    application: str
    secrets: tuple[str, ...] = ()


def find_idle_deployment(deployment: Object) -> IdleDeployment | None:
    """The revision of a stored ModelDeployment that may rest; None for one that may not."""
    meta, status = deployment["metadata"], ModelDeploymentStatus.parse(deployment.get("status"))
    under_way = (status.candidate, status.queued, status.arms, status.experiment, status.retiring, status.kept)
    truths = {each.type: each.status for each in status.conditions}
    if status.stable is None or any(under_way) or not _AT_REST.items() <= truths.items():
        return None
    if status.observed_generation != meta.get("generation") or "deletionTimestamp" in meta:
        return None
    try:
        endpoint = ModelDeployment.parse(deployment).spec.endpoint
    except SpecError:
        # Accepted by an earlier release.
        return None
    number = status.stable.revision
    return IdleDeployment(
        desired_state.clusters_by_revision(status)[number],
        names.application(meta["name"], number),
        edge_secrets.secret_names(endpoint),
    )


def comparable_reports(service: str, reports: Sequence[EdgeReport]) -> object:
    """What edges say of a service at rest."""
    return tuple(
        (each.uid, each.ready, each.terminating, each.error, each.unready, _entry(service, each)) for each in reports
    )


def _entry(service: str, report: EdgeReport) -> dict[str, Any] | None:
    services = (report.evidence or {}).get("services")
    entry = services.get(service) if isinstance(services, Mapping) else None
    return {key: value for key, value in entry.items() if key not in _CHANGING} if isinstance(entry, Mapping) else None


class IdleKeys:
    """What the last pass of each key saw that left nothing to do."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[Key, object]] = {}

    def of(self, namespace: str) -> Mapping[Key, object]:
        """What each key saw that rests in a namespace."""
        return self._seen.get(namespace, {})

    def note(self, key: Key, seen: object, again_s: float | None, *, rests: bool) -> float | None:
        """A pass that began with `seen` (None: not all that bears on it) wants another in `again_s` seconds, and `rests` without.

        Returns after how many seconds there is to be one at the latest.
        """
        if rests and seen is not None:
            self._seen.setdefault(key.namespace, {})[key] = seen
            return MAX_IDLE_S
        resting = self._seen.get(key.namespace, {})
        resting.pop(key, None)
        if not resting:
            self._seen.pop(key.namespace, None)
        return again_s
