"""Runs of pytest that are supervised, and end in every way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from waiting import PATIENCE_S, eventually

SUPPORT = Path(__file__).parents[1] / "support"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are adopted on Linux only")

DAEMON = """
import os, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path({here!r})

def daemon():
    code = "import os, time; os.setsid(); os.fork() and os._exit(0); open({pid!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    subprocess.run([sys.executable, "-c", code], check=True)
    while not Path({pid!r}).exists() or not Path({pid!r}).read_text():
        time.sleep(0.01)
"""
FORGETS = "def test_one(): daemon()"
LITTERS = "def test_one(): (HERE / 'litter').write_text(tempfile.mkstemp()[1])"
FAILS = "def test_one(tmp_path): (tmp_path / 'kept').touch(); assert False"
HANGS = """
import pytest

@pytest.fixture
def fixture():
    daemon()
    yield
    (HERE / "torn-down").touch()

def test_one(fixture):
    (HERE / "child").write_text(str(os.getpid()))
    (HERE / "temporary").write_text(tempfile.gettempdir())
    (HERE / "ready").touch()
    time.sleep(600)
"""


class Run:
    """pytest on one module, in a folder of its own."""

    def __init__(self, folder: Path, test: str, *shell: str) -> None:
        self.folder, self.pid = folder, folder / "pid"
        (folder / "test_it.py").write_text(DAEMON.format(here=str(folder), pid=str(self.pid)) + test)
        command = (*shell, sys.executable, "-m", "pytest", "-p", "supervisor", "-p", "no:cacheprovider", "test_it.py")
        environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def ends(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output

    def number(self, name: str) -> int:
        return int((self.folder / name).read_text())


@pytest.fixture
def hanging(tmp_path: Path) -> Run:
    run = Run(tmp_path, HANGS)
    eventually((tmp_path / "ready").exists, "the test being at work")
    return run


def test_a_process_that_is_left_is_ended_and_fails_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, FORGETS)
    code, output = run.ends()
    assert code == 1
    assert f"left behind by the tests: process {run.number('pid')}" in output
    assert not psutil.pid_exists(run.number("pid"))


def test_temporary_files_go_with_the_run(tmp_path: Path) -> None:
    code, output = Run(tmp_path, LITTERS).ends()
    assert code == 0, output
    assert not Path((tmp_path / "litter").read_text()).exists()


def test_the_folders_of_a_failed_test_are_kept(tmp_path: Path) -> None:
    code, output = Run(tmp_path, FAILS).ends()
    assert code == 1
    kept = Path(output.partition("temporary files of the tests are kept in ")[2].split()[0])
    assert list(kept.glob("*/kept"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_tears_fixtures_down_and_leaves_nothing(hanging: Run, sent: signal.Signals) -> None:
    hanging.process.send_signal(sent)
    code, output = hanging.ends()
    assert (code, (hanging.folder / "torn-down").exists()) == (2, True), output
    assert not psutil.pid_exists(hanging.number("pid"))
    assert not Path((hanging.folder / "temporary").read_text()).exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_in_the_background_of_a_shell_hears_signals_too(tmp_path: Path, sent: signal.Signals) -> None:
    run = Run(tmp_path, HANGS, "sh", "-c", 'trap "" INT; exec "$0" "$@"')
    eventually((tmp_path / "ready").exists, "the test being at work")
    run.process.send_signal(sent)
    code, output = run.ends()
    assert (code, (tmp_path / "torn-down").exists()) == (2, True), output


def test_what_a_killed_run_had_started_is_ended(hanging: Run) -> None:
    os.kill(hanging.number("child"), signal.SIGKILL)
    code, _ = hanging.ends()
    assert code == 128 + signal.SIGKILL
    assert not psutil.pid_exists(hanging.number("pid"))
    assert not Path((hanging.folder / "temporary").read_text()).exists()
