"""Requests of 60 s and streams of 90 s end well, whatever the operator, HAProxy or Kubernetes replaces meanwhile.

The last test sends the same model a request for which the memory of its container does not suffice.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

import long_requests
from real_kubernetes.checkout import pod_spec
from real_serving import CLAIM, Json, Serving, Team, processes_of
from waiting import patience

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(patience(900))]

NAMESPACE = "long"
NAME = "narrator"
CLIENTS = "clients"
STREAMS = SILENT = 4

PREDICTOR = """
import asyncio


class Predictor:
    def load(self, path, config):
        pass

    def example(self):
        return {"pieces": 1, "pause_s": 0}

    async def predict(self, batch):
        self.kept = b"x" * (batch.get("mebibytes", 0) << 20)
        for number in range(batch["pieces"]):
            await asyncio.sleep(batch["pause_s"])
            yield {"number": number}
"""


@pytest.fixture(scope="module")
def team(serving: Serving) -> Iterator[Team]:
    """A team of which two replicas of a streaming model serve, with a request timeout of two minutes."""
    with serving.team_with_models(NAMESPACE, {"v1/predictor.py": PREDICTOR}) as team:
        team.apply(manifest())
        team.until_stable(1, NAME)
        until_replicas(team, 2)
        yield team


def manifest(replicas: int = 2, release: str = "1", header: str = "x-user-id") -> Json:
    """`release` makes another revision of the same model; another `header` needs a reload of HAProxy."""
    spec = {
        "model": {"uri": f"pvc://{CLAIM}/v1", "entrypoint": "predictor:Predictor"},
        "resources": {"cpu": "100m", "memory": "1Gi"},
        "replicas": replicas,
        "endpoint": {"requestTimeout": "2m"},
        "runtime": {"env": [{"name": "RELEASE", "value": release}]},
        "rollout": {"steps": [{"weight": 50, "gate": "manual"}], "unit": {"header": header}},
    }
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": spec,
    }


def edit(team: Team, **changes: Any) -> None:
    """Apply the manifest as it is stored, with some changes."""
    spec = team.get(NAME)["spec"]
    stored = {
        "replicas": spec["replicas"],
        "release": spec["runtime"]["env"][0]["value"],
        "header": spec["rollout"]["unit"]["header"],
    }
    team.apply(manifest(**{**stored, **changes}))


def until_replicas(team: Team, count: int) -> None:
    team.until(
        lambda: (team.status(NAME).get("stable") or {}).get("readyReplicas") == count == len(team.workers(name=NAME)),
        "replicas",
    )


@contextlib.contextmanager
def running_requests(team: Team) -> Iterator[None]:
    """Long requests run from before the block until after it; all of them must end well."""
    url = f"http://{NAME}.{NAMESPACE}.svc/"
    spec = pod_spec("python", long_requests.__file__, url, str(SILENT), str(STREAMS)) | {"restartPolicy": "Never"}
    team.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": CLIENTS}, "spec": spec})
    try:
        team.until(lambda: "open" in logs(team), "open requests")
        yield
        team.until(lambda: phase(team) in ("Succeeded", "Failed"), "the end of all requests")
        found = json.loads(logs(team).splitlines()[-1])
        assert len(found) == SILENT + STREAMS
        assert [each for each in found if each["error"] or each["received"] != each["expected"]] == []
    finally:
        team.kubectl("delete", "pod", CLIENTS, "--grace-period=0", "--force", "--wait=true")


def logs(team: Team) -> str:
    return team.serving.kubectl.run("-n", NAMESPACE, "logs", CLIENTS).stdout


def phase(team: Team) -> str:
    return str(team.get(CLIENTS, "pod")["status"]["phase"])


def assert_still_open(team: Team) -> None:
    """Not one request has ended: what was replaced was replaced while they ran."""
    assert phase(team) == "Running"
    assert logs(team).splitlines()[-1] == "open"


def test_a_scale_down_lets_them_end(team: Team) -> None:
    with running_requests(team):
        edit(team, replicas=1)
        team.until(lambda: team.status(NAME)["stable"]["replicas"] == 1, "one replica wanted")
        assert_still_open(team)
    until_replicas(team, 1)


def test_the_end_of_a_rollout_lets_them_end(team: Team) -> None:
    """One replica of each revision: the promotion does not wait for a second one of the canary."""
    before = team.status(NAME)["stable"]["revision"]
    edit(team, replicas=1, release="2")
    team.until_canary(50, NAME)
    with running_requests(team):
        team.sundog("promote", NAME)
        team.until(lambda: team.status(NAME)["stable"]["revision"] > before, "the promotion")
        assert_still_open(team)
    team.until_stable(before + 1, NAME)
    edit(team, replicas=2)
    until_replicas(team, 2)


def test_a_reload_of_haproxy_lets_them_end(team: Team) -> None:
    edges = [pod["metadata"]["name"] for pod in team.edges()]

    def reloads() -> list[int]:
        return [team.kubectl("logs", edge, "--all-containers").count("reloaded HAProxy") for edge in edges]

    before = reloads()
    with running_requests(team):
        edit(team, header="x-account-id")
        team.until(
            lambda: all(now > then for now, then in zip(reloads(), before, strict=True)), "a reload of each edge"
        )
        assert_still_open(team)
    assert [pod["metadata"]["name"] for pod in team.edges()] == edges


def test_the_drain_of_a_node_lets_them_end(team: Team) -> None:
    with running_requests(team):
        (worker, other), edge = team.workers(name=NAME), team.edges()[0]
        assert team.evict(worker) == ""
        assert "disruption budget" in team.evict(other)
        assert team.evict(edge) == ""
        team.until(lambda: is_terminating(team, worker) and is_terminating(team, edge), "both to end")
        assert_still_open(team)
    team.until(lambda: len(team.edges()) == 2, "two edges")
    until_replicas(team, 2)


def is_terminating(team: Team, pod: Json) -> bool:
    names = [each["metadata"]["name"] for each in team.list("pods") if "deletionTimestamp" not in each["metadata"]]
    return pod["metadata"]["name"] not in names


ASK = """
import json, sys, urllib.error, urllib.request

