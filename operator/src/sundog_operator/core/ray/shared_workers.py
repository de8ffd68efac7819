"""Sum the resources of replicas in pods that models share, as Serve reports them. Pure."""

from collections import Counter
from collections.abc import Collection
from typing import Final

from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.pod_requests import CPU, MEMORY, Amounts
from sundog_operator.core.observed import ServeState
from sundog_operator.core.ray.groups import find_selected_group

_FAILED: Final = "DEPLOY_FAILED"


def sum_used(serve: ServeState, own: Collection[str], freed: Collection[str] = ()) -> Amounts:
    """Return the CPU and memory of the replicas in shared pods, those that wait for one included.

    Of an application whose deployment failed only the running replicas count: Serve starts no others.

    Args:
        serve: the state of their RayCluster.
        own: applications of which only the running replicas count.
        freed: applications that do not count.
    """
    used: Counter[str] = Counter()
    for name, app in serve.applications.items():
        for config in app.config.get("deployments") or ():
            if find_selected_group(config) != names.SHARED_WORKERS or name in freed:
                continue
            options = config["ray_actor_options"]
            count = sum(each.running for each in app.deployments)
            if name not in own and app.status != _FAILED:
                count = max(count, sum(each.target_replicas for each in app.deployments))
            used[CPU] += round(options["num_cpus"] * 1000) * count
            used[MEMORY] += int(options["memory"]) * count
    return used
