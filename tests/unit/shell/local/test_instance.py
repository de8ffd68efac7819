"""Start, run and stop an instance with stand-ins for Ray and the edge."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sundog_operator.adapters.local.process_table import ProcessCommand, SystemProcessTable
from sundog_operator.adapters.local.processes import Processes, find_marked_processes
from sundog_operator.adapters.local.state_directory import AnotherInstance, StateDirectory, StateDirectoryError
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.errors import RayUnavailable
from sundog_operator.ports import Clock, Kubernetes
from sundog_operator.shell.exit_codes import ExitCode
from sundog_operator.shell.local import instance, state_dir_paths
from sundog_operator.shell.local.instance import (
    STOP_SIGNALS,
    InstanceParts,
    StopRequest,
    run_instance,
    stop_leftover_instance,
)
from sundog_operator.shell.local.views import LineView
from sundog_operator.shell.run_until_signal import handle_signals
from waiting import PATIENCE_S, comes_true


class Stubborn:
    """A controller with one process that ignores SIGTERM; `stop_all` waits long for it."""

    def __init__(self, _kube: Kubernetes, state: Path, clock: Clock, grace_s: float = 0.1) -> None:
        self.processes = Processes(StateDirectory.at(state), SystemProcessTable(), clock)
        self.state = state
        self.grace_s = grace_s
        self.error: Exception | None = None

    async def run(self) -> None:
        if self.error is not None:
            raise self.error
        if await self.processes.running("stubborn") is None:
            code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
            await self.processes.start(
                ProcessCommand(
                    "stubborn", (sys.executable, "-c", code), {}, self.state, self.state / "logs" / "stubborn.log"
                )
            )
        await asyncio.Event().wait()

    async def stop_all(self) -> None:
        await self.processes.stop("stubborn", self.grace_s)


class Silent:
    """Ray and edges that do not respond."""

    async def read(self, asked: Any) -> Any:
        if isinstance(asked, str):
            raise RayUnavailable(asked)
        return []

    async def put(self, dashboard: str, document: Any) -> None:
        raise RayUnavailable(dashboard)


def silent_world(kube: Kubernetes, _session: Any, _token: str, clock: Clock) -> Dependencies:
    return Dependencies(kube, Silent(), Silent(), Silent(), clock)  # type: ignore[arg-type]


@pytest.fixture
def state_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sdi-"))
    yield path
    table = SystemProcessTable()
    for seen in find_marked_processes(StateDirectory.at(path), table):
        table.signal(seen, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(
        "apiVersion: serving.sundog.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: a}\n"
        "spec: {model: {uri: 'file:///v1'}}"
    )
    return folder


def left(path: Path) -> list[int]:
    return [seen.pid for seen in find_marked_processes(StateDirectory.at(path), SystemProcessTable())]


@contextlib.asynccontextmanager
async def running(
    path: Path, manifests: Path, grace_s: float = 0.1
) -> AsyncIterator[tuple[StopRequest, asyncio.Task[ExitCode]]]:
    stop = StopRequest()
    parts = InstanceParts(lambda kube, state, clock: [Stubborn(kube, state, clock, grace_s)], silent_world)
    task = asyncio.create_task(run_instance(path, manifests, stop, LineView(), parts=parts))

    async def is_up() -> bool:
        return task.done() or bool(left(path) and (path / state_dir_paths.KUBECONFIG_FILE).exists())

    await comes_true(is_up, "an instance that runs")
    yield stop, task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


async def test_it_answers_by_its_kubeconfig_and_leaves_nothing(state_dir: Path, manifests: Path, sundog: Any) -> None:
    async with running(state_dir, manifests) as (stop, task):
        assert (state_dir / state_dir_paths.KUBECONFIG_FILE).stat().st_mode & 0o777 == 0o600

        def applied() -> bool:
            return "a " in sundog("get", "--state-dir", str(state_dir)).out

        async with asyncio.timeout(PATIENCE_S):
            while not await asyncio.to_thread(applied):
                pass
        stop.request()
        assert await asyncio.wait_for(task, PATIENCE_S) == ExitCode.OK
    assert left(state_dir) == []
    assert not (state_dir / state_dir_paths.KUBECONFIG_FILE).exists()
    assert not StateDirectory.at(state_dir).is_held()


async def test_asked_twice_it_kills(state_dir: Path, manifests: Path) -> None:
    async with running(state_dir, manifests, grace_s=300) as (stop, task):
        stop.request()
        await asyncio.sleep(0)
        assert not task.done()
        stop.request()
        assert await asyncio.wait_for(task, PATIENCE_S) == ExitCode.INTERRUPTED
    assert left(state_dir) == []


async def test_a_second_one_is_refused_with_the_pid_of_the_first(state_dir: Path, manifests: Path) -> None:
    async with running(state_dir, manifests):
        with pytest.raises(AnotherInstance, match=r"is in use by pid \d+: stop that instance"):
            await run_instance(state_dir, manifests, StopRequest(), LineView())
        assert left(state_dir)


async def test_two_state_directories_run_side_by_side(state_dir: Path, manifests: Path) -> None:
    other = Path(tempfile.mkdtemp(prefix="sdi-"))
    try:
        async with running(state_dir, manifests) as (_, first), running(other, manifests) as (stop, second):
            stop.request()
            assert await asyncio.wait_for(second, PATIENCE_S) == ExitCode.OK
            assert not first.done()
            assert left(state_dir)
        assert left(other) == []
    finally:
        shutil.rmtree(other, ignore_errors=True)


async def test_a_part_that_breaks_ends_the_instance_in_order(state_dir: Path, manifests: Path) -> None:
    def broken(kube: Kubernetes, state: Path, clock: Clock) -> list[Stubborn]:
        healthy, failing = Stubborn(kube, state, clock), Stubborn(kube, state, clock)
        failing.error = StateDirectoryError("the disk is gone")
        return [healthy, failing]

    with pytest.raises(StateDirectoryError, match="the disk is gone"):
        await run_instance(state_dir, manifests, StopRequest(), LineView(), parts=InstanceParts(broken, silent_world))
    assert left(state_dir) == []


async def test_what_a_killed_instance_left_is_taken_down(state_dir: Path, manifests: Path) -> None:
    async with running(state_dir, manifests) as (_, task):
        # As after kill -9: without an orderly stop.
        original, instance.stop_all_processes = instance.stop_all_processes, _nothing  # type: ignore[assignment]
        try:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        finally:
            instance.stop_all_processes = original
    assert left(state_dir)
    assert await stop_leftover_instance(state_dir)
    assert left(state_dir) == []
    assert not await stop_leftover_instance(state_dir)


async def _nothing(*_arguments: Any) -> None:
    return None


def test_down_and_status_show_what_is_there(state_dir: Path, sundog: Any) -> None:
    state_dir_paths.prepare_state_dir(state_dir)
    result = sundog("local", "status", "--state-dir", str(state_dir))
    assert (result.code, result.out) == (ExitCode.NOT_FOUND, f"no instance runs in {state_dir}\n")
    assert sundog("local", "down", "--state-dir", str(state_dir)).out == f"nothing runs in {state_dir}\n"


def test_a_path_that_does_not_exist_is_code_2(sundog: Any, tmp_path: Path) -> None:
    done = sundog("local", "up", str(tmp_path / "absent"))
    assert done.code == ExitCode.USAGE
    assert len(done.err.splitlines()) == 1


async def test_a_signal_that_is_ignored_at_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    try:
        with handle_signals(STOP_SIGNALS, stop.request):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_ends_it_as_ctrl_c_does(state_dir: Path, manifests: Path) -> None:
    code = (
        "import asyncio, signal\n"
        # Whoever runs the tests by nohup has it ignored.
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from sundog_operator.shell.local.instance import STOP_SIGNALS, StopRequest\n"
        "from sundog_operator.shell.run_until_signal import handle_signals\n"
        "async def main():\n"
        "    stop = StopRequest()\n"
        "    with handle_signals(STOP_SIGNALS, stop.request):\n"
        "        print('ready', flush=True)\n"
        "        await stop.end_requested.wait()\n"
        "        print('end', flush=True)\n"
        "        await stop.kill_requested.wait()\n"
        "        print('kill', flush=True)\n"
        "asyncio.run(main())"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout as lines:
        assert lines.readline() == "ready\n"
        child.send_signal(signal.SIGHUP)
        assert lines.readline() == "end\n"
        child.send_signal(signal.SIGINT)
        assert lines.readline() == "kill\n"
    assert child.wait(PATIENCE_S) == 0
