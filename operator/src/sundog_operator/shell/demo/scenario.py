"""The steps of the demo. They use only the interfaces of a user: a manifest, the command line, the API and the endpoint."""

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
from sundog_operator.shell.demo.dataset import BROKEN_MODEL, GOOD_MODEL, WEAK_MODEL, HeldOutImages, read_held_out
from sundog_operator.shell.demo.instance import DemoInstance, DeploymentSnapshot, WatchedDeployment, watch_deployment
from sundog_operator.shell.demo.load import CLIENT_COUNT, LoadGenerator
from sundog_operator.shell.demo.results import WeightPhase, summarise_recent
from sundog_operator.shell.demo.run_record import DemoRecord, DemoStep
from sundog_operator.shell.demo.view import DemoView
from sundog_operator.shell.exit_codes import CommandFailed, one_line

OBSERVE_S: Final = 5.0
"""Seconds for which the demo observes traffic at a constant weight."""
_CONNECT_TIMEOUT_S: Final = 60.0
_READY_TIMEOUT_S: Final = 150.0
_SHIFT_TIMEOUT_S: Final = 60.0
# The demo notices a change of weight up to this long after the decision. No phase counts the requests of that time.
_DETECTION_DELAY_S: Final = 0.5
_REDRAW_S: Final = 0.25
_MAX_LINE: Final = 300
_REFUSAL_CONDITIONS: Final = ("RevisionReady", "Stalled", "Ready")

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
    "restore": "Restore the manifest of v2",
    "stop": "Stop everything",
}


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """The working directory of the demo, with its results."""

    path: Path

    @property
    def models(self) -> Path:
        """Folder of the model directories and of the held-out images."""
        return self.path / manifest.MODELS_FOLDER

    @property
    def manifest(self) -> Path:
        """The manifest that the demo edits."""
        return self.path / "digits.yaml"

    @property
    def log(self) -> Path:
        """Output of `sundog local up`."""
        return self.path / "sundog-local.log"

    @property
    def results(self) -> Path:
        """Measurements of the clients."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """Report of the rollout of v2."""
        return self.path / "rollout.html"

    @property
    def training_log(self) -> Path:
        """Errors of the training."""
        return self.path / "training.log"


@dataclass(slots=True)
class DemoScenario:
    """One run of the demo. `url` is the endpoint; empty until it exists."""

    folder: DemoFolder
    state_dir: Path
    view: DemoView
    record: DemoRecord = field(default_factory=DemoRecord)
    url: str = ""

    async def run(self, *, keep: bool) -> None:
        """Run all steps. Raises SundogError for the first step that fails, after everything was stopped.

        Args:
            keep: keep the instance running after a success.
        """
        self.record.steps = [
            DemoStep(name, title) for name, title in STEP_TITLES.items() if not (keep and name == "stop")
        ]
        held_out = await self._train()
        manifest.write_manifest(self.folder.manifest, WEAK_MODEL)
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
            async for line in _run_training(self.folder):
                self.view.detail(f"{line['model']}: epoch {line['epoch']} of {line['of']}")
            held_out = read_held_out(self.folder.models)
            accuracies = ", ".join(f"{model} {share:.1%}" for model, share in held_out.offline.items())
            step.outcome = f"accuracy on {len(held_out.labels)} held-out images: {accuracies}"
            self.record.offline, self.record.labels = held_out.offline, held_out.labels
        return held_out

    async def _serve(self, instance: DemoInstance, held_out: HeldOutImages) -> None:
        with self._step("start") as step:
            connection = contextlib.AsyncExitStack()
            deployment = await connection.enter_async_context(watch_deployment(instance, _CONNECT_TIMEOUT_S))
            step.outcome = f"its output goes to {self.folder.log}"
        async with connection:
            await self._serve_first_model(deployment)
            load = LoadGenerator(self.url, held_out.bodies)
            self.record.samples = load.samples
            async with load.running(), self._show_traffic(load):
                await self._observe_first_model(load)
                candidate = await self._roll_out(deployment, load)
                await self._promote(deployment, load, candidate)
                await self._roll_out_broken_model(deployment, load)
                await self._restore(deployment)

    async def _serve_first_model(self, deployment: WatchedDeployment) -> None:
        with self._step("serve") as step:
            snapshot = await deployment.until(
                lambda now: now.is_true("Ready") and now.is_true("TrafficSynced") and now.status.url,
                "v1",
                _READY_TIMEOUT_S,
                self._show_wait,
            )
            assert snapshot.status.stable is not None
            self.record.models[snapshot.status.stable.revision] = WEAK_MODEL
            self.url = snapshot.status.url
            step.outcome = f"revision {snapshot.status.stable.revision} serves at {self.url}"

    async def _observe_first_model(self, load: LoadGenerator) -> None:
        with self._step("watch") as step:
            start_s = load.now_s()
            await asyncio.sleep(OBSERVE_S)
            step.outcome = self._add_phase("v1 alone", start_s, load.now_s(), dict.fromkeys(self.record.models, 100))

    async def _roll_out(self, deployment: WatchedDeployment, load: LoadGenerator) -> int:
        """Run the canary to its manual gate; return its revision."""
        with self._step("edit") as step:
            manifest.write_manifest(self.folder.manifest, GOOD_MODEL)
            snapshot = await deployment.until(lambda now: now.status.candidate, "a revision of v2", _SHIFT_TIMEOUT_S)
            assert snapshot.status.candidate is not None
            candidate = snapshot.status.candidate.revision
            self.record.models[candidate] = GOOD_MODEL
            snapshot = await deployment.until(
                lambda now: _is_canary_at(now, manifest.TIMED_WEIGHT_PERCENT),
                "a canary of v2",
                _READY_TIMEOUT_S,
                self._show_wait,
            )
            step.outcome = f"revision {candidate} is ready and gets its first share"
        with self._step("timed") as step:
            start_s = load.now_s()
            await deployment.until(
                lambda now: not _is_canary_at(now, manifest.TIMED_WEIGHT_PERCENT), "the next weight", _SHIFT_TIMEOUT_S
            )
            step.outcome = self._add_phase(step.title, start_s, load.now_s() - _DETECTION_DELAY_S, snapshot.weights)
        with self._step("manual") as step:
            snapshot = await deployment.until(
                lambda now: _is_canary_at(now, manifest.MANUAL_WEIGHT_PERCENT),
                f"{manifest.MANUAL_WEIGHT_PERCENT} % on v2",
                _SHIFT_TIMEOUT_S,
            )
            start_s = load.now_s()
            await asyncio.sleep(OBSERVE_S)
            # It ends before the command to promote, which may be carried out long before a busy machine shows it.
            step.outcome = self._add_phase(step.title, start_s, load.now_s(), snapshot.weights)
        return candidate

    async def _promote(self, deployment: WatchedDeployment, load: LoadGenerator, candidate: int) -> None:
        with self._step("promote") as step:
            self.view.log_line(f"$ sundog promote {manifest.DEPLOYMENT_NAME}")
            await deployment.instance.run("promote", manifest.DEPLOYMENT_NAME)
            await deployment.until(
                lambda now: not _is_canary_at(now, manifest.MANUAL_WEIGHT_PERCENT), "the promotion", _SHIFT_TIMEOUT_S
            )
            await deployment.until(
                lambda now: _has_all_traffic(now, candidate), "v2 with all traffic", _SHIFT_TIMEOUT_S
            )
            snapshot = await deployment.until(
                lambda now: _is_only_revision(now, candidate), "v2 as stable", _SHIFT_TIMEOUT_S
            )
            start_s = load.now_s()
            await asyncio.sleep(OBSERVE_S)
            step.outcome = self._add_phase("v2 promoted", start_s, load.now_s(), snapshot.weights)
            await deployment.instance.run(
                "experiment", "report", manifest.DEPLOYMENT_NAME, "-o", str(self.folder.report)
            )

    async def _roll_out_broken_model(self, deployment: WatchedDeployment, load: LoadGenerator) -> None:
        stable = max(self.record.models)
        with self._step("refuse") as step:
            manifest.write_manifest(self.folder.manifest, BROKEN_MODEL)
            start_s = load.now_s()
            snapshot = await deployment.until(
                lambda now: now.current and now.is_true("Stalled"), "a refusal of v3", _READY_TIMEOUT_S
            )
            conditions = [snapshot.condition(type_) for type_ in _REFUSAL_CONDITIONS]
            self.record.refused = [each for each in conditions if each is not None]
            for each in self.record.refused:
                line = one_line(f"{each.type}={each.status} {each.reason}: {each.message}")
                self.view.log_line(truncate(line, _MAX_LINE))
            shares = self._add_phase("v3 refused", start_s, load.now_s(), {stable: 100})
            if not _is_serving(snapshot, stable):
                raise CommandFailed(f"v2 does not serve while v3 is refused: {snapshot.explain()}")
            step.outcome = f"never ready, no traffic; v2 still serves ({shares})"

    async def _restore(self, deployment: WatchedDeployment) -> None:
        stable = max(self.record.models)
        with self._step("restore") as step:
            manifest.write_manifest(self.folder.manifest, GOOD_MODEL)
            await deployment.until(
                lambda now: _is_only_revision(now, stable) and not now.is_true("Stalled"),
                "v2 settled",
                _SHIFT_TIMEOUT_S,
            )
            step.outcome = f"the manifest describes revision {stable} again"

    async def _stop(self, instance: DemoInstance, *, quietly: bool) -> None:
        """Stop the instance, even after errors and during a cancellation."""
        stopping = asyncio.ensure_future(instance.stop())
        if quietly:
            await _finish(stopping)
            return
        with self._step("stop") as step:
            await _finish(stopping)
            step.outcome = "no process is left"

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[DemoStep]:
        step = next(step for step in self.record.steps if step.name == name)
        self.view.start_step(step.title)
        start = time.monotonic()
        try:
            yield step
            step.reached = True
        except SundogError as error:
            step.outcome = one_line(error)
            raise
        finally:
            step.seconds = time.monotonic() - start
            self.view.end_step(step.outcome or "interrupted", step.seconds, reached=step.reached)

    @contextlib.asynccontextmanager
    async def _show_traffic(self, load: LoadGenerator) -> AsyncIterator[None]:
        async def draw() -> None:
            while True:
                failed = sum(1 for sample in load.samples if sample.problem)
                self.view.traffic(summarise_recent(load.samples, load.now_s()), self.record.models, failed)
                await asyncio.sleep(_REDRAW_S)

        drawing = asyncio.create_task(draw())
        try:
            yield
        finally:
            drawing.cancel()
            self.view.clear_traffic()

    def _show_wait(self, snapshot: DeploymentSnapshot) -> None:
        if reason := snapshot.find_wait_reason():
            self.view.wait(truncate(one_line(reason), _MAX_LINE))

    def _add_phase(self, name: str, from_s: float, to_s: float, weights: dict[int, int]) -> str:
        """Record a phase and describe its observed shares."""
        phase = WeightPhase(name, from_s, to_s, weights)
        self.record.phases.append(phase)
        result = self.record.summary().phases[-1]
        shares = ", ".join(f"{share.observed:.1f} % on {self.record.models[share.revision]}" for share in result.shares)
        return f"{shares} of {result.requests} requests"


def _is_canary_at(snapshot: DeploymentSnapshot, weight: int) -> bool:
    """Report whether every edge sends exactly this percentage to a candidate."""
    candidate = snapshot.status.candidate
    is_at_weight = candidate is not None and candidate.weight == weight
    return snapshot.current and is_at_weight and snapshot.is_true("TrafficSynced")


def _has_all_traffic(snapshot: DeploymentSnapshot, revision: int) -> bool:
    """Report whether every edge sends all requests to a revision, be it still the candidate or already stable."""
    newest = snapshot.status.candidate or snapshot.status.stable
    has_all = newest is not None and newest.revision == revision and newest.weight == 100
    return snapshot.current and has_all and snapshot.is_true("TrafficSynced")


def _is_only_revision(snapshot: DeploymentSnapshot, revision: int) -> bool:
    """Report whether a revision has all traffic and no rollout is under way."""
    return snapshot.status.candidate is None and _is_serving(snapshot, revision) and snapshot.is_true("Promoted")


def _is_serving(snapshot: DeploymentSnapshot, revision: int) -> bool:
    stable = snapshot.status.stable
    return snapshot.current and stable is not None and stable.revision == revision and snapshot.is_true("Ready")


async def _finish(task: "asyncio.Future[None]") -> None:
    """Wait for a task even if cancelled meanwhile, then raise the cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def _run_training(folder: DemoFolder) -> AsyncIterator[dict[str, object]]:
    """Train in a separate process and yield its progress. Raises CommandFailed."""
    folder.models.mkdir(parents=True, exist_ok=True)
    command = (sys.executable, "-P", "-m", "sundog_operator.shell.demo.training", str(folder.models), "--json")
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
        raise CommandFailed(f"the training failed with status {code}: {lines[-1] if lines else folder.training_log}")
