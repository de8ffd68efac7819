"""The local instance of the demo: `sundog local up` as a separate process, used through its public interfaces."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.local.process_table import SystemProcessTable
from sundog_operator.adapters.local.processes import find_marked_processes
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.api import Condition, ModelDeploymentStatus
from sundog_operator.errors import DependencyError
from sundog_operator.ports import MODEL_DEPLOYMENT, Object, Ref
from sundog_operator.shell.demo.manifest import DEPLOYMENT_NAME, NAMESPACE
from sundog_operator.shell.exit_codes import CommandFailed, one_line

_POLL_S: Final = 0.2
_STOP_TIMEOUT_S: Final = 60.0
_KILL_TIMEOUT_S: Final = 10.0
_LOG_LINES: Final = 5


def find_sundog_command() -> str:
    """Return the command `sundog` of this installation; after an installation for one user, the one on the PATH."""
    own = Path(sysconfig.get_path("scripts"), "sundog")
    return str(own) if own.exists() else shutil.which("sundog") or str(own)


@dataclass(slots=True)
class DemoInstance:
    """A running `sundog local up`. `log` gets its output."""

    state_dir: Path
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, manifest: Path, state_dir: Path, log: Path) -> "DemoInstance":
        """Start an instance in a session of its own: Ctrl-C in our terminal does not reach it."""
        command = [find_sundog_command(), "local", "up", str(manifest), "--state-dir", str(state_dir)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(state_dir, log, process)

    def check(self) -> None:
        """Raise CommandFailed with the last lines of its log if the process has ended."""
        if self.process.poll() is not None:
            raise CommandFailed(f"`sundog local up` ended with status {self.process.returncode}: {self.last_lines()}")

    def last_lines(self) -> str:
        """Return the end of the log as one line."""
        lines = self.log.read_text(errors="replace").splitlines()
        return one_line(" | ".join(lines[-_LOG_LINES:])) or f"{self.log} is empty"

    async def run(self, *arguments: str) -> str:
        """Run a `sundog` command for this instance and return its output. Raises CommandFailed."""
        child = await asyncio.create_subprocess_exec(
            find_sundog_command(),
            *arguments,
            env={**os.environ, "SUNDOG_STATE_DIR": str(self.state_dir)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await child.communicate()
        text = one_line(output.decode(errors="replace"))
        if child.returncode:
            raise CommandFailed(f"`sundog {' '.join(arguments)}` failed with status {child.returncode}: {text}")
        return text

    async def stop(self) -> None:
        """Stop the instance as Ctrl-C does. Raises CommandFailed if it did not stop in time or left processes."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        problem = ""
        try:
            await asyncio.to_thread(self.process.wait, _STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            problem = f"`sundog local up` did not end within {_STOP_TIMEOUT_S:.0f} s of Ctrl-C and was killed; "
        leftovers = await asyncio.to_thread(_find_leftovers, self.state_dir)
        if leftovers:
            await asyncio.to_thread(_kill_leftovers, self.state_dir)
            pids = ", ".join(str(pid) for pid in leftovers[:8])
            problem += f"it left {len(leftovers)} processes behind (pid {pids}), which were killed"
        if problem:
            raise CommandFailed(f"{problem}: {self.last_lines()}")


def _find_leftovers(state_dir: Path) -> list[int]:
    return [process.pid for process in find_marked_processes(StateDirectory.at(state_dir), SystemProcessTable())]


def _kill_leftovers(state_dir: Path) -> None:
    table = SystemProcessTable()
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while (leftovers := find_marked_processes(StateDirectory.at(state_dir), table)) and time.monotonic() < deadline:
        for process in leftovers:
            table.signal(process, signal.SIGKILL)
        time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class DeploymentSnapshot:
    """The ModelDeployment at one moment. `current`: its status is of the newest spec."""

    status: ModelDeploymentStatus
    current: bool

    @classmethod
    def of(cls, obj: Object) -> "DeploymentSnapshot":
        """Parse a stored object."""
        status = ModelDeploymentStatus.parse(obj.get("status"))
        return cls(status, status.observed_generation == obj["metadata"].get("generation"))

    def condition(self, type_: str) -> Condition | None:
        """Return a condition by its type; None if there is none."""
        return next((condition for condition in self.status.conditions if condition.type == type_), None)

    def is_true(self, type_: str) -> bool:
        """Report whether a condition is True."""
        condition = self.condition(type_)
        return condition is not None and condition.status == "True"

    @property
    def weights(self) -> dict[int, int]:
        """Configured percent of traffic by revision."""
        revisions = (self.status.stable, self.status.candidate)
        return {revision.revision: int(revision.weight) for revision in revisions if revision is not None}

    def find_wait_reason(self) -> str:
        """Return what the newest revision waits for; empty if nothing is known."""
        condition = self.condition("RevisionReady")
        return "" if condition is None or condition.status == "True" else condition.message

    def explain(self) -> str:
        """Return its conditions in one line."""
        conditions = [
            f"{c.type}={c.status} {c.reason}: {c.message}" for c in self.status.conditions if c.type != "SpecAccepted"
        ]
        return one_line("; ".join(conditions)) or "no status yet"


@dataclass(slots=True)
class WatchedDeployment:
    """The demo's ModelDeployment in the API server of an instance."""

    instance: DemoInstance
    kube: KubernetesClient

    async def read(self) -> DeploymentSnapshot | None:
        """Return its present state; None while it does not exist. Raises DependencyError, and CommandFailed for a dead instance."""
        self.instance.check()
        obj = await self.kube.get(Ref(MODEL_DEPLOYMENT, NAMESPACE, DEPLOYMENT_NAME))
        return None if obj is None else DeploymentSnapshot.of(obj)

    async def until(
        self,
        holds: Callable[[DeploymentSnapshot], Any],
        what: str,
        timeout_s: float,
        show: Callable[[DeploymentSnapshot], None] = lambda _: None,
    ) -> DeploymentSnapshot:
        """Wait until a state holds and return it; `show` gets each state before. Raises CommandFailed after a timeout."""
        snapshot: DeploymentSnapshot | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    snapshot = await self.read()
                    if snapshot is not None:
                        if holds(snapshot):
                            return snapshot
                        show(snapshot)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            found = snapshot.explain() if snapshot else "the ModelDeployment does not exist"
            raise CommandFailed(f"{what} was not reached within {timeout_s:.0f} s: {found}") from None


@contextlib.asynccontextmanager
async def watch_deployment(instance: DemoInstance, timeout_s: float) -> AsyncIterator[WatchedDeployment]:
    """Connect to an instance by its kubeconfig when it responds. Raises CommandFailed."""
    kube = await _connect(instance, timeout_s)
    try:
        yield WatchedDeployment(instance, kube)
    finally:
        await kube.close()


async def _connect(instance: DemoInstance, timeout_s: float) -> KubernetesClient:
    problem = "it wrote no kubeconfig"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while True:
                instance.check()
                if (instance.state_dir / "kubeconfig").exists():
                    kube = await KubernetesClient.connect(instance.state_dir / "kubeconfig")
                    try:
                        await kube.list(MODEL_DEPLOYMENT, NAMESPACE)
                    except DependencyError as error:
                        problem = one_line(error)
                        await kube.close()
                    else:
                        return kube
                await asyncio.sleep(_POLL_S)
    raise CommandFailed(
        f"`sundog local up` did not respond within {timeout_s:.0f} s: {problem}: {instance.last_lines()}"
    )
