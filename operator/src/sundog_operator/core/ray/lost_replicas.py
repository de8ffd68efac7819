"""Find replicas that were lost between two states of an application: killed, hung or on a lost node."""

from collections.abc import Iterator

from sundog_operator.core import events
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.observed import ApplicationState, DeploymentState
from sundog_operator.core.ray.scaling import may_scale_to_zero

_RUNNING = "RUNNING"
_STOPPING = "STOPPING"
_UPDATING = "UPDATING"
_UPSCALING = "UPSCALING"


def make_lost_replica_events(revision: int, before: ApplicationState, now: ApplicationState) -> list[KubernetesEvent]:
    """Return an event for each Serve deployment of a revision that lost running replicas.

    A replica that Serve stops because the target fell, or because the application is deployed again, is not lost. Between two states, an
    application may have been at zero: then the edges report another cold start, or Serve adds the first replicas.
    """
    may_wake = may_scale_to_zero(now.config)
    known = {deployment.name: deployment for deployment in before.deployments}
    return [
        event
        for deployment in now.deployments
        if (earlier := known.get(deployment.name)) is not None
        for event in _make_events(revision, earlier, deployment, may_wake=may_wake)
    ]


def _make_events(
    revision: int, before: DeploymentState, now: DeploymentState, *, may_wake: bool
) -> Iterator[KubernetesEvent]:
    left = {replica.id for replica in now.replicas if replica.state != _STOPPING}
    ran = {replica.id for replica in before.replicas if replica.state == _RUNNING}
    if now.status == _UPDATING or (may_wake and now.status == _UPSCALING and not ran & left):
        return
    gone = sorted(ran - left)
    # Serve may still list replicas that it has decided to stop.
    if len(gone) > max(0, len(ran) - min(before.target_replicas, now.target_replicas)):
        yield events.replica_lost(revision, gone, now.running, now.target_replicas, now.message)
