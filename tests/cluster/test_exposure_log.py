"""Exposure logs that the operator of the chart writes: to an S3 server in the cluster, as its own account, behind enforced policies.

One Experiment goes through all of it, in the order of the tests; each begins with what it finds.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import analysis_script
from charting import NAMESPACE, service_account
from real_kubernetes import audit, cloud_network
from real_kubernetes.binaries import VERSITYGW
from real_kubernetes.checkout import pod_spec
from real_kubernetes.cluster import BINARIES
from real_serving import PREDICTOR_OF_ITS_NAME, Json, Serving, Team
from store_processes import BUILD_S, go_tool
from waiting import comes_true, patience

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.timeout(BUILD_S + patience(900))

SHOP, AB, MEXP = "shop", "ab", "experiments.serving.sundog.dev"
CLAIM = "models"
BUCKETS, PORT = "buckets", 7070
PLACE = "s3://logs/experiments"
ACCESS, SECRET = "key", "hidden-secret"
FILES = ["exposures.parquet", "outcomes.parquet", "plan.json"]
USERS = 400
BUYS = {"control": 5, "wide": 2}
"""Of an arm's users one in so many does."""


@dataclass(frozen=True)
class Site:
    """A team whose Experiments are logged, and the folder in which the buckets lie."""

    team: Team
    buckets: Path

    def experiment(self, **spec: Any) -> Json:
        arm = {"name": "wide", "model": {"uri": f"pvc://{CLAIM}/v2"}}
        return {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "Experiment",
            "metadata": {"name": AB},
            "spec": {
                "modelDeployment": SHOP,
                "arms": [arm],
                "exposure": "100%",
                "unit": {"header": "x-user-id"},
                "metrics": {"success": [{"name": "conversion", "feedback": "bought", "minimumEffect": "20%"}]},
                "onWin": "pause",
                "exposureLog": {"uri": PLACE},
                **spec,
            },
        }

    def ab(self) -> Json:
        return self.team.get(AB, MEXP)

    def status(self) -> Json:
        found: Json = self.ab().get("status") or {}
        return found

    def folder(self) -> str:
        """Below a place, that of the Experiment."""
        return f"{self.team.namespace}/{AB}/{self.ab()['metadata']['uid']}"

    def said(self) -> tuple[str, str, str]:
        found = {each["type"]: each for each in self.status().get("conditions", ())}.get("LogWritten", {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def until_written(self, place: str) -> Json:
        """What the status says of the last one, once that lies below a place."""

        def written() -> Json | None:
            told = self.status().get("exposureLog") or {}
            return told if told.get("uri", "").startswith(f"{place}/") and told.get("final") else None

        found = self.team.until(written, f"the last log lies below {place}")
        assert found is not None
        return found

    def objects(self) -> list[str]:
        """What lies in the bucket. The server keeps each object as a file."""
        bucket = self.buckets / "logs"
        return sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())

    def serve_buckets(self) -> None:
        kubectl = self.team.serving.kubectl
        # Pods see the checkout, but not the folder of programs.
        program = go_tool(VERSITYGW).resolve()
        command = (f"/programs/{program.name}", "--port", f":{PORT}", "--access", ACCESS, "--secret", SECRET)
        spec = pod_spec(*command, "posix", "/buckets")
        spec["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
        for name, path in (("buckets", self.buckets), ("programs", program.parent)):
            spec["containers"][0]["volumeMounts"].append({"name": name, "mountPath": f"/{name}"})
            spec["volumes"].append({"name": name, "hostPath": {"path": str(path)}})
        meta = {"name": "s3", "namespace": BUCKETS, "labels": {"app": "s3"}}
        service = {"selector": {"app": "s3"}, "ports": [{"port": PORT}]}
        kubectl.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec},
            {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service},
        )
        kubectl.wait("-n", BUCKETS, "pod/s3", "--for=condition=Ready")


def shop() -> Json:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": SHOP},
        "spec": {
            "model": {"uri": f"pvc://{CLAIM}/v1", "entrypoint": "predictor:Predictor"},
            "resources": {"cpu": "100m", "memory": "1Gi"},
            "rollout": {"warmup": {"requests": 1000, "duration": "1s"}},
        },
    }


def values(before: Json) -> Json:
    """Return the values of the chart, as docs/guides/feedback.md describes them."""
    told = {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://s3.{BUCKETS}.svc:{PORT}"}
    env: list[Json] = [{"name": name, "value": value} for name, value in told.items()]
    env += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "logs-write", "key": name}}}
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    ]
    way = {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": BUCKETS}}}],
        "ports": [{"protocol": "TCP", "port": PORT}],
    }
    return {
        **before,
        "env": [*before["env"], *env],
        "networkPolicy": {"egress": [way]},
        "installation": {**before["installation"], "exposureLogs": {"places": [PLACE]}},
    }


