"""What the demo does, step by step, with nothing but what a user has: a manifest, the command line, the API and the endpoint."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from sundog_operator.api.conditions import truncate
from sundog_operator.errors import SundogError
from sundog_operator.shell.demo import manifest
from sundog_operator.shell.demo.dataset import BROKEN, GOOD, WEAK, HeldOutImages, read_held_out
from sundog_operator.shell.demo.instance import DemoInstance, DeploymentSnapshot, WatchedDeployment, watch_deployment
from sundog_operator.shell.demo.load import CLIENT_COUNT, LoadGenerator
from sundog_operator.shell.demo.results import WeightPhase, summarise_recent
from sundog_operator.shell.demo.run_record import DemoRecord, DemoStep, PlotMark
from sundog_operator.shell.demo.view import DemoView
from sundog_operator.shell.exit_codes import CommandFailed, one_line

OBSERVE_S: Final = 5.0
"""How long traffic is watched at a weight that nothing else moves."""
_ANSWER_S: Final = 60.0
_READY_S: Final = 150.0
_SHIFT_S: Final = 60.0
# A change of weight is seen up to this long after it was decided; requests of that time count for no phase.
_BLUR_S: Final = 0.5
_DRAW_S: Final = 0.25
_LINE: Final = 300
_REFUSAL: Final = ("RevisionReady", "Stalled", "Ready")

STEP_TITLES: Final = {
    "train": "Train two networks on handwritten digits",
    "start": "Start `sundog local up`",
    "serve": "Serve v1",
    "watch": f"Send the held-out images from {CLIENT_COUNT} clients",
    "edit": "Edit the manifest to v2",
    "timed": f"Canary at {manifest.TIMED_WEIGHT_PERCENT} % for {manifest.TIMED_STEP_S} s",
    "manual": f"Canary at {manifest.MANUAL_WEIGHT_PERCENT} % until promoted",
    "promote": "Promote v2",
    "refuse": "Edit the manifest to v3, which is broken",
    "restore": "Put the manifest back to v2",
    "stop": "Stop everything",
}


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Where the demo works, and where its results are."""

    path: Path

    @property
    def models(self) -> Path:
        """Model directories, and the held-out images."""
        return self.path / manifest.MODELS_FOLDER

    @property
    def manifest(self) -> Path:
        """The manifest that is edited."""
        return self.path / "digits.yaml"

    @property
    def log(self) -> Path:
        """Output of `sundog local up`."""
        return self.path / "sundog-local.log"

    @property
    def training_log(self) -> Path:
        """Errors of the training."""
        return self.path / "training.log"


