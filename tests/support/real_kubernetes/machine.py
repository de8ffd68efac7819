"""A machine within the machine: namespaces for processes, mounts and network, in which the node runs.

Pods leave shims, mounts, interfaces and packet filter rules behind. Here all of these belong to namespaces, and end with the first process
in them. Only cgroups belong to the machine itself, and some of its settings that a kubelet changes.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from real_kubernetes.control_plane import Addresses
from real_kubernetes.instance import ClusterError, Instance
from waiting import PATIENCE_S, patience

INIT = "machine"
MACHINES = 8
CGROUPS = Path("/sys/fs/cgroup")
PROCESSES = 16
"""CPU weight of a node, in processes, when CPU is short."""
SETTINGS = tuple(
    Path("/proc/sys") / name
    for name in (
        "vm/overcommit_memory",
        "kernel/panic",
        "kernel/panic_on_oops",
        "kernel/keys/root_maxkeys",
        "kernel/keys/root_maxbytes",
    )
)
"""Settings of the whole machine that a kubelet changes."""

# The first process: gives the node folders of its own in the places that kubelet, containerd and CNI have built in, then reaps orphans.
_INIT = """
set -eu
mount --make-rshared /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/node && mount --bind "$1" /mnt/node
mount -t tmpfs tmpfs /run
mkdir -p /run/node /run/lock /run/containerd /run/netns /run/upper /run/work
mount --bind /mnt/node /run/node && umount /mnt/node && umount /mnt
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work overlay /var/lib
mkdir -p /var/lib/kubelet && mount --bind /run/node/kubelet /var/lib/kubelet
mount --bind /run/node/node-log /var/log
mount --bind /run/node/resolv.conf "$(readlink -f /etc/resolv.conf)"
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
touch /run/node/machine-ready
trap : TERM INT HUP
while :; do sleep 86400 & wait || :; done
"""


@dataclass(frozen=True)
class Slot:
    """Which of the machines side by side this is; it decides the addresses and the names outside of the namespaces."""

    number: int

    @property
    def link(self) -> str:
        return f"sundog{self.number}"

    @property
    def outside(self) -> str:
        return f"10.213.{self.number}.1"

    @property
    def inside(self) -> str:
        return f"10.213.{self.number}.2"

    @property
    def addresses(self) -> Addresses:
        return Addresses(self.outside, 6443, f"10.{96 + self.number}.0.0/16", f"10.{244 - self.number}.0.0/16")

    @property
    def cgroup(self) -> str:
        return self.link


def start(instance: Instance, cluster: Addresses | None = None, pods: str = "") -> Slot:
    """Makes the namespaces and the link to them. Raises ClusterError where this machine does not let us, or has no slot free.

    A node that joins a cluster is given the addresses of that one, and a subnet for its own pods.
    """
    for name in ("kubelet", "node-log", "containerd", "cni"):
        instance.folder(name)
    (instance.directory / "resolv.conf").touch()
    (instance.directory / "machine-ready").unlink(missing_ok=True)
    _remember_settings(instance)
    unshare = (
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    )
    instance.start(INIT, (*unshare, "bash", "-c", _INIT, "init", str(instance.directory)))
    _await_ready(instance)
    slot = _link(instance, pods)
    addresses = cluster or slot.addresses
    search = "search svc.cluster.local cluster.local\noptions ndots:5\n"
    (instance.directory / "resolv.conf").write_text(f"nameserver {addresses.dns}\n{search}")
    (instance.directory / "slot").write_text(str(slot.number))
    for folder in _cgroups(slot):
        folder.mkdir(exist_ok=True)
        _give_weight(folder)
    return slot


def entered(instance: Instance, command: Sequence[str]) -> tuple[str, ...]:
    """The command as one that runs inside, with the cluster's network and names."""
    return ("nsenter", "--target", str(init_pid(instance)), "--mount", "--net", "--pid", *command)


def init_pid(instance: Instance) -> int:
    """The pid of the first process inside, as seen from outside. Raises ClusterError where none runs."""
    process = instance.processes().get(INIT)
    children = process.children() if process else []
    if not children:
        raise ClusterError(f"no node runs in {instance.directory}: {instance.tail(INIT)}")
    return int(children[0].pid)


