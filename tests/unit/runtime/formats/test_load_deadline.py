"""The time after which loading counts as hanging."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import setuptools  # noqa: F401 the compiler imports it, which changes sys.path

from small_models import predictor
from sundog_runtime.errors import LoadFailed, LoadTimeout
from sundog_runtime.formats import load_deadline
from sundog_runtime.formats.load_deadline import BASE_LOAD_SECONDS, load_deadline_s, total_file_bytes
from sundog_runtime.replica import Replica
from sundog_runtime.sources.open_model import ModelFiles


def test_files_that_vanish_during_the_measurement_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going = tmp_path / "model" / "going"
    going.mkdir(parents=True)
    (going / "weights").write_bytes(b"123")
    (going.parent / "weights").write_bytes(b"12345")
    whole = total_file_bytes(ModelFiles(going.parent))
    scandir = os.scandir

    def removing(path: Any = ".") -> Any:
        if str(path) == str(going) and going.exists():
            going.rename(tmp_path / "gone")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", removing)
    assert 0 < total_file_bytes(ModelFiles(going.parent)) < whole
    assert (tmp_path / "gone").exists()


def test_a_large_model_has_longer_to_load() -> None:
    assert load_deadline_s(0) == BASE_LOAD_SECONDS
    assert load_deadline_s(20_000_000_000) == BASE_LOAD_SECONDS + 1000


async def test_a_load_that_does_not_end_has_a_deadline(
    python_model: Callable[[str], Path], args: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_deadline, "BASE_LOAD_SECONDS", 0.2)
    root = python_model(
        predictor("return batch", load="while not (path / 'end').exists(): time.sleep(0.01)", imports="import time")
    )
    try:
        with pytest.raises(LoadTimeout, match="loading did not end within 0 s"):
            await Replica.start(args(root, "predictor:Predictor"))
    finally:
        (root / "end").touch()


def test_the_size_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_bytes(bytes(3))
    (tmp_path / "b").write_bytes(bytes(4))
    assert total_file_bytes(ModelFiles(tmp_path)) >= 7
    assert total_file_bytes(ModelFiles(tmp_path, "b")) == 4


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "soon", "²"])
def test_a_deadline_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(LoadFailed, match="SUNDOG_LOAD_MAX_SECONDS"):
        load_deadline_s(0, {"SUNDOG_LOAD_MAX_SECONDS": text})


def test_the_administrator_sets_the_load_deadline() -> None:
    assert load_deadline_s(40_000_000, {"SUNDOG_LOAD_MAX_SECONDS": "30"}) == 32
