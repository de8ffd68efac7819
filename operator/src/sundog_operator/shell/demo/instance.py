"""The local instance that the demo talks to: `sundog local up` as a process of its own, used as anybody would use it."""

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
_STOP_S: Final = 60.0
_KILL_S: Final = 10.0
_LOG_LINES: Final = 5


def find_sundog_command() -> str:
    """The command `sundog` of this installation, or, when it is installed for one user only, the one on the PATH."""
    own = Path(sysconfig.get_path("scripts"), "sundog")
    return str(own) if own.exists() else shutil.which("sundog") or str(own)


@dataclass(slots=True)
class DemoInstance:
    """A running `sundog local up`. `log` gets all that it prints."""

    state_dir: Path
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, manifest: Path, state_dir: Path, log: Path) -> "DemoInstance":
        """Start it, away from our terminal: Ctrl-C reaches it only through us."""
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
        """Raises CommandFailed with the last lines of its log when the process has ended."""
        if self.process.poll() is not None:
            raise CommandFailed(f"`sundog local up` ended with status {self.process.returncode}: {self.last_lines()}")

    def last_lines(self) -> str:
        """The end of the log, as one line."""
        lines = self.log.read_text(errors="replace").splitlines()
        return one_line(" | ".join(lines[-_LOG_LINES:])) or f"{self.log} is empty"

    async def run(self, *arguments: str) -> str:
        """Run a verb of `sundog` against this instance; what it prints. Raises CommandFailed."""
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
            raise CommandFailed(f"`sundog {' '.join(arguments)}` ended with status {child.returncode}: {text}")
        return text

    async def stop(self) -> None:
        """End it as Ctrl-C would, and see that nothing of it is left. Raises CommandFailed when something was or is."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        problem = ""
        try:
            await asyncio.to_thread(self.process.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            problem = f"`sundog local up` did not end within {_STOP_S:.0f} s of Ctrl-C and was killed; "
        left = await asyncio.to_thread(_left, self.state_dir)
        if left:
            await asyncio.to_thread(_kill_left, self.state_dir)
            pids = ", ".join(str(pid) for pid in left[:8])
            problem += f"it left {len(left)} processes behind (pid {pids}), which were killed"
        if problem:
            raise CommandFailed(f"{problem}: {self.last_lines()}")


def _left(state_dir: Path) -> list[int]:
    return [seen.pid for seen in find_marked_processes(StateDirectory.at(state_dir), SystemProcessTable())]


def _kill_left(state_dir: Path) -> None:
    table = SystemProcessTable()
    deadline = time.monotonic() + _KILL_S
    while (found := find_marked_processes(StateDirectory.at(state_dir), table)) and time.monotonic() < deadline:
        for seen in found:
            table.signal(seen, signal.SIGKILL)
        time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class DeploymentSnapshot:
    """The ModelDeployment at one moment. `current`: its status speaks of the newest spec."""

    status: ModelDeploymentStatus
    current: bool

    @classmethod
    def of(cls, obj: Object) -> "DeploymentSnapshot":
        """Read a stored object."""
        status = ModelDeploymentStatus.parse(obj.get("status"))
        return cls(status, status.observed_generation == obj["metadata"].get("generation"))

    def condition(self, type_: str) -> Condition | None:
        """A condition by its type."""
        return next((condition for condition in self.status.conditions if condition.type == type_), None)

    def is_true(self, type_: str) -> bool:
        """Whether a condition is True."""
        condition = self.condition(type_)
        return condition is not None and condition.status == "True"

    @property
    def weights(self) -> dict[int, int]:
        """Configured percent of traffic by revision."""
        shown = (self.status.stable, self.status.candidate)
        return {revision.revision: int(revision.weight) for revision in shown if revision is not None}

    def explain(self) -> str:
        """Where it stands, in one line."""
        told = [
            f"{c.type}={c.status} {c.reason}: {c.message}" for c in self.status.conditions if c.type != "SpecAccepted"
        ]
        return one_line("; ".join(told)) or "no status yet"


@dataclass(slots=True)
class WatchedDeployment:
    """The demo's ModelDeployment, as the API server of an instance tells."""

    instance: DemoInstance
    kube: KubernetesClient

    async def look(self) -> DeploymentSnapshot | None:
        """The ModelDeployment now; None while there is none. Raises DependencyError, and CommandFailed for a dead instance."""
        self.instance.check()
        obj = await self.kube.get(Ref(MODEL_DEPLOYMENT, NAMESPACE, DEPLOYMENT_NAME))
        return None if obj is None else DeploymentSnapshot.of(obj)

    async def until(self, holds: Callable[[DeploymentSnapshot], Any], what: str, within_s: float) -> DeploymentSnapshot:
        """Wait for something to be so. Raises CommandFailed with what was there instead."""
        seen: DeploymentSnapshot | None = None
        try:
            async with asyncio.timeout(within_s):
                while True:
                    seen = await self.look()
                    if seen is not None and holds(seen):
                        return seen
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            found = seen.explain() if seen else "there is no ModelDeployment"
            raise CommandFailed(f"{what} was not reached within {within_s:.0f} s: {found}") from None


@contextlib.asynccontextmanager
async def watch_deployment(instance: DemoInstance, within_s: float) -> AsyncIterator[WatchedDeployment]:
    """Connect to an instance as kubectl would, by its kubeconfig, as soon as it answers. Raises CommandFailed."""
    kube = await _connect(instance, within_s)
    try:
        yield WatchedDeployment(instance, kube)
    finally:
        await kube.close()


async def _connect(instance: DemoInstance, within_s: float) -> KubernetesClient:
    problem = "it wrote no kubeconfig"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
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
    raise CommandFailed(f"`sundog local up` did not answer within {within_s:.0f} s: {problem}: {instance.last_lines()}")
