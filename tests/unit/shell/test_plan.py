"""`sundog plan`: the preview, compared with the effect of the apply."""

import functools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from doubles.cluster import NAMESPACE, Cluster, model_deployment
from doubles.kuberay import create_with_status
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.observe import observe
from sundog_operator.core.kubernetes import names
from sundog_operator.errors import Forbidden
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, NODE, POD, Ref
from sundog_operator.shell.exit_codes import ExitCode
from sundog_operator.shell.preview.model_deployment import find_server_violations, preview_model_deployment


@pytest.fixture
def served(served: Any, server: Any) -> Any:
    """Let revision 1 serve, and nothing change any more."""
    server.pause()
    return served


def plan(call: Any, path: Any) -> dict[str, Any]:
    done = call("plan", "-f", str(path), "-o", "json")
    (preview,) = done.json
    assert done.code == (ExitCode.REFUSED if preview["problems"] else ExitCode.OK)
    found: dict[str, Any] = preview
    return found


def test_a_first_revision(on_server: Any, server: Any, manifest: Any) -> None:
    preview = plan(on_server, manifest())
    assert (preview["outcome"], preview["revision"]) == ("create", 1)
    assert preview["lines"] == ["creates revision 1", "revision 1 gets all traffic once it is ready"]
    assert server.do(lambda cluster: cluster.kube.list(MODEL_DEPLOYMENT)) == []


def test_a_changed_model_is_a_canary_and_nothing_is_written(served: Any, server: Any, manifest: Any) -> None:
    before = server.cluster.kube.store.revision
    preview = plan(served, manifest("file:///models/v2"))
    assert (preview["outcome"], preview["revision"]) == ("change", 2)
    assert preview["lines"] == [
        "creates revision 2 (spec.model.uri: file:///models/v1 → file:///models/v2)",
        "canary beside revision 1: 25 % (manual gate) → 50 % (manual gate) → 100 %",
    ]
    assert server.cluster.kube.store.revision == before


def test_the_replicas_of_both_revisions_are_shown_for_each_step(on_server: Any, server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest(replicas=4)))
    server.serve_revision(1)
    assert plan(on_server, manifest("file:///models/v2", replicas=4))["lines"][2] == (
        "replicas: revision 1 keeps 4; revision 2 has 1 at 25 %, 2 at 50 %, 4 at 100 %. Each step waits for them, for 15m at most"
    )
    by_default = plan(on_server, manifest("file:///models/v2", replicas=4, rollout={}))["lines"]
    (line,) = (line for line in by_default if line.startswith("replicas: "))
    assert line.startswith("replicas: revision 1 keeps 4; revision 2 has those for its share. ")


def test_what_was_planned_is_what_happens(served: Any, server: Any, manifest: Any) -> None:
    path = manifest("file:///models/v2")
    wanted = plan(served, path)["revision"]
    served("apply", "-f", str(path))
    server.until(lambda cluster: cluster.at_weight(wanted, 25), "25 % for the planned revision")


