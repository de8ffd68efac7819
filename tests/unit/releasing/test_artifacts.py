"""Files of a release: built from what Git does not ignore, equal in two builds, complete."""

import json
import stat
import tomllib
from pathlib import Path

import pytest

from releasing import artifacts, locks
from releasing.programs import CheckError, run

ROOT = Path(__file__).parents[3]
TIME = 1_790_000_000


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a file of each kind."""
    root = tmp_path / "repository"
    (root / "tools").mkdir(parents=True)
    for name in ("committed", "changed", "deleted", "ignored", "tools/program"):
        (root / name).write_text(name)
    (root / ".gitignore").write_text("ignored\n")
    (root / "tools/program").chmod(0o700)
    run("git", "init", "--quiet", cwd=root)
    run("git", "add", ".", cwd=root)
    (root / "changed").write_text("changed later")
    (root / "deleted").unlink()
    (root / "new").touch()
    return root


def test_files_that_git_does_not_ignore_are_exported_with_one_time_and_mode(repository: Path, tmp_path: Path) -> None:
    target = artifacts.export(repository, tmp_path / "target", TIME)
    files = {str(path.relative_to(target)): path.stat() for path in target.rglob("*") if path.is_file()}
    assert {name: oct(stat.S_IMODE(found.st_mode)) for name, found in files.items()} == {
        ".gitignore": "0o644",
        "changed": "0o644",
        "committed": "0o644",
        "new": "0o644",
        "tools/program": "0o755",
    }
    assert (target / "changed").read_text() == "changed later"
    assert {found.st_mtime for found in files.values()} == {TIME}


@pytest.mark.parametrize("is_repeatable", [True, False], ids=["equal", "with the folder's name"])
def test_two_builds_have_one_digest_or_fail(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_repeatable: bool
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(TIME))
    masks = []

    def build(source: Path, target: Path, umask: int) -> Path:
        masks.append(umask)
        built = target / "built.txt"
        built.write_text((source / "changed").read_text() + ("" if is_repeatable else str(source)))
        return built

    if is_repeatable:
        digest = artifacts.digest(repository / "changed")
        assert artifacts.build_twice(build, repository, tmp_path) == f"built.txt {digest}"
        assert (tmp_path / "built.txt").exists()
    else:
        with pytest.raises(CheckError, match=r"^built.txt: two builds have the digests sha256:\w+ and sha256:\w+; "):
            artifacts.build_twice(build, repository, tmp_path)
    assert masks == [0o022, 0o077]


def test_images_install_the_locks_of_their_bill() -> None:
    for image, names in artifacts.BILLS.items():
        text = (ROOT / "images" / f"{image}.Containerfile").read_text()
        assert all(f"images/locks/{name}.txt" in text for name in names)


@pytest.mark.parametrize("image", artifacts.BILLS)
def test_a_bill_of_materials_has_each_package_with_its_hashes(image: str, tmp_path: Path) -> None:
    bill = json.loads(artifacts.write_bill(ROOT, image, tmp_path).read_text())
    assert bill["bomFormat"] == "CycloneDX"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    component = bill["metadata"]["component"]
    assert (component["name"], component["version"]) == (f"sundog-{image}", project["version"])
    locked = {}
    for name in artifacts.BILLS[image]:
        locked |= locks.parse((ROOT / locks.LOCKS / f"{name}.txt").read_text())
    for component in bill["components"]:
        package = locked.pop(locks.normalize(component["name"]))
        assert component["version"] == package.version
        assert component["purl"].startswith("pkg:pypi/")
        hashes = [each for place in component["externalReferences"] for each in place["hashes"]]
        assert {f"sha256:{each['content']}" for each in hashes} == package.hashes
    assert locked == {}
