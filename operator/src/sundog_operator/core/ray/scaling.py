"""How a service's replicas scale: by load, or a fixed number."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sundog_operator.api import Autoscaling, ModelDeploymentSpec

_ON_REQUEST: Final = Autoscaling(min_replicas=0, max_replicas=1, scale_to_zero_delay=timedelta(minutes=1))
"""Scaling with `replicas: 0`: a request starts one replica, which stays for a minute after the last request."""

COLD_START_ON_REQUEST: Final = _ON_REQUEST.cold_start_timeout


def find_scaling(spec: ModelDeploymentSpec) -> Autoscaling | None:
    """Return the scaling of a service; None with a fixed number of replicas."""
    if spec.autoscaling is None and spec.replicas == 0:
        return _ON_REQUEST
    return spec.autoscaling


def may_scale_to_zero(application: Mapping[str, Any]) -> bool:
    """Whether the deployed configuration of a Serve application lets it have no replica."""
    deployments = application.get("deployments") or ()
    return any((each.get("autoscaling_config") or {}).get("min_replicas") == 0 for each in deployments)


def replicas_of_rollout(spec: ModelDeploymentSpec) -> int:
    """Return the replicas that all traffic needs during a rollout, as far as the spec shows. Then there is at least one."""
    return max(1, spec.replicas)
