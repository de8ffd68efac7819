"""One contract for Serve's REST API: the adapter on a real Ray, and the stand-in that the reconciler's tests use."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from doubles.clock import FakeClock
from doubles.serve import FakeServe
from sundog_operator.adapters.ray_serve import RayServe, fixed_token
from sundog_operator.api import Autoscaling, ModelDeploymentSpec
from sundog_operator.core import revisions
from sundog_operator.core.observed import ServeState
from sundog_operator.core.ray import serve_config
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.readiness import Readiness, evaluate_readiness
from sundog_operator.core.revisions import Revision
from sundog_operator.errors import RayUnavailable, ServeRefused
from sundog_operator.ports import Serve
from waiting import comes_true

PREDICTOR = "class Echo:\n    def load(self, path, config):\n        pass\n    def predict(self, batch):\n        return batch\n"


@dataclass
class Backend:
    """A Serve to hold to the contract. `wait` lets time pass until a state is reached."""

    serve: Serve
    dashboard: str
    cluster: ClusterView
    directory: Path
    wait: Callable[[], Any]

    def revision(self, number: int, model: str = "good") -> tuple[Revision, ModelDeploymentSpec]:
        uri = f"file://{self.directory / model}"
        spec = ModelDeploymentSpec.from_json({"model": {"uri": uri, "entrypoint": "net:Echo", "format": "python"}})
        content = revisions.content_of(spec)
        return Revision(number, revisions.content_hash(content), content), spec

    async def put(self, *wanted: tuple[int, str, int]) -> None:
        """PUT applications given as (revision, model, replicas)."""
        apps = []
        for number, model, replicas in wanted:
            revision, spec = self.revision(number, model)
            apps.append(
                serve_config.make_application(
                    "vision", "port", revision, spec, serve_config.ReplicaScale(replicas, replicas)
                )
            )
        await self.serve.put(self.dashboard, "vision", serve_config.make_document(apps, self.cluster))

    async def until(self, condition: Callable[[ServeState], bool]) -> ServeState:
        async def reached() -> ServeState | None:
            state = await self.serve.read(self.dashboard, "vision")
            if condition(state):
                return state
            await self.wait()
            return None

        return await comes_true(reached, "the state of Serve")

    def readiness(self, state: ServeState, number: int, model: str = "good") -> Readiness:
        return evaluate_readiness("port", self.revision(number, model)[0], state)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "net.py").write_text(PREDICTOR)
    return tmp_path


@pytest.fixture(params=["stand-in", pytest.param("ray", marks=pytest.mark.ray)])
async def backend(request: pytest.FixtureRequest, models: Path) -> AsyncIterator[Backend]:
    if request.param == "stand-in":
        clock = FakeClock()
        serve = FakeServe(clock)
        serve.failures[f"file://{models / 'absent'}"] = ("ModelNotFound", f"{models / 'absent'} does not exist")

        async def tick() -> None:
            clock.advance(1)

        yield Backend(serve, "http://ray:8265", ClusterView("sundog-0", host="127.0.0.1"), models, tick)
        return
    ray = request.getfixturevalue("ray_serve")
    host, _, port = ray.fallback.partition(":")
    cluster = ClusterView("sundog-0", host=host, dashboard_port=ray.dashboard.rpartition(":")[2], serve_port=port)
    async with aiohttp.ClientSession() as session:

        async def pause() -> None:
            await asyncio.sleep(0.2)

        yield Backend(RayServe(session, fixed_token("")), ray.dashboard, cluster, models, pause)
        await RayServe(session, fixed_token("")).put(ray.dashboard, "vision", serve_config.make_document([], cluster))


async def test_an_application_becomes_ready_scales_and_goes(backend: Backend) -> None:
    await backend.put((1, "good", 1))
    state = await backend.until(lambda seen: backend.readiness(seen, 1).ready)
    assert state.known
    assert backend.readiness(state, 1).running == 1
    revision, spec = backend.revision(1)
    wanted = [serve_config.make_application("vision", "port", revision, spec, serve_config.ReplicaScale(1, 1))]
    deployed = {name: app.config for name, app in state.applications.items()}
    assert not serve_config.needs_update(wanted, deployed), "what was PUT reads back as it was"

    await backend.put((1, "good", 2))
    state = await backend.until(lambda seen: backend.readiness(seen, 1).running == 2)
    await backend.put((2, "good", 1))
    state = await backend.until(lambda seen: "port-r1" not in seen.applications and backend.readiness(seen, 2).ready)
    assert list(state.applications) == ["port-r2"]


@pytest.mark.ray
async def test_no_change_of_its_configuration_resets_the_number_that_serve_has_chosen(
    ray_serve: Any, models: Path
) -> None:
    """Serve waits for `downscaleDelay` after each of these changes. The stand-in does not model that wait."""
    host, _, port = ray_serve.fallback.partition(":")
    cluster = ClusterView("sundog-0", host=host, dashboard_port=ray_serve.dashboard.rpartition(":")[2], serve_port=port)
    async with aiohttp.ClientSession() as session:

        async def pause() -> None:
            await asyncio.sleep(0.2)

        backend = Backend(RayServe(session, fixed_token("")), ray_serve.dashboard, cluster, models, pause)
        revision, spec = backend.revision(1)
        scaling = Autoscaling(min_replicas=1, max_replicas=3)
        edited = spec.model_copy(update={"runtime": spec.runtime.model_copy(update={"user_config": {"edit": 1}})})
        changes = {
            "a fixed number": (spec, serve_config.ReplicaScale(2, 2)),
            "autoscaling": (spec, serve_config.ReplicaScale(1, 3, scaling)),
            "userConfig": (edited, serve_config.ReplicaScale(1, 3, scaling)),
            "the maximum": (edited, serve_config.ReplicaScale(1, 2, scaling)),
            "a load in force": (edited, serve_config.ReplicaScale(2, 2, scaling)),
            "the end of that load": (edited, serve_config.ReplicaScale(1, 2, scaling)),
        }
        try:
            for name, (current, scale) in changes.items():
                app = serve_config.make_application("vision", "port", revision, current, scale)
                await backend.serve.put(backend.dashboard, "vision", serve_config.make_document([app], cluster))

                def is_applied(seen: ServeState, wanted: Any = app) -> bool:
                    deployed = {each: state.config for each, state in seen.applications.items()}
                    is_ready = backend.readiness(seen, 1).ready and backend.readiness(seen, 1).running >= 2
                    return not serve_config.needs_update([wanted], deployed) and is_ready

                (deployment,) = (await backend.until(is_applied)).applications["port-r1"].deployments
                assert (deployment.target_replicas, deployment.running) == (2, 2), name
        finally:
            await backend.serve.put(backend.dashboard, "vision", serve_config.make_document([], cluster))


async def test_another_hash_under_the_same_name_is_not_this_revision(backend: Backend) -> None:
    await backend.put((1, "good", 1))
    state = await backend.until(lambda seen: backend.readiness(seen, 1).ready)
    other = Revision(1, "0" * 16, backend.revision(1)[0].content)
    assert not evaluate_readiness("port", other, state).ready


async def test_a_failed_start_reports_its_reason_and_is_retried_after_removal(backend: Backend) -> None:
    await backend.put((1, "absent", 1))
    state = await backend.until(lambda seen: backend.readiness(seen, 1, "absent").failed)
    failure = backend.readiness(state, 1, "absent")
    assert (failure.reason, failure.ready, failure.retryable) == ("ModelNotFound", False, True)
    assert f"{backend.directory / 'absent'}" in failure.message
    await backend.put()
    state = await backend.until(lambda seen: not seen.applications)
    await backend.put((1, "absent", 1))
    state = await backend.until(lambda seen: "port-r1" in seen.applications)
    assert not backend.readiness(state, 1, "absent").failed


async def test_two_applications_of_one_prefix_are_refused(backend: Backend) -> None:
    revision, spec = backend.revision(1)
    app = serve_config.make_application("vision", "port", revision, spec, serve_config.ReplicaScale(1, 1))
    document = serve_config.make_document([app, {**app, "name": "other"}], backend.cluster)
    with pytest.raises(ServeRefused, match="route_prefix"):
        await backend.serve.put(backend.dashboard, "vision", document)


async def test_no_answer_is_no_empty_list(backend: Backend) -> None:
    if isinstance(backend.serve, FakeServe):
        backend.serve.down = True
    else:
        backend.dashboard = "http://127.0.0.1:9"
    with pytest.raises(RayUnavailable):
        await backend.serve.read(backend.dashboard, "vision")
