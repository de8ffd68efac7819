"""Builds the command and the environment of a Ray head on this machine."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sundog_operator.adapters.local.ports_allocation import LOOPBACK, RayPorts
from sundog_operator.core.ray.groups import OBJECT_STORE_BYTES
from sundog_operator.core.ray.pods import DRAIN_S, MAX_GRPC_BYTES

LOGICAL_CPUS: Final = 64
LOGICAL_MEMORY_BYTES: Final = 2**40
"""In local mode CPU and memory requests are only counted. These limits never prevent a small model from starting."""


def make_argv(ports: RayPorts, temporary: Path) -> tuple[str, ...]:
    """Return the arguments of the head process, the parent of all Ray processes.

    With `--block` it ends all of them when it ends. Local mode needs no autoscaler and no log monitor.
    `-P` excludes the working directory from the import path.
    """
    options: dict[str, object] = {
        "port": ports.gcs,
        "dashboard-host": LOOPBACK,
        "dashboard-port": ports.dashboard,
        **ports.fixed,
        "min-worker-port": ports.workers.start,
        "max-worker-port": ports.workers.stop - 1,
        "num-cpus": LOGICAL_CPUS,
        "num-gpus": 0,
        "memory": LOGICAL_MEMORY_BYTES,
        "object-store-memory": OBJECT_STORE_BYTES,
        "include-log-monitor": "false",
        "temp-dir": temporary,
        "log-style": "record",
        "log-color": "false",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    start = (
        sys.executable,
        "-P",
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--no-monitor",
        "--disable-usage-stats",
    )
    return (*start, *flags)


def make_environment(
    inherited: Mapping[str, str], ports: RayPorts, token: Path, scratch: Path, cache: Path
) -> dict[str, str]:
    """Return the environment of the head process and, through it, of every replica.

    No RAY_ variable is inherited: a developer's shell must not change the token or the cluster that Ray joins.
    `cache` is the directory of downloaded models, unless the shell sets another one.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith("RAY_")}
    return {
        "SUNDOG_CACHE_DIR": str(cache),
        **kept,
        "TMPDIR": str(scratch),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Makes loopback the node's address, so that Ray does not use, or lose, a network.
        # Ray would replace `--node-ip-address=127.0.0.1` by the address of a network interface.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Without it SIGTERM waits up to 30 s for replicas to move, although there is no other node.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Ray's default, 15, is for batch work: replicas would wait for all other work of this machine.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas_http.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas_http.stop),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replicas_grpc.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replicas_grpc.stop),
        # A gRPC server reads a whole message before a replica can reject it for its own `maxRequestBytes`.
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_GRPC_BYTES),
        # Serve's gRPC servers listen on all interfaces, even when its HTTP servers get one host.
        "SUNDOG_GRPC_PEERS": "loopback",
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        # Ray rewrites process titles. With this the environment stays readable, which identifies its processes.
        "SPT_NOENV": "1",
    }
