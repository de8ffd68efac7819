"""Write exposure logs of experiments in the background, and record the results in their status."""

from typing import Final, Literal

from sundog_operator.api import ExperimentSpec, ExperimentStatus, ExposureLog
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.edge_pods import list_edge_pods
from sundog_operator.app.event_recorder import record_events
from sundog_operator.app.status_writer import write_status
from sundog_operator.core import events
from sundog_operator.core.observed import ExposureLogResult
from sundog_operator.core.trial.experiment import log_exports
from sundog_operator.core.trial.phases import is_over
from sundog_operator.errors import DependencyError
from sundog_operator.ports import MODEL_DEPLOYMENT, Object, Ref

RETRY_S: Final = 10.0
MAX_RETRY_S: Final = 600.0


async def reconcile_exposure_log(deps: Dependencies, experiment: Object, spec: ExperimentSpec | None) -> float | None:
    """Record the result of the last write, and start the next one when it is due. Never waits for it.

    `spec` is None while it is invalid: nothing is written then. Return the seconds until the next pass; None where no write follows. Raises
    DependencyError.
    """
    if spec is None:
        return None
    meta, installation = experiment["metadata"], deps.settings.installation
    status, now = ExperimentStatus.parse(experiment.get("status")), deps.clock.now().replace(microsecond=0)
    allowed = installation.exposure_logs.places if installation else None
    if not (uri := spec.exposure_log.uri):
        after = log_exports.remove_condition(status, meta["generation"], now)
    elif problem := log_exports.find_place_violation(uri, allowed):
        after = log_exports.record_export_failure(
            status, log_exports.PLACE_NOT_ALLOWED, problem, meta["generation"], now
        )
    else:
        return await _export(deps, experiment, status, spec.exposure_log)
    forget_exposure_log(deps, meta["namespace"], meta["name"])
    await _write_if_changed(deps, experiment, status, after)
    return None


async def _export(deps: Dependencies, experiment: Object, status: ExperimentStatus, log: ExposureLog) -> float | None:
    """Do the same as `reconcile_exposure_log` for an allowed place."""
    meta, now = experiment["metadata"], deps.clock.now().replace(microsecond=0)
    folder = log_exports.export_folder(log.uri, experiment)
    due = log_exports.next_export_at(status, folder)
    slot = _slot(meta["namespace"], meta["name"])
    if due is None:
        deps.exposure_log_requests.forget(slot)
        return None
    if due > now:
        return (due - now).total_seconds()
    place = log_exports.next_uri(folder, status)
    # The scratch space of the operator's pod cannot hold millions of plain lines.
    form: Literal["jsonl.gz", "parquet"] = "jsonl.gz" if log.format == "jsonl" else "parquet"
    answer = deps.exposure_log_requests.poll(
        slot,
        place,
        lambda: _write_log(deps, experiment, place, form, final=is_over(status)),
        enough=lambda given: not given.problem,
        again_s=lambda times: min(RETRY_S * 2.0 ** min(times - 1, 10), MAX_RETRY_S),
        now=deps.clock.monotonic(),
    )
    if answer is None:
        return deps.exposure_log_requests.next_check_s(slot, deps.clock.monotonic())
    if not answer.problem:
        after = log_exports.record_export(status, place, answer, meta["generation"], now, meta["uid"])
        await _write_if_changed(deps, experiment, status, after)
        return 0.0
    after = log_exports.record_export_failure(status, log_exports.NOT_WRITTEN, answer.problem, meta["generation"], now)
    await _record_failure(deps, experiment, log_exports.next_sequence(status), answer.problem)
    await _write_if_changed(deps, experiment, status, after)
    return deps.exposure_log_requests.next_check_s(slot, deps.clock.monotonic())


def forget_exposure_log(deps: Dependencies, namespace: str, experiment: str) -> None:
    """Cancel the pending write of a deleted Experiment. Logs that were written stay."""
    deps.exposure_log_requests.forget(_slot(namespace, experiment))


def _slot(namespace: str, experiment: str) -> str:
    return f"log {namespace}/{experiment}"


async def _write_log(
    deps: Dependencies, experiment: Object, folder_uri: str, form: Literal["jsonl.gz", "parquet"], *, final: bool
) -> ExposureLogResult:
    """Write one log. Never raises DependencyError."""
    at = deps.clock.now().replace(microsecond=0)
    if deps.exposure_logs is None:
        return ExposureLogResult(at, problem="exposure logs cannot be written in this installation")
    try:
        pods = await list_edge_pods(deps, experiment["metadata"]["namespace"])
    except DependencyError as err:
        return ExposureLogResult(at, problem=f"the edges could not be listed: {err}")
    return await deps.exposure_logs.write(experiment, pods, folder_uri, form, at, final=final)


async def _record_failure(deps: Dependencies, experiment: Object, sequence: int, problem: str) -> None:
    """Record an event of the ModelDeployment, once per log."""
    meta = experiment["metadata"]
    deployment = await deps.kube.get(Ref(MODEL_DEPLOYMENT, meta["namespace"], experiment["spec"]["modelDeployment"]))
    if deployment is not None:
        await record_events(deps, deployment, [events.log_not_written(meta["name"], sequence, problem)])


async def _write_if_changed(
    deps: Dependencies, experiment: Object, before: ExperimentStatus, after: ExperimentStatus
) -> None:
    if after != before:
        await write_status(deps, experiment, after.to_json())
