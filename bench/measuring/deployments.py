"""ModelDeployments as the operator deploys them on Serve and at the edge."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from real_edge import Edge, arm, service
from real_ray import RayServe
from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core import revisions
from sundog_operator.core.ray import serve_config
from sundog_operator.core.revisions import Revision

Json = dict[str, Any]

CPU = "1"
"""One core: one thread for the forward pass, as the peers have."""


def application(name: str, model: Path, runtime: Mapping[str, Any] | None = None) -> Json:
    """Return the Serve application of revision 1, with one replica."""
    spec = ModelDeploymentSpec.from_json(
        {
            "model": {"uri": f"file://{model}", "entrypoint": "net:Net"},
            "runtime": {"maxOngoingRequests": 256, **(runtime or {})},
            "resources": {"cpu": CPU},
            "endpoint": {"maxRequestBytes": "64Mi"},
        }
    )
    content = revisions.content_of(spec)
    return serve_config.make_application(
        "bench", name, Revision(1, revisions.content_hash(content), content), spec, serve_config.ReplicaScale(1, 1)
    )


def arguments(name: str, model: Path) -> Json:
    """Return the arguments of a replica, to start one without Serve."""
    args: Json = application(name, model)["args"]
    return args


def deploy(ray: RayServe, edge: Edge, applications: Sequence[Json]) -> None:
    """Deploy only these on Ray, and make each a service of the edge with two arms, named like its ModelDeployment."""
    ray.put({"applications": list(applications)})
    for each in applications:
        ray.wait_running(each["name"])
    edge.apply([_split(each) for each in applications])


def _split(each: Json) -> Json:
    name, prefix = each["name"], each["route_prefix"]
    arms = [arm("stable", name, prefix, [(2500, 10000)]), arm("canary", name, prefix, [(0, 2500)])]
    return service(each["args"]["service"], arms)
