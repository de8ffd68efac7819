"""Has exposure logs of experiments written, beside the passes, and tells what came of it."""

from typing import Final, Literal

from sundog_operator.api import ExperimentSpec, ExperimentStatus, ExposureLog
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.event_recorder import record_events
from sundog_operator.app.observe import list_edge_pods
from sundog_operator.app.status_writer import write_status
from sundog_operator.core import events
from sundog_operator.core.experiments import log_exports
from sundog_operator.core.observed import ExposureLogResult
from sundog_operator.core.rollout.state import is_over
from sundog_operator.errors import DependencyError
from sundog_operator.ports import MODEL_DEPLOYMENT, Object, Ref

RETRY_S: Final = 10.0
MAX_RETRY_S: Final = 600.0


async def reconcile_exposure_log(world: Dependencies, experiment: Object, spec: ExperimentSpec | None) -> float | None:
    """Take what came of the last one, and have the next one written where it is due. Never waits for it.

    `spec` is None where that is refused: nothing is written meanwhile. Gives after how many seconds to look again, None where nothing will
    change by itself. Raises DependencyError.
    """
    if spec is None:
        return None
    meta, installation = experiment["metadata"], world.settings.installation
    status, now = ExperimentStatus.parse(experiment.get("status")), world.clock.now().replace(microsecond=0)
    allowed = installation.exposure_logs.places if installation else None
    if not (uri := spec.exposure_log.uri):
        told = log_exports.remove_condition(status, meta["generation"], now)
    elif problem := log_exports.find_place_violation(uri, allowed):
        told = log_exports.record_export_failure(
            status, log_exports.PLACE_NOT_ALLOWED, problem, meta["generation"], now
        )
    else:
        return await _keep_in(world, experiment, status, spec.exposure_log)
    forget_exposure_log(world, meta["namespace"], meta["name"])
    await _write(world, experiment, status, told)
    return None


async def _keep_in(world: Dependencies, experiment: Object, status: ExperimentStatus, log: ExposureLog) -> float | None:
    """The same where it may be written."""
    meta, now = experiment["metadata"], world.clock.now().replace(microsecond=0)
    folder = log_exports.export_folder(log.uri, experiment)
    due = log_exports.next_export_at(status, folder)
    slot = _slot(meta["namespace"], meta["name"])
    if due is None:
        world.logs.forget(slot)
        return None
    if due > now:
        return (due - now).total_seconds()
    place = log_exports.next_uri(folder, status)
    answer = world.logs.ask(
        slot,
        place,
        lambda: _made(world, experiment, place, log.format, final=is_over(status)),
        enough=lambda given: not given.problem,
        again_s=lambda times: min(RETRY_S * 2.0 ** min(times - 1, 10), MAX_RETRY_S),
        now=world.clock.monotonic(),
    )
    if answer is None:
        return world.logs.next_check_s(slot, world.clock.monotonic())
    if not answer.problem:
        told = log_exports.record_export(status, place, answer, meta["generation"], now)
        await _write(world, experiment, status, told)
        return 0.0
    told = log_exports.record_export_failure(status, log_exports.NOT_WRITTEN, answer.problem, meta["generation"], now)
    await _complain(world, experiment, log_exports.next_sequence(status), answer.problem)
    await _write(world, experiment, status, told)
    return world.logs.next_check_s(slot, world.clock.monotonic())


def forget_exposure_log(world: Dependencies, namespace: str, experiment: str) -> None:
    """An Experiment is gone; what lies elsewhere stays."""
    world.logs.forget(_slot(namespace, experiment))


def _slot(namespace: str, experiment: str) -> str:
    return f"log {namespace}/{experiment}"


async def _made(
    world: Dependencies, experiment: Object, place: str, form: Literal["parquet"], *, final: bool
) -> ExposureLogResult:
    """Write one. Never raises what the world does."""
    at = world.clock.now().replace(microsecond=0)
    if world.exposure_logs is None:
        return ExposureLogResult(at, problem="nobody writes logs here")
    try:
        pods = await list_edge_pods(world, experiment["metadata"]["namespace"])
    except DependencyError as err:
        return ExposureLogResult(at, problem=f"the edges cannot be found: {err}")
    return await world.exposure_logs.write(experiment, pods, place, form, at, final=final)


async def _complain(world: Dependencies, experiment: Object, sequence: int, problem: str) -> None:
    """Tell the ModelDeployment, once for each log."""
    meta = experiment["metadata"]
    deployment = await world.kube.get(Ref(MODEL_DEPLOYMENT, meta["namespace"], experiment["spec"]["modelDeployment"]))
    if deployment is not None:
        await record_events(world, deployment, [events.log_not_written(meta["name"], sequence, problem)])


async def _write(world: Dependencies, experiment: Object, before: ExperimentStatus, after: ExperimentStatus) -> None:
    if after != before:
        await write_status(world, experiment, after.to_json())