def network(pid: int) -> str:
    """The name of the network namespace of a process, as the kernel gives it."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def stop(instance: Instance) -> None:
    """Ends everything inside, and puts back what was changed outside."""
    kill(instance)
    _restore_settings(instance)


def kill(instance: Instance) -> None:
    """Ends everything inside at once, and removes its cgroups."""
    for process in inside(instance):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(30)
    with contextlib.suppress(FileNotFoundError, ValueError):
        slot = Slot(int((instance.directory / "slot").read_text()))
        _remove_cgroups(slot)


def inside(instance: Instance) -> Iterator[psutil.Process]:
    """The first process inside, then the one that made the namespaces. The kernel ends all others with the first."""
    if outer := instance.processes().get(INIT):
        yield from outer.children()
        yield outer


def _await_ready(instance: Instance, within: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within
    while not (instance.directory / "machine-ready").exists():
        if INIT not in instance.processes() or time.monotonic() > deadline:
            raise ClusterError(f"no namespaces for a node on this machine: {instance.tail(INIT)}")
        time.sleep(0.05)


def _link(instance: Instance, pods: str) -> Slot:
    """Joins inside and outside by a pair of interfaces. That its name is taken is how a slot is.

    The first node of a cluster, which has no subnet `pods` of its own, leads to all pods and services.
    """
    pid = str(init_pid(instance))
    for slot in map(Slot, range(MACHINES)):
        made = run("ip", "link", "add", slot.link, "type", "veth", "peer", "name", "eth0", "netns", pid, check=False)
        if made is None:
            continue
        addresses = slot.addresses
        run("ip", "address", "add", f"{slot.outside}/30", "dev", slot.link)
        run("ip", "link", "set", slot.link, "alias", str(instance.directory)[:255], "up")
        inside = entered(instance, ("ip",))
        run(*inside, "address", "add", f"{slot.inside}/30", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", slot.outside)
        for subnet in (pods,) if pods else (addresses.pods, addresses.services):
            run("ip", "route", "add", subnet, "via", slot.inside)
        return slot
    raise ClusterError(f"{MACHINES} clusters with a node run on this machine already (ip link show type veth)")


def run(*command: str, check: bool = True, timeout: float = PATIENCE_S) -> str | None:
    """A short command's output. Where it fails: ClusterError with its words, or None without `check`."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode == 0:
        return done.stdout
    if check:
        raise ClusterError(f"{' '.join(command)[:200]}: {done.stderr.strip()[:300]}")
    return None


def _cgroups(slot: Slot) -> list[Path]:
    """This slot's cgroup in every hierarchy: one for each controller in version 1, one in all in version 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / slot.cgroup]
    return [each / slot.cgroup for each in sorted(CGROUPS.iterdir()) if each.is_dir() and not each.is_symlink()]


def _give_weight(folder: Path) -> None:
    """Raise the CPU weight of all pods together, which otherwise is that of a single process."""
    for name, weight in (("cpu.shares", 1024), ("cpu.weight", 100)):
        if (folder / name).exists():
            (folder / name).write_text(str(weight * PROCESSES))


def _remove_cgroups(slot: Slot) -> None:
    for top in _cgroups(slot):
        deepest_first = sorted(top.rglob("*/"), key=lambda path: -len(path.parts)) if top.exists() else []
        for folder in [each for each in deepest_first if each.is_dir()] + [top]:
            _remove_cgroup(folder)


def _remove_cgroup(folder: Path) -> None:
    """The kernel says busy for a moment after the last process of a cgroup was killed."""
    deadline = time.monotonic() + patience(10)
    while folder.exists():
        try:
            folder.rmdir()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(f"the cgroup {folder} cannot be removed: {error.strerror}") from None
            time.sleep(0.05)


def others(directory: Path) -> dict[str, Path]:
    """The nodes of other clusters on this machine: each link names the folder that it belongs to."""
    described = json.loads(run("ip", "-json", "link", "show", "type", "veth", check=False) or "[]")
    found = {each["ifname"]: Path(each["ifalias"]) for each in described if each.get("ifalias", "").startswith("/")}
    return {link: folder for link, folder in found.items() if not folder.is_relative_to(directory)}


def _remember_settings(instance: Instance) -> None:
    """Store the settings from before the first running node."""
    earlier = [folder for folder in others(instance.directory).values() if (folder / "settings").exists()]
    for path in filter(Path.exists, SETTINGS):
        name = str(path).strip("/").replace("/", "+")
        source = earlier[0] / "settings" / name if earlier else path
        (instance.folder("settings") / name).write_text(source.read_text())


def _restore_settings(instance: Instance) -> None:
    """The last node puts them back."""
    if others(instance.directory):
        return
    for kept in sorted((instance.directory / "settings").glob("*")):
        path = Path("/" + kept.name.replace("+", "/"))
        if path.read_text() != kept.read_text():
            path.write_text(kept.read_text())


def refusal() -> str:
    """Why no node can run here; empty where it can."""
    if os.geteuid():
        return "a node needs root"
    packages = {
        "containerd": "containerd",
        "runc": "runc",
        "iptables": "iptables",
        "conntrack": "conntrack",
        "ip": "iproute2",
        "nsenter": "util-linux",
        "unshare": "util-linux",
    }
    missing = sorted({package for program, package in packages.items() if shutil.which(program) is None})
    if not (Path("/usr/lib/cni") / "ptp").exists():
        missing.append("containernetworking-plugins")
    return f"not installed: {' '.join(missing)} (apt-get install {' '.join(missing)})" if missing else ""
