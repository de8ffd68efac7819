"""A real Ray with Serve, isolated from every other Ray on the machine."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ports import free_ports
from waiting import PATIENCE_S, eventually, patience

_MARK = "SUNDOG_TEST_RAY"
_LOOPBACK = "127.0.0.1"
_UNREGISTERED = "Failed to get node info"
_REPLICA_PORTS = 100
_OBJECT_STORE_BYTES = 100_000_000
_RAY = str(Path(sys.executable).with_name("ray"))
_NODE_PORTS = (
    *("node-manager-port", "object-manager-port", "metrics-export-port", "runtime-env-agent-port"),
    *("dashboard-agent-listen-port", "dashboard-agent-grpc-port"),
)


@dataclass
class RayServe:
    """A running Ray head with direct ingress. Applications are replaced as a whole with `put`."""

    dashboard: str
    fallback: str
    directory: Path
    metrics: str = ""
    http_options: dict[str, Any] = field(default_factory=dict)
    grpc_options: dict[str, Any] = field(default_factory=dict)
    address: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def request(self, method: str, url: str, document: Any = None) -> Any:
        """The JSON of an answer, None for an empty one. Raises urllib's HTTPError for 4xx and 5xx."""
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def put(self, document: Mapping[str, Any]) -> None:
        """PUT the application list, again while Serve itself is still starting.

        Options of the HTTP server and the proxy's place are filled in. Raises urllib's HTTPError for what Serve refuses.
        """
        whole = {
            "proxy_location": "HeadOnly",
            "http_options": self.http_options,
            "grpc_options": self.grpc_options,
            **document,
        }

        def accepted() -> bool:
            try:
                self.request("PUT", f"{self.dashboard}/api/serve/applications/", whole)
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise
                error.close()
                return False
            return True

        eventually(accepted, "Serve takes the applications")

    def get(self) -> dict[str, Any]:
        """Return the applications that Serve reports."""
        state: dict[str, Any] = self.request("GET", f"{self.dashboard}/api/serve/applications/")
        return state

    def application(self, name: str) -> dict[str, Any]:
        """Return one application's state; empty if Serve has none of that name."""
        found: dict[str, Any] = self.get()["applications"].get(name, {})
        return found

    def wait_running(self, name: str) -> dict[str, Any]:
        """Wait until the application is RUNNING. Raises AssertionError with its messages if it fails."""

        def running() -> dict[str, Any] | None:
            state = self.application(name)
            messages = [deployment["message"] for deployment in state.get("deployments", {}).values()]
            assert state.get("status") != "DEPLOY_FAILED", (state["message"], messages)
            return state if state.get("status") == "RUNNING" else None

        return eventually(running, f"application {name} RUNNING")

    def replicas(self, name: str, protocol: str = "HTTP") -> list[str]:
        """`host:port` of the application's own replicas, for HTTP or gRPC; the fallback proxies are none."""
        proxies = (self.http_options["port"], self.grpc_options["port"])
        return [
            f"{_LOOPBACK}:{target['port']}"
            for group in self.get()["target_groups"]
            if group["app_name"] == name and group["protocol"] == protocol
            for target in group["targets"]
            if target["port"] not in proxies
        ]

    def add_node(self, labels: Mapping[str, str], resources: Mapping[str, str]) -> psutil.Process:
        """Start another Ray node, as KubeRay does for a pod of a worker group. Return its first process."""
        ports = dict(zip(_NODE_PORTS, free_ports(len(_NODE_PORTS)), strict=True))
        options = {
            "address": self.address,
            "node-ip-address": _LOOPBACK,
            **ports,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "num-cpus": resources["CPU"],
            "num-gpus": resources["GPU"],
            "memory": resources["memory"],
            "labels": ",".join(f"{key}={value}" for key, value in labels.items()),
            "object-store-memory": _OBJECT_STORE_BYTES,
            "include-log-monitor": "false",
        }
        before = self._raylets()
        command = [_RAY, "start", *(f"--{name}={value}" for name, value in options.items())]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (added,) = self._raylets() - before
        return added

    def _raylets(self) -> set[psutil.Process]:
        found = set()
        for process in _processes(self.environment[_MARK], self.directory):
            with contextlib.suppress(psutil.Error):
                if process.name() == "raylet":
                    found.add(process)
        return found