try:
    with urllib.request.urlopen(sys.argv[1], data=sys.argv[2].encode(), timeout=300) as response:
        found = [response.status, response.read().decode()]
except urllib.error.HTTPError as error:
    found = [error.code, error.read().decode()]
print(json.dumps(found))
"""


def test_a_request_for_too_much_memory_ends_two_replicas_at_most(team: Team) -> None:
    """The limit is the container's, which the kernel and Ray's memory monitor hold. Of three replicas one is the same afterwards."""
    edit(team, replicas=3)
    until_replicas(team, 3)
    before = replicas(team)
    assert len(before) == 3
    status, body = ask(team, {"pieces": 1, "pause_s": 0, "mebibytes": 2048})
    assert status in (502, 503, 504), body
    assert json.loads(body)["status"] == status
    team.until(lambda: len(replicas(team)) == 3 and len(replicas(team) & before) < 3, "another replica")
    until_replicas(team, 3)
    assert len(replicas(team) & before) == 1
    team.until(lambda: events(team, "PoisonRequest"), "the event of a request that was retried once")
    assert ask(team, {"pieces": 1, "pause_s": 0})[0] == 200


def replicas(team: Team) -> set[int]:
    """Return the process ids of this service's replicas."""
    title = f"ray::ServeReplica:{NAME}"
    found = (process for pod in team.workers(name=NAME) for process in processes_of(pod))
    return {process.pid for process in found if title in " ".join(process.cmdline())}


def ask(team: Team, sent: Json) -> tuple[int, str]:
    """Send one request from a pod of the team; return the status and the body of the response."""
    spec = pod_spec("python", "-c", ASK, f"http://{NAME}.{NAMESPACE}.svc/", json.dumps({"inputs": sent}))
    team.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": CLIENTS}, "spec": spec | {"restartPolicy": "Never"}}
    )
    try:
        team.until(lambda: phase(team) in ("Succeeded", "Failed"), "a response")
        status, body = json.loads(logs(team).splitlines()[-1])
        return status, body
    finally:
        team.kubectl("delete", "pod", CLIENTS, "--grace-period=0", "--force", "--wait=true")


def events(team: Team, reason: str) -> list[Json]:
    return [each for each in team.list("events.events.k8s.io") if each.get("reason") == reason]
