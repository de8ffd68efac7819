"""Lock the packages of the images with versions and hashes: `make locks` writes images/locks.

A lock holds all packages that some requirements of pyproject.toml need on Linux, for every architecture and Python
version of the project. Versions are those of constraints.txt. Its head repeats the requirements, so that a lock
that is older than pyproject.toml is found without a network.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LOCKS: Final = Path("images/locks")
CONSTRAINTS: Final = "constraints.txt"
TITLE: Final = "# `make locks` writes this file from these requirements:\n"
REQUIREMENT: Final = "#   "
ENVIRONMENT: Final = (
    "sys_platform == 'linux' and platform_machine == '{machine}' and python_full_version < '3.14'"
    " and implementation_name == 'cpython' and platform_python_implementation == 'CPython'"
)
OLDEST: Final = "3.11"
MACHINES: Final = ("x86_64", "aarch64")
MARKER: Final = re.compile(r" ; .*?(?= \\\n)")
PIN: Final = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)", re.MULTILINE)
HASH: Final = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
NAME: Final = re.compile(r"[\w.-]+")
ADDRESS: Final = re.compile(r"^ *-(?!-hash=).*|^.*://.*", re.MULTILINE)
"""A line with an option of pip, such as an index, or with an address."""


class LockError(Exception):
    """A lock that could not be written."""


@dataclass(frozen=True)
class Package:
    """One locked package: its version, and the hashes of all its files."""

    version: str
    hashes: frozenset[str]


def requirements(project_file: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the requirements of each lock by its name, from a parsed pyproject.toml.

    PyTorch has a lock of its own, because the runtime image installs it as a layer of its own.
    """
    project = project_file["project"]
    extras = project["optional-dependencies"]
    torch = [line for line in extras["runtime"] if _name(line) == "torch"]
    runtime = [line for line in (*project["dependencies"], *extras["runtime"]) if line not in torch]
    return {
        "build": project_file["build-system"]["requires"],
        "operator-edge": [*project["dependencies"], *extras["parquet"], *extras["buckets"]],
        "runtime": runtime,
        "runtime-transformers": [*runtime, *extras["transformers"]],
        "torch": torch,
    }


def write(root: Path, target: Path | None = None) -> None:
    """Write all locks of a checkout, into another folder if one is given. Raises LockError.

    Packages keep their locked versions where pyproject.toml and constraints.txt allow them.
    """
    project_file = _project_file(root)
    wanted = requirements(project_file)
    target = target or root / LOCKS
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = (root / CONSTRAINTS).absolute()
        together = Path(folder) / "together.txt"
        # uv prefers the versions that its output file has already.
        together.write_text("".join(path.read_text(encoding="utf-8") for path in sorted((root / LOCKS).glob("*.txt"))))
        environments = [ENVIRONMENT.format(machine=machine) for machine in MACHINES]
        # uv reads this setting from a pyproject.toml of the folder that it runs in, and from nowhere else.
        settings = f"[tool.uv]\nenvironments = {json.dumps(environments)}\n"
        (Path(folder) / "pyproject.toml").write_text(settings, encoding="utf-8")
        # Locks whose packages meet in one environment must agree, so all are resolved together first.
        _compile(sorted({line for lines in wanted.values() for line in lines}), together, constraints)
        for name, lines in wanted.items():
            compiled = Path(folder) / f"{name}.txt"
            _compile(lines, compiled, constraints, together)
            text = _without_common_marker(compiled.read_text(encoding="utf-8"), lines)
            (target / f"{name}.txt").write_text(_head(project_file, lines) + text, encoding="utf-8")


def find_stale(root: Path) -> list[str]:
    """Return why the locks of a checkout do not belong to its pyproject.toml and constraints.txt, without a network."""
    project_file = _project_file(root)
    constraints = {normalize(name): version for name, version in PIN.findall((root / CONSTRAINTS).read_text())}
    found = []
    wanted = requirements(project_file)
    for name, lines in wanted.items():
        path = root / LOCKS / f"{name}.txt"
        if not path.exists():
            found.append(f"{LOCKS / path.name}: missing; expected a lock of {len(lines)} requirements")
            continue
        text = path.read_text(encoding="utf-8")
        head = _head(project_file, lines)
        if "".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True))) != head:
            found.append(f"{LOCKS / path.name}: {_first_difference(text, head)}")
        found += [f"{LOCKS / path.name}: {fault}" for fault in _faults(text, constraints)]
    unknown = {path.stem for path in (root / LOCKS).glob("*.txt")} - set(wanted)
    return found + [f"{LOCKS / name}.txt: found; expected no lock of this name" for name in sorted(unknown)]


