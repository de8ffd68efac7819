"""The order of types and spot nodes, as the real scheduler weighs it against free CPU and memory."""

from collections.abc import Iterator
from typing import Any

import pytest

from gpu_rows import make_row
from measuring.packing import Machine, make_nodes, make_pod
from measuring.scheduling import control_plane_without_controllers, scheduling_on
from real_kubernetes.cluster import Cluster

pytestmark = [pytest.mark.extended, pytest.mark.xdist_group("api server")]

SPOT = {"karpenter.sh/capacity-type": "spot"}
BIG = ("96", "1024Gi")
FLEET = (
    Machine("h100-spot", 1, *BIG, "NVIDIA-H100-80GB-HBM3", 81559, 1),
    Machine("h100", 1, *BIG, "NVIDIA-H100-80GB-HBM3", 81559, 1),
    Machine("a100-spot", 1, *BIG, "NVIDIA-A100-SXM4-80GB", 81920, 1),
    Machine("l4", 1, *BIG, "NVIDIA-L4", 23034, 1),
)


@pytest.fixture
def scheduling() -> Iterator[Cluster]:
    with control_plane_without_controllers("types") as cluster:
        yield cluster


def make_fleet() -> list[dict[str, Any]]:
    """Return nodes of one device each."""
    nodes = list(make_nodes(FLEET, {}))
    for node in nodes[::2]:
        node["metadata"]["labels"] |= SPOT
    return nodes


def use(node: str, cpu: str, memory: str) -> dict[str, Any]:
    """Return a pod that uses a node."""
    container = {"name": "c", "image": "example.com/other:1", "resources": {"requests": {"cpu": cpu, "memory": memory}}}
    return make_pod({"metadata": {}, "spec": {"nodeName": node, "containers": [container]}})


async def test_a_pod_takes_the_first_type_with_room_then_spot_though_other_nodes_are_idle(scheduling: Cluster) -> None:
    pod = make_pod(make_row("spot-preferred-types")[0]["template"])
    uses = {
        "h100-spot-0": ("10", "100Gi"),
        "h100-0": ("48", "512Gi"),
        "a100-spot-0": ("48", "512Gi"),
        "l4-0": ("1", "1Gi"),
    }
    async with scheduling_on(scheduling, make_fleet()) as scheduled:
        for expected, used in uses.items():
            # The nodes that come later are idle.
            assert await scheduled.place([use(expected, *used)])
            [name] = await scheduled.place([pod])
            assert scheduled.node_of(name) == expected