def test_a_step_with_too_little_time_for_the_last_traffic_is_shown(canary: Any, server: Any, manifest: Any) -> None:
    server.pause()

    async def had(cluster: Any) -> None:
        stored = await cluster.experiment("digits-r2")
        plan = {**stored["status"]["plan"], "requestsPerSecond": 1.0, "errorRate": 0.0}
        ref = Ref(EXPERIMENT, NAMESPACE, "digits-r2")
        version = stored["metadata"]["resourceVersion"]
        await cluster.kube.patch_status(ref, {**stored["status"], "plan": plan}, resource_version=version)

    server.do(had)

    def lines(most: str) -> list[str]:
        rollout = {"steps": [{"weight": 50, "maxDuration": most}]}
        found: list[str] = plan(canary, manifest("file:///models/v3", rollout=rollout))["lines"]
        return found

    assert lines("6m")[-1] == (
        "with the traffic at the start of digits-r2, step 1 at 50 % is unlikely to be decided within its 6m: at 1 requests/s"
        " with 0.00% failures, it takes about 16m"
    )
    assert lines("2h") == [line for line in lines("2h") if "unlikely" not in line]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"replicas": 3}, "changes in place, without a new revision (spec.replicas: 1 → 3)"),
        (
            {"runtime": {"userConfig": {"threshold": 0.5}}},
            "changes in place, without a new revision (spec.runtime.userConfig.threshold: none → 0.5)",
        ),
        (
            {"runtime": {"userConfig": {"labels": ["a", {"b": None}], "strict": True}}},
            'changes in place, without a new revision (spec.runtime.userConfig.labels: none → ["a", {"b": null}];'
            " spec.runtime.userConfig.strict: none → true)",
        ),
    ],
)
def test_what_changes_in_place_makes_no_revision(served: Any, manifest: Any, spec: dict[str, Any], line: str) -> None:
    preview = plan(served, manifest(**spec))
    assert (preview["outcome"], preview["revision"]) == ("change", 1)
    assert preview["lines"] == [line, "revision 1 keeps all traffic"]


BY_TRAFFIC = (
    "canary beside revision 1: steps by stable's traffic when the rollout starts:"
    " 25 % (evidence) → 50 % (evidence) → 100 % below 50 requests a second, or if unknown;"
    " 5 % (evidence) → 25 % (evidence) → 50 % (evidence) → 100 % from 50;"
    " 1 % (evidence) → 5 % (evidence) → 25 % (evidence) → 50 % (evidence) → 100 % from 1000"
)
OOM = {"name": "oom", "prometheus": {"query": "oom"}, "threshold": {"max": 0}}


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            {"rollout": {"strategy": "recreate"}},
            "revision 2 gets all traffic from revision 1 at once, when all its replicas are ready",
        ),
        (
            {"rollout": {"strategy": "recreate", "dryRun": True}},
            "without dryRun: revision 2 gets all traffic from revision 1 at once",
        ),
        (
            {"rollout": {"strategy": "shadow"}},
            "shadow beside revision 1: 0 % (copies compared) → 0 % (manual gate) → 100 %",
        ),
        (
            {"rollout": {"strategy": "shadow", "dryRun": True}},
            "without dryRun: shadow of revision 2 beside revision 1: 0 % (copies compared) → 0 % (manual gate) → 100 %",
        ),
        (
            {"rollout": {"strategy": "shadow", "bake": {"holdback": "10%"}}},
            "shadow beside revision 1: 0 % (copies compared) → 0 % (manual gate) → 90 % (bakes for 30m) → 100 %",
        ),
        (
            {"rollout": {"strategy": "shadow", "bake": {}, "guardrails": [OOM], "dryRun": True}},
            "without dryRun: shadow of revision 2 beside revision 1: 0 % (copies compared) → 0 % (manual gate) → 99 % (bakes for 30m)"
            " → 100 %, by oom at most 0",
        ),
        ({"paused": True}, "revision 2 waits while the spec is paused; revision 1 keeps serving"),
        (
            {"rollout": {"steps": [{"weight": 10}, {"weight": 50}]}},
            "canary beside revision 1: 10 % (evidence) → 50 % (evidence) → 100 %",
        ),
        (
            {"rollout": {"steps": [{"weight": 50, "gate": "manual"}], "bake": {"duration": "2h", "holdback": "3%"}}},
            "canary beside revision 1: 50 % (manual gate) → 97 % (bakes for 2h) → 100 %",
        ),
        (
            {"rollout": {"bake": {}}},
            BY_TRAFFIC.replace("50 % (evidence) → 100 %", "50 % (evidence) → 99 % (bakes for 30m) → 100 %"),
        ),
        ({"rollout": {}}, BY_TRAFFIC),
        (
            {"rollout": {"steps": [{"weight": 10, "gate": "time", "minDuration": "30s"}, {"pause": {}}]}},
            "canary beside revision 1: 10 % (for 30s) → 10 % (manual gate) → 100 %",
        ),
        (
            {"rollout": {"steps": [{"weight": 10, "gate": "manual"}, {"webhook": {"url": "http://u:p@gate/a?t"}}]}},
            "canary beside revision 1: 10 % (manual gate) → 10 % (a webhook confirms) → 100 %",
        ),
        (
            {"rollout": {"steps": [{"headers": {"x-team": "ann", "x-canary": "true"}}, {"pause": {}}]}},
            "canary beside revision 1: 0 % (x-canary: true and x-team: ann) → 0 % (manual gate) → 100 %",
        ),
    ],
)
def test_how_a_revision_gets_its_traffic(served: Any, manifest: Any, spec: dict[str, Any], line: str) -> None:
    assert plan(served, manifest("file:///models/v2", **spec))["lines"][-1] == line


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({}, "time alone promotes to 100 %, whatever the candidate returns"),
        ({"bake": {}}, "100 %, unless harm rolls it back"),
    ],
)
def test_that_no_gate_decides_on_traffic_is_shown(served: Any, manifest: Any, more: Any, ends: str) -> None:
    timed = {"weight": 10, "gate": "time", "minDuration": "30s"}
    expected = "no gate uses evidence"
    rollout: dict[str, Any] = {"steps": [timed, {"pause": {"duration": "1h"}}], **more}
    last = plan(served, manifest("file:///models/v2", rollout=rollout))["lines"][-1]
    assert last.startswith(expected)
    assert last.endswith(ends)
    asked = {"steps": [timed, {"pause": {}}], **more}
    assert expected not in plan(served, manifest("file:///models/v2", rollout=asked))["lines"][-1]