def find_outdated(root: Path) -> list[str]:
    """Return how the locks of a checkout differ from what the index resolves now. Raises LockError.

    More files of a locked version are no difference: projects add wheels of later Pythons to old releases.
    """
    with tempfile.TemporaryDirectory() as folder:
        write(root, Path(folder))
        found = []
        for path in sorted(Path(folder).iterdir()):
            locked, now = (parse(each.read_text()) for each in (root / LOCKS / path.name, path))
            for name in sorted(locked.keys() | now.keys()):
                before, after = locked.get(name), now.get(name)
                if before is None or after is None or before.version != after.version:
                    found.append(
                        f"{LOCKS / path.name}: {name} is {_version(before)}, and the index has {_version(after)}"
                    )
                elif not before.hashes <= after.hashes:
                    found.append(
                        f"{LOCKS / path.name}: {name} {before.version} has hashes that the index does not have"
                    )
        return found


def parse(text: str) -> dict[str, Package]:
    """Return the packages of a lock by their normalized names."""
    return {
        name: Package(version, frozenset(HASH.findall(part)))
        for name, part in split(text).items()
        for _, version in PIN.findall(part)
    }


def split(text: str) -> dict[str, str]:
    """Return the lines of each package of a lock by its normalized name."""
    pins = list(PIN.finditer(text))
    ends = [pin.start() for pin in pins[1:]] + [len(text)]
    return {normalize(pin[1]): text[pin.start() : end] for pin, end in zip(pins, ends, strict=True)}


def _compile(lines: list[str], output: Path, *constraints: Path) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--universal", "--python-version", OLDEST]
    command += [
        "--only-binary",
        ":all:",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--output-file",
        output.name,
    ]
    for path in constraints:
        command += ["--constraint", str(path)]
    text = "\n".join(lines)
    done = subprocess.run(command, cwd=output.parent, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LockError(f"{output.stem}: uv resolved no versions: {' '.join(done.stderr.split())}")


def _without_common_marker(text: str, lines: list[str]) -> str:
    """Drop the marker that uv writes at packages of all environments: that of most of the requirements themselves.

    Of the packages that these need, most may be for one architecture, as PyTorch's of CUDA were.
    """
    packages = split(text)
    markers = Counter(found[0] for line in lines if (found := MARKER.search(packages.get(_name(line), ""))))
    for common, _ in markers.most_common(1):
        text = text.replace(f"{common} \\\n", " \\\n")
    return text


def _project_file(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def _head(project_file: Mapping[str, Any], lines: list[str]) -> str:
    python = f"python{project_file['project']['requires-python']}"
    return TITLE + "".join(f"{REQUIREMENT}{line}\n" for line in (python, *lines))


def _first_difference(text: str, head: str) -> str:
    locked, wanted = ([line for line in each.splitlines() if line.startswith(REQUIREMENT)] for each in (text, head))
    for line in wanted:
        if line not in locked:
            return f"{line.removeprefix(REQUIREMENT)!r} of pyproject.toml is not locked"
    for line in locked:
        if line not in wanted:
            return f"{line.removeprefix(REQUIREMENT)!r} is not in pyproject.toml"
    return "the requirements of pyproject.toml have another order"


def _faults(text: str, constraints: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the packages of a lock."""
    found = [f"{line.strip()!r} names an index or an address" for line in ADDRESS.findall(text)]
    for name, package in parse(text).items():
        if not package.hashes:
            found.append(f"{name} has no hash")
        if (version := constraints.get(name, package.version)) != package.version:
            found.append(f"{name} is {package.version}, and {CONSTRAINTS} has {version}")
    return found


def _version(package: Package | None) -> str:
    return package.version if package else "absent"


def _name(requirement: str) -> str:
    match = NAME.match(requirement)
    return normalize(match[0]) if match else ""


def normalize(name: str) -> str:
    """Return the name of a package as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
