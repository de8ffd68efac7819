"""An experiment's log, written by the operator itself: a real edge with its store, a real S3 server, models that a stand-in serves."""

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import obstore
import pytest
from obstore.store import S3Store

import analysis_script
from background import in_background
from fake_cluster.ray_heads import lead, running_head
from ports import free_port
from store_processes import BUILD_S, S3_KEYS, s3_server
from sundog_operator.adapters import export_destinations
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.edges import HttpEdges
from sundog_operator.adapters.exposure_logs import EdgeExposureLogWriter
from sundog_operator.adapters.local.edge import LocalEdge
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.adapters.ray_serve import RayServe, fixed_token
from sundog_operator.adapters.webhooks import AddressPolicy, HttpWebhooks
from sundog_operator.app.controller import Controller
from sundog_operator.app.dependencies import Dependencies, OperatorSettings
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.ports import EVENT, EXPERIMENT, MODEL_DEPLOYMENT, POD, Object, Ref
from waiting import PATIENCE_S, comes_true

pytest.importorskip("pyarrow")
pytestmark = [pytest.mark.haproxy, pytest.mark.timeout(BUILD_S + PATIENCE_S)]

NAMESPACE, AB = "vision", "ab"
USERS = 400
BUYS = {"control": 5, "wide": 2}
"""Of an arm's users one in so many does."""

Json = dict[str, Any]


def deployment() -> Object:
    return {
        "apiVersion": MODEL_DEPLOYMENT.api_version,
        "kind": MODEL_DEPLOYMENT.kind,
        "metadata": {"name": "digits", "namespace": NAMESPACE},
        "spec": {
            "model": {"uri": "https://models.example.com/digits", "entrypoint": "net:Net"},
            "rollout": {"warmup": {"requests": 1000, "duration": "1s"}},
        },
    }


def experiment(**spec: Any) -> Object:
    conversion = {"name": "conversion", "feedback": "bought", "minimumEffect": "20%"}
    return {
        "apiVersion": EXPERIMENT.api_version,
        "kind": EXPERIMENT.kind,
        "metadata": {"name": AB, "namespace": NAMESPACE},
        "spec": {
            "modelDeployment": "digits",
            "arms": [{"name": "wide"}],
            "exposure": "100%",
            "unit": {"header": "x-user-id"},
            "metrics": {"success": [conversion]},
            "onWin": "pause",
            "exposureLog": {"uri": "s3://logs/experiments"},
            **spec,
        },
    }


class LaterClock(SystemClock):
    """The time of day, and so much more."""

    def __init__(self) -> None:
        self.more = timedelta()

    def now(self) -> datetime:
        return super().now() + self.more


