"""Start and stop a whole cluster, in one of two sizes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from real_kubernetes import control_plane, kuberay, machine, node
from real_kubernetes.binaries import COREDNS, KUBERAY, KUBERNETES, ROOT, Binaries
from real_kubernetes.instance import ClusterError, Instance
from real_kubernetes.kubectl import Kubectl

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


def _silent(_: str) -> None:
    return


def up(directory: Path, *, with_node: bool, binaries: Binaries = BINARIES, tell: Tell = _silent) -> Cluster:
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
        _start(instance, binaries, with_node, tell)
    except BaseException:
        down(directory, keep=True)
        raise
    return Cluster(instance.kubeconfig, Kubectl(instance.kubeconfig, binaries.path("kubectl")), instance)


def _start(instance: Instance, binaries: Binaries, with_node: bool, tell: Tell) -> None:
    kubectl = Kubectl(instance.kubeconfig, binaries.path("kubectl"))
    slot = None
    if with_node:
        tell("making the node's namespaces")
        slot = machine.start(instance)
    tell("starting etcd, API server and controllers")
    control_plane.start(instance, binaries, slot.addresses if slot else None)
    if slot:
        tell("starting scheduler, containerd, kubelet, kube-proxy and DNS")
        node.start(instance, binaries, slot)
        tell("starting KubeRay")
        kuberay.apply_crds(kubectl)
        inside = machine.entered(instance, ())
        kuberay.start(instance, binaries, inside, node.HERE / "kubeconfig")


def down(directory: Path, *, keep: bool = False) -> None:
    """End the processes of a folder, also after a killed run, and delete the folder, unless `keep` keeps its logs."""
    instance = Instance(directory)
    kuberay.stop(instance)
    node.stop(instance)
    control_plane.stop(instance)
    instance.stop(*instance.processes())
    if not keep:
        instance.remove()


@contextmanager
def temporary(name: str, *, with_node: bool) -> Iterator[Cluster]:
    """Start a cluster for this process, after clearing what a killed one left."""
    clear_orphans()
    try:
        yield up(directory_of(name), with_node=with_node)
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
