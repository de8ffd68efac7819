"""`sundog plan` of Experiments: the preview, compared with the effect of the apply."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

import manifest_tables
from charting import installed
from doubles.cluster import NAMESPACE
from doubles.traffic import Answers
from sundog_operator.ports import EXPERIMENT
from sundog_operator.shell.exit_codes import ExitCode
from sundog_operator.shell.preview.experiment import preview_experiment
from sundog_operator.shell.server_connection import ServerConnection as Connection
from sundog_operator.shell.verbs.plan import make_log_place_check

Json = dict[str, Any]
BUYING = {"success": [{"name": "conversion", "feedback": "bought", "minimumEffect": "20%"}]}
NOW = datetime(2026, 11, 27, tzinfo=UTC)
WIDE = {"name": "wide", "model": {"uri": "file:///models/wide"}}


@pytest.fixture
def served(on_server: Any, server: Any, manifest: Any) -> Any:
    """Let revision 1 serve, with traffic."""

    async def busy(cluster: Any) -> None:
        cluster.set_traffic(60, Answers(), Answers(), seed=3)
        cluster.edges.outcomes.chance = {"digits-r1": {"bought": 0.2}, "digits-r2": {"bought": 0.21}}

    server.do(busy)
    warmup = {"warmup": {"requests": 200, "duration": "1m"}}
    on_server("apply", "-f", str(manifest(runtime={"userConfig": {"threshold": 0.5}}, rollout=warmup)))
    server.serve_revision(1)
    server.pause()
    return on_server


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Path]:
    """Write a manifest; JSON is YAML."""

    def write(name: str = "ab", arms: list[Json] | None = None, **spec: Any) -> Path:
        document = manifest_tables.experiment({"arms": arms or [WIDE], **spec}, name)
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(orjson.dumps(document))
        return path

    return write


def plan(call: Any, *paths: Path) -> Json:
    done = call("plan", *(word for path in paths for word in ("-f", str(path))), "-o", "json")
    preview = done.json[-1]
    assert done.code == (ExitCode.REFUSED if preview["outcome"] == "refused" else ExitCode.OK), done
    found: Json = preview
    return found


def test_arms_shares_and_metrics_are_shown_and_nothing_is_written(served: Any, server: Any, experiment: Any) -> None:
    before = server.cluster.kube.store.revision
    path = experiment(
        arms=[WIDE, {"name": "strict", "runtime": {"userConfig": {"threshold": 0.7}}}, {"name": "same"}],
        weights={"control": 40, "wide": 30, "strict": 20, "same": 10},
        unit={"header": "x-user-id"},
        metrics={**BUYING, "guardrails": [{"metric": "errorRate"}]},
    )
    preview = plan(served, path)
    assert (preview["kind"], preview["name"], preview["outcome"]) == ("Experiment", f"{NAMESPACE}/ab", "create")
    lines = preview["lines"]
    assert lines[:7] == [
        "starts when the replicas of its arms are ready",
        "compares with control, which is revision 1",
        "arm wide: creates revision 2 (spec.model.uri: file:///models/v1 → file:///models/wide)",
        "arm strict: creates revision 3 (spec.runtime.userConfig.threshold: 0.5 → 0.7)",
        "arm same: creates revision 4, which equals control",
        "shares of the traffic: stable 80 %, control 8 %, wide 6 %, strict 4 %, same 2 %",
        "units stay with their arm, by header x-user-id",
    ]
    assert any(line.startswith("guardrail errorRate: up to 25 % more than control") for line in lines)
    assert lines[-5:] == [
        "success conversion: rate of bought should increase, by 20 % or more",
        "ends when an arm has won or none can, after 14d or 2000000 units",
        "alpha is 0.05, the error of each direction; 0.0167 for each of 3 pairs of arm and success metric",
        "duration: unknown; `sundog experiment power` estimates it from your traffic and control's metric",
        "ArmsEqual: spec.arms: same equals control. Only chance makes a difference between them; change one, unless you test"
        " that they are equal",
    ]
    assert server.cluster.kube.store.revision == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "weights follow the first success metric, none below 5 % of the exposed traffic"),
        ({"floor": "12.5%"}, "weights follow the first success metric, none below 12.5 % of the exposed traffic"),
        ({"floor": "50%"}, "weights become equal and stay so: 2 arms cannot have more than 50 % each"),
    ],
)
def test_where_weights_may_go_is_shown(served: Any, experiment: Any, given: Json, expected: str) -> None:
    path = experiment(metrics=BUYING, allocation={"mode": "thompson", **given})
    assert f"shares of the traffic: stable 80 %, control 10 %, wide 10 %; {expected}" in plan(served, path)["lines"]


def test_the_plan_is_what_begins_and_an_edit_of_it_is_refused(served: Any, server: Any, experiment: Any) -> None:
    path = experiment(exposure="60%")
    planned = plan(served, path)["lines"]
    assert "arm wide: creates revision 2 (spec.model.uri: file:///models/v1 → file:///models/wide)" in planned
    assert "shares of the traffic: stable 40 %, control 30 %, wide 30 %" in planned
    begin(served, server, path)
    expected = server.do(lambda cluster: cluster.experiment("ab"))["status"]["arms"]
    found = [(arm["name"], arm["revision"], arm["weight"]) for arm in expected]
    assert found == [("stable", 1, 40), ("control", 1, 30), ("wide", 2, 30)]
    assert plan(served, path)["lines"] == ["nothing changes", "it runs"]
    refused = plan(served, experiment(exposure="80%"))
    assert refused["problems"] == ["PlanFrozen: spec.exposure or spec.weights: cannot be changed while it runs"]
    assert refused["lines"] == ["the running Experiment keeps its plan"]
    moved = plan(served, experiment(exposure="60%", modelDeployment="letters"))
    assert moved["problems"] == ["spec.modelDeployment: cannot be changed; create another Experiment"]
    assert plan(served, experiment(exposure="60%", stopped=True))["lines"] == ["it ends, with the evidence so far"]
    other = plan(served, experiment("other"))["lines"]
    assert other[0] == "waits until Experiment ab has ended"
    assert other[2].startswith("arm wide: uses revision 2, which exists already (")
    assert served("apply", "-f", str(experiment("other"))).code == 0
    assert plan(served, experiment("other", exposure="10%"))["lines"][0] == "waits until Experiment ab has ended"


def begin(call: Any, server: Any, path: Path) -> None:
    assert call("apply", "-f", str(path)).code == 0

    async def runs(cluster: Any) -> bool:
        return bool((await cluster.experiment("ab")).get("status", {}).get("phase") == "Running")

    server.until(runs, "the experiment runs")
    server.pause()


def test_how_long_it_takes_is_shown_by_what_the_last_one_has_counted(served: Any, server: Any, experiment: Any) -> None:
    begin(served, server, experiment(metrics=BUYING, exposure="100%", stop={"maxDuration": "20m"}))

    async def ended(cluster: Any) -> None:
        async def is_over() -> bool:
            return bool((await cluster.experiment("ab"))["status"]["phase"] == "Concluded")

        assert await cluster.go_on(120, is_over)

    server.do(ended)
    assert plan(served, experiment(metrics=BUYING, exposure="50%"))["lines"] == [
        "it has ended, and an edit cannot restart it. Create another Experiment"
    ]
    again = {"success": [{"name": "bought", "feedback": "bought", "minimumEffect": "20%"}]}
    lines = plan(served, experiment("again", metrics=again, exposure="50%"))["lines"]
    assert lines[-2].startswith("by the counts of Experiment ab, ")
    assert 4e6 < float(lines[-2].split()[-5]) < 7e6
    assert lines[-1].startswith("bought: an arm that is 20 % better is typically found after ")
    assert 0.1 < float(lines[-1].rpartition("; control has ")[2]) < 0.23
    small = {"success": [{"name": "bought", "feedback": "bought", "minimumEffect": "0.1%"}]}
    stop = {"maxUnits": 10_000}
    late = plan(served, experiment("again", metrics=small, stop=stop))["lines"][-1]
    assert "bought is unlikely to be decided" in late
    assert " at this rate; " in late
    assert " come in an hour, 1e+04 in " in late
    given = {"success": [{**again["success"][0], "expected": {"rate": "0.2%"}}]}
    lines = plan(served, experiment("again", metrics=given, exposure="50%"))["lines"]
    assert lines[-2].startswith("by spec.metrics.success[].expected and by the counts of Experiment ab, ")
    assert lines[-1].endswith("; control has 0.002")
    for unknown in (
        {"unit": {"header": "x-user-id"}},
        {"metrics": {"success": [{**again["success"][0], "type": "mean"}]}},
    ):
        lines = plan(served, experiment("again", **{"metrics": again, **unknown}))["lines"]
        assert lines[-1].startswith("duration: unknown; `sundog experiment power` estimates it")


def test_a_preset_is_shown_as_what_it_stands_for(served: Any, experiment: Any) -> None:
    lines = plan(served, experiment(metrics=BUYING, preset="doNoHarm"))["lines"]
    assert "guardrail errorRate: up to 25 % more than control, or 1 % of all requests" in lines
    assert "guardrail conversion.noHarm: rate of bought may be up to 10 % below control's" in lines
    (ends,) = (line for line in lines if line.startswith("ends "))
    assert ends.endswith("; an arm wins when no success metric is worse and every guardrail has passed")
    assert lines[-1].startswith("duration: unknown; estimates are for arms that are better")


def test_how_long_a_first_one_takes_is_shown_by_expected_values(served: Any, experiment: Any) -> None:
    bought = {"name": "bought", "feedback": "bought", "minimumEffect": "20%", "expected": {"rate": "10%"}}
    spent = {"name": "spent", "feedback": "spent", "type": "mean", "expected": {"mean": 0.001, "deviation": 1e9}}
    lines = plan(served, experiment(metrics={"success": [bought, spent]}, stop={"maxDuration": "10h"}))["lines"]
    assert lines[-3] == "by spec.metrics.success[].expected, an unknown number of new units a day:"
    assert lines[-2].startswith("bought: an arm that is 20 % better is typically found after ")
    assert " have to come in an hour, because it stops after 10h; control has 0.1" in lines[-2]
    assert lines[-1].startswith("spent: an arm that is 5 % better is ")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"exposure": "0%"}, "spec.exposure: 0% leaves every arm without units"),
        (
            {"metrics": BUYING, "allocation": {"mode": "thompson", "floor": "60%"}},
            "spec.allocation.floor: 60% for each arm, including control, is more than 100% together; expected less",
        ),
        ({"exposure": "0.004%"}, "InvalidSpec: spec.exposure: 0.004% leaves control and wide without any"),
        ({"exposition": "5%"}, "spec.exposition: unknown field"),
        ({"unit": {"jwtClaim": "sub"}}, "InvalidSpec: spec.unit.jwtClaim: sub is read from verified tokens, and "),
        (
            {"arms": [{"name": "wide", "resources": {"gpu": {"count": 1, "vendor": "tpu"}}}]},
            "spec.arms[0].resources.gpu.vendor: tpu is not supported yet; expected nvidia, amd, intel, gaudi or neuron",
        ),
    ],
)
def test_what_would_be_refused_is_shown(served: Any, experiment: Any, spec: Json, problem: str) -> None:
    preview = plan(served, experiment(**spec))
    assert preview["problems"][0].startswith(problem)
    assert preview["lines"] == []


def test_a_place_that_no_administrator_allows_is_shown(served: Any, server: Any, experiment: Any) -> None:
    path = experiment(metrics=BUYING, exposureLog={"uri": "s3://logs/b"})
    before = plan(served, path)
    server.do(lambda cluster: cluster.kube.create(installed("sundog", ["s3://logs/a"])))
    after = plan(served, path)
    assert after == {
        **before,
        "lines": [
            *before["lines"],
            "no exposure log is written: PlaceNotAllowed: s3://logs/b: not below a place in installation.exposureLogs.places."
            " Use an allowed place, or ask an administrator to add this one.",
        ],
    }
    allowed = plan(served, experiment(metrics=BUYING, exposureLog={"uri": "s3://logs/a/team"}))
    assert allowed["lines"] == before["lines"]
    assert plan(served, experiment(metrics=BUYING))["lines"] == before["lines"]


async def test_local_mode_allows_any_place_that_a_machine_has() -> None:
    refusal = await make_log_place_check(Connection(None, NAMESPACE, Path("state")), NAMESPACE)  # type: ignore[arg-type]
    assert refusal("file:///home/ada/logs") == ""
    assert refusal("pvc://logs/a") == "pvc:// needs a cluster; use file:// in local mode"


def test_one_without_its_deployment_waits_for_it(on_server: Any, server: Any, manifest: Any, experiment: Any) -> None:
    lines = plan(on_server, experiment())["lines"]
    assert lines[:2] == ["starts when ModelDeployment digits serves", "ModelDeployment digits does not exist yet"]
    both = plan(on_server, manifest(), experiment())["lines"]
    assert both[:2] == [
        "starts when ModelDeployment digits, which is applied with it, serves",
        "shares of the traffic: stable 80 %, control 10 %, wide 10 %",
    ]
    assert plan(on_server, experiment(stopped=True))["lines"] == ["it is stopped, so it never starts"]
    assert server.do(lambda cluster: cluster.kube.list(EXPERIMENT)) == []


def test_it_waits_for_a_rollout_and_a_paused_spec(canary: Any, server: Any, manifest: Any, experiment: Any) -> None:
    server.pause()
    canary("apply", "-f", str(manifest("file:///models/v2", paused=True)))
    assert plan(canary, experiment())["lines"][0] == (
        "waits until the rollout of revision 2 has ended and spec.paused of ModelDeployment digits is false"
    )


def test_the_text_names_the_kind(served: Any, experiment: Any) -> None:
    assert served("plan", "-f", str(experiment())).out.splitlines()[0] == f"Experiment {NAMESPACE}/ab would be created"


NOTHING: Json = {"exposure": "0%"}
"""What an Experiment of before the rule against it may say."""


def stored(**spec: Any) -> Json:
    return manifest_tables.experiment({"arms": [WIDE], **spec}, name="ab")


def test_one_whose_stored_spec_is_refused_may_be_stopped() -> None:
    before = stored(**NOTHING)
    preview = preview_experiment(stored(**NOTHING, stopped=True), before, None, NOW)
    assert (preview.outcome, preview.lines) == ("change", ("it is stopped, so it never starts",))
    running = {**before, "status": {"phase": "Running", "plan": {"hash": "a"}}}
    assert preview_experiment(stored(**NOTHING, stopped=True), running, None, NOW).problems == ()
    assert preview_experiment(before, None, None, NOW).outcome == "refused"
    edited = preview_experiment(stored(**NOTHING, alpha=0.1), before, None, NOW)
    assert (edited.outcome, edited.problems[0].partition(":")[0]) == ("refused", "InvalidSpec")


SPRING: Json = {"header": "x-user-id", "salt": "spring"}


def shared(preview: Json) -> list[str]:
    return [line.partition(" has the same salt")[0] for line in preview["lines"] if line.startswith("SaltReused: ")]


def test_a_salt_of_others_is_shown_before_the_apply(served: Any, server: Any, manifest: Any, experiment: Any) -> None:
    assert shared(plan(served, experiment(unit=SPRING))) == []
    assert served("apply", "-f", str(experiment("earlier", unit=SPRING))).code == ExitCode.OK
    of_earlier = ["SaltReused: spec.unit.salt: Experiment earlier"]
    assert shared(plan(served, experiment(unit=SPRING))) == of_earlier
    assert shared(plan(served, experiment(unit=SPRING, modelDeployment="letters"))) == of_earlier
    assert shared(plan(served, experiment(unit=SPRING, stopped=True))) == []
    assert shared(plan(served, experiment("earlier", unit=SPRING))) == []
    of_rollouts = ["SaltReused: spec.rollout.unit.salt: Experiment earlier"]
    assert shared(plan(served, manifest(rollout={"unit": SPRING}))) == of_rollouts
    assert shared(plan(served, manifest(name="letters", rollout={"unit": SPRING}))) == of_rollouts
    # The applied object may be a known salt owner already.
    assert served("apply", "-f", str(manifest(rollout={"unit": SPRING}))).code == ExitCode.OK
    unchanged = plan(served, manifest(rollout={"unit": SPRING}))
    assert (unchanged["outcome"], shared(unchanged)) == ("unchanged", of_rollouts)
    server.until(told_of_spec, "SaltReused of ModelDeployment digits")


async def told_of_spec(cluster: Any) -> bool:
    return bool(await cluster.condition("SpecAccepted") == ("True", "SaltReused"))


def test_a_salt_that_is_fixed_in_the_same_apply_is_not_shared(served: Any, manifest: Any, experiment: Any) -> None:
    first, second = experiment("first", unit=SPRING), experiment("second", unit=SPRING)
    assert shared(plan(served, first, second)) == ["SaltReused: spec.unit.salt: Experiment first"]
    letters = manifest(name="letters", file="letters.yaml", rollout={"unit": SPRING})
    assert shared(plan(served, first, letters)) == ["SaltReused: spec.rollout.unit.salt: Experiment first"]
    assert shared(plan(served, letters, second)) == ["SaltReused: spec.unit.salt: ModelDeployment letters"]
    assert served("apply", "-f", str(first)).code == ExitCode.OK
    mended = experiment("first", unit={**SPRING, "salt": "autumn"})
    assert shared(plan(served, mended, second)) == []
