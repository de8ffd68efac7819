"""Sum the resources of replicas in pods that models share, as Serve reports them. Pure."""

from collections import Counter
from collections.abc import Collection
from typing import Final

from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.pod_requests import CPU, MEMORY, Amounts
from sundog_operator.core.observed import ServeState

_SELECTED: Final = {names.RAY_LABEL_APPLICATION: names.SHARED_WORKERS}


def sum_used(serve: ServeState, own: str, freed: Collection[str]) -> Amounts:
    """Return the CPU and memory of the replicas in shared pods, those that wait for one included.

    Args:
        serve: the state of their RayCluster.
        own: an application of which only the running replicas count.
        freed: applications that do not count.
    """
    used: Counter[str] = Counter()
    for name, app in serve.applications.items():
        for config in app.config.get("deployments") or ():
            options = config.get("ray_actor_options") or {}
            if options.get("label_selector") != _SELECTED or name in freed:
                continue
            running = sum(each.running for each in app.deployments)
            count = running if name == own else max(running, sum(each.target_replicas for each in app.deployments))
            used[CPU] += round(options["num_cpus"] * 1000) * count
            used[MEMORY] += int(options["memory"]) * count
    return used
