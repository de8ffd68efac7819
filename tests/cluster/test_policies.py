"""Network policies that are enforced: a model starts, is rolled out and is asked behind them, and nobody else gets in."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from real_kubernetes import cloud_network
from real_kubernetes.checkout import pod_spec
from real_kubernetes.cluster import BINARIES
from real_kubernetes.kubectl import Kubectl
from real_serving import Json, Serving, Team
from sundog_operator.core.kubernetes import names
from waiting import eventually

PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor


def reaches(target):
    try:
        socket.create_connection(tuple(target), 5).close()
    except OSError:
        return False
    return True


with ThreadPoolExecutor() as pool:
    print(json.dumps(list(pool.map(reaches, json.loads(sys.argv[1])))))
"""

LISTENS = """
import pathlib
for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
    _, local, _, state, *_ = line.split()
    port = int(local.split(":")[1], 16)
    if state == "0A" and 30000 <= port <= 31000:
        print(port)
"""
"""A replica's port for HTTP, as its pod knows it."""

FROM_THE_HEAD = """
import json, pathlib, socket, ssl, sys, urllib.error, urllib.request

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")


@ray.remote(num_cpus=0)
def look(api_server, metadata):
    def answered():
        context = ssl._create_unverified_context()
        try:
            return urllib.request.urlopen(api_server, timeout=5, context=context).status
        except urllib.error.HTTPError as error:
            return error.code

    def reached():
        try:
            socket.create_connection((metadata, 80), 5).close()
        except OSError:
            return False
        return True

    return {"host": socket.gethostname(), "token": ACCOUNT.exists(), "pods": answered(), "metadata": reached()}


ray.init(log_to_driver=False)
(head,) = (node["NodeID"] for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"])
strategy = On(head, soft=False)
print(json.dumps(ray.get(look.options(scheduling_strategy=strategy).remote(*sys.argv[1:]), timeout=60)))
"""
"""What a model finds that runs a task of its own in the head: Ray's token is in its environment."""

CURIOUS = "curious"
API_SERVER = ("default", "service", "kubernetes")
OUTSIDE = frozenset({"API server", "metadata"})
OPEN = frozenset({"edge"})
SCRAPED = frozenset({"edge", "agent", "metrics of Ray", "operator"})
OF_RAY = frozenset({"dashboard", "control plane", "metrics of Ray", "node agent", "replica"})
NEEDED = OF_RAY | {"edge", "store", "API server"}
"""By Ray's pods: each other, their store, and what is no credentials."""
EVERYTHING = SCRAPED | OF_RAY | {"store"} | OUTSIDE


@dataclass
class Walls:
    """A team behind policies, and what others try to reach of it."""

    team: Team
    down: contextlib.ExitStack

    @property
    def kubectl(self) -> Kubectl:
        return self.team.serving.kubectl

    def targets(self) -> dict[str, tuple[str, int]]:
        head, worker, edge, store = self.head(), self.worker(), self.team.edges()[0], self.store()
        namespace, *service = API_SERVER
        api_server = self.kubectl.get("-n", namespace, *service)["spec"]
        return {
            "edge": (address(edge), 8080),
            "agent": (address(edge), 9090),
            "dashboard": (address(head), 8265),
            "control plane": (address(head), 6379),
            "metrics of Ray": (address(head), 8080),
            "node agent": (address(worker), 52365),
            "replica": (address(worker), int(self.python(worker, LISTENS))),
            "store": (address(store), 6379),
            "operator": (address(self.team.serving.operators()[0]), 8080),
            "API server": (api_server["clusterIP"], api_server["ports"][0]["port"]),
            "metadata": (cloud_network.METADATA, 80),
        }

    def worker(self) -> Json:
        (worker,) = self.team.workers(self.team.status()["stable"]["revision"])
        return worker

    def head(self) -> Json:
        (head,) = self.team.heads()
        return head

    def store(self) -> Json:
        (store,) = self.team.pods(f"{names.LABEL_NAME}={names.VALKEY}")
        return store

    def python(self, pod: Json, script: str, *arguments: str, container: str = "") -> str:
        meta = pod["metadata"]
        where = ("-c", container) if container else ()
        return self.kubectl(
            "exec", "-n", meta["namespace"], meta["name"], *where, "--", "python", "-c", script, *arguments
        )

    def reached_from(self, pod: Json, container: str = "") -> set[str]:
        """What a pod can connect to."""
        targets = self.targets()
        told = json.loads(self.python(pod, PROBE, json.dumps(list(targets.values())), container=container))
        return {name for name, reached in zip(targets, told, strict=True) if reached}

    def stranger(self, namespace: str) -> Json:
        found: Json = self.kubectl.get("-n", namespace, "pod", CURIOUS)
        return found


