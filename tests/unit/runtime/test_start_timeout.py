"""A start that hangs: it fails in time, the process ends if the model holds the interpreter lock, and the next attempt reports it."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sundog_runtime.arguments import parse_arguments
from sundog_runtime.errors import LoadTimeout, StartError, WarmupTimeout
from sundog_runtime.replica import Replica, _attempts
from sundog_runtime.start_timeout import REPORT_WINDOW_S, StartAttempts
from waiting import PATIENCE_S

LATE = LoadTimeout("loading did not end within 3 s")

HOLDS_THE_LOCK = """
import ctypes


class Predictor:
    def load(self, path, config):
        {load}

    def configure(self, user_config):
        {configure}

    def example(self):
        return [[1.0]]

    def predict(self, batch):
        {predict}
"""
FOR_EVER = "ctypes.PyDLL(None).pause()"
"""Sleep in C while holding the lock. A regular expression or a loop of numpy would do the same, and burn a core as well."""

BUILD = """
import json, sys
from sundog_runtime.serve import build

made = [build(json.loads(sys.argv[1]))._bound_deployment.init_args for _ in range(2)]
print(json.dumps(made))
"""

START = """
import asyncio, json, os, sys
from sundog_runtime import start_timeout
from sundog_runtime.formats import device, load
from sundog_runtime.replica import Replica

start_timeout._GRACE_SECONDS = 0.0


async def start():
    os.environ["SUNDOG_LOAD_MAX_SECONDS"] = sys.argv[2]
    replica = await Replica.start(json.loads(sys.argv[1]), "1")
    os.environ["SUNDOG_LOAD_MAX_SECONDS"] = "2"
    await replica.reconfigure(None)


asyncio.run(start())
"""


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def never() -> None:
    await asyncio.Event().wait()


async def test_an_attempt_that_ends_in_time_leaves_no_file(tmp_path: Path) -> None:
    attempts = StartAttempts(tmp_path / "starts", "digits")

    async def seven() -> int:
        return 7

    assert await attempts.run_with_timeout(seven(), PATIENCE_S, LATE) == 7
    assert left(tmp_path / "starts") == []
    attempts.raise_last_timeout()


async def test_an_attempt_that_fails_in_time_leaves_no_file(tmp_path: Path) -> None:
    async def fails() -> None:
        raise TimeoutError("of the model's own")

    with pytest.raises(TimeoutError, match="of the model's own"):
        await StartAttempts(tmp_path / "starts", "digits").run_with_timeout(fails(), PATIENCE_S, LATE)
    assert left(tmp_path / "starts") == []


@pytest.mark.parametrize("late", [LATE, WarmupTimeout("4 warm-up requests did not end within 1 s")])
async def test_a_timeout_is_raised_by_the_next_attempt_of_its_revision(tmp_path: Path, late: StartError) -> None:
    now = time.time()
    with pytest.raises(type(late)):
        await StartAttempts(tmp_path, "digits").run_with_timeout(never(), 0.01, late)

    def at(seconds: float, revision: str = "digits") -> None:
        StartAttempts(tmp_path, revision, clock=lambda: now + seconds).raise_last_timeout()

    with pytest.raises(type(late), match=f"^{late}$"):
        at(1)
    at(1, "ocr")
    at(-3600)
    at(REPORT_WINDOW_S + 60)
    assert len(left(tmp_path)) == 1
    at(86_400 * 2, "ocr")
    assert left(tmp_path) == []


async def test_an_attempt_in_progress_is_not_reported(tmp_path: Path) -> None:
    under_way = asyncio.create_task(StartAttempts(tmp_path, "digits").run_with_timeout(never(), PATIENCE_S, LATE))
    await asyncio.sleep(0)
    assert len(left(tmp_path)) == 1
    StartAttempts(tmp_path, "digits").raise_last_timeout()
    under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await under_way
    assert left(tmp_path) == []


async def test_a_folder_that_cannot_be_created_does_not_prevent_a_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    attempts = StartAttempts(tmp_path / "file", "digits")
    attempts.raise_last_timeout()
    with pytest.raises(LoadTimeout):
        await attempts.run_with_timeout(never(), 0.01, LATE)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("load", "loading did not end within 2 s"),
        ("configure", "configure did not end within 2 s"),
        ("predict", "4 warm-up requests did not end within 2 s"),
    ],
)
def test_a_model_that_holds_the_lock_is_ended_and_reported(
    python_model: Callable[[str], Path], args: Any, part: str, message: str
) -> None:
    code = {"load": "pass", "configure": "pass", "predict": "return batch"} | {part: FOR_EVER}
    root = python_model(HOLDS_THE_LOCK.format(**code))
    wanted = args(root, "predictor:Predictor", warmup={"timeoutSeconds": 2.0})
    ended = subprocess.run(
        # Only the hanging phase has a short timeout, because the machine may be busy.
        [sys.executable, "-c", START, json.dumps(wanted), "2" if part == "load" else "600"],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    lines = (root / "predictor.py").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if FOR_EVER in text)
    with pytest.raises(StartError) as raised:
        asyncio.run(Replica.start(wanted, "1"))
    assert raised.value.message == (
        f"{message}: {part} at predictor.py:{line} held Python's interpreter lock, so the process was ended"
    )
    assert type(raised.value) is (WarmupTimeout if part == "predict" else LoadTimeout)


async def test_a_new_build_is_a_real_attempt(torch_model: Path, args: Any) -> None:
    wanted = args(torch_model)
    with pytest.raises(LoadTimeout):
        await _attempts(parse_arguments(wanted), "1").run_with_timeout(never(), 0.01, LATE)
    with pytest.raises(LoadTimeout, match=f"^{LATE}$"):
        await Replica.start(wanted, "1")
    (await Replica.start(wanted, "2")).close()


def test_every_build_of_an_application_has_a_name_of_its_own(args: Any) -> None:
    wanted = args(Path("/m"))
    done = subprocess.run(
        [sys.executable, "-c", BUILD, json.dumps(wanted)], capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    (first, name), (second, other) = json.loads(done.stdout.splitlines()[-1])
    assert first == second == wanted
    assert name != other
