"""Flux applies a team's repository every two seconds and waits for its objects: no drift, and the state that users read in them.

The source controller, the kustomize controller, the Git server and the API server are real. What runs in pods is stood in for.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from charting import ROOT
from charting.lifecycle import TEAM, Life
from git_server import Repository, serving
from git_team import GitTeam, digits
from real_kubernetes import flux
from real_kubernetes.binaries import FLUX
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.flux import Flux

pytestmark = [pytest.mark.extended, pytest.mark.xdist_group("api server")]

EXAMPLE = ROOT / "examples" / "gitops" / "flux" / "vision.yaml"
EXPERIMENTS = "experiments.serving.sundog.dev"
OFTEN = "2s"


def kustomization() -> dict[str, Any]:
    """The example's, which syncs more often and depends on no platform."""
    made: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    del made["spec"]["dependsOn"]
    made["spec"] |= {"interval": OFTEN, "retryInterval": OFTEN}
    return made


def git_repository(repository: Repository) -> dict[str, Any]:
    spec = {"interval": OFTEN, "url": repository.url, "ref": {"branch": "main"}}
    meta = {"name": "flux-system", "namespace": flux.NAMESPACE}
    return {"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": meta, "spec": spec}


@dataclass(frozen=True)
class Team(GitTeam):
    """A team with Flux."""

    flux: Flux

    def until_ready(self, commit: str) -> None:
        """Until Flux has applied a commit and found all of its objects current."""

        def applied() -> bool:
            revision = self.flux.kustomization(TEAM).get("status", {}).get("lastAppliedRevision", "")
            return bool(revision.endswith(f"sha1:{commit}")) and self.flux.ready(TEAM)[0] == "True"

        self.life.until(applied, f"commit {commit[:8]} is applied and healthy")

    def until_failed(self, commit: str) -> str:
        """Until Flux says of a commit that objects have failed. Return its message."""

        def failed() -> bool:
            attempted = self.flux.kustomization(TEAM)["status"].get("lastAttemptedRevision", "")
            return bool(attempted.endswith(f"sha1:{commit}")) and self.flux.ready(TEAM)[1] == "HealthCheckFailed"

        self.life.until(failed, f"commit {commit[:8]} has failed")
        return self.flux.ready(TEAM)[2]

    def until_synced(self, commit: str) -> None:
        """Three more syncs of a commit, and a healthy one after them."""
        wanted = len(self.flux.syncs(commit)) + 3
        self.life.until(lambda: len(self.flux.syncs(commit)) >= wanted, f"three more syncs of {commit[:8]}")
        self.until_ready(commit)

    def actions(self, commit: str, name: str = f"ModelDeployment/{TEAM}/digits") -> list[str]:
        """What each sync of a commit did to one object."""
        return [sync[name] for sync in self.flux.syncs(commit)]


@pytest.fixture(scope="module")
def running(api_server: Cluster, life: Life) -> Iterator[Flux]:
    assert api_server.instance is not None
    BINARIES.build(FLUX)
    with flux.running(api_server.instance, BINARIES, api_server.kubectl) as started:
        yield started


@pytest.fixture
def team(life: Life, running: Flux, api_server: Cluster, commands: Path, tmp_path: Path) -> Iterator[Team]:
    """The namespace `vision` from a repository with version 1 of `digits`, which serves."""
    kubectl = api_server.kubectl
    with serving(tmp_path / "repository") as repository:
        made = Team(life, repository, kubectl, running)
        first = made.commit("Serve digits", digits=digits(1))
        kubectl.apply(git_repository(repository), kustomization())
        try:
            made.until_ready(first)
            yield made
        finally:
            # Flux prunes what it has applied.
            kubectl("-n", flux.NAMESPACE, "delete", flux.KUSTOMIZATIONS, TEAM)
            kubectl("-n", flux.NAMESPACE, "delete", flux.GIT_REPOSITORIES, "flux-system")
            made.until_nothing()


def test_a_rollout_meets_no_drift_and_its_commit_stays_healthy(team: Team) -> None:
    life, before = team.life, team.generation()
    second = team.commit("Serve version 2", digits=digits(2))
    team.until_canary()
    team.until_synced(second)
    team.sundog("pause", "digits")
    team.until_synced(second)
    assert life.condition("Progressing") == ("True", "Paused")
    team.sundog("resume", "digits")
    team.sundog("promote", "digits")
    team.until_synced(second)
    life.until_serves(2)

    assert team.actions(second)[0] == "configured"
    assert {*team.actions(second)[1:]} == {"unchanged"}
    assert team.generation() == before + 1
    assert team.command().startswith("promote"), "a sync keeps a command"


def test_a_sync_keeps_a_scale_and_takes_away_an_annotation_of_kubectl(team: Team) -> None:
    second = team.commit("Serve version 2", digits=digits(2))
    team.until_canary()
    team.scale(2)
    team.life.command("promote revision=2 id=o")
    team.until_synced(second)
    assert team.found()["spec"]["replicas"] == 2
    assert not team.command()


def test_a_refused_spec_fails_with_its_name_and_a_revert_heals_it(team: Team) -> None:
    refused = team.commit("Ask for too much", digits=digits(1, baseline={"uri": "file:///models/v0"}))
    assert f"ModelDeployment/{TEAM}/digits" in team.until_failed(refused)
    assert team.life.status()["stable"]["revision"] == 1
    team.until_ready(team.commit("Revert", digits=digits(1)))


def test_an_aborted_rollout_fails_and_a_revert_goes_back(team: Team) -> None:
    second = team.commit("Serve version 2", digits=digits(2))
    team.until_canary()
    team.until_ready(second)
    team.sundog("abort", "digits")
    assert f"ModelDeployment/{TEAM}/digits" in team.until_failed(second)
    team.until_ready(team.commit("Revert", digits=digits(1)))
    team.life.until_serves(1)


def test_an_experiment_is_synced_and_pruned(team: Team) -> None:
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "Experiment"}
    success = [{"name": "conversion", "feedback": "converted"}]
    spec = {"modelDeployment": "digits", "arms": [{"name": "wide"}], "metrics": {"success": success}}
    manifest = {**head, "metadata": {"name": "wide-or-narrow", "namespace": TEAM}, "spec": spec}
    both = team.commit("Try a wide network", experiment=json.dumps(manifest))
    team.until_synced(both)
    name = f"Experiment/{TEAM}/wide-or-narrow"
    assert team.actions(both, name)[0] == "created"
    assert {*team.actions(both, name)[1:], *team.actions(both)} == {"unchanged"}
    team.until_ready(team.commit("End it", experiment=None))
    assert not team.kubectl.get("-n", TEAM, EXPERIMENTS)["items"]
