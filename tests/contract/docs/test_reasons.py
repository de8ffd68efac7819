"""The reference names every reason that the code can give, and none that it cannot."""

import ast
import functools
from pathlib import Path
from typing import Any

import pytest

import manifest_tables
from doubles.cluster import MANUAL, NAMESPACE, TIMED, Cluster
from reference import condition_reasons
from reference import reasons as reference
from reference.reasons import ConditionText
from sundog_operator.api import Condition
from sundog_operator.api.reasons import (
    DeploymentReason,
    EndReason,
    EventReason,
    ExperimentReason,
    PauseReason,
    StartFailure,
)
from sundog_operator.core import events
from sundog_operator.core.kubernetes import pod_problems
from sundog_operator.core.ray import readiness
from sundog_operator.ports import EVENT, EXPERIMENT, MODEL_DEPLOYMENT, Kind
from sundog_runtime import errors

TABLES = {MODEL_DEPLOYMENT: reference.MODEL_DEPLOYMENT_CONDITIONS, EXPERIMENT: reference.EXPERIMENT_CONDITIONS}
TYPES = {condition.type for table in TABLES.values() for condition in table}
FAILURES = {each.reason for each in reference.START_FAILURE_REASONS}
EVENTS = {each.reason for each in reference.EVENTS}
TOLD = FAILURES | EVENTS | {each.reason for table in TABLES.values() for text in table for each in text.reasons}

SALTED = {"header": "x-user-id", "salt": "s"}
LATER = [{"name": "wide", "resources": {"gpu": {"count": 1, "topology": {"interconnect": "nvlink"}}}}]
"""An arm that asks for what is not supported yet."""


ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "operator" / "src" / "sundog_operator"
REGISTRY = (DeploymentReason, ExperimentReason, EventReason, StartFailure, EndReason, PauseReason)
OTHER_VALUES = {
    *("Pending", "Queued", "Running", "Concluded", "Stopped"),
    *("Promoted", "RolledBack", "Aborted", "Superseded", "Accepted"),
    *("Undecided", "Passed", "NoData", "Harm", "Winner", "NoWinner", "Won", "Ready"),
    *("ImagePullBackOff", "CreateContainerError", "CrashLoopBackOff"),
}
"""Phases, outcomes, decisions, condition types and words of the kubelet that are reasons too."""


def told_of(kind: Kind) -> set[str]:
    return {each.reason for text in TABLES[kind] for each in text.reasons}


def test_the_reference_has_each_reason_of_the_registry_and_no_other() -> None:
    assert told_of(MODEL_DEPLOYMENT) == set(DeploymentReason)
    assert told_of(EXPERIMENT) == set(ExperimentReason)
    assert set(EventReason) == EVENTS
    assert set(StartFailure) == FAILURES


def test_an_end_is_a_reason_of_running() -> None:
    running = {each.reason for text in TABLES[EXPERIMENT] if text.type == "Running" for each in text.reasons}
    assert set(EndReason) <= running


