"""Find replicas that were lost between two states of an application: killed, hung or on a lost node."""

from collections.abc import Iterator

from sundog_operator.core import events
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.observed import ApplicationState, DeploymentState

_RUNNING = "RUNNING"
_STOPPING = "STOPPING"
_UPDATING = "UPDATING"


def make_lost_replica_events(revision: int, before: ApplicationState, now: ApplicationState) -> list[KubernetesEvent]:
    """Return an event for each Serve deployment of a revision that lost running replicas.

    A replica that Serve stops because the target fell, or because the application is deployed again, is not lost.
    """
    known = {deployment.name: deployment for deployment in before.deployments}
    return [
        event
        for deployment in now.deployments
        if (earlier := known.get(deployment.name)) is not None
        for event in _make_events(revision, earlier, deployment)
    ]


def _make_events(revision: int, before: DeploymentState, now: DeploymentState) -> Iterator[KubernetesEvent]:
    if now.status == _UPDATING:
        return
    left = {replica.id for replica in now.replicas if replica.state != _STOPPING}
    gone = sorted(replica.id for replica in before.replicas if replica.state == _RUNNING and replica.id not in left)
    if len(gone) > max(0, before.target_replicas - now.target_replicas):
        yield events.replica_lost(revision, gone, now.running, now.target_replicas, now.message)