@dataclass(slots=True)
class DemoScenario:
    """One run. `url` is the endpoint, once there is one."""

    folder: DemoFolder
    state_dir: Path
    view: DemoView
    record: DemoRecord = field(default_factory=DemoRecord)
    url: str = ""

    async def run(self, *, keep: bool) -> None:
        """All steps. Raises SundogError for the first that is not reached; whatever was started is then ended.

        Args:
            keep: leave the instance up after a success.
        """
        self.record.steps = [
            DemoStep(name, title) for name, title in STEP_TITLES.items() if not (keep and name == "stop")
        ]
        held_out = await self._train()
        manifest.write_manifest(self.folder.manifest, WEAK)
        instance = DemoInstance.start(self.folder.manifest, self.state_dir, self.folder.log)
        succeeded = False
        try:
            await self._serve(instance, held_out)
            succeeded = True
        finally:
            if not (keep and succeeded):
                await self._stop(instance, quietly=keep)

    async def _train(self) -> HeldOutImages:
        with self._step("train") as step:
            async for line in _training(self.folder):
                self.view.detail(f"{line['model']}: pass {line['epoch']} of {line['of']}")
            held_out = read_held_out(self.folder.models)
            reached = ", ".join(f"{model} reads {share:.1%}" for model, share in held_out.offline.items())
            step.outcome = f"of {len(held_out.labels)} held-out images {reached} right"
            self.record.offline, self.record.labels = held_out.offline, held_out.labels
        return held_out

    async def _serve(self, instance: DemoInstance, held_out: HeldOutImages) -> None:
        with self._step("start") as step:
            connection = contextlib.AsyncExitStack()
            deployment = await connection.enter_async_context(watch_deployment(instance, _ANSWER_S))
            step.outcome = f"its output goes to {self.folder.log}"
        async with connection:
            await self._first(deployment)
            load = LoadGenerator(self.url, held_out.bodies)
            self.record.samples = load.samples
            async with load.running(), self._drawing(load):
                await self._watch_first(load)
                await self._canary(deployment, load)
                await self._refusal(deployment, load)

    async def _first(self, deployment: WatchedDeployment) -> None:
        with self._step("serve") as step:
            seen = await deployment.until(
                lambda now: now.is_true("Ready") and now.is_true("TrafficSynced") and now.status.url, "v1", _READY_S
            )
            assert seen.status.stable is not None
            self.record.models[seen.status.stable.revision] = WEAK
            self.url = seen.status.url
            step.outcome = f"revision {seen.status.stable.revision} answers at {self.url}"

    async def _watch_first(self, load: LoadGenerator) -> None:
        with self._step("watch") as step:
            began = load.now_s()
            await asyncio.sleep(OBSERVE_S)
            step.outcome = self._phase("v1 alone", began, load.now_s(), dict.fromkeys(self.record.models, 100))

    async def _canary(self, deployment: WatchedDeployment, load: LoadGenerator) -> None:
        with self._step("edit") as step:
            manifest.write_manifest(self.folder.manifest, GOOD)
            self._mark(load, "manifest: v2")
            seen = await deployment.until(lambda now: now.status.candidate, "a revision of v2", _SHIFT_S)
            assert seen.status.candidate is not None
            candidate = seen.status.candidate.revision
            self.record.models[candidate] = GOOD
            seen = await deployment.until(
                lambda now: _at(now, manifest.TIMED_WEIGHT_PERCENT), "a canary of v2", _READY_S
            )
            step.outcome = f"revision {candidate} is ready and gets its first share"
        with self._step("timed") as step:
            began = load.now_s()
            self._mark(load, f"{manifest.TIMED_WEIGHT_PERCENT} %")
            await deployment.until(lambda now: not _at(now, manifest.TIMED_WEIGHT_PERCENT), "the next weight", _SHIFT_S)
            step.outcome = self._phase(step.title, began, load.now_s() - _BLUR_S, seen.weights)
        with self._step("manual") as step:
            seen = await deployment.until(
                lambda now: _at(now, manifest.MANUAL_WEIGHT_PERCENT),
                f"{manifest.MANUAL_WEIGHT_PERCENT} % on v2",
                _SHIFT_S,
            )
            began = load.now_s()
            self._mark(load, f"{manifest.MANUAL_WEIGHT_PERCENT} %")
            await asyncio.sleep(OBSERVE_S)
            step.outcome = self._phase(step.title, began, load.now_s(), seen.weights)
        await self._promote(deployment, load, candidate)

    async def _promote(self, deployment: WatchedDeployment, load: LoadGenerator, candidate: int) -> None:
        with self._step("promote") as step:
            self.view.say(f"$ sundog promote {manifest.DEPLOYMENT_NAME}")
            await deployment.instance.run("promote", manifest.DEPLOYMENT_NAME)
            seen = await deployment.until(lambda now: _alone(now, candidate), "v2 with all traffic", _SHIFT_S)
            self._mark(load, "promoted")
            began = load.now_s()
            await asyncio.sleep(OBSERVE_S)
            step.outcome = self._phase("v2 promoted", began, load.now_s(), seen.weights)

    async def _refusal(self, deployment: WatchedDeployment, load: LoadGenerator) -> None:
        stable = max(self.record.models)
        with self._step("refuse") as step:
            manifest.write_manifest(self.folder.manifest, BROKEN)
            self._mark(load, "manifest: v3 (broken)")
            began = load.now_s()
            seen = await deployment.until(
                lambda now: now.current and now.is_true("Stalled"), "a refusal of v3", _READY_S
            )
            self._mark(load, "v3 refused")
            self.record.refused = [told for type_ in _REFUSAL if (told := seen.condition(type_)) is not None]
            for told in self.record.refused:
                self.view.say(truncate(one_line(f"{told.type}={told.status} {told.reason}: {told.message}"), _LINE))
            share = self._phase("v3 refused", began, load.now_s(), {stable: 100})
            if not _serves(seen, stable):
                raise CommandFailed(f"v2 does not serve while v3 is refused: {seen.explain()}")
            step.outcome = f"never ready, no traffic; v2 serves on ({share})"
        with self._step("restore") as step:
            manifest.write_manifest(self.folder.manifest, GOOD)
            await deployment.until(
                lambda now: _alone(now, stable) and not now.is_true("Stalled"), "v2 settled", _SHIFT_S
            )
            step.outcome = f"revision {stable} is what the manifest says again"

    async def _stop(self, instance: DemoInstance, *, quietly: bool) -> None:
        """End the instance, whatever happened before, and even while we are being cancelled."""
        ending = asyncio.ensure_future(instance.stop())
        if quietly:
            await _finish(ending)
            return
        with self._step("stop") as step:
            await _finish(ending)
            step.outcome = "no process is left"

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[DemoStep]:
        step = next(step for step in self.record.steps if step.name == name)
        self.view.begin(step.title)
        began = time.monotonic()
        try:
            yield step
            step.reached = True
        except SundogError as error:
            step.outcome = one_line(error)
            raise
        finally:
            step.seconds = time.monotonic() - began
            self.view.end(step.outcome or "interrupted", step.seconds, reached=step.reached)

    @contextlib.asynccontextmanager
    async def _drawing(self, load: LoadGenerator) -> AsyncIterator[None]:
        async def draw() -> None:
            while True:
                failed = sum(1 for sample in load.samples if sample.problem)
                self.view.traffic(summarise_recent(load.samples, load.now_s()), self.record.models, failed)
                await asyncio.sleep(_DRAW_S)

        drawing = asyncio.create_task(draw())
        try:
            yield
        finally:
            drawing.cancel()
            self.view.rest()

    def _mark(self, load: LoadGenerator, text: str) -> None:
        self.record.marks.append(PlotMark(load.now_s(), text))

    def _phase(self, name: str, from_s: float, to_s: float, weights: dict[int, int]) -> str:
        """Note a phase; what was observed in it."""
        phase = WeightPhase(name, from_s, to_s, weights)
        self.record.phases.append(phase)
        found = self.record.summary().phases[-1]
        shares = ", ".join(f"{share.observed:.1f} % on {self.record.models[share.revision]}" for share in found.shares)
        return f"{shares} of {found.requests} requests"


