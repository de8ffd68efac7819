"""Start and stop a whole cluster: a control plane alone, or with one node or several."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from real_kubernetes import control_plane, further_nodes, kuberay, machine, node
from real_kubernetes.binaries import COREDNS, KUBERAY, KUBERNETES, ROOT, Binaries
from real_kubernetes.instance import ClusterError, Instance
from real_kubernetes.kubectl import Kubectl
from real_kubernetes.node import Node

HOME = ROOT / ".cluster"
STAYS = HOME / "up"
"""The folder of the cluster to work with."""

BINARIES = Binaries.of_environment()
CONTROL_PLANE_BUILDS = (KUBERNETES,)
CLUSTER_BUILDS = (KUBERNETES, COREDNS, KUBERAY)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    kubeconfig: Path
    kubectl: Kubectl
    instance: Instance | None = None
    """None where the cluster is somebody else's (SUNDOG_TEST_KUBECONFIG)."""
    nodes: list[Node] = field(default_factory=list)
    """The first one also has DNS and KubeRay's operator: the others can be lost."""


def _silent(_: str) -> None:
    return


def up(
    directory: Path, *, with_node: bool, nodes: int = 1, binaries: Binaries = BINARIES, tell: Tell = _silent
) -> Cluster:
    """Starts a cluster in a folder; what a failed start began is ended again. Raises ClusterError."""
    instance = Instance(directory)
    if instance.processes():
        raise ClusterError(f"a cluster runs in {directory} already: stop it first (make cluster-down)")
    if with_node and (reason := machine.refusal()):
        raise ClusterError(reason)
    binaries.build(CLUSTER_BUILDS if with_node else CONTROL_PLANE_BUILDS, tell)
    instance.remove()
    directory.mkdir(parents=True)
    try:
        started = _start(instance, binaries, nodes if with_node else 0, tell)
    except BaseException:
        down(directory, keep=True)
        raise
    return Cluster(instance.kubeconfig, Kubectl(instance.kubeconfig, binaries.path("kubectl")), instance, started)


def _start(instance: Instance, binaries: Binaries, nodes: int, tell: Tell) -> list[Node]:
    kubectl = Kubectl(instance.kubeconfig, binaries.path("kubectl"))
    slot = None
    if nodes:
        tell("making the node's namespaces")
        slot = machine.start(instance)
    tell("starting etcd, API server and controllers")
    control_plane.start(instance, binaries, slot.addresses if slot else None)
    if slot is None:
        return []
    tell("starting scheduler, containerd, kubelet, kube-proxy and DNS")
    started = [Node(instance, slot, slot.addresses, zone=further_nodes.zone(0) if nodes > 1 else "")]
    node.start(started[0], binaries)
    for number in range(1, nodes):
        tell(f"starting node {number + 1} of {nodes}")
        started.append(further_nodes.join(started, number, binaries))
    tell("starting KubeRay")
    kuberay.apply_crds(kubectl)
    inside = machine.entered(instance, ())
    kuberay.start(instance, binaries, inside, node.HERE / "kubeconfig")
    return started


def down(directory: Path, *, keep: bool = False) -> None:
    """End the processes of a folder, also after a killed run, and delete the folder, unless `keep` keeps its logs."""
    instance = Instance(directory)
    kuberay.stop(instance)
    further_nodes.stop(instance)
    node.stop(instance)
    control_plane.stop(instance)
    instance.stop(*instance.processes())
    if not keep:
        instance.remove()


@contextmanager
def temporary(name: str, *, with_node: bool, nodes: int = 1) -> Iterator[Cluster]:
    """Start a cluster for this process, after clearing what a killed one left."""
    clear_orphans()
    try:
        yield up(directory_of(name), with_node=with_node, nodes=nodes)
    finally:
        down(directory_of(name))


def directory_of(name: str) -> Path:
    """Return the folder for a cluster of this process."""
    return HOME / f"{name}-{os.getpid()}"


def clear_orphans() -> None:
    """Ends the clusters of processes that are gone."""
    for directory in sorted(HOME.glob("*-*")):
        pid = directory.name.rsplit("-", 1)[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            down(directory)


def shell(directory: Path) -> str:
    """Return the command that opens a shell in a cluster's node."""
    return " ".join(machine.entered(Instance(directory), ("bash",)))