def test_no_secret_of_an_address_is_shown(served: Any, manifest: Any) -> None:
    hook = "https://ann:hidden@hooks.example/hidden?token=hidden"
    steps = [{"webhook": {"url": hook}}, {"weight": 25, "gate": "manual"}]
    preview = plan(served, manifest(rollout={"notify": [{"webhook": hook}], "steps": steps}))
    (line,) = (each for each in preview["lines"] if each.startswith("changes in place"))
    assert "https://hooks.example" in line
    assert "hidden" not in str(preview)


def test_a_return_within_the_window_has_no_steps(served: Any, server: Any, manifest: Any) -> None:
    served("apply", "-f", str(manifest("file:///models/v2", rollout={"strategy": "recreate"})))
    server.serve_revision(2)
    server.pause()
    assert plan(served, manifest(rollout={"rollbackWindow": {}}))["lines"][-1] == (
        "returns to revision 1, within rollbackWindow: all traffic at once, without steps, when all its replicas are ready"
    )
    other = plan(served, manifest("file:///models/v3", rollout={"rollbackWindow": {}}))["lines"][-1]
    assert other.startswith("canary beside revision 2")


def test_what_waits_for_a_window_is_shown(served: Any, manifest: Any) -> None:
    # The command line uses the clock of its machine.
    opens = (datetime.now(UTC) + timedelta(hours=12)).replace(minute=0, second=0)
    rollout = {
        "steps": [{"weight": 10, "gate": "manual"}],
        "windows": [{"cron": f"0 {opens.hour} * * *", "duration": "1h"}],
    }
    assert plan(served, manifest("file:///models/v2", rollout=rollout))["lines"][-2:] == [
        "canary beside revision 1: 10 % (manual gate) → 100 %",
        f"no traffic moves before {opens:%Y-%m-%dT%H}:00:00Z, when the next window opens",
    ]
    assert "window" not in plan(served, manifest(rollout=rollout))["lines"][-1]


