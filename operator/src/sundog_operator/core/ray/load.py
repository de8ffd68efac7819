"""Load at the edges, in replicas, beside Ray Serve's own autoscaling.

Ray Serve scales by the requests that replicas have admitted. It does not see requests that wait at an edge, and it sees a service's
load only in parts while several revisions share it. So the operator raises the minimum of Ray Serve's autoscaling where the edges count
more. Ray Serve still decides everything else, and goes on while the operator is down.
"""

import math
from datetime import datetime, timedelta

from sundog_operator.api import Autoscaling, EdgeLoadStatus, ModelDeploymentStatus


def replicas_for_requests(requests: int, weight: float, target: int, most: int) -> int:
    """Return the replicas that all traffic needs, within the maximum; 0 for a revision without traffic.

    Args:
        requests: requests that run or wait at the edges, of a revision.
        weight: the revision's share of the traffic, in percent.
        target: the requests that each replica should have.
        most: the maximum of replicas.
    """
    if weight <= 0:
        return 0
    return min(most, math.ceil(requests * 100 / weight / target))


def can_wait_at_edges(requests: int, running: int, max_ongoing_requests: int) -> bool:
    """Return whether so many requests are more than the running replicas admit. Ray Serve sees all others itself."""
    return requests > running * max_ongoing_requests


def track_load(
    before: EdgeLoadStatus | None, needed: int, target: int, now: datetime, delay: timedelta
) -> EdgeLoadStatus | None:
    """Return the load that Ray Serve has no replicas for; None without such load.

    A load is in force once it has lasted `delay`, with the lowest number of replicas that it needed in that time. It stays in force until
    it is lower. Ray Serve then waits for its own delay before it removes replicas.

    Args:
        before: the stored load.
        needed: replicas that the requests at the edges need.
        target: replicas that Ray Serve has asked for.
        now: the time.
        delay: how long a load must last.
    """
    if before is not None and before.in_force and (target < before.replicas or needed == before.replicas):
        return before
    if needed <= target:
        return None
    if before is None or before.in_force or before.since > now:
        before = EdgeLoadStatus(replicas=needed, since=now)
    lowest = min(before.replicas, needed)
    return EdgeLoadStatus(replicas=lowest, since=before.since, in_force=now - before.since >= delay)


def replicas_in_force(status: ModelDeploymentStatus) -> int:
    """Return the replicas that the load at the edges needs for all traffic; 0 without a load in force."""
    load = status.edge_load
    return load.replicas if load is not None and load.in_force else 0


def within_bounds(replicas: int, scaling: Autoscaling) -> int:
    """Return a number of replicas within the bounds of autoscaling."""
    return max(scaling.min_replicas, min(replicas, scaling.max_replicas))
