"""Services on the real Ray and the real HAProxy of one `sundog local up`, and experiments on what they answer."""

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from experiment_statuses import has_judged
from feedback_stores import RestartedServer
from local_up_with_redis import environment_of
from real_local import EXPERIMENTS, Up, instance, is_ready, processes_of
from waiting import PATIENCE_S, comes_true, eventually, patience

SUPPORT = Path(__file__).parents[2] / "support"
VERDICT_S = patience(900)
"""The limit of a verdict, which takes two or three minutes of data."""

Json = dict[str, Any]


@dataclass
class Site:
    """One service, its experiment, and who asks it. Services of other tests are gone."""

    up: Up
    folder: Path
    session: aiohttp.ClientSession
    service: str = ""
    name: str = ""

    async def serve(self, service: str, predictor: str, user_config: Json) -> None:
        """Serve a predictor until the end of the test."""
        (self.folder / "model.py").write_text(predictor)
        self.service = service
        document = {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": service},
            "spec": {
                "model": {"uri": f"file://{self.folder}", "format": "python", "entrypoint": "model:Model"},
                "runtime": {"userConfig": user_config, "warmup": {"requests": 0}},
                "rollout": {"warmup": {"requests": 20, "duration": "10s"}},
            },
        }
        await self.apply(service, json.dumps(document))

    async def apply(self, service: str, manifest: str) -> None:
        """Save a service's manifest, and wait until it serves."""
        self.service = service
        self._manifest.write_text(manifest)
        await self.until(lambda: is_ready(self.up.read(service)), f"{service} serves")

    @property
    def _manifest(self) -> Path:
        return self.up.manifests / f"{self.service}.yaml"

    @property
    def url(self) -> str:
        return str(self.up.read(self.service)["status"]["url"]).rstrip("/")

    async def begin(self, name: str, arms: Mapping[str, Json], **spec: Any) -> None:
        """Compare arms that differ in their `userConfig` alone."""
        self.name = name
        document = {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "Experiment",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "modelDeployment": self.service,
                "arms": [{"name": arm, "runtime": {"userConfig": own}} for arm, own in arms.items()],
                "exposure": "100%",
                "onWin": "pause",
                **spec,
            },
        }
        status, told = await asyncio.to_thread(self.up.api, "POST", EXPERIMENTS, document)
        assert status == 201, told

    def read(self) -> Json:
        status, obj = self.up.api("GET", f"{EXPERIMENTS}/{self.name}")
        return obj if status == 200 else {}

    async def wins(self) -> Json:
        """The Experiment, once an arm has won."""

        def won() -> Json | None:
            obj = self.read()
            status = obj.get("status") or {}
            assert status.get("phase") not in ("Stopped", "Concluded"), status["verdict"]
            return obj if (status.get("paused") or {}).get("reason") == "Won" else None

        return dict(await self.until(won, "an arm has won", VERDICT_S))

    async def judged(self, ready: Callable[[Json], bool], within: float = VERDICT_S) -> tuple[Json, Json]:
        """The Experiment and the store's sums, once the sums are as wanted and the operator has written all that is in them."""

        def written() -> tuple[Json, Json] | None:
            told = (self.up.evidence().get("services") or {}).get(self.service, {}).get("feedback") or {}
            if "outcomes" not in told or not ready(told):
                return None
            obj = self.read()
            return (obj, told) if has_judged(obj, told) else None

        found: tuple[Json, Json] = await self.until(written, "all outcomes are judged", within)
        return found

    async def concludes(self) -> Json:
        """The Experiment, once it has ended by its verdict."""

        def concluded() -> Json | None:
            obj = self.read()
            return obj if (obj.get("status") or {}).get("phase") == "Concluded" else None

        return dict(await self.until(concluded, "the experiment has ended", VERDICT_S))

    async def until(self, probe: Callable[[], Any], what: str, within: float = PATIENCE_S) -> Any:
        return await asyncio.to_thread(eventually, probe, what, within)

    async def ask(self, url: str, inputs: Any, user: str = "") -> tuple[int, Mapping[str, str], Any]:
        """The status, headers and document of one answer."""
        headers = {"x-user-id": user} if user else {}
        async with self.session.post(f"{url}/", json={"inputs": inputs}, headers=headers) as response:
            return response.status, response.headers, await response.json()

    async def takes_feedback(self, url: str, inputs: Any, user: str = "") -> str:
        """The arm of somebody who comes again and again, once the answer tells an exposure."""

        async def told() -> str | None:
            _, headers, _ = await self.ask(url, inputs, user)
            return headers["x-sundog-arm"] if "x-sundog-exposure" in headers else None

        return str(await comes_true(told, "exposures are told"))

    @staticmethod
    def metric(obj: Json, arm: str, name: str, role: str = "success") -> Json:
        """A metric of an arm in a status."""
        rows = obj["status"]["metrics"]
        return next(dict(each) for each in rows if (each["arm"], each["name"], each["role"]) == (arm, name, role))

    @staticmethod
    def sums(told: Json, name: str) -> dict[str, tuple[int, int, int]]:
        """The store's sums of a metric by arm, over all epochs: units with a value, those with a first one above 0, and the total."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for own, _, arm, units, positive, total, _ in told["outcomes"]:
            if own == name:
                found[arm].update(units=units, positive=positive, total=total // 1_000_000)
        return {arm: (each["units"], each["positive"], each["total"]) for arm, each in found.items()}

    async def ends(self) -> None:
        """Nothing of it is left."""
        self._manifest.unlink(missing_ok=True)
        await self.ends_experiment()
        await self.until(lambda: not self.up.read(self.service), "the deletion")

    async def ends_experiment(self) -> None:
        """The service has no experiment."""
        await asyncio.to_thread(self.up.api, "DELETE", f"{EXPERIMENTS}/{self.name}")
        await self.until(lambda: not self.read(), "the deletion of the experiment")


@contextlib.asynccontextmanager
async def made(up: Up, folder: Path) -> AsyncIterator[Site]:
    """A site in an instance. It leaves nothing there."""
    (folder / "model").mkdir()
    async with aiohttp.ClientSession() as session:
        found = Site(up, folder / "model", session)
        yield found
        if found.service:
            await found.ends()


@pytest.fixture
async def site(shared_up: Up, tmp_path: Path) -> AsyncIterator[Site]:
    async with made(shared_up, tmp_path) as found:
        yield found


@pytest.fixture
def outcomes(tmp_path: Path) -> Iterator[RestartedServer]:
    """The server that a cluster's edges keep outcomes in."""
    folder = tmp_path / "outcomes"
    folder.mkdir()
    with contextlib.closing(RestartedServer(folder)) as server:
        yield server


@pytest.fixture
async def killed_site(outcomes: RestartedServer, tmp_path: Path) -> AsyncIterator[Site]:
    """One in an instance of its own, of which a test may kill everything. Its edge keeps outcomes in that server."""
    with instance(tmp_path) as up:
        up.program = ("local_up_with_redis",)
        path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
        up.environment = {"PYTHONPATH": path, **environment_of(outcomes.server)}
        up.start()
        await asyncio.to_thread(eventually, lambda: (up.state / "kubeconfig").exists(), "an API server")
        async with made(up, tmp_path) as found:
            yield found
        assert up.end(signal.SIGINT) == 0, up.output()[-2000:]
        assert processes_of(up.state) == []
