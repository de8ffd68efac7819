"""Edges, operators and replicas spread over nodes and zones, as the real scheduler places them, with and without labels of zones."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import yaml

from charting import templates, values
from measuring.packing import Machine, make_nodes, make_pod
from measuring.scheduling import Scheduled, control_plane_without_controllers, scheduling_on
from real_kubernetes.cluster import Cluster
from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import Installation
from sundog_operator.core import revisions
from sundog_operator.core.edge.deployment import make_deployment
from sundog_operator.core.ray.pods import make_worker_group
from sundog_operator.core.revisions import Revision

pytestmark = [pytest.mark.extended, pytest.mark.xdist_group("api server")]

ZONE = "topology.kubernetes.io/zone"
LARGE, SMALL = Machine("large", 1, "96", "1024Gi"), Machine("small", 3, "8", "64Gi")


def edge() -> Any:
    return make_deployment("models", (), Installation())["spec"]["template"]


def operator() -> Any:
    found = yaml.safe_load_all(templates(values("smallest"))["templates/deployment.yaml"])
    [deployment] = [each for each in found if each]
    template = deployment["spec"]["template"]
    template["metadata"]["labels"]["pod-template-hash"] = "1"
    return template


def replica() -> Any:
    """A worker with the label that KubeRay gives to the pods of a group."""
    spec = ModelDeploymentSpec.from_json({"model": {"uri": "file:///models/v1"}})
    content = revisions.content_of(spec)
    revision = Revision(1, revisions.content_hash(content), content)
    group = make_worker_group(
        "digits", revision, (1, 3), "example.com/runtime:1", Installation(), timedelta(seconds=30)
    )
    template = group["template"]
    template["metadata"]["labels"]["ray.io/group"] = group["groupName"]
    return template


@pytest.fixture
def scheduling() -> Iterator[Cluster]:
    with control_plane_without_controllers("spread") as cluster:
        yield cluster


def make_fleet(zones: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return a large node and three small ones, which the scheduler likes less; with zones, each small node has one, as the large one."""
    nodes = list(make_nodes((LARGE, SMALL), {}))
    for node, zone in zip(nodes, (zones[0], *zones) if zones else (), strict=False):
        node["metadata"]["labels"][ZONE] = zone
    return nodes


async def place(scheduled: Scheduled, template: Any, count: int) -> list[str]:
    """Place pods one after another, as a controller with few of them does, and return their nodes."""
    template["spec"] = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
    names = [name for _ in range(count) for name in await scheduled.place([make_pod(template)])]
    nodes = [scheduled.node_of(name) for name in names]
    await scheduled.remove(names)
    return nodes


@pytest.mark.parametrize("template", [edge, operator])
async def test_edges_and_operators_are_on_nodes_of_their_own_also_without_labels_of_zones(
    scheduling: Cluster, template: Any
) -> None:
    async with scheduling_on(scheduling, make_fleet()) as scheduled:
        assert len(set(await place(scheduled, template(), 4))) == 4


@pytest.mark.parametrize("template", [edge, operator, replica])
async def test_pods_are_in_each_zone_though_one_has_the_larger_node(scheduling: Cluster, template: Any) -> None:
    zones = ("a", "b", "c")
    fleet = make_fleet(zones)
    zone_of = {node["metadata"]["name"]: node["metadata"]["labels"][ZONE] for node in fleet}
    async with scheduling_on(scheduling, fleet) as scheduled:
        assert sorted(zone_of[node] for node in await place(scheduled, template(), 3)) == list(zones)
