"""What pip-audit reports about the locks, from a program that stands in for it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from releasing import audit, locks
from releasing.programs import CheckError, NotRunError

CLEAN = {"name": "click", "version": "8.5.1", "vulns": []}
VULNERABLE = {
    "name": "brotli",
    "version": "1.1.0",
    "vulns": [{"id": "CVE-2026-1", "fix_versions": ["1.2.1", "1.3"]}, {"id": "CVE-2026-2", "fix_versions": []}],
}
SKIPPED = {"name": "ray", "skip_reason": "Dependency not found on PyPI"}


def answer(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str, message: str = "") -> Path:
    """Let pip-audit print this of one lock. It ends with 0 if it skips packages, and with 1 if it finds an advisory."""
    (folder / locks.LOCKS).mkdir(parents=True)
    (folder / locks.LOCKS / "runtime.txt").touch()
    done = subprocess.CompletedProcess([], 0, text, message)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    return folder


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages})


def test_packages_without_an_advisory_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert audit.audit(answer(monkeypatch, tmp_path, report(CLEAN))) == "no advisory for 1 packages"


def test_an_advisory_fails_with_the_versions_that_fix_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = (
        "runtime.txt: brotli 1.1.0 has CVE-2026-1, which 1.2.1 or 1.3 fixes; "
        "runtime.txt: brotli 1.1.0 has CVE-2026-2, which no version fixes"
    )
    # Also if the service does not know other packages.
    with pytest.raises(CheckError) as failed:
        audit.audit(answer(monkeypatch, tmp_path, report(CLEAN, VULNERABLE, SKIPPED)))
    assert str(failed.value) == expected


@pytest.mark.parametrize(
    ("text", "message", "expected"),
    [
        (report(CLEAN, SKIPPED), "", "the service of advisories did not answer for 1 packages, such as ray"),
        (
            "",
            "ERROR\nConnectionError: refused\n",
            "pip-audit reports nothing about runtime.txt: ConnectionError: refused",
        ),
        ("", "", "pip-audit reports nothing about runtime.txt: no message"),
    ],
    ids=["skipped packages", "no connection", "no message"],
)
def test_packages_that_were_not_audited_are_no_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str, expected: str
) -> None:
    with pytest.raises(NotRunError) as not_run:
        audit.audit(answer(monkeypatch, tmp_path, text, message))
    assert str(not_run.value) == expected
