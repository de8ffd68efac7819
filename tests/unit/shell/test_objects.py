"""`sundog apply`, `get`, `describe` and `delete`."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from doubles.cluster import NAMESPACE
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.kubernetes_errors import make_error
from sundog_operator.errors import DependencyError, Forbidden, NotServed, RequestRefused
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Ref, WatchEvent
from sundog_operator.shell.exit_codes import ExitCode
from sundog_operator.shell.local import state_dir_paths

FULL = "modeldeployment.serving.sundog.dev/digits"


def test_apply_creates_changes_and_leaves_alone(on_server: Any, manifest: Any) -> None:
    path = str(manifest())
    assert on_server("apply", "-f", path).out == f"{FULL} created\n"
    assert on_server("apply", "-f", path).out == f"{FULL} unchanged\n"
    manifest("file:///models/v2")
    assert on_server("apply", "-f", path).out == f"{FULL} configured\n"


def test_a_changed_secret_is_no_unchanged_one(on_server: Any, tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    for key, result in (("one", "created"), ("one", "unchanged"), ("two", "configured")):
        path.write_text(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\nstringData: {{ann: {key}}}\n")
        assert on_server("apply", "-f", str(path)).out == f"secret/keys {result}\n"


def test_an_apply_without_change_is_unchanged_at_any_time(on_server: Any, server: Any, manifest: Any) -> None:
    path = str(manifest())
    on_server("apply", "-f", path)
    server.operator.set()
    assert on_server("apply", "-f", path).out == f"{FULL} unchanged\n"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"replicas": "many"}, 'spec.replicas: "many"; expected an integer'),
        ({"model": {"uri": "ftp://x"}}, "spec.model.uri: ftp://x; expected a URI that starts with one of file://"),
        ({"replica": 2}, "spec.replica: unknown field"),
    ],
)
def test_a_refused_object_is_one_line_that_names_file_field_and_value(
    on_server: Any, server: Any, manifest: Any, spec: dict[str, Any], message: str
) -> None:
    path = manifest(**spec)
    done = on_server("apply", "-f", str(path))
    assert done.code == ExitCode.REFUSED
    assert done.err.startswith(f"error: {path}: ModelDeployment vision/digits")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert server.do(lambda cluster: cluster.kube.list(MODEL_DEPLOYMENT)) == []


def test_a_manifest_with_too_many_aliases_holds_up_no_other(on_server: Any, manifest: Any, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text(f"a: &a [{'x, ' * 9_000}]\nb: [{'*a, ' * 60}]")
    good = str(manifest())
    for verb, shown in (("plan", "ModelDeployment vision/digits would be created\n"), ("apply", f"{FULL} created\n")):
        done = on_server(verb, "-f", str(bomb), "-f", good)
        assert (done.code, done.out.startswith(shown)) == (ExitCode.REFUSED, True)
        assert done.err.startswith(f"error: {bomb}: line 2: aliases expand to more than 1048576 characters, in b[")


def test_a_spec_that_is_stored_and_not_acted_on_is_shown_at_once(on_server: Any, manifest: Any) -> None:
    path = str(manifest(baseline={"uri": "file:///m"}))
    for done in (on_server("apply", "-f", path), on_server("apply", "-f", path)):
        assert done.code == ExitCode.REFUSED
        assert done.err == (
            f"error: {path}: ModelDeployment vision/digits: NotYetSupported:"
            " spec.baseline.uri: is not supported yet; leave it out\n"
        )
    assert done.out == f"{FULL} unchanged\n"
    manifest()
    done = on_server("apply", "-f", path)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(("stopped", "code"), [(False, ExitCode.REFUSED), (True, ExitCode.OK)])
def test_an_experiment_that_is_not_acted_on_is_shown_unless_it_is_to_end(
    on_server: Any, tmp_path: Path, stopped: bool, code: ExitCode
) -> None:
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "Experiment", "metadata": {"name": "wide"}}
    spec = {
        "modelDeployment": "digits",
        "arms": [{"name": "wide"}],
        "metrics": {"success": [{"name": "bought", "feedback": "bought", "window": "1s"}]},
        "stopped": stopped,
    }
    path = tmp_path / "wide.yaml"
    path.write_text(json.dumps({**head, "spec": spec}))
    done = on_server("apply", "-f", str(path))
    assert (done.code, done.out) == (code, "experiment.serving.sundog.dev/wide created\n")
    refused = "InvalidSpec: spec.metrics.success[0].window: 1s where each request is a unit; expected "
    assert (refused in done.err) is not stopped


def test_one_bad_manifest_does_not_keep_the_good_ones_back(on_server: Any, manifest: Any, tmp_path: Path) -> None:
    manifest()
    (tmp_path / "bad.yaml").write_text("a: [1")
    done = on_server("apply", "-f", str(tmp_path / "digits.yaml"), "-f", str(tmp_path / "bad.yaml"))
    assert done.code == ExitCode.REFUSED
    assert done.out == f"{FULL} created\n"
    assert done.err.startswith(f"error: {tmp_path}/bad.yaml: line ")


@pytest.mark.parametrize(
    ("error", "code"), [(Forbidden("no role"), ExitCode.REFUSED), (NotServed("no role"), ExitCode.UNREACHABLE)]
)
@pytest.mark.parametrize(("verb", "left_out"), [("apply", "not applied"), ("delete", "not deleted")])
def test_an_object_that_the_server_denies_keeps_no_other_back(
    on_server: Any,
    server: Any,
    manifest: Any,
    tmp_path: Path,
    verb: str,
    left_out: str,
    error: DependencyError,
    code: ExitCode,
) -> None:
    files = [part for name in "abc" for part in ("-f", str(manifest(name=name, file=f"{name}.yaml")))]
    if verb == "delete":
        on_server("apply", *files)
    full = FULL.replace("digits", "{}") + (" deleted\n" if verb == "delete" else " created\n")
    kube = server.cluster.kube
    kube.faults = lambda called, ref: error if (called, ref.name) == (verb, "a") else None
    done = on_server(verb, *files)
    assert (done.code, done.out) == (code, full.format("b") + full.format("c"))
    assert "ModelDeployment vision/a: no role" in done.err
    kube.faults = lambda called, ref: DependencyError("full") if (called, ref.name) == (verb, "a") else None
    done = on_server(verb, *files)
    assert (done.code, done.out) == (ExitCode.UNREACHABLE, "")
    assert done.err.splitlines()[1:] == [f"{left_out}: ModelDeployment vision/b, ModelDeployment vision/c"]


def test_a_refusal_is_no_lost_server() -> None:
    codes = {code: type(make_error("x", code, {})) for code in (400, 403, 413, 500, 401, 429, 503)}
    assert [codes[code] for code in (400, 413)] == [RequestRefused] * 2
    assert [codes[code] for code in (401, 429, 503)] == [DependencyError] * 3
    assert codes[403] == Forbidden
    # A webhook that fails has a reason; etcd's time-outs, after which the write may have happened, have none.
    assert (type(make_error("x", 500, {"reason": "InternalError"})), codes[500]) == (RequestRefused, DependencyError)


def test_nothing_to_apply_is_shown(on_server: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    done = on_server("apply", "-f", str(tmp_path / "empty.yaml"))
    assert (done.code, done.err) == (
        ExitCode.REFUSED,
        f"error: no ModelDeployment, Experiment or Secret in {tmp_path}/empty.yaml\n",
    )


def test_apply_reads_standard_input(on_server: Any, manifest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with manifest().open() as text:
        monkeypatch.setattr("sys.stdin", text)
        assert on_server("apply", "-f", "-").out == f"{FULL} created\n"


def test_get_shows_the_columns_of_the_crd(served: Any) -> None:
    head, line = served("get").out.splitlines()
    assert head.split() == ["NAME", "READY", "REASON", "STABLE", "CANDIDATE", "WEIGHT", "REPLICAS", "AGE", "MESSAGE"]
    assert line.split()[:4] == ["digits", "True", "Serving", "1"]
    assert "URL" in served("get", "mdep", "digits", "-o", "wide").out.splitlines()[0]
    head, line = served("get", "-A").out.splitlines()
    assert (head.split()[0], line.split()[:2]) == ("NAMESPACE", ["vision", "digits"])


def test_what_local_mode_could_not_apply_is_shown_by_get(local: Any, local_state: Path, manifest: Any) -> None:
    local("apply", "-f", str(manifest()))
    state_dir_paths.write_manifest_problems(local_state, ["a.yaml: spec.replicas: -1 is less than 0"])
    message = "not applied: a.yaml: spec.replicas: -1 is less than 0\n"
    assert local("get").err == local("describe", "digits").err == message
    assert local("get", "digits", "-o", "json").json["metadata"]["name"] == "digits"
    state_dir_paths.write_manifest_problems(local_state, [])
    assert local("get").err == ""


def test_get_prints_documents(on_server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest()))
    one = json.loads(on_server("get", "digits", "-o", "json").out)
    assert (one["kind"], one["metadata"]["name"]) == ("ModelDeployment", "digits")
    listed = yaml.safe_load(on_server("get", "modeldeployments", "-o", "yaml").out)
    assert listed["kind"] == "List"
    assert [item["metadata"]["name"] for item in listed["items"]] == ["digits"]
    assert on_server("get", "-o", "name").out == f"{FULL}\n"
    assert on_server("get", "mdep/digits", "-o", "name").out == f"{FULL}\n"


def test_documents_of_a_watch_are_apart(on_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch(*_: Any) -> Any:
        for name in ("a", "b"):
            yield WatchEvent("ADDED", {"kind": "ModelDeployment", "metadata": {"name": name, "namespace": NAMESPACE}})

    monkeypatch.setattr(KubernetesClient, "watch", watch)
    documents = yaml.safe_load_all(on_server("get", "-w", "-o", "yaml").out)
    assert [document["metadata"]["name"] for document in documents] == ["a", "b"]


def test_what_get_prints_can_be_applied(on_server: Any, manifest: Any, tmp_path: Path) -> None:
    on_server("apply", "-f", str(manifest()))
    printed = tmp_path / "printed.yaml"
    printed.write_text(on_server("get", "-o", "yaml").out)
    assert on_server("apply", "-f", str(printed)).code == 0


def test_an_unknown_name_is_code_3(on_server: Any) -> None:
    for arguments in (["get", "nothing"], ["describe", "nothing"], ["promote", "nothing"], ["rollback", "nothing"]):
        done = on_server(*arguments)
        assert (done.code, done.err) == (ExitCode.NOT_FOUND, "error: ModelDeployment vision/nothing does not exist\n")
    assert on_server("get", "mexp", "nothing").err == "error: Experiment vision/nothing does not exist\n"


def test_an_empty_list_is_shown_on_standard_error(on_server: Any) -> None:
    done = on_server("get")
    assert (done.code, done.out, done.err) == (0, "", "no ModelDeployment in namespace vision\n")
    assert json.loads(on_server("get", "-o", "json").out)["items"] == []


def test_describe_says_what_a_canary_waits_for(served: Any, server: Any, manifest: Any) -> None:
    assert _fact(served("describe", "digits").out, "Waits for") == "nothing"
    served("apply", "-f", str(manifest("file:///models/v2")))
    server.until(lambda cluster: cluster.at_weight(2, 25), "25 %")

    async def waits(cluster: Any) -> bool:
        steps = (await cluster.experiment("digits-r2"))["status"].get("step") or {}
        return steps.get("reason") == "waits for promote"

    server.until(waits, "the gate")
    message = served("describe", "digits").out
    assert _fact(message, "Waits for") == "revision 2, step 1 of 3: waits for promote"
    assert "revision 1 serves; revision 2 waits for promote" in served("get", "digits").out
    assert "rollout digits-r2: revision 2 gets 25 % of the traffic from epoch 1" in message, "a pipe gets whole lines"
    lines = [" ".join(line.split()) for line in message.splitlines()]
    assert any(line.startswith("r1 stable 75 %") and line.endswith("file:///models/v1") for line in lines)
    assert any(line.startswith("r2 candidate 25 %") and line.endswith("file:///models/v2") for line in lines)
    assert "Rollout digits-r2: Running" in lines
    assert "1 25 % manual now: waits for promote" in lines
    assert "3 100 % none" in lines
    assert any("TrafficShifted" in line for line in lines)
    assert any(line.startswith("TrafficSynced ") for line in lines)
    experiment = served("describe", "mexp", "digits-r2").out
    assert "canary" in experiment
    head, line = served("get", "mexp", "digits-r2", "-o", "wide").out.splitlines()
    assert head.split()[:6] == ["NAME", "READY", "PHASE", "MODEL", "STEP", "PAUSED"]
    assert line.split()[:5] == ["digits-r2", "True", "Running", "digits", "1"]
    assert "waits for promote" in line
    assert "Rollout digits-r2: Running" in experiment


def test_a_rollout_that_evidence_does_not_decide_is_seen_at_once(on_server: Any, server: Any, manifest: Any) -> None:
    rollout = {"steps": [{"weight": 25, "minDuration": "0s", "maxDuration": "5s"}]}
    on_server("apply", "-f", str(manifest(rollout=rollout)))
    server.serve_revision(1)
    on_server("apply", "-f", str(manifest("file:///models/v2", rollout=rollout)))

    async def asks(cluster: Any) -> bool:
        conditions = (await cluster.status())["conditions"]
        ready = next(each for each in conditions if each["type"] == "Ready")
        return "paused" in str(ready["message"])

    server.until(asks, "the pause")
    assert "revision 1 serves; revision 2 is paused (NoData)" in on_server("get", "digits").out
    lines = [" ".join(line.split()) for line in on_server("describe", "digits").out.splitlines()]
    assert "Rollout digits-r2: Running, paused (NoData)" in lines
    assert "1 25 % evidence, 0s to 5s now: paused because an arm has no requests" in lines
    assert "errorRate up to 25 % more than stable, or 1 % of all requests" in lines
    assert "latencyP95 up to 25 % longer than stable, whose latency is not known yet" in lines
    head, line = on_server("get", "mexp", "digits-r2").out.splitlines()
    assert dict(zip(head.split(), line.split(), strict=False))["PAUSED"] == "NoData"


def test_get_says_that_a_rollout_waits_for_evidence(on_server: Any, server: Any, manifest: Any) -> None:
    rollout = {"steps": [{"weight": 25}]}
    on_server("apply", "-f", str(manifest(rollout=rollout)))
    server.serve_revision(1)
    on_server("apply", "-f", str(manifest("file:///models/v2", rollout=rollout)))

    async def message(cluster: Any) -> bool:
        conditions = (await cluster.status())["conditions"]
        ready = next(each for each in conditions if each["type"] == "Ready")
        return "revision 1 serves; revision 2 waits for evidence at 25 %" in str(ready["message"])

    server.until(message, "what it waits for")
    assert "revision 2 waits for evidence at 25 %" in on_server("get", "digits").out


def test_describe_shows_why_a_spec_is_refused(on_server: Any, server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest("pvc://models/v1")))

    async def stalled(cluster: Any) -> bool:
        return await cluster.condition("Stalled") == ("True", "NotYetSupported")

    server.until(stalled, "the refusal")
    message = " ".join(on_server("describe", "digits").out.split())
    assert "spec.model.uri" in message
    assert "NotYetSupported" in message


def _fact(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return line.removeprefix(name).strip()


def test_delete_takes_objects_and_shows_what_is_absent(on_server: Any, server: Any, manifest: Any) -> None:
    path = str(manifest())
    on_server("apply", "-f", path)
    done = on_server("delete", "digits", "other")
    assert (done.code, done.out) == (ExitCode.NOT_FOUND, f"{FULL} deleted\n")
    assert done.err == "error: ModelDeployment vision/other does not exist\n"
    assert server.do(lambda cluster: cluster.kube.get(Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits"))) is None
    on_server("apply", "-f", path)
    assert on_server("delete", "-f", path).out == f"{FULL} deleted\n"
    assert on_server("delete", "-f", path, "--ignore-not-found").code == 0
    assert on_server("delete").code == ExitCode.USAGE


def test_delete_during_a_rollout_asks_first(canary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way = "ModelDeployment vision/digits: the rollout of revision 2 is at 25 %"
    monkeypatch.setattr("sys.stdin", io.StringIO())
    done = canary("delete", "mdep/digits")
    assert (done.code, done.out) == (ExitCode.REFUSED, "")
    assert done.err == f"error: {under_way}; not deleted. Give --yes to delete it all the same\n"
    for answer, code, out in (("n", ExitCode.REFUSED, ""), ("y", ExitCode.OK, f"{FULL} deleted\n")):
        terminal = io.StringIO(f"{answer}\n")
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", terminal)
        done = canary("delete", "digits")
        assert (done.code, done.out) == (code, out)
        assert f"{under_way}. Delete it?" in done.err


def test_delete_with_yes_does_not_ask_during_a_rollout(canary: Any) -> None:
    assert canary("delete", "digits", "--yes").out == f"{FULL} deleted\n"


def test_an_experiment_of_ones_own_is_answered(on_server: Any, server: Any, tmp_path: Path) -> None:
    document = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "mine"},
        "spec": {"modelDeployment": "digits", "arms": [{"name": "wide"}]},
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(document))
    assert on_server("apply", "-f", str(path)).out == "experiment.serving.sundog.dev/mine created\n"
    stored = server.do(lambda cluster: cluster.kube.get(Ref(EXPERIMENT, NAMESPACE, "mine")))
    assert stored["spec"]["exposure"] == "20%"


def test_describe_prints_documents(served: Any) -> None:
    message = served("describe", "digits", "-o", "json").json
    assert message["modelDeployment"]["metadata"]["name"] == "digits"
    assert message["waitsFor"] == "nothing"
    assert [each["revision"] for each in message["revisions"]] == [1]
    assert {"RevisionCreated", "Promoted"} <= {each["reason"] for each in message["events"]}
    assert yaml.safe_load(served("describe", "digits", "-o", "yaml").out) == message


def test_url_is_the_endpoint_alone(on_server: Any, server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest()))
    done = on_server("url", "digits")
    assert (done.code, done.out) == (ExitCode.REFUSED, "")
    assert "has no endpoint yet. `sundog describe digits` shows why" in done.err
    server.serve_revision(1)
    assert on_server("url", "digits").out == f"{on_server('get', 'digits', '-o', 'json').json['status']['url']}\n"