def test_what_becomes_of_a_rollout_that_is_under_way_is_shown(served: Any, server: Any, manifest: Any) -> None:
    manual = {"steps": [{"weight": 10, "gate": "manual"}]}
    served("apply", "-f", str(manifest("file:///models/v2", rollout=manual)))
    server.until(lambda cluster: cluster.at_weight(2, 10), "10 % for revision 2")
    server.pause()
    expected = "the rollout of revision 2, which has 10 % of the traffic"
    for policy, line in (("queue", f"waits for the end of {expected}"), ("restart", f"ends {expected}")):
        path = manifest("file:///models/v3", rollout={**manual, "onNewRevision": policy})
        assert line in plan(served, path)["lines"]
    queued = manifest("file:///models/v3", rollout={**manual, "onNewRevision": "queue"})
    served("apply", "-f", str(queued))

    async def waits(cluster: Any) -> bool:
        return bool((await cluster.status()).get("queued") == 3)

    server.until(waits, "revision 3 waits")
    server.pause()
    assert plan(served, queued)["lines"][-1] == "revision 3 waits until the rollout of revision 2 has ended"
    assert "waits" in next(line for line in served("describe", "digits").out.splitlines() if line.startswith("r3"))


@pytest.mark.parametrize("policy", ["onInconclusive", "onNoData"])
def test_a_policy_that_promotes_without_evidence_is_shown(served: Any, manifest: Any, policy: str) -> None:
    by_hand = {"steps": [{"weight": 10, "gate": "manual"}], policy: "promote"}
    assert plan(served, manifest("file:///models/v2", rollout=by_hand))["lines"][-1].startswith("canary beside")
    expected = plan(served, manifest("file:///models/v2", rollout={policy: "promote"}))["lines"][-1]
    assert expected.startswith(f"{policy}: promote passes a step")
    assert expected.endswith(", so a promotion has no statistical guarantee")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            [{"weight": 10, "gate": "time"}, {"weight": 50}],
            ["step 1 at 10 % (for 5m) passes without evidence, and a later step decides"],
        ),
        (
            [{"weight": 10}, {"weight": 50, "gate": "manual"}],
            [
                "step 2 at 50 % (manual gate) asks for no evidence, and is the last before all traffic, so a promotion has no"
                " statistical guarantee"
            ],
        ),
        (
            [{"weight": 10, "gate": "time"}, {"weight": 50, "gate": "manual"}],
            ["step 1 at 10 % (for 5m) passes by time alone"],
        ),
        # A resumed pause continues with the evidence of its weight.
        ([{"weight": 10}, {"pause": {"duration": "1h"}}, {"weight": 50}, {"pause": {}}], []),
    ],
)
def test_a_step_that_asks_for_no_evidence_is_shown_beside_others_that_do(
    served: Any, manifest: Any, steps: list[Any], expected: list[str]
) -> None:
    lines = plan(served, manifest("file:///models/v2", rollout={"steps": steps}))["lines"]
    assert [each for each in lines if each.startswith("step ")] == expected


def test_outcomes_that_gates_wait_for_are_shown(served: Any, manifest: Any) -> None:
    kept = {"name": "kept", "feedback": "accepted", "margin": "5%"}
    rollout: dict[str, Any] = {"steps": [{"weight": 25}, {"weight": 50}], "guardrails": [kept]}
    line = (
        "guardrail kept: rate of accepted may be up to 5 % below stable's; each evidence gate waits for outcomes that are"
        " posted to -/feedback"
    )
    assert plan(served, manifest("file:///models/v2", rollout=rollout))["lines"][-1] == line
    sticky = plan(served, manifest("file:///models/v2", rollout={**rollout, "unit": {"header": "x-user-id"}}))["lines"]
    assert sticky[-2:] == [
        line,
        "by outcomes, the gate at 50 % counts only units that are first seen at that weight; if few units are new, use a"
        " single weight",
    ]
    dry = plan(served, manifest("file:///models/v2", rollout={**rollout, "dryRun": True}))["lines"]
    assert any("kept within 5 %" in each for each in dry)


