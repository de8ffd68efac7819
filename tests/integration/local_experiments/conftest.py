"""Local mode whose operator, edge and store are real, a stand-in for Ray whose replicas answer over HTTP, and users who come back."""

import asyncio
import hashlib
import json
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from experiment_statuses import has_judged
from fake_cluster.local_up import Beside, Ranges
from fake_cluster.ray_heads import Head, running_head
from real_local import EXPERIMENTS, Up, instance, is_ready
from sundog_edge.split.assignment import unit_bucket
from waiting import comes_true

SUPPORT = Path(__file__).parents[2] / "support"
AT_ONCE = 8
SHORT = {"warmup": {"requests": 1000, "duration": "1s"}}
Json = dict[str, Any]


class Visit(NamedTuple):
    """What an answer told: the arm and the application that gave it, the epoch, and the exposure as it was signed."""

    arm: str
    application: str
    epoch: int
    exposure: str


def luck(user: str) -> float:
    """From 0 to 1, the same each time."""
    return int.from_bytes(hashlib.sha256(user.encode()).digest()[:8]) / 2**64


def owner(ranges: Ranges, salt: str, user: str) -> str:
    """Whose a user is by an epoch's ranges."""
    place = unit_bucket(salt, user.encode())
    return next(arm for arm, own in ranges.items() for start, end in own if start <= place < end)


def deployment(name: str, version: int, rollout: Json) -> Json:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": f"https://models.example.com/digits/{version}", "entrypoint": "net:Net"},
            "rollout": rollout,
        },
    }


def experiment(name: str, service: str, *arms: str, **spec: Any) -> Json:
    conversion = {"name": "conversion", "feedback": "bought", "minimumEffect": "20%"}
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "modelDeployment": service,
            "arms": [{"name": arm} for arm in arms],
            "exposure": "100%",
            "unit": {"header": "x-user-id"},
            "metrics": {"success": [conversion]},
            **spec,
        },
    }


@dataclass
class Site:
    """The instance, who asks it, and what was seen."""

    up: Up
    beside: Beside
    head: Head
    session: aiohttp.ClientSession
    visits: dict[tuple[str, str], list[Visit]] = field(default_factory=lambda: defaultdict(list))
    urls: dict[str, str] = field(default_factory=dict)
    _met: set[tuple[str, int]] = field(default_factory=set)

    luck = staticmethod(luck)
    owner = staticmethod(owner)
    experiment = staticmethod(experiment)

    async def begin(self) -> None:
        """The API answers."""
        if self.up.process is None:
            self.up.start()

        async def there() -> bool:
            return (self.up.state / "kubeconfig").exists()

        await comes_true(there, "an API server")

    async def deploy(self, *services: str) -> None:
        """Each serves."""
        for service in services:
            self.release(service, 1)
        await self.begin()

        async def serve() -> bool:
            return all([is_ready(await self.read_deployment(service)) for service in services])

        await comes_true(serve, f"{services} serve")

    def release(self, service: str, version: int, rollout: Json = SHORT) -> None:
        """Save a manifest with another model, which is to be rolled out so."""
        document = deployment(service, version, rollout)
        (self.up.manifests / f"{service}.yaml").write_text(json.dumps(document))

    async def read_deployment(self, service: str) -> Json:
        return await asyncio.to_thread(self.up.read, service)

    async def api(self, method: str, name: str = "", document: Any = None) -> tuple[int, Json]:
        path = f"{EXPERIMENTS}/{name}" if name else EXPERIMENTS
        return await asyncio.to_thread(self.up.api, method, path, document)

    async def status(self, name: str) -> Json:
        """Of an Experiment; empty while nobody answers."""
        return (await self.read(name)).get("status") or {}

    async def read(self, name: str) -> Json:
        try:
            status, obj = await self.api("GET", name)
        except OSError:
            return {}
        return obj if status == 200 else {}

    async def url(self, service: str) -> str:
        """Where it is asked, also while nobody answers for the API."""
        if service not in self.urls:
            self.urls[service] = str((await self.read_deployment(service))["status"]["url"]).rstrip("/")
        return self.urls[service]

    async def visit(self, service: str, users: Iterable[str]) -> None:
        """Each comes once, a few at a time; what each was told is kept."""
        url, waiting = await self.url(service), iter(users)

        async def ask() -> None:
            for user in waiting:
                self.visits[service, user].append(await self._ask(url, service, user))

        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))

    async def _ask(self, url: str, service: str, user: str) -> Visit:
        async with self.session.post(url + "/", data=b"{}", headers={"x-user-id": user}) as response:
            assert response.status == 200, await response.text()
            exposure = response.headers.get("x-sundog-exposure", "")
            epoch = int(exposure.split("~")[2]) if exposure else 0
            self._is_committed(service, epoch)
            return Visit(response.headers["x-sundog-arm"], (await response.json())["application"], epoch, exposure)

    def _is_committed(self, service: str, epoch: int) -> None:
        """Nobody is answered in an epoch before its weights are in a status."""
        if epoch and (service, epoch) not in self._met:
            self._met.add((service, epoch))
            written = {each.key for each in self.beside.journal()}
            assert ("split", service, epoch) in written
            assert any(where == "experiment" and epoch == own for where, _, own in written)

    async def takes_feedback(self, service: str) -> bool:
        """Whether answers tell exposures, as somebody sees who comes again and again."""
        await self.visit(service, ["nobody"])
        return bool(self.visits[service, "nobody"][-1].exposure)

    async def is_in_force(self, name: str, epoch: int) -> bool:
        """Whether all edges have confirmed an epoch."""
        now = (await self.status(name)).get("epoch") or {}
        return now.get("number") == epoch and bool(now["confirmed"])

    def kill(self, process: str) -> None:
        """With SIGKILL, what local mode runs under a name."""
        os.kill(self.up.pid(process), signal.SIGKILL)

    async def report(self, service: str, items: Sequence[Json]) -> tuple[int, Json]:
        """What came of feedback."""
        async with self.session.post(f"{await self.url(service)}/-/feedback", json=items) as response:
            return response.status, await response.json()

    async def feedback(self, service: str) -> Json:
        """What the edge tells of the store; empty while its agent is away."""
        told = await asyncio.to_thread(self.up.evidence)
        return ((told.get("services") or {}).get(service) or {}).get("feedback") or {}

    async def judged(self, name: str, service: str, ready: Callable[[Json], bool]) -> Json:
        """The Experiment, once the store is as wanted and the operator has written all that is in it.

        It writes once a minute at most: so its clock goes on meanwhile.
        """

        async def written() -> Json | None:
            told = await self.feedback(service)
            if "outcomes" not in told or not ready(told):
                return None
            obj = await self.read(name)
            if not obj:
                return None
            if has_judged(obj, told):
                return obj
            self.beside.advance(timedelta(seconds=10))
            return None

        return await comes_true(written, f"{name} has judged all outcomes")

    def ranges(self, name: str) -> dict[int, Ranges]:
        """By epoch, each arm's buckets, as committed."""
        return {each.epoch: each.ranges for each in self.beside.journal() if each.key[:2] == ("experiment", name)}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with aiohttp.ClientSession() as session, running_head() as head:
        with instance(tmp_path) as up:
            up.program = ("fake_cluster.local_up",)
            up.environment = {"PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])}
            beside = Beside(tmp_path)
            beside.lead_at(head.port)
            yield Site(up, beside, head, session)
