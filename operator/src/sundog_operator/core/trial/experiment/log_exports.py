"""Exports of an experiment's exposure log: when, where to, and the status about them. Pure.

While the experiment runs, logs are exported from time to time, because a store may be lost. The last export follows its end. Each export
has its own folder, so none overwrites another, and the next leader repeats an interrupted export.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sundog_operator.api import ExperimentStatus, ExposureLogStatus, experiment_conditions
from sundog_operator.api.reasons import ExperimentReason
from sundog_operator.core.observed import ExposureLogResult
from sundog_operator.core.text import format_count
from sundog_operator.core.trial.experiment.final_evaluation import evaluate_final_log
from sundog_operator.core.trial.phases import is_over

LOG_FIELD: Final = "exposureLog"
CONDITION: Final = "LogWritten"
WRITTEN: Final = ExperimentReason.WRITTEN
NOT_WRITTEN: Final = ExperimentReason.NOT_WRITTEN
PLACE_NOT_ALLOWED: Final = ExperimentReason.PLACE_NOT_ALLOWED

EXPORT_INTERVAL: Final = timedelta(hours=1)
INTERVAL_DIVISOR: Final = 10
"""The interval is also at least this fraction of the time so far, so an experiment of weeks exports a few dozen logs."""

EDGES_SETTLE: Final = timedelta(seconds=15)
"""Time after the end until the final export. Edges take outcomes until they have the split without the experiment, a few seconds later."""

MAX_EXPOSURES: Final = 2_500_000
"""Most exposures of an export; their units take 32 MiB of memory. Users export larger logs on their own machine."""

_CONDITIONS: Final = "conditions"
_EVALUATED: Final = ("metrics", "tallies")

Json = dict[str, Any]


def export_folder(uri: str, experiment: Mapping[str, Any]) -> str:
    """Return the folder of all of an Experiment's exports. It contains the uid, so no other Experiment has the same folder."""
    meta = experiment["metadata"]
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{'/'.join((rest.rstrip('/'), meta['namespace'], meta['name'], meta['uid']))}"


def next_uri(folder: str, status: ExperimentStatus) -> str:
    """Return the place of the next export."""
    return f"{folder}/{next_sequence(status):06d}"


def next_sequence(status: ExperimentStatus) -> int:
    """Return the number of the next export."""
    return status.exposure_log.sequence + 1 if status.exposure_log is not None else 1


def find_place_violation(uri: str, allowed: Sequence[str] | None) -> str:
    """Return why a place may not be written to; empty where it may. `allowed` are prefixes of places, None for any."""
    if allowed is None:
        return "pvc:// needs a cluster; use file:// in local mode" if uri.startswith("pvc://") else ""
    if uri.startswith("file://"):
        return "file:// needs local mode; use s3://, gs:// or pvc:// in a cluster"
    whole = uri.rstrip("/")
    if any(whole == place or whole.startswith(f"{place}/") for place in allowed):
        return ""
    return f"{uri}: not below a place in installation.exposureLogs.places. Use an allowed place, or ask an administrator to add this one."


def next_export_at(status: ExperimentStatus, folder: str) -> datetime | None:
    """Return the time from which the next export is due; None for never, as things are."""
    last, begun, plan = status.exposure_log, status.since, status.plan.comparison
    if begun is None or plan is None or not plan.feedback_outcomes:
        return None
    here = last if last is not None and last.uri.startswith(f"{folder}/") else None
    if is_over(status):
        ended = status.epoch.since or begun
        return None if here is not None and here.final else ended + EDGES_SETTLE
    if here is None:
        # A new place lacks the exports that went to another one, so it gets one at once.
        return begun + EXPORT_INTERVAL if last is None else begun
    return here.written_at + max(EXPORT_INTERVAL, (here.written_at - begun) / INTERVAL_DIVISOR)


def record_export(
    status: ExperimentStatus, uri: str, answer: ExposureLogResult, generation: int, now: datetime, attempt: str = ""
) -> ExperimentStatus:
    """Return the status after an export; after the final one with the metrics of its rows. `attempt` is the Experiment's uid."""
    if answer.final:
        status = evaluate_final_log(status, attempt, answer.feedback)
    log = ExposureLogStatus(
        uri=uri,
        sequence=next_sequence(status),
        written_at=answer.at,
        exposures=answer.exposures,
        outcomes=answer.outcomes,
        complete=answer.complete,
        final=answer.final,
    )
    message = f"{format_count(log.exposures, 'exposure')} and {format_count(log.outcomes, 'outcome')} in {uri}"
    return _with_condition(status.model_copy(update={"exposure_log": log}), "True", WRITTEN, message, generation, now)


def record_export_failure(
    status: ExperimentStatus, reason: str, problem: str, generation: int, now: datetime
) -> ExperimentStatus:
    """Return the status with the reason why the next export failed or is not allowed."""
    return _with_condition(status, "False", reason, problem, generation, now)


def remove_condition(status: ExperimentStatus, generation: int, now: datetime) -> ExperimentStatus:
    """Return the status without the condition, for an experiment without exports."""
    if all(each.type != CONDITION for each in status.conditions):
        return status
    conditions = experiment_conditions(status.conditions, generation=generation, at=now)
    conditions.drop(CONDITION)
    return status.model_copy(update={"conditions": conditions.conditions()})


def _with_condition(
    status: ExperimentStatus, truth: str, reason: str, message: str, generation: int, now: datetime
) -> ExperimentStatus:
    conditions = experiment_conditions(status.conditions, generation=generation, at=now)
    mark = conditions.mark_true if truth == "True" else conditions.mark_false
    mark(CONDITION, reason, message, at=now)
    return status.model_copy(update={"conditions": conditions.conditions()})


def merge_log_status(status: Json, stored: Mapping[str, Any] | None) -> Json:
    """Return a status about to be written, with the stored fields of the log, which another writer owns."""
    known = stored or {}
    # The final export is evaluated with its writing.
    final = _EVALUATED if (known.get(LOG_FIELD) or {}).get("final") else ()
    owned = (LOG_FIELD, _CONDITIONS, *final)
    kept = {key: value for key, value in status.items() if key not in owned}
    conditions = [
        *(each for each in status.get(_CONDITIONS) or () if each["type"] != CONDITION),
        *(each for each in known.get(_CONDITIONS) or () if each["type"] == CONDITION),
    ]
    merged = {**{name: known.get(name) for name in (LOG_FIELD, *final)}, _CONDITIONS: conditions}
    return {**kept, **{key: value for key, value in merged.items() if value}}
