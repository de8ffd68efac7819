"""`sundog demo` as a user runs it: real training, real Ray, real HAProxy."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from waiting import PATIENCE_S, eventually, patience

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

# Its Ray starts in turn with that of other tests: many at once take each other's CPU.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.haproxy,
    pytest.mark.timeout(patience(1200)),
    pytest.mark.xdist_group("ray"),
]

SUNDOG = Path(sysconfig.get_path("scripts"), "sundog")
MARK = "SUNDOG_TEST_DEMO"
DEADLINE_S = patience(900)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Marks every process of a test, however it is started; afterwards none may be left."""
    mark = str(tmp_path)
    yield {**os.environ, MARK: mark}
    left = marked(mark)
    told = [(process.pid, process.cmdline()) for process in left]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert not told, f"processes were left: {told}"


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def state_dirs(processes: list[psutil.Process]) -> set[Path]:
    """Where the instances of these processes keep their state."""
    lines = [" ".join(process.cmdline()) for process in processes]
    return {Path(found[0]) for line in lines if (found := re.search(r"/tmp/sundog-demo-\w+", line))}


def test_the_demo_shows_a_canary_and_a_refusal_without_losing_a_request(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [SUNDOG, "demo", "--out", out],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + (out / "sundog-local.log").read_text()
    assert not marked(environment[MARK])
    results = json.loads((out / "results.json").read_text())
    assert results["succeeded"] is True
    assert all(step["reached"] for step in results["steps"])
    assert results["requests"]["failed"] == 0
    assert results["requests"]["sent"] > 500
    revisions = {found["model"]: found for found in results["revisions"]}
    assert set(revisions) == {"v1", "v2"}
    for found in revisions.values():
        assert found["accuracy"]["endpoint"] == pytest.approx(found["accuracy"]["offline"], abs=0.02)
    assert revisions["v1"]["accuracy"]["endpoint"] < revisions["v2"]["accuracy"]["endpoint"]
    told = {condition["type"]: condition for condition in results["refused"]}
    assert (told["RevisionReady"]["status"], told["RevisionReady"]["reason"]) == ("False", "LoadFailed")
    assert told["Ready"]["status"] == "True"
    for phase in results["phases"]:
        for share in phase["shares"]:
            # Five standard deviations: chance alone fails one in a million runs.
            margin = 2 * share["marginPercent"]
            assert share["observedPercent"] == pytest.approx(share["configuredPercent"], abs=margin)
    page = (out / "rollout.html").read_text()
    assert "default/digits-r2" in page
    assert "Traffic of the candidate" in page
    for expected in ("Promote v2 …", "$ sundog promote digits", "0 failed", "RevisionReady=False LoadFailed"):
        assert expected in done.stdout
    assert "\x1b" not in done.stdout


def test_ctrl_c_while_ray_starts_leaves_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    out, seen = tmp_path / "out", set[Path]()
    with (tmp_path / "output").open("w+") as output:
        demo = subprocess.Popen([SUNDOG, "demo", "--out", out], env=environment, stdout=output, stderr=output)
        try:

            def starts() -> bool:
                assert demo.poll() is None, (tmp_path / "output").read_text()
                return any("raylet" in process.name() for process in marked(environment[MARK]))

            eventually(starts, "Ray's start")
            seen = state_dirs(marked(environment[MARK]))
            demo.send_signal(signal.SIGINT)
            # A second one, as impatient users do, must not cut the end short.
            demo.send_signal(signal.SIGINT)
            assert demo.wait(PATIENCE_S) == 130, (tmp_path / "output").read_text()
        finally:
            demo.kill()
    assert seen
    assert not any(path.exists() for path in seen)
    assert "Traceback" not in (tmp_path / "output").read_text()
    assert not (out / "results.json").exists()


@pytest.mark.campaign
def test_keep_leaves_it_up_and_says_how_to_go_on(tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [SUNDOG, "demo", "--keep", "--out", out],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    commands = {line.split()[0]: line.strip() for line in done.stdout.splitlines() if line.startswith("  ")}
    end = re.search(r"sundog local down --state-dir (\S+)", done.stdout)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        answer = subprocess.run(
            commands["curl"], shell=True, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        assert len(json.loads(answer.stdout)["outputs"][0]) == 10
    finally:
        if end:
            subprocess.run([SUNDOG, *end[0].split()[1:]], env=environment, timeout=PATIENCE_S, check=True)
            shutil.rmtree(end[1])
