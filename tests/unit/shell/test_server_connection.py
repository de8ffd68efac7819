"""The choice of the API server, and the errors without one."""

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
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.local import state_dir_paths
from sundog_operator.shell.server_connection import ServerSelection, resolve_target


def kubeconfig(path: Path, namespace: str = "") -> Path:
    context = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
    document = {"current-context": "here", "contexts": [{"name": "here", "context": context}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


@contextlib.contextmanager
def instance(where: Path) -> Iterator[StateDirectory]:
    """Return the state directory of an instance that seems to run."""
    state = state_dir_paths.prepare_state_dir(where)
    kubeconfig(state.path / state_dir_paths.KUBECONFIG_FILE, "local")
    with state.hold():
        yield state


@pytest.fixture
def state_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sdt-") as folder:
        yield Path(folder)


def test_an_explicit_kubeconfig_comes_before_everything(tmp_path: Path, state_dir: Path) -> None:
    explicit = kubeconfig(tmp_path / "explicit", "far")
    with instance(state_dir):
        found = resolve_target(
            ServerSelection(kubeconfig=explicit),
            {"SUNDOG_STATE_DIR": str(state_dir), "KUBECONFIG": str(tmp_path / "other")},
        )
    assert (found.kubeconfig, found.namespace, found.note) == (explicit, "far", "")


def test_a_running_instance_comes_before_the_cluster_and_says_so(tmp_path: Path, state_dir: Path) -> None:
    cluster = kubeconfig(tmp_path / "cluster", "far")
    environment = {"XDG_STATE_HOME": str(state_dir), "KUBECONFIG": str(cluster)}
    where = state_dir / "sundog" / "default"
    assert resolve_target(ServerSelection(), environment).kubeconfig == cluster
    with instance(where) as state:
        found = resolve_target(ServerSelection(), environment)
        assert found.kubeconfig == state.path / "kubeconfig"
        assert found.namespace == "local"
        assert found.note == f"using the local instance in {where}; use --kubeconfig for a cluster"
        assert resolve_target(ServerSelection(context="here"), environment).kubeconfig == cluster
        assert resolve_target(ServerSelection(plugin=True), environment).kubeconfig == cluster
        assert resolve_target(ServerSelection(plugin=True), environment).note == ""
        assert (
            resolve_target(ServerSelection(plugin=True, state_dir=where), environment).kubeconfig
            == state.path / "kubeconfig"
        )
        without = {"XDG_STATE_HOME": str(state_dir)}
        assert resolve_target(ServerSelection(plugin=True), without).kubeconfig == state.path / "kubeconfig"
        assert resolve_target(ServerSelection(), {"XDG_STATE_HOME": str(state_dir)}).note == ""
    assert resolve_target(ServerSelection(), environment).kubeconfig == cluster


@pytest.mark.parametrize("named", ["option", "variable"])
def test_an_ended_instance_never_falls_through_to_a_cluster(tmp_path: Path, state_dir: Path, named: str) -> None:
    environment = {"KUBECONFIG": str(kubeconfig(tmp_path / "cluster"))}
    selection = ServerSelection(state_dir=state_dir) if named == "option" else ServerSelection()
    if named == "variable":
        environment["SUNDOG_STATE_DIR"] = str(state_dir)
    with instance(state_dir) as state:
        assert resolve_target(selection, environment).kubeconfig == state.path / "kubeconfig"
    with pytest.raises(CommandFailed, match=f"no local instance runs in {state_dir}. Start one") as caught:
        resolve_target(selection, environment)
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_the_usual_kubeconfig_is_the_last_resort(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no API server: no local instance runs"):
        resolve_target(ServerSelection(), {})
    usual = kubeconfig(Path(os.environ["HOME"]) / ".kube" / "config")
    assert resolve_target(ServerSelection(), {}).kubeconfig == usual
    assert resolve_target(ServerSelection(), {}).namespace == "default"
    assert resolve_target(ServerSelection(namespace="mine"), {}).namespace == "mine"
    with pytest.raises(CommandFailed):
        resolve_target(ServerSelection(), {"KUBECONFIG": str(tmp_path / "absent")})


def test_several_kubeconfigs_count_as_one(tmp_path: Path) -> None:
    both = os.pathsep.join((str(tmp_path / "absent"), str(kubeconfig(tmp_path / "second", "far"))))
    found = resolve_target(ServerSelection(), {"KUBECONFIG": both})
    assert (str(found.kubeconfig), found.namespace) == (both, "far")


def test_no_server_is_code_4_and_one_line(sundog: Any, tmp_path: Path) -> None:
    for arguments in (["get"], ["describe", "x"], ["promote", "x"], ["predict", "x", "-d", "1"]):
        done = sundog(*arguments)
        assert done.code == ExitCode.UNREACHABLE
        assert done.err.startswith("error: no API server")
        assert len(done.err.splitlines()) == 1
    assert sundog("get", "--kubeconfig", str(tmp_path / "absent")).code == ExitCode.UNREACHABLE


MANIFEST = """
apiVersion: serving.sundog.dev/v1alpha1
kind: ModelDeployment
metadata: {name: tiny}
spec: {model: {uri: "file:///m"}}
"""
SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {a: b}\n"


@pytest.mark.parametrize("verb", ["plan", "apply"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1: expected ',' or ']', but got '<stream end>'"),
        (f"{MANIFEST}---\n{SECRET}---\n5", "document is a int; expected an object with apiVersion and kind"),
        (
            MANIFEST.replace("{model:", "{replicas: many, model:"),
            'ModelDeployment default/tiny: spec.replicas: "many"; expected an integer',
        ),
        (MANIFEST.replace("{model:", "{modle: 1, model:"), "ModelDeployment default/tiny: spec.modle: unknown field"),
    ],
)
def test_a_broken_manifest_needs_no_server(sundog: Any, tmp_path: Path, verb: str, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    done = sundog(verb, "-f", str(tmp_path / "a.yaml"))
    assert (done.code, done.out) == (ExitCode.REFUSED, "")
    mistake, server = done.err.splitlines()
    assert mistake.startswith(f"error: {tmp_path}/a.yaml: {message}")
    assert server.startswith("error: no API server")


def test_what_an_apply_does_not_validate_is_not_shown_without_a_server(sundog: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MANIFEST.replace("{model:", "{modle: 1, model:"))
    done = sundog("apply", "--no-validate", "-f", str(tmp_path / "a.yaml"))
    assert (done.code, done.err.startswith("error: no API server")) == (ExitCode.UNREACHABLE, True)


def test_of_a_delete_what_cannot_be_read_is_shown_without_a_server(sundog: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [1")
    done = sundog("delete", "-f", str(tmp_path / "a.yaml"))
    assert (done.code, len(done.err.splitlines())) == (ExitCode.REFUSED, 2)
    assert done.err.startswith(f"error: {tmp_path}/a.yaml: line 1: ")
    (tmp_path / "a.yaml").write_text(MANIFEST.replace("{model:", "{replicas: many, model:"))
    for arguments in (["tiny"], ["-f", str(tmp_path / "a.yaml")]):
        done = sundog("delete", *arguments)
        assert (done.code, done.err.startswith("error: no API server")) == (ExitCode.UNREACHABLE, True)


@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_without_a_server_it_is_code_4(sundog: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    (tmp_path / "a.yaml").write_text(f"{MANIFEST}---\n{SECRET}")
    (tmp_path / "pod.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: x}")
    done = sundog(verb, "-f", str(tmp_path / "a.yaml"))
    assert (done.code, len(done.err.splitlines())) == (ExitCode.UNREACHABLE, 1)
    done = sundog(verb, "-f", str(tmp_path))
    assert done.code == ExitCode.UNREACHABLE
    assert done.err.startswith(f"skipped: {tmp_path}/pod.yaml: ")
    with (tmp_path / "a.yaml").open() as text:
        monkeypatch.setattr("sys.stdin", text)
        assert sundog(verb, "-f", "-").code == ExitCode.UNREACHABLE


@pytest.fixture
def unreachable(server: Any) -> Path:
    """Return the kubeconfig of an API server that does not answer."""
    document = yaml.safe_load(server.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "http://x:y@127.0.0.1:1"
    server.kubeconfig.write_text(yaml.safe_dump(document))
    found: Path = server.kubeconfig
    return found


def test_a_server_that_does_not_answer_is_code_4(sundog: Any, unreachable: Path) -> None:
    done = sundog("get", "--kubeconfig", str(unreachable))
    assert done.code == ExitCode.UNREACHABLE
    assert "the API server does not answer" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{replicas: many, model:", 'spec.replicas: "many"; expected an integer'),
        ("{modle: 1, model:", "spec.modle: unknown field"),
        (
            "{baseline: {uri: 'file:///m'}, model:",
            "NotYetSupported: spec.baseline.uri: is not supported yet",
        ),
        (
            "{rollout: {windows: [{cron: 0 25 * * *, duration: 1h}]}, model:",
            'InvalidSpec: spec.rollout.windows[0].cron: "0 25 * * *" is not a cron line',
        ),
    ],
)
def test_a_plan_checks_manifests_although_the_server_does_not_answer(
    sundog: Any, unreachable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    manifest = tmp_path / "a.yaml"
    manifest.write_text(f"{MANIFEST.replace('{model:', change)}---\n5\n---\n{SECRET}")
    for file, source in ((manifest, manifest), ("-", "standard input")):
        with manifest.open() as text:
            monkeypatch.setattr("sys.stdin", text)
            done = sundog("plan", "-f", str(file), "--kubeconfig", str(unreachable))
        assert (done.code, done.out) == (ExitCode.REFUSED, "")
        unread, refused, server = done.err.splitlines()
        assert unread == f"error: {source}: document is a int; expected an object with apiVersion and kind"
        assert refused.startswith(f"error: {source}: ModelDeployment vision/tiny: {message}")
        assert server.startswith("error: not compared with the cluster: ModelDeployment vision/tiny: the API server")


def test_a_plan_without_an_answer_of_the_server_is_code_4(sundog: Any, unreachable: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{MANIFEST}---\n{SECRET}")
    done = sundog("plan", "-f", str(tmp_path / "a.yaml"), "--kubeconfig", str(unreachable))
    assert (done.code, done.out, len(done.err.splitlines())) == (ExitCode.UNREACHABLE, "", 1)
    assert done.err.startswith("error: not compared with the cluster: ")
    assert "the API server does not answer" in done.err


@pytest.mark.parametrize("verb", ["plan", "apply"])
@pytest.mark.parametrize(("text", "context"), [("", ""), ("contexts: [a]", ""), (None, "nowhere"), ("a: [", "")])
def test_manifests_are_checked_although_the_kubeconfig_is_unusable(
    sundog: Any, server: Any, tmp_path: Path, verb: str, text: str | None, context: str
) -> None:
    if text is not None:
        server.kubeconfig.write_text(text)
    options = ("--kubeconfig", str(server.kubeconfig), *(("--context", context) if context else ()))
    for change, code in (("{model:", ExitCode.UNREACHABLE), ("{replicas: many, model:", ExitCode.REFUSED)):
        (tmp_path / "a.yaml").write_text(MANIFEST.replace("{model:", change))
        done = sundog(verb, "-f", str(tmp_path / "a.yaml"), *options)
        assert (done.code, done.out) == (code, "")
        *mistakes, server_line = done.err.splitlines()
        assert [f"{tmp_path}/a.yaml: ModelDeployment default/tiny: spec.replicas: " in line for line in mistakes] == [
            True
        ] * (code == ExitCode.REFUSED)
        assert server_line.startswith("error: ")


@pytest.mark.parametrize("uri", ["file:///models/v1", "pvc://models/v1"])
def test_a_model_of_another_place_is_valid_without_a_server(sundog: Any, tmp_path: Path, uri: str) -> None:
    (tmp_path / "a.yaml").write_text(MANIFEST.replace("file:///m", uri))
    assert sundog("plan", "-f", str(tmp_path / "a.yaml")).code == ExitCode.UNREACHABLE


def test_verbose_shows_which_server(on_server: Any, server: Any) -> None:
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
