"""Start and stop a local instance, replaced by programs that misbehave."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sundog_operator.adapters.local.process_table import MARK_ENV_VAR
from sundog_operator.shell.demo import instance, scenario
from sundog_operator.shell.demo.instance import DemoInstance, DeploymentSnapshot, watch_deployment
from sundog_operator.shell.exit_codes import CommandFailed
from waiting import PATIENCE_S

Start = Callable[[str], DemoInstance]


@pytest.fixture
def state_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sdd-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state_dir: Path) -> Iterator[Start]:
    """Start a Python program as if it were `sundog`."""
    started: list[DemoInstance] = []

    def run(code: str) -> DemoInstance:
        program = tmp_path / "sundog"
        program.write_text(f"#!{sys.executable}\nimport os, signal, subprocess, sys, time\n{code}\n")
        program.chmod(0o755)
        monkeypatch.setattr(instance, "find_sundog_command", lambda: str(program))
        started.append(DemoInstance.start(tmp_path / "digits.yaml", state_dir, tmp_path / "log"))
        return started[-1]

    yield run
    for each in started:
        each.process.kill()
        each.process.wait()


async def wait_for_output(found: DemoInstance, text: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if text in found.log.read_text():
                return
            await asyncio.sleep(0.02)


async def test_one_that_ends_at_once_is_shown_with_its_last_words(start: Start) -> None:
    found = start("print('error: port 1 is taken'); sys.exit(4)")
    with pytest.raises(CommandFailed, match=r"ended with status 4: error: port 1 is taken"):
        async with watch_deployment(found, PATIENCE_S):
            pass


async def test_one_that_never_answers_is_given_up(start: Start) -> None:
    found = start("print('starting', flush=True); time.sleep(60)")
    await wait_for_output(found, "starting")
    with pytest.raises(CommandFailed, match=r"did not respond within 0 s: it wrote no kubeconfig: starting"):
        async with watch_deployment(found, 0.3):
            pass


async def test_ctrl_c_ends_it(start: Start) -> None:
    found = start("signal.signal(signal.SIGINT, lambda *_: sys.exit(0)); print('up', flush=True); time.sleep(60)")
    await wait_for_output(found, "up")
    await found.stop()
    assert found.process.returncode == 0


async def test_one_that_does_not_end_is_killed_without_success(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "_STOP_TIMEOUT_S", 0.2)
    found = start("signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(60)")
    await wait_for_output(found, "up")
    with pytest.raises(CommandFailed, match="did not end within 0 s of Ctrl-C and was killed"):
        await found.stop()
    assert found.process.wait(PATIENCE_S) == -9


async def test_what_it_leaves_behind_is_killed_and_that_is_no_success(start: Start, state_dir: Path) -> None:
    found = start(
        f"child = subprocess.Popen(['sleep', '60'], env={{**os.environ, {MARK_ENV_VAR!r}: '{state_dir}|ray-0|x'}})\n"
        "print(child.pid, 'up', flush=True)\n"
        "signal.signal(signal.SIGINT, lambda *_: os._exit(0))\ntime.sleep(60)"
    )
    await wait_for_output(found, "up")
    pid = int(found.log.read_text().split()[0])
    with pytest.raises(CommandFailed, match=rf"left 1 processes behind \(pid {pid}\), which were killed"):
        await found.stop()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_a_verb_that_fails_is_shown_with_its_output(start: Start) -> None:
    found = start("print('error: no rollout', file=sys.stderr); sys.exit(1)")
    with pytest.raises(CommandFailed, match=r"`sundog promote digits` failed with status 1: error: no rollout"):
        await found.run("promote", "digits")


async def test_a_verb_knows_which_instance_is_meant(start: Start, state_dir: Path) -> None:
    found = start("print(os.environ['SUNDOG_STATE_DIR'], *sys.argv[1:])")
    assert await found.run("promote", "digits") == f"{state_dir} promote digits"


def test_a_status_of_an_older_spec_is_not_current() -> None:
    obj = {
        "metadata": {"generation": 2},
        "status": {
            "observedGeneration": 1,
            "stable": {"revision": 1, "weight": 75},
            "candidate": {"revision": 2, "weight": 25},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Serving",
                    "message": "revision 1 serves",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        },
    }
    snapshot = DeploymentSnapshot.of(obj)
    assert not snapshot.current
    assert snapshot.weights == {1: 75, 2: 25}
    assert snapshot.is_true("Ready")
    assert not snapshot.is_true("Stalled")
    assert snapshot.explain() == "Ready=True Serving: revision 1 serves"
    assert DeploymentSnapshot.of({"metadata": {"generation": 1}}).explain() == "no status yet"


def snapshot(weights: dict[str, Any], synced: str = "True") -> DeploymentSnapshot:
    condition = {
        "type": "TrafficSynced",
        "status": synced,
        "reason": "Seen",
        "lastTransitionTime": "2026-12-01T00:00:00Z",
    }
    return DeploymentSnapshot.of(
        {"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [condition], **weights}}
    )


@pytest.mark.parametrize(
    ("weights", "synced", "expected"),
    [
        ({"stable": {"revision": 1, "weight": 0}, "candidate": {"revision": 2, "weight": 100}}, "True", True),
        ({"stable": {"revision": 2, "weight": 100}}, "True", True),
        ({"stable": {"revision": 2, "weight": 100}}, "Unknown", False),
        ({"stable": {"revision": 1, "weight": 50}, "candidate": {"revision": 2, "weight": 50}}, "True", False),
        ({"stable": {"revision": 1, "weight": 100}}, "True", False),
    ],
)
def test_a_revision_has_all_traffic_before_it_is_stable(weights: dict[str, Any], synced: str, expected: bool) -> None:
    assert scenario._has_all_traffic(snapshot(weights, synced), 2) is expected
