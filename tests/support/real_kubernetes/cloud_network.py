"""The network of a cloud's cluster: enforced network policies, and a metadata address that gives out credentials."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from real_kubernetes import machine, node
from real_kubernetes.binaries import POLICIES, Binaries
from real_kubernetes.control_plane import await_answer
from real_kubernetes.instance import Instance

METADATA: Final = "169.254.169.254"

_ENFORCER: Final = "network-policies"
_QUEUE: Final = "100"
"""The enforcer's. It leads packets there by a part of nftables that some kernels lack: iptables does, which Services need anyway."""

_RULES: Final = (
    # Kubelets reach their pods whatever policies say.
    ("-m", "owner", "--uid-owner", "0", "-j", "RETURN"),
    ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "RETURN"),
    ("-j", "NFQUEUE", "--queue-num", _QUEUE),
)
_LINK: Final = "metadata"
_NEAR, _FAR = "169.254.1.1", "169.254.1.2"


@contextmanager
def enforced(instance: Instance, binaries: Binaries) -> Iterator[None]:
    """Network policies count while the block runs: what begins a connection waits for the verdict of a process that knows them."""
    binaries.build((POLICIES,))
    here = machine.init_pid(instance)
    command = (str(binaries.path(_ENFORCER)), f"--kubeconfig={node.HERE / 'kubeconfig'}", f"--node={node.NAME}")
    instance.start(_ENFORCER, (*_beside(here, "--mount"), *command))
    try:
        await_answer(instance, _ENFORCER, lambda: _QUEUE in _waiting_for(here))
        for rule in _RULES:
            machine.run(*_beside(here), "iptables", "-t", "mangle", "-A", "POSTROUTING", *rule)
        yield
    finally:
        machine.run(*_beside(here), "iptables", "-t", "mangle", "-F", "POSTROUTING")
        instance.stop(_ENFORCER)


@contextmanager
def metadata_service(instance: Instance) -> Iterator[None]:
    """Listen at port 80 of the metadata address of clouds, so that pods can reach it."""
    here = machine.init_pid(instance)
    nothing = str(instance.folder("metadata"))
    serve = (sys.executable, "-m", "http.server", "--directory", nothing, "80")
    near = (*_beside(here), "ip")
    server = instance.start("metadata", (*_beside(here), "unshare", "--net", *serve)).pid
    try:
        # The process begins in this machine's network, passes the node's, and only then has its own. A link to it
        # before that would join the node to this machine, whose own eth0 makes it fail on most machines.
        others = {machine.network(os.getpid()), machine.network(here)}
        await_answer(instance, "metadata", lambda: machine.network(server) not in others)
        # The kernel removes the link of a killed server some time after its process.
        machine.run(*near, "link", "delete", _LINK, check=False)
        far = (*_beside(server), "ip")
        machine.run(*near, "link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", str(server))
        machine.run(*near, "address", "add", f"{_NEAR}/30", "dev", _LINK)
        machine.run(*near, "link", "set", _LINK, "up")
        machine.run(*far, "address", "add", f"{_FAR}/30", "dev", "eth0")
        machine.run(*far, "address", "add", f"{METADATA}/32", "dev", "eth0")
        machine.run(*far, "link", "set", "eth0", "up")
        machine.run(*far, "route", "add", "default", "via", _NEAR)
        machine.run(*near, "route", "add", f"{METADATA}/32", "via", _FAR)
        yield
    finally:
        machine.run(*near, "link", "delete", _LINK, check=False)
        instance.stop("metadata")


def _beside(pid: int, *more: str) -> tuple[str, ...]:
    return ("nsenter", "--target", str(pid), "--net", *more)


def _waiting_for(pid: int) -> list[str]:
    """The queues of packets for which a process waits in another's network."""
    lines = Path(f"/proc/{pid}/net/netfilter/nfnetlink_queue").read_text().splitlines()
    return [line.split()[0] for line in lines]
