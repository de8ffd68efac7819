"""Where nothing may be skipped, a skip fails: of a test, by a mark or in its middle, in a fixture, and of a whole module."""

import subprocess
import sys
from pathlib import Path

import pytest

from fail_on_skip import REQUIRE

TESTS = """
import pytest

@pytest.fixture
def cluster():
    pytest.skip("no Kubernetes here")

def test_of_a_cluster(cluster): pass

@pytest.mark.skipif(True, reason="no browser here")
def test_by_mark(): pass

def test_in_its_middle():
    pytest.importorskip("not_installed_anywhere")

def test_that_passes(): pass
"""
MODULE = """
import pytest

pytest.importorskip("not_installed_anywhere")

def test_of_it(): pass
"""


@pytest.mark.parametrize(("required", "ended"), [("all", "1 failed, 1 passed, 3 errors"), ("", "1 passed, 4 skipped")])
def test_what_is_skipped_fails_where_nothing_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: str, ended: str
) -> None:
    monkeypatch.setenv(REQUIRE, required)
    monkeypatch.setenv("PYTHONPATH", str(Path(sys.modules["fail_on_skip"].__file__ or "").parent))
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    options = ("-q", "-p", "fail_on_skip", "--rootdir", str(tmp_path), "--continue-on-collection-errors")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended in done.stdout.splitlines()[-1], done.stdout + done.stderr
    assert ("no Kubernetes here: skipped tests fail" in done.stdout) == (required == "all")
