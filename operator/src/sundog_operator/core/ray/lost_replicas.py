"""Which replicas were lost between two looks at an application: killed, hung or on a node that is gone."""

from collections.abc import Iterator

from sundog_operator.core import events
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.observed import ApplicationState, DeploymentState

_RUNNING = "RUNNING"
_STOPPING = "STOPPING"
_UPDATING = "UPDATING"


def make_lost_replica_events(revision: int, before: ApplicationState, now: ApplicationState) -> list[KubernetesEvent]:
    """An event for each deployment of a revision that has fewer of its running replicas left than its target explains.

    A replica that Serve stops because the target shrank, or because the application is deployed anew, is not lost.
    """
    known = {deployment.name: deployment for deployment in before.deployments}
    return [
        event
        for deployment in now.deployments
        if (earlier := known.get(deployment.name)) is not None
        for event in _of_deployment(revision, earlier, deployment)
    ]


def _of_deployment(revision: int, before: DeploymentState, now: DeploymentState) -> Iterator[KubernetesEvent]:
    if now.status == _UPDATING:
        return
    left = {replica.id for replica in now.replicas if replica.state != _STOPPING}
    gone = sorted(replica.id for replica in before.replicas if replica.state == _RUNNING and replica.id not in left)
    if len(gone) > max(0, before.target_replicas - now.target_replicas):
        yield events.replica_lost(revision, gone, now.running, now.target_replicas, now.message)
