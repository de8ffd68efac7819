"""GitOps tools read our statuses as we mean them: Argo CD by scripts in a real Lua, Flux by the rules of kstatus."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from charting import ROOT
from charting.argocd import CONFIG, SCRIPTS, config, health
from doubles.cluster import Cluster
from reference import condition_reasons
from sundog_operator.api import Experiment, ModelDeployment

KINDS = ["Experiment", "ModelDeployment"]
CASES = [
    (kind, test["inputPath"], test["healthStatus"])
    for kind in KINDS
    for test in yaml.safe_load((SCRIPTS / kind / "health_test.yaml").read_text())["tests"]
]
Object = dict[str, Any]


def loaded(kind: str, path: str) -> Object:
    found: Object = yaml.safe_load((SCRIPTS / kind / path).read_text())
    return found


def kstatus(obj: Object) -> str:
    """By the rules of kstatus, in their order."""
    if "deletionTimestamp" in obj["metadata"]:
        return "Terminating"
    status = obj.get("status", {})
    if status.get("observedGeneration", obj["metadata"]["generation"]) != obj["metadata"]["generation"]:
        return "InProgress"
    conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
    for type_, result in (("Reconciling", "InProgress"), ("Stalled", "Failed")):
        if conditions.get(type_) == "True":
            return result
    return "Current" if conditions.get("Ready", "True") == "True" else "InProgress"


@pytest.mark.parametrize(("kind", "path", "wanted"), CASES, ids=[f"{kind}-{path}" for kind, path, _ in CASES])
def test_the_script_judges_its_test_data(kind: str, path: str, wanted: dict[str, str]) -> None:
    assert health(kind, loaded(kind, path)) == (wanted["status"], wanted["message"])


AS_KSTATUS = {"Healthy": "Current", "Progressing": "InProgress", "Degraded": "Failed"}
EXPERIMENTS = [(path, wanted["status"]) for kind, path, wanted in CASES if kind == "Experiment"]


@pytest.mark.parametrize(("path", "wanted"), EXPERIMENTS)
def test_kstatus_judges_an_experiment_like_the_script(path: str, wanted: str) -> None:
    assert kstatus(loaded("Experiment", path)) == AS_KSTATUS[wanted]


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_test_data_is_used(kind: str) -> None:
    used = {path for of, path, _ in CASES if of == kind}
    assert used == {f"testdata/{path.name}" for path in (SCRIPTS / kind / "testdata").iterdir()}


@pytest.mark.parametrize(("kind", "path", "wanted"), CASES, ids=[f"{kind}-{path}" for kind, path, _ in CASES])
def test_the_test_data_is_what_the_operator_could_write(kind: str, path: str, wanted: dict[str, str]) -> None:
    obj = loaded(kind, path)
    parsed = {"ModelDeployment": ModelDeployment, "Experiment": Experiment}[kind].parse(obj)
    assert parsed is not None
    text = condition_reasons.render_page()
    for condition in obj["status"].get("conditions", ()):
        assert f"`{condition['type']}`" in text
        assert kind == "Experiment" or f"### {condition['reason']}\n" in text, condition


def test_the_config_map_has_the_scripts() -> None:
    assert CONFIG.read_text() == config(), "run `make generate`"


Seen = tuple[str, str]
STARTING: Seen = ("Progressing", "InProgress")
SERVING: Seen = ("Healthy", "Current")
PAUSED: Seen = ("Suspended", "Current")
STALLED: Seen = ("Degraded", "Failed")


async def seen(cluster: Cluster) -> Seen:
    obj = await cluster.get()
    return health("ModelDeployment", obj)[0], kstatus(obj)


async def watched(cluster: Cluster, end: Callable[[], Any]) -> list[Seen]:
    """What the tools saw, round by round and without repetitions, until a condition held."""
    found: list[Seen] = [await seen(cluster)]

    async def ended() -> bool:
        if (now := await seen(cluster)) != found[-1]:
            found.append(now)
        return bool(await end())

    await cluster.until(ended)
    return found


async def test_a_canary_is_never_called_unhealthy_and_never_in_progress() -> None:
    cluster = Cluster()
    await cluster.apply()
    await cluster.round()
    assert await watched(cluster, functools.partial(cluster.serves, 1)) == [STARTING, SERVING]
    await cluster.settle(15)
    await cluster.apply("file:///models/v2")
    # Until the operator has seen the edit, nobody can know.
    assert await watched(cluster, functools.partial(cluster.at_weight, 2, 25)) == [STARTING, SERVING]
    await cluster.command("pause revision=2 id=p")
    await cluster.settle(3)
    assert await seen(cluster) == PAUSED
    await cluster.command("resume revision=2 id=r")
    await cluster.settle(3)
    assert await seen(cluster) == SERVING


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_is_not_called_current_before_the_operator_saw_it(kind: str) -> None:
    """The schema's default of the status closes the hole: without any status kstatus says Current."""
    crd = yaml.safe_load((ROOT / "crds" / f"{kind.lower()}s.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    obj = {"metadata": {"generation": 1}, "status": schema["default"]}
    assert kstatus(obj) == "InProgress"
    assert health(kind, obj)[0] == "Progressing"


async def test_what_git_says_and_is_not_served_is_never_called_healthy() -> None:
    cluster = Cluster()
    await cluster.apply()
    await cluster.until(functools.partial(cluster.serves, 1))
    await cluster.settle(15)
    await cluster.apply("file:///models/v2")
    await cluster.until(functools.partial(cluster.at_weight, 2, 25))
    await cluster.command("abort revision=2 id=x")
    await cluster.settle(60)
    assert await seen(cluster) == STALLED
    await cluster.apply("file:///models/v1")
    await cluster.settle(3)
    assert await seen(cluster) == SERVING


async def test_a_refused_spec_is_degraded_with_its_reason() -> None:
    cluster = Cluster()
    await cluster.apply()
    await cluster.until(functools.partial(cluster.serves, 1))
    await cluster.settle(15)
    await cluster.apply("file:///models/v2", rollout={"strategy": "blueGreen"})
    await cluster.settle(3)
    assert await seen(cluster) == STALLED
    assert health("ModelDeployment", await cluster.get())[1].startswith("NotYetSupported: ")