def address(pod: Json) -> str:
    return str(pod["status"]["podIP"])


@pytest.fixture(scope="module")
def behind(serving: Serving) -> Iterator[Walls]:
    """Everything of the team starts behind the walls."""
    instance = serving.cluster.instance
    if instance is None:
        pytest.skip("whether somebody else's cluster enforces policies is not known")
    run = serving.kubectl
    with contextlib.ExitStack() as stack:
        stack.enter_context(cloud_network.metadata_service(instance))
        enforced = stack.enter_context(contextlib.ExitStack())
        enforced.enter_context(cloud_network.enforced(instance, BINARIES))
        for namespace in ("strangers", "monitoring"):
            run("create", "namespace", namespace)
            stack.callback(run, "delete", "namespace", namespace, "--wait=false")
            meta = {"name": CURIOUS, "namespace": namespace}
            run.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod_spec("sleep", "3600")})
            run.wait("-n", namespace, f"pod/{CURIOUS}", "--for=condition=Ready")
        team = stack.enter_context(serving.team("walled"))
        team.apply(team.digits())
        team.until_stable(1)
        yield Walls(team, enforced)


def test_a_model_is_rolled_out_and_asked_behind_them(behind: Walls) -> None:
    steps = [{"weight": 50, "gate": "time", "minDuration": "3s"}]
    with behind.team.traffic() as traffic:
        behind.team.apply(behind.team.digits("v2", rollout={"steps": steps}))
        behind.team.until_canary(50)
        traffic.until(lambda told: told["answered"].get("2", 0) > 20, "the canary answers")
        behind.team.until_stable(2)


def test_the_phases_of_a_start_come_through_them(behind: Walls) -> None:
    """The operator reaches no replica: an edge has asked one."""
    behind.team.until(lambda: behind.team.status().get("startup"), "a start that is told")
    assert {"load", "warmup", "total"} <= behind.team.status()["startup"].keys()


def test_strangers_reach_the_edge_alone(behind: Walls) -> None:
    # What is no pod of ours is no business of ours: a stranger asks its cloud whatever it likes.
    found = eventually(lambda: behind.reached_from(behind.stranger("strangers")), "an answer")
    assert found == OPEN | OUTSIDE


def test_who_measures_reaches_metrics_too(behind: Walls) -> None:
    assert behind.reached_from(behind.stranger("monitoring")) == SCRAPED | OUTSIDE


def test_each_of_ours_reaches_what_it_needs_and_no_credentials_of_the_node(behind: Walls) -> None:
    edge, operator = behind.team.edges()[0], behind.team.serving.operators()[0]
    assert behind.reached_from(behind.worker(), "ray-worker") == NEEDED
    # Where a model's task can run as well, and whose autoscaler asks the API server.
    assert behind.reached_from(behind.head(), "ray-head") == NEEDED
    # To a pod itself no policy applies.
    assert behind.reached_from(behind.store(), "valkey") == {"store"}
    assert behind.reached_from(edge, "agent") == {"edge", "agent", "dashboard", "replica", "API server"}
    assert behind.reached_from(operator) >= {"agent", "dashboard", "API server"}
    assert not behind.reached_from(operator) & {"store", "control plane", "replica", "metadata"}


def test_a_task_of_a_model_finds_no_credentials_in_the_head(behind: Walls) -> None:
    head = behind.head()
    address, port = behind.targets()["API server"]
    pods = f"https://{address}:{port}/api/v1/namespaces/{behind.team.namespace}/pods"
    told = json.loads(
        behind.python(behind.worker(), FROM_THE_HEAD, pods, cloud_network.METADATA, container="ray-worker")
    )
    assert told.pop("pods") in (401, 403), "it is nobody to the API server"
    assert told == {"host": head["metadata"]["name"], "token": False, "metadata": False}


def test_without_them_everything_is_reached(behind: Walls) -> None:
    """So that the tests above say something."""
    behind.down.close()
    eventually(
        lambda: behind.reached_from(behind.stranger("strangers")) == EVERYTHING, "a stranger who reaches everything"
    )
