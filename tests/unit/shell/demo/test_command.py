"""`sundog demo` with missing packages, bad folders and failures."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from sundog_operator.shell.cli import run
from sundog_operator.shell.demo import command, dataset, instance, scenario
from sundog_operator.shell.demo.scenario import DemoFolder


async def trained(folder: DemoFolder) -> AsyncIterator[dict[str, object]]:
    """Replace the training."""
    folder.models.mkdir(parents=True)
    image = [[0] * 8] * 8
    (folder.models / dataset.HELD_OUT_FILE).write_bytes(orjson.dumps({"images": [image], "labels": [3]}))
    (folder.models / dataset.TRAINED_FILE).write_bytes(orjson.dumps({"accuracy": {"v1": 0.9, "v2": 0.98}}))
    yield {"model": "v1", "epoch": 1, "of": 1}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Return an installation whose `sundog local up` ends at once."""
    program = tmp_path / "sundog"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint('error: no memory', file=sys.stderr)\nsys.exit(4)\n")
    program.chmod(0o755)
    monkeypatch.setattr(instance, "find_sundog_command", lambda: str(program))
    monkeypatch.setattr(scenario, "_run_training", trained)
    monkeypatch.setattr(command, "_REQUIRED_PACKAGES", ())


def test_a_missing_package_is_named_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_REQUIRED_PACKAGES", ("no_such_package", "click"))
    assert run(["demo", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: the demo needs no_such_package. Run: pip install 'sundog[local]'\n"


@pytest.mark.parametrize("name", ["100%", "a#b"])
def test_a_folder_that_no_uri_can_name_is_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(command, "_REQUIRED_PACKAGES", ())
    assert run(["demo", "--out", str(tmp_path / name)]) == 1
    assert "Choose another folder" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_a_refused_folder_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_REQUIRED_PACKAGES", ())
    (tmp_path / "file").touch()
    assert run(["demo", "--out", str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: --out: {tmp_path}/file/out: ")


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize("keep", [[], ["--keep"]])
def test_a_step_that_is_not_reached_ends_the_demo_with_a_reason_and_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: list[str]
) -> None:
    before = set(Path("/tmp").glob("sundog-demo-*"))
    out = tmp_path / "out"
    assert run(["demo", *keep, "--out", str(out)]) == 1
    reason = "`sundog local up` ended with status 4: error: no memory"
    assert f"not reached: Start `sundog local up`: {reason}" in capsys.readouterr().out
    results = orjson.loads((out / "results.json").read_bytes())
    assert results["succeeded"] is False
    reached = {step["name"]: step["reached"] for step in results["steps"]}
    assert (reached["train"], reached["start"], reached["serve"]) == (True, False, False)
    assert not (out / "rollout.html").exists()
    assert set(Path("/tmp").glob("sundog-demo-*")) <= before


def test_a_training_that_fails_is_shown_by_its_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Traceback' >&2\necho 'MemoryError: no room' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(scenario.sys, "executable", str(python))
    monkeypatch.setattr(command, "_REQUIRED_PACKAGES", ())
    assert run(["demo", "--out", str(tmp_path / "out")]) == 1
    assert "the training failed with status 1: MemoryError: no room" in capsys.readouterr().out
