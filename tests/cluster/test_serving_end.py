"""How serving digits ends: neither an upgrade nor an operator that goes changes it, and the last ModelDeployment takes all along."""

import json
from typing import Any

import pytest

from charting import NAMESPACE, RELEASE
from real_serving import MDEP, Json, Team
from waiting import patience

pytestmark = pytest.mark.timeout(patience(900))

KINDS = (
    "pods,services,configmaps,secrets,serviceaccounts,roles,rolebindings,deployments,statefulsets,poddisruptionbudgets"
)
KINDS += ",networkpolicies,persistentvolumeclaims,jobs,rayclusters,controllerrevisions,experiments.serving.sundog.dev"


@pytest.fixture
def digits(vision: Team) -> Team:
    if not vision.list("mdep"):
        vision.apply(vision.digits())
    vision.until(lambda: vision.condition_state("Ready")[0] == "True", "digits is Ready")
    return vision


def facts(team: Team) -> Json:
    """What an upgrade must not change."""
    revisions = {obj["metadata"]["name"]: obj["metadata"]["uid"] for obj in team.list("controllerrevisions")}
    pods = {pod["metadata"]["uid"] for pod in (*team.workers(), *team.heads(), *team.edges())}
    status = team.status()
    return {"revisions": revisions, "pods": pods, "stable": status["stable"]["revision"], "cluster": status["cluster"]}


def looked_at(team: Team, timeout: str) -> None:
    """A new operator has looked at digits: it says so of a generation that it has not seen."""
    edit = {"spec": {"endpoint": {"requestTimeout": timeout}}}
    team.kubectl("patch", MDEP, "digits", "--type=merge", "-p", json.dumps(edit))
    wanted = team.get()["metadata"]["generation"]
    team.until(lambda: team.status()["observedGeneration"] == wanted, f"an operator has seen generation {wanted}")
    team.until(lambda: team.condition_state("Ready")[0] == "True", "digits is Ready")


def test_an_upgrade_of_the_chart_rolls_no_model(digits: Team) -> None:
    serving = digits.serving
    before, operators = facts(digits), {pod["metadata"]["uid"] for pod in serving.operators()}
    # What a release changes: the image that new revisions get. No node has it, so whatever is started anew shows.
    installation = {**serving.values["installation"], "workers": 8, "runtimeImage": "docker.io/local/base:2"}
    changed: dict[str, Any] = {**serving.values, "installation": installation}
    with digits.traffic() as traffic:
        serving.upgrade(changed)
        assert not operators & {pod["metadata"]["uid"] for pod in serving.operators()}
        looked_at(digits, "59s")
        traffic.more(100)
    assert facts(digits) == before
    assert digits.status().get("candidate") is None


def test_what_serves_goes_on_without_its_operator_and_is_taken_up_by_the_next(digits: Team) -> None:
    serving, before = digits.serving, facts(digits)
    with digits.traffic() as traffic:
        serving.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")
        assert not serving.operators()
        traffic.more(200)
        assert facts(digits) == before
        serving.install()
        looked_at(digits, "58s")
        traffic.more(100)
    assert facts(digits) == before
    assert digits.status().get("candidate") is None


def test_the_last_one_takes_all_that_was_made_for_it_and_nothing_else(digits: Team) -> None:
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}, "data": {"a": "b"}}
    digits.apply(theirs)
    digits.kubectl("delete", MDEP, "--all")

    def left() -> set[str]:
        return {f"{obj['kind']} {obj['metadata']['name']}" for obj in digits.list(KINDS)}

    own = {"ConfigMap theirs", "ConfigMap held-out", "ConfigMap kube-root-ca.crt", "ServiceAccount default"}
    own |= {"PersistentVolumeClaim digits-models"}
    digits.until(lambda: left() <= own, "nothing that Sundog made is left")
    assert left() == own
    assert digits.serving.kubectl.get("-n", NAMESPACE, "deployment", "sundog")["status"]["readyReplicas"] == 2
