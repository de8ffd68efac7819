"""Further nodes of a cluster, each in a machine of its own, which can be killed, cut off from the network, and drained.

Each node has a link to each other one. So two of them reach each other while others are gone, and the machine of the tests, which
forwards nothing on most machines, passes none of their packets.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from real_kubernetes import machine, node
from real_kubernetes.binaries import Binaries
from real_kubernetes.control_plane import await_answer
from real_kubernetes.instance import Instance
from real_kubernetes.kubectl import WAIT_S, Kubectl
from real_kubernetes.node import Node

_FOLDER = "further-nodes"
_NETWORK = "network"
_LINKS = "eth+"
"""All of a node's links but those to its pods, as iptables matches them."""


ZONES = ("zone-a", "zone-b", "zone-c")


def zone(number: int) -> str:
    """Return the zone of a node: all of them in turn."""
    return ZONES[number % len(ZONES)]


def join(nodes: Sequence[Node], number: int, binaries: Binaries) -> Node:
    """Start another node beside all others of a cluster, the first one first, and wait until it is Ready. Raises ClusterError."""
    first = nodes[0]
    instance = Instance(first.instance.folder(_FOLDER) / str(number))
    instance.directory.mkdir()
    shutil.copy(first.instance.kubeconfig, instance.kubeconfig)
    slot = machine.start(instance, first.cluster, first.cluster.pods_of(number))
    joining = Node(instance, slot, first.cluster, number, zone(number))
    for other in nodes:
        _link(joining, other)
    node.run(joining, binaries)
    return joining


def replace(nodes: list[Node], lost: Node, kubectl: Kubectl, binaries: Binaries) -> None:
    """Delete a killed node from its cluster, and start another in its zone, as a cloud's machine group does. Raises ClusterError."""
    kubectl("delete", "node", lost.name)
    nodes.remove(lost)
    nodes.append(join(nodes, lost.number + len(ZONES), binaries))


def stop(instance: Instance) -> None:
    """End all further nodes of a cluster, also killed ones."""
    for directory in sorted((instance.directory / _FOLDER).glob("*")):
        further = Instance(directory)
        if holder := further.processes().get(_NETWORK):
            # Connections that could not say that they end keep a network, and so its links, for minutes.
            machine.run("nsenter", "--target", str(holder.pid), "--net", "ip", "link", "delete", "eth0")
        machine.stop(further)
        further.stop(*further.processes())


def kill(lost: Node) -> None:
    """End a node as a loss of power does: others hear nothing of it, not even that its connections are closed.

    Its network stays until the cluster's end, and drops what comes.
    """
    pid = machine.init_pid(lost.instance)
    holder = lost.instance.start(_NETWORK, ("nsenter", "--target", str(pid), "--net", "sleep", "infinity"))
    await_answer(lost.instance, _NETWORK, lambda: machine.network(holder.pid) == machine.network(pid))
    _cut(lost)
    machine.kill(lost.instance)


@contextmanager
def cut_off(lost: Node) -> Iterator[None]:
    """While the block runs, a node's packets go nowhere, and none come in. Its pods go on, and reach each other."""
    _cut(lost)
    try:
        yield
    finally:
        _filter(lost, "-D")


@contextmanager
def drained(kubectl: Kubectl, emptied: Node) -> Iterator[None]:
    """Drain a node as an administrator does, and let pods in again after the block. Raises ClusterError where budgets forbid it."""
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={WAIT_S}s")
    try:
        kubectl("drain", emptied.name, *options, timeout=WAIT_S + 10)
        yield
    finally:
        kubectl("uncordon", emptied.name)


def _cut(lost: Node) -> None:
    _filter(lost, "-I")


def _filter(lost: Node, change: str) -> None:
    for chain, direction in (("PREROUTING", "-i"), ("POSTROUTING", "-o")):
        rule = ("iptables", "-w", "-t", "mangle", change, chain, direction, _LINKS, "-j", "DROP")
        machine.run(*machine.entered(lost.instance, rule))


def _link(one: Node, other: Node) -> None:
    pids = {each: str(machine.init_pid(each.instance)) for each in (one, other)}
    run = {each: ("nsenter", "--target", pid, "--net", "ip") for each, pid in pids.items()}
    names = {one: f"eth-{other.name}", other: f"eth-{one.name}"}
    ends = (names[one], "type", "veth", "peer", "name", names[other], "netns", pids[other])
    machine.run(*run[one], "link", "add", *ends)
    for near, far in ((one, other), (other, one)):
        machine.run(*run[near], "address", "add", f"{near.slot.inside}/32", "dev", names[near])
        machine.run(*run[near], "link", "set", names[near], "up")
        machine.run(*run[near], "route", "add", far.slot.inside, "dev", names[near])
        machine.run(*run[near], "route", "add", far.pods, "via", far.slot.inside, "dev", names[near])