def literals(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("layer", ["core", "app"])
def test_a_reason_is_written_as_a_member_of_the_registry(layer: str) -> None:
    reasons = {str(member) for kind in REGISTRY for member in kind}
    written = {path: literals(path) & reasons - OTHER_VALUES for path in (SOURCES / layer).rglob("*.py")}
    assert {path: words for path, words in written.items() if words} == {}


def test_the_registry_has_no_reason_that_nobody_gives() -> None:
    composed = {events.rollout_ended(outcome, "", "").reason for outcome in ("Aborted", "RolledBack", "Superseded")}
    composed |= {events.experiment_ended("", "", phase, "").reason for phase in ("Concluded", "Stopped")}
    composed |= {events.command_handled("", "", result, "").reason for result in ("Accepted", "Rejected")}
    sources = "\n".join(
        path.read_text() for layer in ("core", "app", "api") for path in (SOURCES / layer).rglob("*.py")
    )
    given = {str(member) for kind in REGISTRY for member in kind if f"{kind.__name__}.{member.name}" in sources}
    known = given | composed | set(start_errors()) | OTHER_VALUES
    assert {str(member) for kind in REGISTRY for member in kind} - known == set()


def start_errors() -> list[str]:
    return [error.__name__ for error in errors.StartError.__subclasses__()]


def test_each_failure_of_the_model_server_is_documented_with_its_consequence() -> None:
    assert {*start_errors(), "DeployFailed"} == FAILURES
    retried = {each.reason for each in reference.START_FAILURE_REASONS if each.truth == "retried"}
    assert retried == readiness.RETRYABLE_REASONS


def test_the_page_shows_the_tables() -> None:
    page = condition_reasons.render_page()
    for reason in TOLD:
        assert f"\n### {reason}\n" in page
    for type_ in TYPES:
        assert f"| `{type_}` |" in page


def pairs(text: ConditionText) -> set[tuple[str, str]]:
    return {(each.truth, each.reason) for each in text.reasons}


def allowed(kind: Kind, type_: str) -> set[tuple[str, str]]:
    """(status, reason) that the tables give a condition, what it borrows included."""
    texts = {text.type: text for text in TABLES[kind]}
    own = pairs(texts[type_])
    failures = {("False", reason) for reason in FAILURES}
    if kind is EXPERIMENT:
        stalled = {("True", reason) for _, reason in failures}
        return own | {"Running": failures, "Ready": failures, "Stalled": stalled}.get(type_, set())
    refused = {pair for pair in pairs(texts["SpecAccepted"]) if pair[0] == "False"}
    unready = pairs(texts["RevisionReady"]) | failures
    match type_:
        case "RevisionReady":
            return unready
        case "Ready":
            return own | refused | {("False", reason) for _, reason in unready}
        case "Reconciling":
            return {("True", reason) for truth, reason in allowed(kind, "Ready") if truth == "False"}
        case "Stalled":
            return own | {("True", reason) for _, reason in refused | failures}
        case _:
            return own


class Listener:
    """Everything that was said in a world, looked at after each pass."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.heard: set[tuple[str, str, str, str]] = set()

    async def listen(self) -> None:
        for kind in TABLES:
            for stored in await self._cluster.kube.list(kind, NAMESPACE):
                for condition in (stored.get("status") or {}).get("conditions", ()):
                    self._hear(kind, Condition.from_json(condition))

    def _hear(self, kind: Kind, condition: Condition) -> None:
        pair = (condition.status, condition.reason)
        assert pair in allowed(kind, condition.type), f"{kind.kind} {condition.type}={pair}"
        self.heard.add((kind.kind, condition.type, *pair))


@pytest.mark.extended
async def test_every_reason_of_a_busy_life_is_in_the_reference() -> None:
    cluster = Cluster()
    listener = Listener(cluster)
    cluster.after_step = listener.listen
    await live(cluster)
    for event in await cluster.kube.list(EVENT, NAMESPACE):
        assert event["reason"] in EVENTS | FAILURES
        known = [each.truth for each in reference.EVENTS if each.reason == event["reason"]]
        assert event["type"] in (known or ["Warning"])
    reasons = {reason for *_, reason in listener.heard}
    # Those that this life does not come by: what needs damage, foreign objects, Secrets, another ModelDeployment, a Gateway, or pods.
    unreachable_edges = {
        *pod_problems.PRECEDENCE,
        *("PodRefused", "NotAdmitted", "DRAMissing"),
        *("ConfigMapNotFound", "ConfigMapIncomplete", "ServiceAccountNotFound", "ClaimNotFound"),
        *("DigestRequired", "Fits", "InsufficientCapacity", "InsufficientQuota"),
        "NotOwned",
        "HostTaken",
        *("FilesChanged", "NamespaceTooLarge", "PlanTooSlow"),
        *("GatewayAPIMissing", "NotWritten", "NotAnswered", "NotAccepted"),
        "Unhealthy",
        "RevisionMissing",
        "SecretNotFound",
        "SecretIncomplete",
        "SecretInvalid",
    }
    own = {each.reason for text in reference.MODEL_DEPLOYMENT_CONDITIONS for each in text.reasons}
    assert own - reasons - unreachable_edges == set()


async def live(cluster: Cluster) -> None:
    """Rollouts of every outcome, with faults of Ray and the edges."""
    command = functools.partial(steer, cluster)
    cluster.serve.failures = {
        "file:///bad": ("LoadFailed", "size mismatch"),
        "file:///missing": ("ModelNotFound", "there is nothing"),
    }
    await cluster.apply(replicas="three")
    await cluster.settle(2)
    await cluster.apply("file:///missing")
    await cluster.settle(100, seconds=10)
    await cluster.apply("file:///bad")
    await cluster.settle(10)
    await cluster.apply("file:///v1")
    await until(cluster, "Ready", "Serving")
    await cluster.apply("file:///v2")
    await cluster.until(lambda: at_weight(cluster, 25))
    await command("pause")
    await cluster.settle(5)
    await command("resume")
    cluster.edges.stale = {"sundog-edge-0"}
    await command("promote")
    await cluster.settle(40)
    cluster.edges.stale = set()
    await command("promote")
    await until(cluster, "Promoted", "Promoted")
    await cluster.apply("file:///v3")
    await cluster.until(lambda: at_weight(cluster, 25))
    await cluster.apply("file:///v3a", rollout={**MANUAL, "onNewRevision": "restart"})
    await until(cluster, "Progressing", "Queued")
    await cluster.until(lambda: at_weight(cluster, 25))
    await command("abort")
    await cluster.settle(5)
    await cluster.apply("file:///v3b", rollout={**MANUAL, "dryRun": True})
    await cluster.settle(5)
    await cluster.apply("file:///v3a")
    await cluster.settle(5)
    await command("retry", await held_back(cluster))
    await cluster.until(lambda: at_weight(cluster, 25))
    await command("rollback", (await cluster.status())["stable"]["revision"])
    await cluster.settle(5)
    for spec in ({"replicas": "three"}, {"autoscaling": {"maxReplicas": 2}}, {"rollout": {}}):
        await cluster.apply("file:///v4", **spec)
        await cluster.settle(5)
    await cluster.apply("file:///missing", rollout=TIMED)
    await cluster.settle(5)
    await in_place(cluster)
    await cluster.apply("file:///v5", rollout={"strategy": "recreate"})
    await until(cluster, "Promoted", "Promoted")
    await experiments(cluster)
    cluster.edges.silent = {"sundog-edge-0"}
    cluster.serve.down = True
    await cluster.settle(5)


async def in_place(cluster: Cluster) -> None:
    """A rollout that gives its traffic back."""
    await cluster.apply("file:///v4a", replicas=3, rollout={"strategy": "recreate"})
    await until(cluster, "Promoted", "Promoted")
    await cluster.apply("file:///v4b", replicas=3, rollout={**MANUAL, "capacity": "inPlace"})
    await cluster.until(lambda: at_weight(cluster, 25))
    await steer(cluster, "promote")
    await cluster.until(lambda: at_weight(cluster, 50))
    cluster.serve.later_s = 30
    await steer(cluster, "abort")
    await until(cluster, "Progressing", "RollingBack")
    cluster.serve.later_s = 0
    await cluster.settle(40)


async def experiments(cluster: Cluster) -> None:
    """Experiments of a user: one that is refused, one that fails, one that waits, one that others wait for."""
    await cluster.kube.apply(experiment("refused", "file:///v6", arms=LATER))
    await cluster.kube.apply(experiment("fails", "file:///bad"))
    await cluster.settle(30)
    await cluster.kube.apply(experiment("runs", "file:///v6", unit=SALTED))
    await cluster.kube.apply(experiment("waits", "file:///v7", unit=SALTED))
    await cluster.settle(30)
    await cluster.kube.apply(experiment("runs", "file:///v6", exposure="30%"))
    await cluster.apply("file:///v8", rollout={"strategy": "recreate", "unit": SALTED})
    await cluster.until(functools.partial(waits_for_experiment, cluster))
    await cluster.command(f"stop revision={(await cluster.status())['stable']['revision']} id=stop")
    await until(cluster, "Promoted", "Promoted")
    await cluster.settle(20)


async def waits_for_experiment(cluster: Cluster) -> bool:
    return await cluster.condition("Progressing") == ("False", "ExperimentRunning")


def experiment(name: str, uri: str, **spec: Any) -> dict[str, Any]:
    return manifest_tables.experiment({"arms": [{"name": "wide", "model": {"uri": uri}}], **spec}, name)


async def steer(cluster: Cluster, verb: str, revision: int | None = None) -> None:
    status = await cluster.status()
    number = revision or status["candidate"]["revision"]
    ident = f"c{len(status.get('commandIds', ()))}"
    await cluster.command(f"{verb} revision={number} id={ident}")
    await cluster.settle(2)
    assert (await cluster.status())["lastCommand"]["result"] == "Accepted"


async def at_weight(cluster: Cluster, weight: int) -> bool:
    return ((await cluster.status()).get("candidate") or {}).get("weight") == weight


async def held_back(cluster: Cluster) -> int:
    return int((await cluster.status())["lastRollout"]["revision"])


async def until(cluster: Cluster, type_: str, reason: str) -> None:
    async def holds() -> bool:
        return await cluster.condition(type_) == ("True", reason)

    await cluster.until(holds)
