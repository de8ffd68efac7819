"""A cluster of three nodes in three zones, once for all tests of this folder. `make nodes` runs them."""

import os
from collections.abc import Iterator

import pytest

from real_kubernetes import machine
from real_kubernetes.cluster import BINARIES, CLUSTER_BUILDS, Cluster, directory_of, temporary
from real_kubernetes.fixtures import ELSEWHERE
from real_kubernetes.leftovers import nothing_left

NODES = 3


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start the cluster. Skips with the reason if it cannot run. A test that loses a node gives the others another one."""
    if os.environ.get(ELSEWHERE):
        pytest.skip("nodes of somebody else's cluster are not killed")
    if reason := machine.refusal() or BINARIES.refusal(CLUSTER_BUILDS):
        pytest.skip(f"no Kubernetes here: {reason}")
    with nothing_left(directory_of("nodes")), temporary("nodes", with_node=True, nodes=NODES) as cluster:
        yield cluster