def _at(seen: DeploymentSnapshot, weight: int) -> bool:
    """Whether every edge sends exactly this percentage to a candidate."""
    candidate = seen.status.candidate
    return seen.current and candidate is not None and candidate.weight == weight and seen.is_true("TrafficSynced")


def _alone(seen: DeploymentSnapshot, revision: int) -> bool:
    """Whether a revision has all traffic and nothing is on its way."""
    return seen.status.candidate is None and _serves(seen, revision) and seen.is_true("Promoted")


def _serves(seen: DeploymentSnapshot, revision: int) -> bool:
    stable = seen.status.stable
    return seen.current and stable is not None and stable.revision == revision and seen.is_true("Ready")


async def _finish(ending: "asyncio.Future[None]") -> None:
    """Wait for something that must be finished. A cancellation meanwhile is raised after it."""
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError as error:
            cancelled = error
    ending.result()
    if cancelled is not None:
        raise cancelled


async def _training(folder: DemoFolder) -> AsyncIterator[dict[str, object]]:
    """Train in a process of its own; how far it is. Raises CommandFailed."""
    folder.models.mkdir(parents=True, exist_ok=True)
    command = (sys.executable, "-P", "-m", "sundog_operator.shell.demo.training", str(folder.models))
    with folder.training_log.open("wb") as errors:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    assert child.stdout is not None
    try:
        async for line in child.stdout:
            yield orjson.loads(line)
        code = await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if code:
        lines = folder.training_log.read_text(errors="replace").strip().splitlines()
        raise CommandFailed(f"the training ended with status {code}: {lines[-1] if lines else folder.training_log}")