def end_node(first: psutil.Process) -> None:
    """End a node without notice, with everything that runs there."""
    processes = [*first.children(recursive=True), first]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=PATIENCE_S)


@contextlib.contextmanager
def running_ray(environment: Mapping[str, str] | None = None) -> Iterator[RayServe]:
    """A Ray head of our own. Afterwards none of its processes is left, which is checked.

    `environment` is added to that of all its processes, and may change what stands there.
    """
    # Unix sockets have paths of at most 107 bytes, and Ray adds some 60.
    directory = Path(tempfile.mkdtemp(prefix="sd-ray-"))
    mark = uuid.uuid4().hex
    try:
        yield _start(directory, mark, environment or {})
    finally:
        left = _stop(mark, directory)
        shutil.rmtree(directory, ignore_errors=True)
        assert not left, f"Ray processes survived SIGKILL: {left}"


def _start(directory: Path, mark: str, more: Mapping[str, str]) -> RayServe:
    gcs, dashboard, client, agent, agent_grpc, env_agent, metrics, node, objects, http, grpc, *metrics_ports = (
        free_ports(13)
    )
    head_metrics, scaler_metrics = metrics_ports
    first = random.randrange(20_000, 32_000 - 2 * _REPLICA_PORTS)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        _MARK: mark,
        "TMPDIR": str(directory),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # By Ray's own, 15, load generators and all other work of the machine come before replicas, which is not so in a pod.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _REPLICA_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + _REPLICA_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 2 * _REPLICA_PORTS),
        "SUNDOG_GRPC_PEERS": "loopback",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "DASHBOARD_METRIC_PORT": str(head_metrics),
        "AUTOSCALER_METRIC_PORT": str(scaler_metrics),
        **more,
    }
    options = {
        "node-ip-address": _LOOPBACK,
        "port": gcs,
        "dashboard-host": _LOOPBACK,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "runtime-env-agent-port": env_agent,
        "metrics-export-port": metrics,
        "node-manager-port": node,
        "object-manager-port": objects,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": directory,
        "num-cpus": 4,
        "num-gpus": 0,
        "object-store-memory": _OBJECT_STORE_BYTES,
        "include-log-monitor": "false",
    }
    command = [
        _RAY,
        "start",
        "--head",
        "--disable-usage-stats",
        *(f"--{name}={value}" for name, value in options.items()),
    ]

    def began() -> bool:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        # Ray gives its node 30 s to register, which nothing lengthens; a busy machine may take longer.
        assert done.returncode == 0 or _UNREGISTERED in done.stderr + done.stdout, done.stdout + done.stderr
        if done.returncode:
            _stop(mark, directory)
        return done.returncode == 0

    eventually(began, "Ray's head")
    started = RayServe(
        dashboard=f"http://{_LOOPBACK}:{dashboard}",
        fallback=f"{_LOOPBACK}:{http}",
        directory=directory,
        metrics=f"{_LOOPBACK}:{metrics}",
        http_options={"host": _LOOPBACK, "port": http},
        grpc_options={
            "port": grpc,
            "grpc_servicer_functions": ["sundog_runtime.protocol.grpc_service.add_to_server"],
            "enable_reflection": False,
        },
        address=f"{_LOOPBACK}:{gcs}",
        environment=environment,
    )
    eventually(lambda: _answers(started), "Serve's REST API")
    return started


def _answers(ray: RayServe) -> bool:
    try:
        ray.get()
    except (urllib.error.URLError, OSError):
        return False
    return True


def _processes(mark: str, directory: Path) -> set[psutil.Process]:
    """This Ray's processes: with its mark in their environment or its files open, and all their descendants.

    The mark alone is not enough: Ray's agents write their titles over their environment.
    """
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and (_has_mark(process, mark) or _has_open(process, directory)):
                found.add(process)
    for process in list(found):
        with contextlib.suppress(psutil.Error):
            found.update(process.children(recursive=True))
    return found - {psutil.Process()}


def _has_mark(process: psutil.Process, mark: str) -> bool:
    return process.environ().get(_MARK) == mark


def _has_open(process: psutil.Process, directory: Path) -> bool:
    return any(Path(file.path).is_relative_to(directory) for file in process.open_files())


def _stop(mark: str, directory: Path) -> set[psutil.Process]:
    """Kill this Ray's processes until there are none; those that are left when the time is over."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := _processes(mark, directory)) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=patience(5))
    return found
