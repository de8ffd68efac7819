"""What both images promise, read from their Containerfiles; `make images` builds them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from waiting import PATIENCE_S

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "images"
FILES = sorted(IMAGES.glob("*.Containerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Word and rest of each instruction, continued lines joined, comments dropped."""
    lines = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def last_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    start = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def requirements(*arguments: str) -> list[str]:
    command = [sys.executable, str(IMAGES / "requirements.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def test_there_are_two() -> None:
    assert [path.name for path in FILES] == ["operator-edge.Containerfile", "runtime.Containerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_stage_is_of_the_given_base(path: Path) -> None:
    found = instructions(path)
    assert found[0][0] == "ARG"
    assert found[0][1].startswith("BASE=")
    assert [rest for word, rest in found if word == "FROM"] == ["${BASE} AS build", "${BASE}"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_runs_as_nobody_and_says_what_it_is(path: Path) -> None:
    stage = last_stage(path)
    assert [rest for word, rest in stage if word == "USER"] == ["65532:65532"]
    (labels,) = (rest for word, rest in stage if word == "LABEL")
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert f"ARG VERSION={PROJECT['version']}" in [" ".join(line) for line in stage]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_pip_keeps_no_cache_and_nothing_of_the_machine(path: Path) -> None:
    settings = " ".join(rest for word, rest in instructions(path) if word == "ENV")
    assert "PIP_NO_CACHE_DIR=1" in settings
    for word, rest in instructions(path):
        if word == "RUN" and "--requirement" in rest:
            assert "--mount=type=secret,id=pip.conf" in rest
            assert "--constraint constraints.txt" in rest
        assert word != "COPY" or "pip.conf" not in rest
    assert not any("pip" in rest for word, rest in last_stage(path) if word != "LABEL")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_copied_exists_and_reaches_the_build(path: Path) -> None:
    let_through = (ROOT / ".containerignore").read_text().splitlines()
    for word, rest in instructions(path):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in let_through, source
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()


def test_packages_are_those_of_the_project() -> None:
    assert requirements() == PROJECT["dependencies"]
    assert requirements("runtime") == [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["runtime"]]
    (torch,) = requirements("--only", "torch", "runtime")
    assert torch.startswith("torch>=")


def test_the_operator_and_the_edge_take_neither_ray_nor_torch() -> None:
    (path,) = (path for path in FILES if path.stem == "operator-edge")
    commands = [rest for word, rest in instructions(path) if word == "RUN" and "requirements.py" in rest]
    assert len(commands) == 1
    assert "requirements.py parquet buckets > requirements.txt" in commands[0]
    assert not [line for line in requirements("parquet", "buckets") if re.match(r"(ray\b(?!-haproxy)|torch)", line)]


def test_an_image_that_does_not_exist_is_refused_before_anything_is_built() -> None:
    answer = subprocess.run([IMAGES / "build", "edge"], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "images/build: edge: there is no images/edge.Containerfile" in answer.stderr


def test_how_images_are_stored_is_left_to_the_engine(tmp_path: Path) -> None:
    """By vfs each step that is kept is a copy of all before it: of the runtime's image tens of gigabytes."""
    told = tmp_path / "told"
    programs = {
        "buildah": f'echo "$STORAGE_DRIVER|$*" >>{told}\n',
        "debootstrap": "exit 1\n",
        "id": "echo 0\n",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "STORAGE_DRIVER"}
    wanted = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BASE": "debootstrap", "ARGS": "--layers=false"}
    subprocess.run(
        [IMAGES / "build", "runtime"],
        env={**environment, **wanted, "ENGINE": "buildah"},
        check=True,
        timeout=PATIENCE_S,
    )
    inspected, built = told.read_text().splitlines()
    assert inspected.startswith("|inspect ")
    assert built.startswith("|bud --layers ")
    assert built.endswith(" --layers=false .")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_stays_of_what_builds_the_package(path: Path) -> None:
    """Beside the packages it would leave its own dependencies, which change with its version."""
    commands = [part for word, rest in instructions(path) if word == "RUN" for part in rest.split("&&")]
    (installed,) = (part for part in commands if "hatchling" in part)
    assert "--target /build/backend" in installed
    (built,) = (part for part in commands if "--no-build-isolation" in part)
    assert built.split()[0] == "PYTHONPATH=/build/backend"
    assert all("/build" not in rest for word, rest in last_stage(path) if word == "COPY")
