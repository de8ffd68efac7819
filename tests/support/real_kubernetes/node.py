"""What a node runs: containerd, kubelet and kube-proxy; beside the first one, scheduler and DNS."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from real_kubernetes import machine
from real_kubernetes.binaries import Binaries
from real_kubernetes.control_plane import Addresses, await_answer
from real_kubernetes.images import BASE, PAUSE, write_base_image, write_pause_image
from real_kubernetes.instance import ClusterError, Instance
from real_kubernetes.kubectl import Kubectl
from real_kubernetes.machine import Slot, entered
from waiting import patience

NAME = "node"
"""The first node's."""
ZONE = "topology.kubernetes.io/zone"
SOCKET = "/run/containerd/containerd.sock"
HERE = Path("/run/node")
"""The instance's folder, as the processes inside see it."""

SYNC = "10s"
IMPORT_S = patience(900)
"""Some images have gigabytes."""


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Attributes:
        instance: its folder and processes. The first node shares them with the control plane.
        slot: its own addresses.
        cluster: those of its cluster.
        number: 0 for the first node.
        zone: the label of its zone; empty for none.
    """

    instance: Instance
    slot: Slot
    cluster: Addresses
    number: int = 0
    zone: str = ""

    @property
    def name(self) -> str:
        return f"{NAME}-{self.number + 1}" if self.number else NAME

    @property
    def pods(self) -> str:
        return self.cluster.pods_of(self.number)


def start(node: Node, binaries: Binaries) -> None:
    """Starts scheduler, DNS and the first node beside a control plane, and waits until the node is Ready. Raises ClusterError."""
    start_scheduler(node.instance, binaries)
    run(node, binaries)
    _start_dns(node.instance, binaries, node.slot)


def run(node: Node, binaries: Binaries) -> None:
    """Starts what each node runs, and waits until it is Ready. Raises ClusterError."""
    instance = node.instance
    _write_configuration(node)
    _start_inside(instance, "containerd", ("containerd", "--config", str(HERE / "containerd.toml")))
    await_answer(instance, "containerd", lambda: _ctr(instance, "version") is not None)
    for write in (write_pause_image, write_base_image):
        import_image(instance, write(instance.folder("images")))
    _start_inside(
        instance,
        "kubelet",
        (
            str(binaries.path("kubelet")),
            f"--config={HERE / 'kubelet.yaml'}",
            f"--kubeconfig={HERE / 'kubeconfig'}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.slot.inside}",
            *((f"--node-labels={ZONE}={node.zone}",) if node.zone else ()),
        ),
    )
    _start_inside(instance, "kube-proxy", (str(binaries.path("kube-proxy")), f"--config={HERE / 'kube-proxy.yaml'}"))
    kubectl = Kubectl(instance.kubeconfig, binaries.path("kubectl"))
    await_answer(instance, "kubelet", lambda: kubectl.succeeds("get", "node", node.name))
    kubectl.wait("--for=condition=Ready", f"node/{node.name}")


def start_scheduler(instance: Instance, binaries: Binaries) -> None:
    """Starts the scheduler, outside of the node."""
    instance.start(
        "kube-scheduler",
        (
            str(binaries.path("kube-scheduler")),
            f"--kubeconfig={instance.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
        ),
    )


def stop(instance: Instance) -> None:
    """Ends the scheduler, and everything inside with the machine that holds it."""
    instance.stop("kube-scheduler")
    machine.stop(instance)


def import_image(instance: Instance, archive: Path) -> None:
    """Loads a docker-archive, so that pods with `imagePullPolicy: Never` find it. Raises ClusterError."""
    inside = instance.folder("images") / archive.name
    if archive.resolve() != inside.resolve():
        _place(archive, inside)
    command = _ctr_command("images", "import", "--all-platforms", str(HERE / "images" / archive.name))
    machine.run(*entered(instance, command), timeout=IMPORT_S)
    inside.unlink()


def _place(archive: Path, inside: Path) -> None:
    """Some have gigabytes: they are neither read into memory nor there twice, where that can be."""
    inside.unlink(missing_ok=True)
    try:
        inside.hardlink_to(archive.resolve())
    except OSError:
        shutil.copyfile(archive, inside)


def advertise(instance: Instance, binaries: Binaries, resource: str, count: int) -> None:
    """Has the node offer so many devices. The scheduler believes it, and the kubelet keeps it; there are none."""
    escaped = resource.replace("~", "~0").replace("/", "~1")
    patch = [
        {"op": "add", "path": f"/status/{part}/{escaped}", "value": str(count)} for part in ("capacity", "allocatable")
    ]
    kubectl = Kubectl(instance.kubeconfig, binaries.path("kubectl"))
    kubectl("patch", "node", NAME, "--subresource=status", "--type=json", "-p", json.dumps(patch))


def _ctr_command(*command: str) -> tuple[str, ...]:
    return ("ctr", "--address", SOCKET, "--namespace", "k8s.io", *command)


def _ctr(instance: Instance, *command: str) -> str | None:
    return machine.run(*entered(instance, _ctr_command(*command)), check=False)


def _start_inside(instance: Instance, name: str, command: Sequence[str]) -> None:
    instance.start(name, entered(instance, command))


def _start_dns(instance: Instance, binaries: Binaries, slot: Slot) -> None:
    _start_inside(instance, "coredns", (str(binaries.path("coredns")), "-conf", str(HERE / "Corefile")))
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {
            "clusterIP": slot.addresses.dns,
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53},
            ],
        },
    }
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "dns", "protocol": "UDP", "port": 53},
            {"name": "dns-tcp", "protocol": "TCP", "port": 53},
        ],
        "endpoints": [{"addresses": [slot.inside]}],
    }
    Kubectl(instance.kubeconfig, binaries.path("kubectl")).apply(service, slice_)


def _write_configuration(node: Node) -> None:
    texts = {
        "containerd.toml": _CONTAINERD.format(pause=PAUSE),
        "kubelet.yaml": yaml.safe_dump(_kubelet(node.cluster, node.slot)),
        "kube-proxy.yaml": yaml.safe_dump(_kube_proxy(node)),
        "Corefile": _COREFILE.format(address=node.slot.inside, kubeconfig=HERE / "kubeconfig"),
        "cni/10-pods.conflist": json.dumps(_network(node.pods)),
    }
    for name, text in texts.items():
        (node.instance.directory / name).write_text(text)


# The first setting makes sandboxes possible where the machine lacks CAP_SYS_RESOURCE.
_CONTAINERD = """
version = 2
root = "/run/node/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "{pause}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/run/node/cni"
"""

_COREFILE = """
cluster.local:53 in-addr.arpa:53 {{
    bind {address}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
    }}
}}
"""


def _kubelet(addresses: Addresses, slot: Slot) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "address": slot.inside,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{slot.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "clusterDNS": [addresses.dns],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "volumePluginDir": str(HERE / "volume-plugins"),
        "evictionHard": {},
        # Images that were imported are not pulled again.
        "imageGCHighThresholdPercent": 100,
        "maxPods": 200,
        "nodeStatusUpdateFrequency": SYNC,
        "oomScoreAdj": 0,
    }


def _kube_proxy(node: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(HERE / "kubeconfig")},
        "mode": "iptables",
        "clusterCIDR": node.cluster.pods,
        "hostnameOverride": node.name,
        "conntrack": {"maxPerCore": 0, "min": 0},
        "oomScoreAdj": 0,
    }


def _network(subnet: str) -> dict[str, object]:
    """Every pod at a wire of its own: nothing is bridged, so that every packet passes kube-proxy's rules."""
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "subnet": subnet,
                    "dataDir": "/run/cni",
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


__all__ = ["BASE", "ClusterError", "Node", "advertise", "import_image", "run", "start", "stop"]
