"""Where programs are built, shared and taken from. A shell script stands in for Go."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from real_kubernetes import binaries
from real_kubernetes.binaries import ALL, COREDNS, GIVEN, HELM, KUBERAY, KUBERNETES, MODULES, Binaries
from real_kubernetes.instance import ClusterError

GO = """#!/bin/sh
echo "$*" >>{log}
{before}
printf '#!/bin/sh\\nbasename "$0"\\n' >"$5$(basename "$6")"
chmod +x "$5$(basename "$6")"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a `go` that builds scripts which print the name they are started by."""
    return stand_in(tmp_path, monkeypatch)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str = "") -> Path:
    go, log = tmp_path / "path" / "go", tmp_path / "calls"
    go.parent.mkdir()
    go.write_text(GO.format(log=log, before=before))
    go.chmod(0o755)
    log.touch()
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    return log


def test_programs_lie_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GIVEN, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Binaries.of_environment() == Binaries(tmp_path / "sundog" / "test-binaries")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Binaries.of_environment() == Binaries(tmp_path / ".cache" / "sundog" / "test-binaries")


def test_one_program_is_built_for_all_names_that_it_has(tmp_path: Path, calls: Path) -> None:
    built = Binaries(tmp_path / "cache")
    built.build((KUBERNETES, KUBERAY))
    assert len(calls.read_text().splitlines()) == 2
    for program in (*KUBERNETES.programs, *KUBERAY.programs):
        assert subprocess.run((built.path(program),), capture_output=True, text=True).stdout == f"{program}\n"
    assert len({built.path(program).resolve() for program in KUBERNETES.programs}) == 1


def test_the_program_knows_the_names_that_it_is_linked_to() -> None:
    cases = re.findall(r'case "(.*)":', (MODULES / KUBERNETES.module / "main.go").read_text())
    assert sorted(cases) == sorted(KUBERNETES.programs)


def test_what_is_built_is_built_again_when_its_module_changes(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "MODULES", tmp_path)
    module = shutil.copytree(MODULES / COREDNS.module, tmp_path / COREDNS.module)
    built, seen = Binaries(tmp_path / "cache"), []
    for change in ("go.mod", "go.sum", "main.go", "added.go"):
        with (module / change).open("a") as file:
            file.write("// changed\n")
        assert built.missing((COREDNS,)) == [COREDNS]
        for _ in range(2):
            built.build((COREDNS,))
        seen.append(built.path("coredns"))
    assert len(calls.read_text().splitlines()) == 4
    # A checkout with an older state of the module still has its program.
    assert len(set(seen)) == 4
    assert all(path.exists() for path in seen)
    (module / "notes.txt").touch()
    assert built.missing((COREDNS,)) == []
    seen[-1].unlink()
    assert built.missing((COREDNS,)) == [COREDNS]
    built.build((COREDNS,))
    assert built.missing((COREDNS,)) == []


def test_a_failed_build_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, before="echo 'no space left' >&2; touch $5/half; exit 1")
    built = Binaries(tmp_path / "cache")
    with pytest.raises(ClusterError, match=r"^go build of helm failed: no space left$"):
        built.build((HELM,))
    assert [path.name for path in built.folder.iterdir()] == [".helm.lock"]


def test_of_two_builders_at_once_the_second_waits_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = stand_in(tmp_path, monkeypatch, before=f"until [ -e {tmp_path}/second ]; do sleep 0.01; done")
    built, messages = Binaries(tmp_path / "cache"), []

    def tell(step: str) -> None:
        messages.append(step)
        if step.startswith("waiting"):
            assert not built.path("helm").exists()
            (tmp_path / "second").touch()

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(built.build, (HELM,), tell) for _ in range(2)]:
            done.result(60)
    # The first may have the lock before it says so.
    assert sorted(messages) == ["building helm", "waiting for helm, which another process builds"]
    assert len(log.read_text().splitlines()) == 1
    assert built.path("helm").exists()


def test_a_given_folder_has_all_programs_or_the_error_names_what_it_lacks(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv(GIVEN, str(folder))
    for program in KUBERNETES.programs:
        (folder / program).touch()
    given = Binaries.of_environment()
    given.build((KUBERNETES,))
    assert given.path("kubectl") == folder / "kubectl"
    given.path("kubectl").unlink()
    # This is an error, so no test is skipped for it.
    assert given.refusal((KUBERNETES,)) == ""
    wanted = f"{GIVEN}: no kubectl, helm in {folder}; expected all programs. Add them or unset {GIVEN}."
    with pytest.raises(ClusterError, match=f"^{re.escape(wanted)}$"):
        given.build((KUBERNETES, HELM))
    assert calls.read_text() == ""


def test_built_answers_with_its_exit_code_and_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(binaries.__file__).parents[1]), GIVEN: str(tmp_path)}
    programs = [program for build in ALL for program in build.programs]
    for program in programs[1:]:
        (tmp_path / program).touch()
    command = (sys.executable, "-m", "real_kubernetes", "built")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wanted = "expected all programs. Run `make binaries`."
    assert (done.returncode, done.stderr) == (1, f"error: {programs[0]}: not in {tmp_path}; {wanted}\n")
    (tmp_path / programs[0]).touch()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
