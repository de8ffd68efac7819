"""Ray without a store: what a head that is lost costs, and that all comes back by itself."""

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from real_serving import Serving, Team
from waiting import PATIENCE_S, patience

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(patience(900))]

IMAGE = [[0.0] * 8 for _ in range(8)]


@pytest.fixture(scope="module")
def team(serving: Serving) -> Iterator[Team]:
    """Digits are served by a RayCluster of an installation that wants no stores."""
    installation = serving.values["installation"]
    ray = {**installation["ray"], "gcsFaultTolerance": {"enabled": False}}
    serving.upgrade({**serving.values, "installation": {**installation, "ray": ray}})
    try:
        with serving.team("storeless") as made:
            made.apply(made.digits())
            made.until_stable(1)
            yield made
    finally:
        serving.upgrade(serving.values)


def asked(team: Team) -> httpx.Response:
    address = team.edges()[0]["status"]["podIP"]
    return httpx.post(f"http://{address}:8080/digits/", json={"inputs": [IMAGE]}, timeout=PATIENCE_S, trust_env=False)


def test_nothing_is_kept_for_the_next_head(team: Team) -> None:
    assert team.list("statefulsets") == []
    (cluster,) = team.list("rayclusters")
    assert "gcsFaultToleranceOptions" not in cluster["spec"]
    assert asked(team).status_code == 200


def test_a_lost_head_takes_its_workers_along_and_models_are_loaded_again(team: Team) -> None:
    (head,), workers = team.heads(), {pod["metadata"]["uid"] for pod in team.workers()}
    answers: Counter[int] = Counter()

    def is_back() -> bool:
        answer = asked(team)
        answers[answer.status_code] += 1
        assert answer.status_code == 200 or "retry-after" in answer.headers, answer.text
        others = {pod["metadata"]["uid"] for pod in team.workers()} - workers
        return answer.status_code == 200 and bool(others) and team.condition_state("Ready")[0] == "True"

    team.kubectl("delete", "pod", head["metadata"]["name"], "--force", "--grace-period=0")
    team.until(is_back, "digits on another worker")
    assert answers.keys() <= {200, 503}
    # Their revision is the one that served: nothing was rolled out.
    assert team.status()["stable"]["revision"] == 1
    assert team.status().get("candidate") is None