@pytest.fixture(scope="module")
def site(serving: Serving) -> Iterator[Site]:
    instance = serving.cluster.instance
    if instance is None:
        pytest.skip("whether somebody else's cluster enforces policies is not known")
    run, buckets = serving.kubectl, instance.folder("volumes/buckets")
    (buckets / "logs").mkdir()
    with contextlib.ExitStack() as stack:
        stack.enter_context(cloud_network.enforced(instance, BINARIES))
        run("create", "namespace", BUCKETS)
        stack.callback(run, "delete", "namespace", BUCKETS, "--wait=false")
        given = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET}
        meta = {"name": "logs-write", "namespace": NAMESPACE}
        run.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": given})
        stack.callback(run, "-n", NAMESPACE, "delete", "secret", "logs-write")
        serving.upgrade(values(serving.values))
        stack.callback(serving.upgrade, serving.values)
        run("create", "namespace", "logged")
        stack.callback(run, "delete", "namespace", "logged", "--wait=false")
        for version in ("v1", "v2"):
            model = instance.folder(f"volumes/logged/{version}")
            (model / "predictor.py").write_text(PREDICTOR_OF_ITS_NAME)
        made = Site(Team(serving, "logged"), buckets)
        made.serve_buckets()
        made.team.claim(CLAIM)
        made.team.apply(shop())
        made.team.until_stable(1, SHOP)
        yield made


async def buys(url: str) -> int:
    """So many users come, and some of them buy; how many."""
    told, seen = [], dict.fromkeys(BUYS, 0)
    asked = json.dumps({"inputs": [1.0]})

    async with aiohttp.ClientSession(headers={"content-type": "application/json"}) as session:

        async def exposed(user: str) -> tuple[str, str]:
            async with session.post(f"{url}/", data=asked, headers={"x-user-id": user}) as response:
                assert response.status == 200, await response.text()
                return response.headers["x-sundog-arm"], response.headers.get("x-sundog-exposure", "")

        async def takes_feedback() -> bool:
            return bool((await exposed("nobody"))[1])

        await comes_true(takes_feedback, "exposures are told")
        for number in range(USERS):
            arm, exposure = await exposed(f"user-{number}")
            assert exposure
            seen[arm] += 1
            if seen[arm] % BUYS[arm] == 0:
                told.append({"exposure": exposure, "metric": "bought"})
        async with session.post(f"{url}/-/feedback", json=told) as response:
            assert (await response.json())["accepted"] == len(told)
    return len(told)


def test_who_has_what_the_operator_wrote_comes_to_its_verdict(site: Site) -> None:
    team = site.team
    team.apply(site.experiment())
    team.until(lambda: site.status().get("phase") == "Running", "the arms have their traffic")
    bought = asyncio.run(buys(f"http://{team.edges()[0]['status']['podIP']}:8080/{SHOP}"))
    team.until(lambda: (site.status().get("paused") or {}).get("reason") == "Won", "an arm has won")
    assert site.objects() == []
    team.apply(site.experiment(stopped=True))
    told = site.until_written(PLACE)
    own = f"{PLACE}/{site.folder()}/000001"
    assert (told["uri"], told["sequence"], told["complete"]) == (own, 1, True)
    assert (told["exposures"], told["outcomes"]) == (USERS + 1, bought)
    assert site.said() == ("True", "Written", f"{USERS + 1} exposures and {bought} outcomes in {own}")
    assert site.objects() == [f"experiments/{site.folder()}/000001/{name}" for name in FILES]

    written = site.buckets / "logs" / "experiments" / site.folder() / "000001"
    found, decision, winner = analysis_script.load().analyse(written)
    assert (decision, winner) == ("Winner", "wide")
    here = found["conversion"]["wide"]
    (theirs,) = [each for each in site.status()["metrics"] if each["name"] == "conversion"]
    assert here["verdict"] == theirs["verdict"]
    assert [1 + here["uplift"], 1 + here["lower"], 1 + here["upper"]] == [theirs["ratio"], *theirs["interval"]]


def test_a_place_that_nobody_allowed_is_reported_and_another_one_is_written_to(site: Site) -> None:
    team, before = site.team, site.objects()
    elsewhere = "s3://elsewhere/experiments"
    team.apply(site.experiment(stopped=True, exposureLog={"uri": elsewhere}))
    team.until(lambda: site.said()[:2] == ("False", "PlaceNotAllowed"), "it is told")
    assert elsewhere in site.said()[2]
    assert site.objects() == before
    team.apply(site.experiment(stopped=True, exposureLog={"uri": f"{PLACE}/again"}))
    assert site.until_written(f"{PLACE}/again")["sequence"] == 2
    assert site.said()[:2] == ("True", "Written")


def test_a_server_that_is_away_is_reported_and_written_to_once_it_is_back(site: Site) -> None:
    team = site.team
    team.serving.kubectl("-n", BUCKETS, "delete", "pod", "s3", "--grace-period=0", "--force")
    team.apply(site.experiment(stopped=True, exposureLog={"uri": f"{PLACE}/later"}))
    team.until(lambda: site.said()[:2] == ("False", "NotWritten"), "it is told")
    assert site.said()[2] == f"{PLACE}/later/{site.folder()}/000003: cannot be written (GenericError)"
    assert team.condition_state("Ready", SHOP)[0] == "True"
    site.serve_buckets()
    assert site.until_written(f"{PLACE}/later")["sequence"] == 3
    assert site.said()[:2] == ("True", "Written")
    events = [each["note"] for each in team.list("events.events.k8s.io") if each["reason"] == "LogNotWritten"]
    assert len(events) == 1
    assert SECRET not in team.serving.operator_log()


def test_the_operator_was_refused_nothing_for_it(site: Site) -> None:
    assert site.team.serving.cluster.instance is not None
    log = audit.log(site.team.serving.cluster.instance)
    ours = {"", NAMESPACE, site.team.namespace}
    assert {use for use in audit.refusals(log, service_account.ACCOUNT) if use.namespace in ours} == set()
