"""Idle keys: a pass with the same observed state would decide the same, so it is skipped.

Watches report changes of objects in the API server, but nothing reports changes in Serve and in the edges. So the idle check (`idle_check`)
reads those once for all idle keys of a namespace, and enqueues the keys whose observed state has changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sundog_operator.api import Autoscaling, ModelDeployment, ModelDeploymentStatus
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.edge import confirmation
from sundog_operator.core.edge import secrets as edge_secrets
from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.pods import fingerprint
from sundog_operator.core.observed import ApplicationState, EdgeReport
from sundog_operator.core.planner import desired_state
from sundog_operator.core.ray import load
from sundog_operator.errors import SpecError
from sundog_operator.ports import Object

MAX_IDLE_S: Final = 900.0
"""An idle key still has a pass after this time, because of decisions that depend on time, and of foreign objects."""

_IGNORED_FIELDS: Final = frozenset({"inFlight", "refused", "feedback"})
"""Fields of a service in an edge's report on which no decision of an idle key depends. `has_unmet_load` reads `inFlight`."""

_IDLE_CONDITIONS: Final = dict.fromkeys(
    ("Ready", "SpecAccepted", "RevisionReady", "TrafficSynced", "CapacityAvailable"), "True"
)


@dataclass(frozen=True, slots=True)
class IdleDeployment:
    """The only revision of an idle ModelDeployment, the Secrets of its endpoint, and its autoscaling.

    The other objects that a spec names are needed by starting pods only.
    """

    cluster: str
    application: str
    secrets: tuple[str, ...] = ()
    revision: int = 0
    autoscaling: Autoscaling | None = None
    max_ongoing_requests: int = 0
    target: int = 1


def find_idle_deployment(deployment: Object) -> IdleDeployment | None:
    """Return the revision of a stored ModelDeployment that may be idle; None for one that may not."""
    meta, status = deployment["metadata"], ModelDeploymentStatus.parse(deployment.get("status"))
    in_progress = (
        *(status.candidate, status.queued, status.arms, status.experiment, status.retiring, status.kept),
        status.edge_load,
    )
    conditions = {each.type: each.status for each in status.conditions}
    if status.stable is None or any(in_progress) or not _IDLE_CONDITIONS.items() <= conditions.items():
        return None
    if status.observed_generation != meta.get("generation") or "deletionTimestamp" in meta:
        return None
    try:
        spec = ModelDeployment.parse(deployment).spec
    except SpecError:
        # An older release has accepted it.
        return None
    number = status.stable.revision
    return IdleDeployment(
        desired_state.clusters_by_revision(status)[number],
        names.application(meta["name"], number),
        edge_secrets.secret_names(spec.endpoint),
        number,
        spec.autoscaling,
        spec.runtime.max_ongoing_requests,
        spec.autoscaling.target_requests(spec.runtime.batching.max_size) if spec.autoscaling else 1,
    )


def has_unmet_load(
    service: str, found: IdleDeployment, app: ApplicationState | None, reports: Sequence[EdgeReport]
) -> bool:
    """Return whether the requests at the edges are known to need more replicas than Ray Serve's autoscaling has asked for."""
    if found.autoscaling is None or app is None:
        return False
    requests = confirmation.count_in_flight(service, found.revision, reports)
    if requests is None:
        return False
    target = sum(deployment.target_replicas for deployment in app.deployments)
    running = sum(deployment.running for deployment in app.deployments)
    waits = load.can_wait_at_edges(requests, running, found.max_ongoing_requests)
    return waits and load.replicas_for_requests(requests, 100, found.target, found.autoscaling.max_replicas) > target


def comparable_reports(service: str, reports: Sequence[EdgeReport]) -> object:
    """Return the parts of the edges' reports that matter for an idle service."""
    return tuple(
        (each.uid, each.ready, each.terminating, each.error, each.unready, *_comparable_entry(service, each))
        for each in reports
    )


def _comparable_entry(service: str, report: EdgeReport) -> tuple[str, str]:
    """Return a fingerprint of what an edge reports about a service, and its error about the newest document where there is no hash.

    The state of an idle key is kept, and a pod that only looks like an edge may report much.
    """
    services = (report.evidence or {}).get("services")
    entry = services.get(service) if isinstance(services, Mapping) else None
    if not isinstance(entry, Mapping):
        return "", ""
    kept = {key: value for key, value in entry.items() if key not in _IGNORED_FIELDS}
    return fingerprint(kept), "" if "hash" in entry else confirmation.find_document_error(report)


class IdleKeys:
    """The observed state of each idle key at its last pass."""

    def __init__(self) -> None:
        self._states: dict[str, dict[Key, object]] = {}

    def states(self, namespace: str) -> Mapping[Key, object]:
        """Return the observed state of each idle key of a namespace."""
        return self._states.get(namespace, {})

    def update(self, key: Key, state: object, again_s: float | None, *, idle: bool) -> float | None:
        """Record a pass, and return the seconds until the next one.

        Args:
            key: the key.
            state: the state at the beginning of the pass; None where the key cannot be idle.
            again_s: the seconds until the next pass of a key that is not idle.
            idle: whether the pass left nothing to do.
        """
        if idle and state is not None:
            self._states.setdefault(key.namespace, {})[key] = state
            return MAX_IDLE_S
        states = self._states.get(key.namespace, {})
        states.pop(key, None)
        if not states:
            self._states.pop(key.namespace, None)
        return again_s
