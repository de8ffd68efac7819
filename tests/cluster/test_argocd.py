"""Argo CD keeps a team's namespace as its repository has it: no drift, and the health that users read.

The application controller, the repo server, the Git server and the API server are real. What runs in pods is stood in for.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from charting import CHART, NAMESPACE, ROOT
from charting.lifecycle import TEAM, Life
from git_server import Repository, serving
from git_team import GitTeam, digits
from real_kubernetes import argocd, prometheus_operator
from real_kubernetes.argocd import ArgoCD
from real_kubernetes.binaries import ARGOCD
from real_kubernetes.cluster import BINARIES, Cluster

pytestmark = [
    pytest.mark.extended,
    pytest.mark.xdist_group("api server"),
    pytest.mark.skipif(
        not (shutil.which("valkey-server") or shutil.which("redis-server")),
        reason="neither valkey-server nor redis-server is installed",
    ),
]

EXAMPLE = ROOT / "examples" / "gitops" / "argocd" / "applications.yaml"
VALUES = ROOT / "examples" / "gitops" / "platform" / "values.yaml"
PLATFORM = "sundog"


def application(repository: Repository, name: str = TEAM) -> dict[str, Any]:
    """One of the example's, with another address."""
    (made,) = [doc for doc in yaml.safe_load_all(EXAMPLE.read_text()) if doc["metadata"]["name"] == name]
    for source in made["spec"].get("sources") or [made["spec"]["source"]]:
        source["repoURL"] = repository.url
    # What it has made goes with it.
    made["metadata"]["finalizers"] = ["resources-finalizer.argocd.argoproj.io"]
    return dict(made)


@dataclass(frozen=True)
class Team(GitTeam):
    """A team with Argo CD."""

    argocd: ArgoCD

    def until_shown(self, commit: str, health: str) -> None:
        """Until the cluster is as a commit says, and Argo CD shows this health."""
        self.life.until(
            lambda: self.argocd.has_synced(TEAM, commit) and self.argocd.health(TEAM) == health,
            f"commit {commit[:8]} is synced and {health}",
        )

    def until_compared(self, commit: str, name: str = TEAM) -> None:
        """Three more comparisons, each of which finds the cluster as a commit says."""
        for _ in range(3):
            before = self.argocd.looks(name)
            self.life.until(lambda seen=before: self.argocd.looks(name) != seen, "another comparison")
            assert self.argocd.has_synced(name, commit), self.argocd.status(name)


@pytest.fixture(scope="module")
def running(api_server: Cluster, life: Life) -> Iterator[ArgoCD]:
    assert api_server.instance is not None
    BINARIES.build((ARGOCD,))
    with argocd.running(api_server.instance, BINARIES, api_server.kubectl) as started:
        yield started


@pytest.fixture
def team(life: Life, running: ArgoCD, api_server: Cluster, commands: Path, tmp_path: Path) -> Iterator[Team]:
    """The namespace `vision` from a repository with version 1 of `digits`, which serves."""
    kubectl = api_server.kubectl
    with serving(tmp_path / "repository") as repository:
        made = Team(life, repository, kubectl, running)
        first = made.commit("Serve digits", digits=digits(1))
        kubectl.apply(application(repository))
        try:
            made.until_shown(first, "Healthy")
            yield made
        finally:
            kubectl("-n", argocd.NAMESPACE, "delete", argocd.APPLICATIONS, TEAM)
            made.until_nothing()


def test_a_rollout_meets_no_drift_and_shows_its_pause(team: Team) -> None:
    life, before = team.life, team.generation()
    second = team.commit("Serve version 2", digits=digits(2))
    team.until_canary()
    team.until_shown(second, "Healthy")
    team.sundog("pause", "digits")
    team.until_shown(second, "Suspended")
    team.until_compared(second)
    team.sundog("resume", "digits")
    team.until_shown(second, "Healthy")
    life.command("promote revision=2 id=o")
    life.until_serves(2)
    team.scale(2)
    team.until_compared(second)

    assert team.argocd.syncs(TEAM).count(second) == 1, "nothing had to be applied again"
    assert team.generation() == before + 2, "an edit and a scale"
    assert team.found()["spec"]["replicas"] == 2
    assert team.command() == "promote revision=2 id=o", "a sync keeps a command"


def test_a_refused_spec_is_degraded_and_a_revert_heals_it(team: Team) -> None:
    refused = team.commit("Ask for too much", digits=digits(1, baseline={"uri": "file:///models/v0"}))
    team.until_shown(refused, "Degraded")
    assert team.life.status()["stable"]["revision"] == 1
    team.until_shown(team.commit("Revert", digits=digits(1)), "Healthy")


def test_an_aborted_rollout_is_degraded_and_a_revert_goes_back(team: Team) -> None:
    second = team.commit("Serve version 2", digits=digits(2))
    team.until_canary()
    team.until_shown(second, "Healthy")
    team.sundog("abort", "digits")
    team.until_shown(second, "Degraded")
    team.until_shown(team.commit("Revert", digits=digits(1)), "Healthy")
    team.life.until_serves(1)


def test_what_leaves_the_repository_leaves_the_cluster(team: Team) -> None:
    team.until_shown(team.commit("Serve another", other=digits(1).replace("name: digits", "name: other")), "Healthy")
    assert team.life.condition("Ready", "other")[0] == "True"
    team.until_shown(team.commit("Serve it no more", other=None), "Healthy")
    team.life.until(lambda: not team.kubectl.succeeds("-n", TEAM, "get", "mdep", "other"), "it is gone")
    assert team.life.condition("Ready")[0] == "True"


@pytest.fixture
def chart(team: Team) -> Iterator[str]:
    """The chart with the example's values from the repository: its commit."""
    files = {f"helm/sundog/{path.relative_to(CHART)}": path.read_text() for path in CHART.rglob("*") if path.is_file()}
    team.kubectl.apply(*prometheus_operator.crds())
    commit = team.repository.commit("Add the platform", {**files, "platform/values.yaml": VALUES.read_text()})
    team.kubectl.apply(application(team.repository, PLATFORM))
    yield commit
    team.kubectl("-n", argocd.NAMESPACE, "delete", argocd.APPLICATIONS, PLATFORM, "--ignore-not-found")


def test_the_chart_meets_no_drift_and_models_outlive_it(team: Team, chart: str) -> None:
    team.life.until(lambda: team.argocd.has_synced(PLATFORM, chart), "the chart is synced")
    team.until_compared(chart, PLATFORM)
    assert len(team.argocd.syncs(PLATFORM)) == 1
    team.kubectl("-n", argocd.NAMESPACE, "delete", argocd.APPLICATIONS, PLATFORM)
    assert not team.kubectl.get("-n", NAMESPACE, "deployments")["items"]
    assert team.life.condition("Ready")[0] == "True"