def test_a_secret_that_is_missing_is_shown_unless_it_comes_along(served: Any, manifest: Any) -> None:
    path = manifest(endpoint={"auth": {"apiKeys": {"secretName": "keys"}}})
    expected = f"spec.endpoint.auth.apiKeys.secretName: Secret {NAMESPACE}/keys does not exist; until then the edge rejects every request"
    assert plan(served, path)["lines"][-1] == expected
    head = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: {NAMESPACE}}}\n"
    path.write_text(f"{path.read_text()}\n---\n{head}stringData: {{ann: a-key-of-16-letters}}\n")
    assert plan(served, path)["lines"][-1] == "revision 1 keeps all traffic"


def test_no_change_is_shown_as_such(served: Any, manifest: Any) -> None:
    preview = plan(served, manifest())
    assert (preview["outcome"], preview["lines"]) == ("unchanged", ["nothing changes"])


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            {"rollout": {"steps": [{"weight": 250, "gate": "manual"}]}},
            "spec.rollout.steps[0].weight: 250; expected 1 to 100",
        ),
        ({"replica": 2}, "spec.replica: unknown field"),
        (
            {"rollout": {"windows": [{"cron": "0 25 * * *", "duration": "1h"}]}},
            'InvalidSpec: spec.rollout.windows[0].cron: "0 25 * * *" is not a cron line: bad hour; expected one such as 0 9 * * 1-5',
        ),
        ({"baseline": {"uri": "file:///m"}}, "NotYetSupported: spec.baseline.uri: is not supported yet"),
    ],
)
def test_what_is_refused_is_shown_with_code_1(served: Any, manifest: Any, spec: dict[str, Any], problem: str) -> None:
    preview = plan(served, manifest(**spec))
    assert preview["outcome"] == "refused"
    assert preview["problems"][0].startswith(problem)
    assert preview["lines"] == ["revision 1 keeps serving"]


ADMISSION = 'admission webhook "policy" denied the request: no team'
RBAC = 'modeldeployments.serving.sundog.dev "digits" is forbidden: User "ci" cannot patch resource "modeldeployments"'


@pytest.mark.parametrize("kind", ["ModelDeployment", "Experiment", "Secret"])
@pytest.mark.parametrize(("refusal", "code"), [(ADMISSION, ExitCode.REFUSED), (RBAC, ExitCode.OK)])
def test_a_refusal_of_the_server_counts_unless_only_this_user_lacks_the_permission(
    on_server: Any, server: Any, tmp_path: Path, kind: str, refusal: str, code: ExitCode
) -> None:
    spec = {"ModelDeployment": "{model: {uri: 'file:///m'}}", "Experiment": "{modelDeployment: a, arms: [{name: b}]}"}
    api = "v1" if kind == "Secret" else "serving.sundog.dev/v1alpha1"
    path = tmp_path / "new.yaml"
    path.write_text(f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: digits}}\nspec: {spec.get(kind)}\n")
    server.cluster.kube.faults = lambda verb, _ref: Forbidden(refusal) if verb == "apply" else None
    done = on_server("plan", "-f", str(path))
    assert done.code == code, done
    assert refusal in done.out + done.err
    assert ("✗" in done.out) is (kind != "Secret" and code == ExitCode.REFUSED)


@pytest.mark.parametrize("data", ["data: [a]", "stringData: [a: b]"])
def test_a_mistyped_secret_beside_a_model_is_refused(on_server: Any, manifest: Any, data: str) -> None:
    path = manifest(endpoint={"auth": {"apiKeys": {"secretName": "keys"}}})
    path.write_text(f"{path.read_text()}\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\n{data}\n")
    done = on_server("plan", "-f", str(path))
    assert (done.code, done.out.splitlines()[0]) == (1, f"ModelDeployment {NAMESPACE}/digits would be created")
    assert f"Secret {NAMESPACE}/keys: {data.partition(':')[0]}: list; expected an object" in done.err


