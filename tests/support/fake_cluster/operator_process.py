"""`sundog-operator` as a process, as in a pod."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from waiting import PATIENCE_S, patience

SUPPORT = Path(__file__).parents[1]
# Names of Services are found on loopback; the rest is what the installed script does.
_MAIN = """
from fake_cluster.addresses import install
install()
from sundog_operator.shell.operator import main
main()
"""
_PORT = re.compile(r'"serving probes and metrics on port (\d+)"')


@dataclass
class OperatorProcess:
    """A running operator: its process, its log, and where its endpoints are."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    def lines(self) -> list[dict[str, Any]]:
        """Return the log records so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text of an endpoint; status 0 without an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=patience(5)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def leads(self) -> bool:
        """Return whether it leads, by its metric."""
        return self.metric("leader_election_master_status") == 1

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            found = re.match(r"([a-z_]+)(?:\{(.*)\})? (\S+)$", line)
            if found and found[1] == name and all(f'{k}="{v}"' in (found[2] or "") for k, v in labels.items()):
                total += float(found[3])
        return total

    def requests(self) -> dict[str, float]:
        """Return requests to the API server so far, by method."""
        found = dict.fromkeys(("GET", "POST", "PATCH", "PUT", "DELETE"), 0.0)
        for method, number in re.findall(
            r'^rest_client_requests_total{.*method="([A-Z]+)"} (\S+)$', self.get("/metrics")[1], re.MULTILINE
        ):
            found[method] += float(number)
        return found

    def cpu_s(self) -> float:
        """Return CPU seconds so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def peak_mib(self) -> float:
        """Return its peak memory."""
        (line,) = [
            each
            for each in Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            if each.startswith("VmHWM")
        ]
        return int(line.split()[1]) / 1024

    def resident_mib(self) -> float:
        """Return its present memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20

    def end(self, number: signal.Signals = signal.SIGTERM, within: float = PATIENCE_S) -> int:
        """Send a signal, wait, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within)


@contextmanager
def running_operator(
    folder: Path, kubeconfig: Path, *options: str, identity: str = "a", installation: str = ""
) -> Iterator[OperatorProcess]:
    """Run one until the context ends. `options` go to the command line, `installation` is the file's text."""
    config, log = folder / f"{identity}.yaml", folder / f"{identity}.log"
    config.write_text(installation)
    arguments = [
        "--config",
        str(config),
        "--kubeconfig",
        str(kubeconfig),
        "--identity",
        identity,
        "--host",
        "127.0.0.1",
    ]
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, *arguments, "--port", "0", *options],
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": path},
        )
    operator = OperatorProcess(process, log)
    try:
        wait_until(lambda: bool(_PORT.search(log.read_text())), f"an operator that answers: {log}", alive=operator)
        operator.port = int(_PORT.findall(log.read_text())[-1])
        yield operator
    finally:
        with contextlib.suppress(Exception):
            operator.end(within=patience(15))
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_until(
    reached: Callable[[], bool],
    what: str,
    within: float = PATIENCE_S,
    alive: OperatorProcess | None = None,
    every: float = 0.05,
) -> float:
    """Wait for a condition; how long it took. Fails with what was waited for."""
    began = time.monotonic()
    while not reached():
        if alive is not None and alive.process.poll() is not None:
            raise AssertionError(f"the operator ended with {alive.process.returncode}: {alive.log.read_text()[-2000:]}")
        if time.monotonic() - began > within:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(every)
    return time.monotonic() - began
