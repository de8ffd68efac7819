"""Two models share one pod on real Ray: both answer, change and scale in it, and nobody notices when one of them goes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from real_serving import PREDICTOR_OF_ITS_NAME, Json, Serving, Team
from sundog_operator.core.kubernetes import names
from waiting import patience

pytestmark = pytest.mark.timeout(patience(1200))

NAMESPACE = "small"
FILES = {f"{version}/predictor.py": PREDICTOR_OF_ITS_NAME for version in ("v1", "v2")}


def manifest(name: str, folder: Path, version: str = "v1", replicas: int = 1) -> Json:
    spec = {
        "model": {"uri": f"file://{folder}/{version}", "entrypoint": "predictor:Predictor"},
        "runtime": {"placement": "shared"},
        "resources": {"cpu": "200m", "memory": "512Mi"},
        "replicas": replicas,
        "rollout": {"strategy": "recreate"},
    }
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }


def shared_pods(team: Team) -> list[str]:
    return [pod["metadata"]["uid"] for pod in team.pods(f"ray.io/group={names.SHARED_WORKERS}")]


def until_served(team: Team, name: str, revision: int, replicas: int = 1) -> None:
    def is_served() -> bool:
        stable = team.status(name).get("stable") or {}
        return (stable.get("revision"), stable.get("readyReplicas")) == (revision, replicas)

    team.until(is_served, f"{replicas} of revision {revision} of {name}")


@pytest.fixture
def team(serving: Serving) -> Iterator[Team]:
    with serving.team_with_models(NAMESPACE, FILES) as team:
        yield team
        team.kubectl("delete", "mdep", "--all")


def test_two_models_live_in_one_pod(team: Team) -> None:
    instance = team.serving.cluster.instance
    assert instance is not None
    # Shared pods mount no claim. They see the checkout, with the folder behind the claim, at its own path.
    folder = instance.folder(f"volumes/{NAMESPACE}")
    team.apply(manifest("one", folder), manifest("two", folder))
    for name in ("one", "two"):
        until_served(team, name, 1)
    [pod] = shared_pods(team)
    with team.asked("two", 2, [1]) as answers:
        team.apply(manifest("one", folder, "v2"))
        until_served(team, "one", 2)
        team.apply(manifest("two", folder, replicas=2))
        until_served(team, "two", 1, 2)
        team.kubectl("delete", "mdep", "one")
        before = answers.total()
        team.until(lambda: answers.total() > before + 50, "answers without the other model")
        assert shared_pods(team) == [pod]
    assert set(answers) == {(200, "1")}
