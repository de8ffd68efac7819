"""Traces that a cluster could leave on a machine, so that tests can compare before and after."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from real_kubernetes.machine import CGROUPS, SETTINGS, others
from real_local import processes_of
from waiting import PATIENCE_S

PLACES = (
    "/usr/libexec/kubernetes",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/pods",
    "/run/containerd",
    "/run/netns",
)
"""Default folders of kubelet, containerd and CNI."""


def traces() -> set[str]:
    """Interfaces, routes, packet filter rules, mounts, cgroups, files and settings, a line each."""
    found = {f"file {path}" for place in PLACES for path in [Path(place), *Path(place).glob("*")] if path.exists()}
    found |= {f"cgroup {path}" for path in CGROUPS.glob("*/sundog*")} | {
        f"cgroup {path}" for path in CGROUPS.glob("sundog*")
    }
    found |= {f"setting {path} {path.read_text().strip()}" for path in SETTINGS if path.exists()}
    found |= {f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    for command in (("ip", "-o", "link"), ("ip", "-o", "route"), ("iptables", "-S"), ("iptables", "-t", "nat", "-S")):
        found |= {f"{command[0]} {line}" for line in _lines(*command)}
    return found


@contextmanager
def nothing_left(directory: Path) -> Iterator[None]:
    """Fails where something of a cluster in this folder is on the machine afterwards that was not there before."""
    before = traces()
    yield
    assert processes_of(directory) == []
    assert not directory.exists()
    # Clusters side by side come and go meanwhile, and the last of them puts the machine's settings back.
    names = [*others(directory), "setting"] if others(directory) else []
    left = {line for line in traces() - before if not any(name in line for name in names)}
    assert left == set(), "\n".join(sorted(left))


def _lines(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except FileNotFoundError:
        return []
    # The rest of a link's line changes without any cluster.
    return [line.split(" mtu ")[0] for line in done.stdout.splitlines()]