def test_what_is_stored_already_is_refused_by_no_api_server() -> None:
    copies = {"steps": [{"scale": {"replicas": 2}}]}
    before, edited = model_deployment(rollout=copies), model_deployment(rollout=copies, replicas=2)
    assert find_server_violations(edited, edited, before) == ()
    (problem,) = find_server_violations(edited, edited, None)
    assert problem.startswith("spec.rollout.steps: ")
    both = {"strategy": "recreate", "bake": {}}
    edited = model_deployment(rollout=both, replicas=2)
    assert find_server_violations(edited, edited, model_deployment(rollout=both)) == ()
    worse = model_deployment(rollout={"steps": [{"scale": {"replicas": 0}}]})
    assert find_server_violations(worse, worse, before) != ()


def test_a_running_rollout_is_ended_by_another_revision(canary: Any, server: Any, manifest: Any) -> None:
    server.pause()
    assert plan(canary, manifest("file:///models/v2"))["lines"] == [
        "nothing changes",
        "revision 2 is being rolled out: 25 % (manual gate) → 50 % (manual gate) → 100 %",
    ]
    assert plan(canary, manifest("file:///models/v3"))["lines"][1:] == [
        "ends the rollout of revision 2, which has 25 % of the traffic",
        "canary beside revision 1: 25 % (manual gate) → 50 % (manual gate) → 100 %",
    ]
    back = plan(canary, manifest("file:///models/v1"))
    assert back["revision"] == 1
    assert back["lines"][-1] == "revision 1 keeps all traffic"


def test_a_revision_that_was_aborted_stays_held_back(canary: Any, server: Any, manifest: Any) -> None:
    assert canary("abort", "digits").code == 0
    server.serve_revision(1)
    assert plan(canary, manifest("file:///models/v2"))["lines"][1].startswith(
        "revision 2 is held back, because it was aborted: "
    )
    lines = plan(canary, manifest("file:///models/v2", replicas=2))["lines"]
    assert lines[-1] == "revision 2 stays held back, because it was aborted. `sundog retry` retries it"


def test_replicas_of_an_autoscaler_are_no_change(served: Any, server: Any, manifest: Any) -> None:
    ref = Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits")

    async def scale(cluster: Any) -> None:
        await cluster.kube.update(ref, lambda obj: {**obj, "spec": {**obj["spec"], "replicas": 3}}, manager="hpa")

    server.do(scale)
    assert plan(served, manifest())["outcome"] == "unchanged"


