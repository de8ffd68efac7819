"""Git's tools apply a manifest again and again while its rollout runs: no conflict, no drift, no new generation."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charting.lifecycle import CANARY, MDEP, TEAM, Life, model_deployment
from git_syncs import APPLIES, Syncs, syncing
from real_kubernetes.binaries import HELM
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.helm import Helm
from real_kubernetes.instance import ClusterError


def rolled_out(life: Life, syncs: Syncs) -> None:
    """A whole rollout, in which the tool applied at least three times at each stage."""

    def some_more(reached: Callable[[], bool], what: str) -> None:
        life.until(reached, what)
        wanted = syncs.count + 3
        life.until(lambda: syncs.count >= wanted, "three more syncs")

    some_more(lambda: (life.status().get("candidate") or {}).get("weight") == 25, "a canary with 25 %")
    life.command("pause revision=2 id=p")
    some_more(lambda: life.condition("Progressing") == ("True", "Paused"), "a pause")
    life.command("resume revision=2 id=r")
    life.command("promote revision=2 id=o")
    some_more(lambda: life.condition("Promoted")[0] == "True", "all traffic at the new revision")


@pytest.fixture(autouse=True)
def leaves_nothing(life: Life, api_server: Cluster) -> Iterator[None]:
    """What a test made goes with it, also where it failed."""
    yield
    api_server.kubectl("-n", TEAM, "delete", MDEP, "digits", "--ignore-not-found")
    revisions = ("-n", TEAM, "controllerrevisions")
    life.until(lambda: not api_server.kubectl.get(*revisions)["items"], "nothing of it left")


@pytest.mark.parametrize("tool", APPLIES)
def test_a_second_manager_that_applies_every_two_seconds_meets_nothing(
    life: Life, api_server: Cluster, tool: str
) -> None:
    kubectl, apply = api_server.kubectl, APPLIES[tool]
    first, second = (model_deployment(version, **CANARY) for version in (1, 2))
    kubectl(*apply, "-f", "-", stdin=json.dumps(first))
    life.until(lambda: life.condition("Promoted")[0] == "True", "the first revision")
    before = kubectl.get("-n", TEAM, MDEP, "digits")["metadata"]["generation"]

    with syncing(kubectl, apply, second) as syncs:
        rolled_out(life, syncs)

    assert syncs.problems == []
    assert syncs.generations("digits") == {before + 1}


def test_the_operator_owns_the_status_and_nothing_else(life: Life, api_server: Cluster) -> None:
    kubectl = api_server.kubectl
    manifest = json.dumps(model_deployment(1, **CANARY))
    kubectl("apply", "--server-side", "--field-manager=argocd-controller", "-f", "-", stdin=manifest)
    life.until(lambda: life.condition("Promoted")[0] == "True", "the first revision")
    found = kubectl.get("-n", TEAM, MDEP, "digits", "--show-managed-fields")
    owned = {
        (entry["manager"], entry.get("subresource", "")): set(entry["fieldsV1"])
        for entry in found["metadata"]["managedFields"]
    }
    assert owned[("sundog", "status")] == {"f:status"}
    assert {manager for manager, _ in owned} == {"sundog", "argocd-controller"}
    assert ("sundog", "") not in owned


@pytest.fixture
def helm(api_server: Cluster, tmp_path: Path) -> Helm:
    BINARIES.build((HELM,))
    return Helm(api_server.kubeconfig, BINARIES.path("helm"), tmp_path / "helm")


def chart_of(folder: Path, manifest: dict[str, Any]) -> str:
    """A team's own chart, with one ModelDeployment."""
    (folder / "templates").mkdir(parents=True, exist_ok=True)
    (folder / "Chart.yaml").write_text(json.dumps({"apiVersion": "v2", "name": "models", "version": "1.0.0"}))
    (folder / "templates" / "digits.yaml").write_text(json.dumps(manifest))
    return str(folder)


def test_helm_waits_for_a_model_and_reports_one_that_does_not_come(life: Life, helm: Helm, tmp_path: Path) -> None:
    """Helm reads its conditions as kstatus does, as for every kind that it does not know."""
    folder, where = tmp_path / "models", ("--namespace", TEAM)
    helm("install", "models", chart_of(folder, model_deployment(1, **CANARY)), *where, "--wait", "--timeout", "5m")
    assert life.condition("Ready")[0] == "True"
    refused = chart_of(folder, model_deployment(2, baseline={"uri": "file:///models/v0"}))
    with pytest.raises(ClusterError, match="digits"):
        helm("upgrade", "models", refused, *where, "--wait", "--timeout", "5s")
    assert life.condition("SpecAccepted")[0] == "False"
    assert life.status()["stable"]["revision"] == 1
    helm("rollback", "models", *where, "--wait", "--timeout", "5m")
    assert life.condition("SpecAccepted")[0] == "True"
    helm("uninstall", "models", *where, "--wait", "--timeout", "5m")
