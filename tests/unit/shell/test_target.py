"""Which API server is chosen, and what is said when there is none."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.shell_completion import ShellComplete

from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.shell import cli
from sundog_operator.shell.exits import CommandFailed, Exit
from sundog_operator.shell.local import place
from sundog_operator.shell.target import Selection, resolve


def kubeconfig(path: Path, namespace: str = "") -> Path:
    context = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
    document = {"current-context": "here", "contexts": [{"name": "here", "context": context}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


@contextlib.contextmanager
def instance(where: Path) -> Iterator[StateDirectory]:
    """An instance that runs, as far as anybody can tell."""
    state = place.prepare(where)
    kubeconfig(state.path / place.KUBECONFIG, "local")
    with state.hold():
        yield state


@pytest.fixture
def state_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sdt-", dir="/tmp") as folder:
        yield Path(folder)


def test_an_explicit_kubeconfig_comes_before_everything(tmp_path: Path, state_dir: Path) -> None:
    explicit = kubeconfig(tmp_path / "explicit", "far")
    with instance(state_dir):
        found = resolve(
            Selection(kubeconfig=explicit), {"SUNDOG_STATE_DIR": str(state_dir), "KUBECONFIG": str(tmp_path / "other")}
        )
    assert (found.kubeconfig, found.namespace, found.note) == (explicit, "far", "")


def test_a_running_instance_comes_before_the_cluster_and_says_so(tmp_path: Path, state_dir: Path) -> None:
    cluster = kubeconfig(tmp_path / "cluster", "far")
    environment = {"XDG_STATE_HOME": str(state_dir), "KUBECONFIG": str(cluster)}
    where = state_dir / "sundog" / "default"
    assert resolve(Selection(), environment).kubeconfig == cluster
    with instance(where) as state:
        found = resolve(Selection(), environment)
        assert found.kubeconfig == state.path / "kubeconfig"
        assert found.namespace == "local"
        assert found.note == f"using the local instance in {where}; --kubeconfig chooses a cluster"
        assert resolve(Selection(context="here"), environment).kubeconfig == cluster
        assert resolve(Selection(plugin=True), environment).kubeconfig == cluster
        assert resolve(Selection(plugin=True), environment).note == ""
        assert resolve(Selection(plugin=True, state_dir=where), environment).kubeconfig == state.path / "kubeconfig"
        without = {"XDG_STATE_HOME": str(state_dir)}
        assert resolve(Selection(plugin=True), without).kubeconfig == state.path / "kubeconfig"
        assert resolve(Selection(), {"XDG_STATE_HOME": str(state_dir)}).note == ""
    assert resolve(Selection(), environment).kubeconfig == cluster


@pytest.mark.parametrize("named", ["option", "variable"])
def test_a_named_instance_that_has_ended_never_falls_through_to_a_cluster(
    tmp_path: Path, state_dir: Path, named: str
) -> None:
    environment = {"KUBECONFIG": str(kubeconfig(tmp_path / "cluster"))}
    selection = Selection(state_dir=state_dir) if named == "option" else Selection()
    if named == "variable":
        environment["SUNDOG_STATE_DIR"] = str(state_dir)
    with instance(state_dir) as state:
        assert resolve(selection, environment).kubeconfig == state.path / "kubeconfig"
    with pytest.raises(CommandFailed, match=f"no local instance runs in {state_dir}: start one") as caught:
        resolve(selection, environment)
    assert caught.value.exit_code == Exit.UNREACHABLE


def test_the_usual_kubeconfig_is_the_last_resort(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no API server: no local instance runs"):
        resolve(Selection(), {})
    usual = kubeconfig(Path(os.environ["HOME"]) / ".kube" / "config")
    assert resolve(Selection(), {}).kubeconfig == usual
    assert resolve(Selection(), {}).namespace == "default"
    assert resolve(Selection(namespace="mine"), {}).namespace == "mine"
    with pytest.raises(CommandFailed):
        resolve(Selection(), {"KUBECONFIG": str(tmp_path / "absent")})


def test_several_kubeconfigs_count_as_one(tmp_path: Path) -> None:
    both = os.pathsep.join((str(tmp_path / "absent"), str(kubeconfig(tmp_path / "second", "far"))))
    found = resolve(Selection(), {"KUBECONFIG": both})
    assert (str(found.kubeconfig), found.namespace) == (both, "far")


def test_no_server_is_code_4_and_one_line(sundog: Any, tmp_path: Path) -> None:
    for arguments in (["get"], ["describe", "x"], ["promote", "x"], ["predict", "x", "-d", "1"]):
        done = sundog(*arguments)
        assert done.code == Exit.UNREACHABLE
        assert done.err.startswith("error: no API server")
        assert len(done.err.splitlines()) == 1
    assert sundog("get", "--kubeconfig", str(tmp_path / "absent")).code == Exit.UNREACHABLE


def test_a_server_that_does_not_answer_is_code_4(sundog: Any, server: Any) -> None:
    document = yaml.safe_load(server.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "http://x:y@127.0.0.1:1"
    server.kubeconfig.write_text(yaml.safe_dump(document))
    done = sundog("get", "--kubeconfig", str(server.kubeconfig))
    assert done.code == Exit.UNREACHABLE
    assert "the API server does not answer" in done.err
    assert len(done.err.splitlines()) == 1


def test_verbose_tells_which_server(on_server: Any, server: Any) -> None:
    assert on_server("get", "-v").err.splitlines()[0] == f"using kubeconfig {server.kubeconfig}, namespace vision"


def test_names_are_completed_from_the_server(on_server: Any, server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest()))
    on_server("apply", "-f", str(manifest(name="letters")))
    complete = ShellComplete(cli.root, {}, "sundog", "_SUNDOG_COMPLETE")
    for verb in ("describe", "promote", "predict", "get"):
        found = complete.get_completions([verb, "--kubeconfig", str(server.kubeconfig)], "di")
        assert [item.value for item in found] == ["digits"]
    assert complete.get_completions(["describe"], "di") == []
    assert "describe" in [item.value for item in complete.get_completions([], "de")]