def test_replicas_that_a_manifest_no_longer_has_become_1(on_server: Any, server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest(replicas=2)))
    server.serve_revision(1)
    path = manifest()
    planned = plan(on_server, path)
    assert planned["lines"][0] == "changes in place, without a new revision (spec.replicas: 2 → 1)"
    assert plan(on_server, path) == planned, "nothing was written"
    on_server("apply", "-f", str(path))
    stored = server.do(lambda cluster: cluster.kube.get(Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits")))
    assert stored["spec"]["replicas"] == 1
    assert plan(on_server, path)["outcome"] == "unchanged"


def test_a_model_that_this_machine_lacks_is_shown_where_it_would_be_loaded(
    on_server: Any, local: Any, manifest: Any, tmp_path: Path
) -> None:
    path = manifest(f"file://{tmp_path}/model")
    expected = f"spec.model.uri: {tmp_path}/model does not exist on this machine. No replica starts until you create it"
    assert plan(local, path)["problems"] == [expected]
    assert plan(on_server, path)["problems"] == [], "a cluster has other files"
    (tmp_path / "model").mkdir()
    assert expected not in plan(local, path)["problems"]


@pytest.mark.parametrize(
    ("code", "description", "expected"),
    [
        (
            "import no_such_package",
            "entrypoint: net:Net",
            "spec.model: LoadFailed: importing 'net': no module named 'no_such_package' in the model or the image."
            " No replica starts until you fix it",
        ),
        (
            "import os; os._exit(3)",
            "entrypoint: net:Net",
            "spec.model: importing the entrypoint ended Python (3). No replica starts until you fix it",
        ),
        (
            "",
            "format: torch",
            "spec.model: EntrypointMissing: weights.safetensors is safetensors: set model.entrypoint to its module, such as"
            " net:Net. No replica starts until you fix it",
        ),
    ],
)
def test_a_local_model_that_cannot_start_is_a_problem(
    local: Any, manifest: Any, tmp_path: Path, code: str, description: str, expected: str
) -> None:
    path = local_model(manifest, tmp_path, code, description)
    assert plan(local, path)["problems"] == [expected]
    assert local("plan", "-f", str(path)).out.splitlines()[1] == f"  ✗ {expected}"


def local_model(manifest: Any, tmp_path: Path, code: str, description: str) -> Any:
    model = tmp_path / "model"
    model.mkdir()
    (model / "net.py").write_text(code)
    (model / "model.yaml").write_text(description)
    (model / "weights.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return manifest(model={"uri": f"file://{model}"})


def test_the_entrypoint_of_a_local_model_is_shown(local: Any, manifest: Any, tmp_path: Path) -> None:
    preview = plan(local, local_model(manifest, tmp_path, "class Net: pass", "entrypoint: net:Net"))
    expected = "spec.model.entrypoint: class net.Net (no torch.nn.Module, no predictor)"
    assert (preview["problems"], preview["lines"][-1]) == ([], expected)


def test_the_text_is_for_people(served: Any, manifest: Any) -> None:
    done = served("plan", "-f", str(manifest("file:///models/v2")))
    assert done.out.splitlines()[0] == "ModelDeployment vision/digits would change"
    assert done.out.splitlines()[1].startswith("  • creates revision 2 (")


def test_a_candidate_in_place_is_shown_with_its_cost_or_refusal(on_server: Any, server: Any, manifest: Any) -> None:
    rollout = {"steps": [{"weight": 50, "gate": "manual"}], "capacity": "inPlace"}
    on_server("apply", "-f", str(manifest(replicas=4, rollout=rollout)))
    server.serve_revision(1)
    path = manifest("file:///models/v2", replicas=4, rollout=rollout)
    assert plan(on_server, path)["lines"][1:] == [
        "canary in place of revision 1: 50 % (manual gate) → 100 %",
        "both revisions share the service's 4 replicas, and traffic follows them; stable has one less while each replica starts",
    ]
    alone = manifest("file:///models/v2", replicas=1, rollout=rollout)
    assert plan(on_server, alone)["lines"][-2].startswith(
        "revision 2: spec.rollout.capacity: inPlace needs at least 2 replicas, found 1"
    )


GPU = "nvidia.com/gpu"


async def offer_gpus(cluster: Cluster, devices: int = 1) -> None:
    """A node with devices."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {}}
    status = {"allocatable": {GPU: str(devices)}, "conditions": [{"type": "Ready", "status": "True"}]}
    await create_with_status(cluster.kube, NODE, node, status)


async def let_nodes_come(cluster: Cluster) -> None:
    """The chart's ConfigMap of an installation where pods bring nodes."""
    labels = {"app.kubernetes.io/name": "sundog-operator", "app.kubernetes.io/component": "operator"}
    meta = {"name": "sundog", "namespace": "sundog-system", "labels": labels}
    data = {"installation.yaml": "gpu: {nodesCome: true}"}
    await cluster.kube.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})


def test_devices_that_are_missing_are_named_before_anything_is_applied(served: Any, server: Any, manifest: Any) -> None:
    server.do(offer_gpus)
    two = manifest("file:///models/v2", resources={"gpu": {"count": 2}})
    short = f"2 {GPU} needed (1 × 2), 1 of 1 free on 1 node. Free some, add nodes, or ask for less"
    assert plan(served, two)["lines"][-2:] == [f"revision 2: {short}", "it does not start until this changes"]
    one = manifest("file:///models/v2", resources={"gpu": {"count": 1}})
    assert plan(served, one)["lines"][-1] == f"1 pod with 1 CPU, 2.5Gi memory, 1 {GPU} needed, 1 fit on 1 node"


def test_without_permission_for_nodes_free_devices_are_unknown(served: Any, server: Any, manifest: Any) -> None:
    server.do(offer_gpus)

    def refuse(verb: str, ref: Ref) -> Exception | None:
        return Forbidden("nodes is forbidden (403)") if ref.kind == NODE else None

    server.cluster.kube.faults = refuse
    unknown = (
        "free GPUs are unknown: it takes permission to list nodes, pods of all namespaces and ResourceQuotas. Ask an"
        " administrator for it, or to run `sundog plan`"
    )
    gpus = {"gpu": {"count": 8}}
    assert plan(served, manifest("file:///models/v2", resources=gpus))["lines"][-1] == unknown
    queued = manifest("file:///models/v2", resources=gpus, scheduling={"queue": "team"})
    assert unknown not in plan(served, queued)["lines"]
    assert unknown not in plan(served, manifest("file:///models/v2"))["lines"]


async def test_capacity_is_asked_for_replicas_of_the_load_and_pods_that_stable_lacks() -> None:
    cluster = Cluster(installation=parse_installation("runtimeImage: example.com/runtime:1", "test"))
    await offer_gpus(cluster, devices=8)
    scaled: dict[str, Any] = {
        "autoscaling": {"minReplicas": 1, "maxReplicas": 12},
        "resources": {"gpu": {"count": 1}},
        "rollout": {"steps": [{"weight": 50, "gate": "manual"}], "capacity": "surge"},
    }
    await cluster.apply(**scaled)
    await cluster.until(functools.partial(cluster.serves, 1))
    (serve,) = cluster.serve_apis.by_dashboard.values()
    serve.load("digits-r1", 3)
    await cluster.settle(20)
    pod, *_ = await cluster.kube.list(POD, NAMESPACE, {names.LABEL_REVISION: "1"})
    await cluster.kube.replace({**pod, "spec": {**pod["spec"], "nodeName": "a"}})
    stored, manifest = await cluster.get(), model_deployment("file:///models/v2", **scaled)
    desired = {**stored, "metadata": {**stored["metadata"], "generation": 2}, "spec": manifest["spec"]}
    observed = await observe(cluster.world, desired)
    assert preview_model_deployment(manifest, stored, observed, cluster.clock.now()).lines[-1] == (
        f"5 pods with 1 CPU, 2.5Gi memory, 1 {GPU} needed, 2 of them for stable, 7 fit on 1 node"
    )


@pytest.mark.parametrize(
    "rollout", [{"strategy": "recreate"}, {"steps": [{"weight": 50, "gate": "manual"}], "capacity": "surge"}]
)
def test_the_installation_decides_whether_missing_devices_hold_a_revision_back(
    served: Any, server: Any, manifest: Any, rollout: dict[str, Any]
) -> None:
    server.do(offer_gpus)
    two = manifest("file:///models/v2", resources={"gpu": {"count": 2}}, rollout=rollout)

    def lines() -> list[str]:
        found: list[str] = plan(served, two)["lines"]
        return found

    *_, short, ends = lines()
    assert (short.startswith(f"revision 2: 2 {GPU} needed"), ends) == (True, "it does not start until this changes")
    server.do(let_nodes_come)
    assert lines()[-2:] == [short, "its pods are created, and wait for nodes"]


def test_a_first_revision_shows_what_it_lacks(on_server: Any, server: Any, manifest: Any) -> None:
    server.do(offer_gpus)
    lines = plan(on_server, manifest(resources={"gpu": {"count": 4}}))["lines"]
    assert lines[-2].startswith(f"revision 1: 4 {GPU} needed (1 × 4), 1 of 1 free on 1 node")
    assert lines[-1] == "its pods are created, and wait for nodes"
