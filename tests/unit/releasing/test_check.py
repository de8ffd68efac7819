"""The checks of a release: versions, what a check that fails or cannot run means, and the list of digests."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from releasing import check
from releasing.check import CHECKS, Checkout
from releasing.programs import CheckError, NotRunError, run

ROOT = Path(__file__).parents[3]
VERSION = check.check_versions(Checkout(ROOT))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files that name the version."""
    for name in ("pyproject.toml", "helm/sundog/Chart.yaml", "images/operator-edge.Containerfile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n")
    return tmp_path


def replace(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.parametrize("field", ["version", "appVersion"])
def test_a_chart_of_another_version_fails(root: Path, field: str) -> None:
    replace(root / "helm/sundog/Chart.yaml", f"\n{field}: {VERSION}", f"\n{field}: 9.9.9")
    with pytest.raises(CheckError, match=rf"^Chart.yaml {field}: 9.9.9; expected {VERSION}, "):
        check.check_versions(Checkout(root))


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("v9.9.9", f"tag v9.9.9; expected v{VERSION}, the version of pyproject.toml"),
        (VERSION, f"tag {VERSION}; expected v{VERSION}, the version of pyproject.toml"),
        (f"v{VERSION}", f"CHANGELOG.md: no heading [{VERSION}]. Move the entries of [Unreleased] below it."),
    ],
    ids=["another version", "no v", "no entry in the changelog"],
)
def test_a_tag_that_does_not_belong_to_the_checkout_fails(root: Path, tag: str, expected: str) -> None:
    with pytest.raises(CheckError) as failed:
        check.check_versions(Checkout(root, tag))
    assert str(failed.value) == expected


@pytest.mark.parametrize("unreleased", ["", "### Added\n\n- A new one.\n"], ids=["none", "an entry"])
def test_a_tag_passes_if_all_entries_of_the_changelog_are_its(root: Path, unreleased: str) -> None:
    entries = f"## [Unreleased]\n\n{unreleased}\n## [{VERSION}] - 2026-12-31\n\n- An entry.\n"
    (root / "CHANGELOG.md").write_text(f"# Changelog\n\n{entries}")
    if unreleased:
        with pytest.raises(CheckError, match=rf"^CHANGELOG.md: \[Unreleased\] has entries; .* below \[{VERSION}\].$"):
            check.check_versions(Checkout(root, f"v{VERSION}"))
    else:
        assert check.check_versions(Checkout(root, f"v{VERSION}")) == f"{VERSION}, as the tag and the changelog"


def test_a_base_image_without_a_digest_is_reported(root: Path) -> None:
    file = root / "images/operator-edge.Containerfile"
    pinned = f"docker.io/library/python:3.11-slim-bookworm@sha256:{'a' * 64}"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "ARG BASE=" not in line))
    file.write_text(f"ARG BASE={pinned}\n{file.read_text()}")
    assert check.check_base(Checkout(root)) == pinned
    replace(file, f"@sha256:{'a' * 64}", "")
    with pytest.raises(NotRunError, match="has no digest"):
        check.check_base(Checkout(root))


def raises(error: Exception) -> Callable[[Checkout], str]:
    def run_check(_: Checkout) -> str:
        raise error

    return run_check


def test_each_check_runs_and_only_a_failed_or_required_one_fails_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def write(checkout: Checkout) -> str:
        (checkout.output / "a.txt").write_text("a")
        return "a.txt"

    checks = {"first": write, "second": raises(NotRunError("no service")), "third": raises(CheckError("two digests"))}
    monkeypatch.setattr(check, "CHECKS", checks)
    (tmp_path / check.OUTPUT).mkdir(parents=True)
    (tmp_path / check.OUTPUT / "stale.whl").touch()
    lines: list[str] = []
    assert not check.check(Checkout(tmp_path), lines.append)
    assert lines == ["ok       first: a.txt", "not run  second: no service", "FAILED   third: two digests"]
    a = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert (tmp_path / check.OUTPUT / "SHA256SUMS").read_text() == f"{a}  a.txt\n"
    del checks["third"]
    assert check.check(Checkout(tmp_path), lines.append)
    assert not check.check(Checkout(tmp_path), lines.append, frozenset({"second"}))
    assert lines[-1] == "FAILED   second: no service"


def test_every_check_has_its_line_in_the_documentation() -> None:
    page = (ROOT / "docs" / "releasing.md").read_text()
    assert [name for name in CHECKS if f"\n| {name} |" not in page] == []


def test_an_error_of_a_program_is_one_line() -> None:
    with pytest.raises(CheckError, match=r"^sh ended with 3: first second$"):
        run("sh", "-c", "echo first >&2; echo second >&2; exit 3")