@dataclass
class Site:
    """All that an operator has beside it."""

    kube: MemoryKubernetes
    session: aiohttp.ClientSession
    store: S3Store
    buckets: Path
    clock: LaterClock = field(default_factory=LaterClock)
    url: str = ""

    @contextlib.asynccontextmanager
    async def operator(self) -> AsyncIterator[None]:
        """One that runs until it is cut off."""
        world = Dependencies(
            self.kube,
            RayServe(self.session, fixed_token("")),
            HttpEdges(self.session),
            HttpWebhooks(AddressPolicy(allow_loopback=True)),
            self.clock,
            OperatorSettings(runtime_image="local", edge_image="local"),
            exposure_logs=EdgeExposureLogWriter(),
        )
        try:
            async with in_background(Controller(world).run()):
                yield
        finally:
            # What a process has under way ends with it.
            for task in world.exposure_log_requests.pending:
                task.cancel()

    async def read(self) -> Object:
        found = await self.kube.get(Ref(EXPERIMENT, NAMESPACE, AB))
        assert found is not None
        return found

    async def status(self) -> Json:
        return (await self.read()).get("status") or {}

    async def serving(self) -> str:
        """Where digits are asked, once they serve."""
        obj = await self.kube.get(Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits")) or {}
        ready = [c["status"] for c in obj.get("status", {}).get("conditions", ()) if c["type"] == "Ready"]
        return str(obj["status"].get("url") or "") if ready == ["True"] else ""

    async def folder(self) -> str:
        return f"experiments/{NAMESPACE}/{AB}/{(await self.read())['metadata']['uid']}"

    def objects(self) -> list[str]:
        """What lies in the bucket."""
        return sorted(each["path"] for batch in obstore.list(self.store) for each in batch)

    def get(self, key: str) -> bytes:
        return bytes(obstore.get(self.store, key).bytes())

    async def exposed(self, user: str) -> tuple[str, str]:
        """The arm and the exposure that an answer tells; empty while none are told."""
        async with self.session.post(self.url + "/", data=b"{}", headers={"x-user-id": user}) as response:
            assert response.status == 200, await response.text()
            return response.headers["x-sundog-arm"], response.headers.get("x-sundog-exposure", "")

    async def buy(self) -> int:
        """So many users come, and some of them buy; how many."""
        told, seen = [], dict.fromkeys(BUYS, 0)
        for number in range(USERS):
            arm, exposure = await self.exposed(f"user-{number}")
            assert exposure
            seen[arm] += 1
            if seen[arm] % BUYS[arm] == 0:
                told.append({"exposure": exposure, "metric": "bought"})
        url = self.url + "/-/feedback"
        async with self.session.post(url, json=told) as response:
            assert (await response.json())["accepted"] == len(told)
        return len(told)

    async def told(self) -> Json:
        """What the edge tells of the store."""
        (report,) = await HttpEdges(self.session).read(await self.kube.list(POD, NAMESPACE))
        return ((report.evidence or {}).get("services", {}).get("digits") or {}).get("feedback") or {}

    async def has_stored(self, users: int) -> bool:
        return sum(units for _, _, units in (await self.told()).get("exposed", ())) >= users

    async def has_judged_all(self) -> bool:
        """Whether an arm has won by all that the store holds."""
        obj = await self.read()
        status = obj.get("status") or {}
        if (status.get("paused") or {}).get("reason") != "Won" or not await self.has_stored(USERS):
            return False
        judged = Counters.unpack(status["tallies"], obj["metadata"]["uid"]).feedback
        return judged.sequence == (await self.told()).get("sequence")


@pytest.fixture
def buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder whose folders are the buckets of an S3 server, which the environment names."""
    folder, port = tmp_path / "buckets", free_port()
    (folder / "logs").mkdir(parents=True)
    for name, value in {**S3_KEYS, "AWS_ENDPOINT_URL": f"http://localhost:{port}"}.items():
        monkeypatch.setenv(name, value)
    with s3_server(folder, port, tmp_path / "s3.log"):
        yield folder


@pytest.fixture
async def ray() -> AsyncIterator[int]:
    """The port of a head."""
    async with running_head() as head:
        yield head.port


@pytest.fixture
async def site(buckets: Path, ray: int) -> AsyncIterator[Site]:
    # Unix socket paths are short, pytest's own temporary paths are not.
    state = Path(tempfile.mkdtemp(prefix="sdx-"))
    kube = MemoryKubernetes(SystemClock())
    edge = LocalEdge(kube, state, SystemClock(), http_port=0, https_port=0)
    try:
        async with aiohttp.ClientSession() as session, in_background(edge.run()), in_background(lead(kube, ray)):
            store = S3Store("logs", endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})
            yield Site(kube, session, store, buckets)
    finally:
        await edge.stop_all()
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture
def analysis() -> ModuleType:
    return analysis_script.load()


async def begun(site: Site) -> None:
    """The arms have traffic, and outcomes are taken."""
    await site.kube.apply(deployment())
    site.url = await comes_true(site.serving, "digits serve")
    await site.kube.apply(experiment())

    async def takes_feedback() -> bool:
        return bool((await site.exposed("nobody"))[1])

    await comes_true(takes_feedback, "exposures are told")


async def logged(site: Site, sequence: int) -> Json | None:
    told = (await site.status()).get("exposureLog") or {}
    return told if told.get("sequence") == sequence else None


async def is_final(site: Site) -> Json | None:
    told = (await site.status()).get("exposureLog") or {}
    return told if told.get("final") else None


def said(status: Json) -> Json:
    return next((dict(c) for c in status.get("conditions", ()) if c["type"] == "LogWritten"), {})


async def test_who_has_the_last_folder_comes_to_the_operators_verdict(
    site: Site, analysis: ModuleType, tmp_path: Path
) -> None:
    async with site.operator():
        await begun(site)
        own = await site.folder()
        assert site.objects() == []
        bought = await site.buy()
        await comes_true(site.has_judged_all, "wide has won by all outcomes")
        site.clock.more = timedelta(hours=1, minutes=1)
        first = await comes_true(lambda: logged(site, 1), "one is written while it runs")
        assert (first["uri"], first["final"]) == (f"s3://logs/{own}/000001", False)
        await site.kube.apply(experiment(stopped=True))
        last = await comes_true(lambda: is_final(site), "the last one is written")
        assert (last["uri"], last["sequence"], last["complete"]) == (f"s3://logs/{own}/000002", 2, True)
        assert (last["exposures"], last["outcomes"]) == (USERS + 1, bought)
    names = ["exposures.parquet", "outcomes.parquet", "plan.json"]
    assert site.objects() == [f"{own}/{number}/{name}" for number in ("000001", "000002") for name in names]

    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_bytes(site.get(f"{own}/000002/{name}"))
    status = json.loads((out / "plan.json").read_text())["status"]
    assert (status["phase"], status["verdict"]["winner"]) == ("Concluded", "wide")
    found, decision, winner = analysis.analyse(out)
    assert (decision, winner) == ("Winner", "wide")
    here = found["conversion"]["wide"]
    (theirs,) = [each for each in (await site.status())["metrics"] if each["name"] == "conversion"]
    assert here["verdict"] == theirs["verdict"]
    assert [1 + here["uplift"], 1 + here["lower"], 1 + here["upper"]] == [theirs["ratio"], *theirs["interval"]]


async def test_a_bucket_that_is_gone_is_reported_and_written_to_once_it_is_back(site: Site) -> None:
    gone = (site.buckets / "logs").rename(site.buckets.parent / "gone")
    async with site.operator():
        await begun(site)
        own = await site.folder()
        await site.kube.apply(experiment(stopped=True))

        async def fails() -> Json | None:
            found = said(await site.status())
            return found if found.get("status") == "False" else None

        told = await comes_true(fails, "it is said")
        assert told["reason"] == "NotWritten"
        assert told["message"].startswith(f"s3://logs/{own}/000001: cannot be written (")
        assert "secret" not in told["message"]
        status = await site.status()
        assert (status["phase"], status["verdict"]["reason"]) == ("Stopped", "StoppedByUser: spec.stopped is true")
        events = [each["note"] for each in await site.kube.list(EVENT, NAMESPACE) if each["reason"] == "LogNotWritten"]
        assert len(events) == 1
        gone.rename(site.buckets / "logs")
        await comes_true(lambda: is_final(site), "it is written")
        assert said(await site.status())["status"] == "True"
    assert site.objects() == [f"{own}/000001/{name}" for name in ("exposures.parquet", "outcomes.parquet", "plan.json")]


async def test_an_operator_that_ends_half_way_is_followed_by_one_that_writes_it_whole_and_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, half_way = export_destinations.put_files, asyncio.Event()

    async def put_all_but_the_last(files: Sequence[Path], *where: Any) -> None:
        await put(files[:-1], *where)
        half_way.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(export_destinations, "put_files", put_all_but_the_last)
    async with site.operator():
        await begun(site)
        own = await site.folder()
        for number in range(10):
            await site.exposed(f"early-{number}")
        await comes_true(lambda: site.has_stored(11), "who came is stored")
        site.clock.more = timedelta(hours=1, minutes=1)
        async with asyncio.timeout(PATIENCE_S):
            await half_way.wait()
    assert site.objects() == [f"{own}/000001/{name}" for name in ("exposures.parquet", "outcomes.parquet")]
    assert "exposureLog" not in await site.status()

    monkeypatch.setattr(export_destinations, "put_files", put)
    async with site.operator():
        first = await comes_true(lambda: logged(site, 1), "it is written")
        plan = json.loads(site.get(f"{own}/000001/plan.json"))
        assert plan["rows"]["exposures"] == first["exposures"] >= 11
        await site.kube.apply(experiment(stopped=True))
        await comes_true(lambda: is_final(site), "the last one is written")
    folders = [key.rpartition("/")[0] for key in site.objects() if key.endswith("plan.json")]
    assert folders == [f"{own}/000001", f"{own}/000002"]
