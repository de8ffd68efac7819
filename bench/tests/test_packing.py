"""Demands for models, and the pods that each side of the benchmark makes of them."""

import pytest

from measuring import packing
from measuring.packing import Demand
from sundog_operator.api import parse_bytes
from sundog_operator.core.kubernetes import node_fit
from sundog_operator.core.kubernetes.pod_requests import OVERHEAD_BYTES, pod_requests

PLAIN, FRACTIONS, ALL = packing.GPU_SIDES


def small(replicas: int, device_gib: float) -> Demand:
    return Demand("m", "small", replicas, "1", "4Gi", 1, device_gib)


@pytest.mark.parametrize(
    ("demand", "by_fractions", "by_all"),
    [
        (small(4, 5.0), (1, "nvidia.com/gpu"), (1, "nvidia.com/gpu")),
        (small(4, 7.0), (2, "nvidia.com/gpu"), (2, "nvidia.com/gpu")),
        (small(1, 5.0), (1, "nvidia.com/gpu"), (1, "nvidia.com/gpu.shared")),
        (small(1, 9.0), (1, "nvidia.com/gpu"), (1, "nvidia.com/mig-1g.10gb")),
        (small(1, 11.0), (1, "nvidia.com/gpu"), (1, "nvidia.com/mig-2g.20gb")),
    ],
)
def test_an_author_asks_for_the_fewest_devices(
    demand: Demand, by_fractions: tuple[int, str], by_all: tuple[int, str]
) -> None:
    for side, (count, resource) in ((FRACTIONS, by_fractions), (ALL, by_all)):
        made = packing.make_pods(demand, side)
        assert len(made) == count
        assert all(pod_requests(pod)[resource] == 1 for pod in made)
    assert len(packing.make_pods(demand, PLAIN)) == demand.replicas


def test_a_plain_deployment_has_the_same_nodes_and_no_memory_for_ray() -> None:
    demand = Demand("m", "whole", 1, "4", "16Gi", 1, 36.0)
    [ours], [theirs] = packing.make_pods(demand, FRACTIONS), packing.make_pods(demand, PLAIN)
    assert pod_requests(ours)["memory"] - pod_requests(theirs)["memory"] == OVERHEAD_BYTES
    assert pod_requests(theirs)["memory"] == parse_bytes("16Gi")
    assert ours["spec"]["affinity"] == theirs["spec"]["affinity"]


def test_offers_are_of_nodes_that_there_are() -> None:
    made = packing.make_nodes(packing.GPU_FLEET, packing.SHARED_OFFERS)
    nodes = {each["metadata"]["name"]: node_fit.trim_node(each) for each in made}
    assert packing.SHARED_OFFERS.keys() <= nodes.keys()
    assert all(node_fit.takes_pods(node) for node in nodes.values())
    assert "nvidia.com/gpu" not in node_fit.allocatable(nodes["l4-0"])


def test_a_seed_gives_the_same_demands_and_only_known_ones_leave() -> None:
    events = packing.draw_events(3, 50, {"small": 1, "cpu": 1})
    assert events == packing.draw_events(3, 50, {"small": 1, "cpu": 1})
    there = set()
    for event in events:
        assert (event.demand.name in there) == event.leaves
        (there.remove if event.leaves else there.add)(event.demand.name)
