"""When the exposure log of an experiment is to be written, where to, and what is said of it. Pure.

While it runs one is written now and then, for a store may be lost; after its end the last one. Each has a folder of its own, so none takes
the place of another, and one that was interrupted is written again by whoever comes next.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sundog_operator.api import ExperimentStatus, ExposureLogStatus, experiment_conditions
from sundog_operator.core.observed import ExposureLogResult
from sundog_operator.core.rollout.state import is_over
from sundog_operator.core.text import format_count

LOG_FIELD: Final = "exposureLog"
CONDITION: Final = "LogWritten"
WRITTEN: Final = "Written"
NOT_WRITTEN: Final = "NotWritten"
PLACE_NOT_ALLOWED: Final = "PlaceNotAllowed"

EXPORT_INTERVAL: Final = timedelta(hours=1)
INTERVAL_DIVISOR: Final = 10
"""And every such share of its time: one that runs for weeks writes no more than some dozens of them."""

MAX_EXPOSURES: Final = 2_500_000
"""Of which units take 32 MiB of memory. More are for a machine of the user's own."""

_CONDITIONS: Final = "conditions"

Json = dict[str, Any]


def export_folder(uri: str, experiment: Mapping[str, Any]) -> str:
    """Below which place all of an Experiment lie. Nobody else's do, whatever other Experiments name: the uid is in it."""
    meta = experiment["metadata"]
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{'/'.join((rest.rstrip('/'), meta['namespace'], meta['name'], meta['uid']))}"


def next_uri(folder: str, status: ExperimentStatus) -> str:
    """Where the next one goes."""
    return f"{folder}/{next_sequence(status):06d}"


def next_sequence(status: ExperimentStatus) -> int:
    """Which one is the next."""
    return status.exposure_log.sequence + 1 if status.exposure_log is not None else 1


def find_place_violation(uri: str, allowed: Sequence[str] | None) -> str:
    """Why nothing is written to a place; empty where it may be. `allowed` are beginnings of places, None for any."""
    if allowed is None:
        return "pvc:// is for clusters; in local mode file:// is there" if uri.startswith("pvc://") else ""
    if uri.startswith("file://"):
        return "file:// is for local mode; in a cluster s3://, gs:// and pvc:// are there"
    whole = uri.rstrip("/")
    if any(whole == place or whole.startswith(f"{place}/") for place in allowed):
        return ""
    return f"{uri} is below none of the places that an administrator allows in installation.exposureLogs.places"


def next_export_at(status: ExperimentStatus, folder: str) -> datetime | None:
    """From when on one is to be written; None for never, as things are."""
    last, begun, plan = status.exposure_log, status.since, status.plan.comparison
    if begun is None or plan is None or not plan.outcomes:
        return None
    here = last if last is not None and last.uri.startswith(f"{folder}/") else None
    if is_over(status):
        return None if here is not None and here.final else begun
    if here is None:
        # Of another place what was written before is missed here at once.
        return begun + EXPORT_INTERVAL if last is None else begun
    return here.written_at + max(EXPORT_INTERVAL, (here.written_at - begun) / INTERVAL_DIVISOR)


def record_export(
    status: ExperimentStatus, place: str, answer: ExposureLogResult, generation: int, now: datetime
) -> ExperimentStatus:
    """The status with one that was written."""
    log = ExposureLogStatus(
        uri=place,
        sequence=next_sequence(status),
        written_at=answer.at,
        exposures=answer.exposures,
        outcomes=answer.outcomes,
        complete=answer.complete,
        final=answer.final,
    )
    told = f"{format_count(log.exposures, 'exposure')} and {format_count(log.outcomes, 'outcome')} in {place}"
    return _saying(status.model_copy(update={"exposure_log": log}), "True", WRITTEN, told, generation, now)


def record_export_failure(
    status: ExperimentStatus, reason: str, problem: str, generation: int, now: datetime
) -> ExperimentStatus:
    """The status with why the next one is not."""
    return _saying(status, "False", reason, problem, generation, now)


def remove_condition(status: ExperimentStatus, generation: int, now: datetime) -> ExperimentStatus:
    """The status of one that is not to be written, or not any more."""
    if all(each.type != CONDITION for each in status.conditions):
        return status
    conditions = experiment_conditions(status.conditions, generation=generation, at=now)
    conditions.drop(CONDITION)
    return status.model_copy(update={"conditions": conditions.conditions()})


def _saying(
    status: ExperimentStatus, truth: str, reason: str, message: str, generation: int, now: datetime
) -> ExperimentStatus:
    conditions = experiment_conditions(status.conditions, generation=generation, at=now)
    mark = conditions.mark_true if truth == "True" else conditions.mark_false
    mark(CONDITION, reason, message, at=now)
    return status.model_copy(update={"conditions": conditions.conditions()})


def merge_log_status(status: Json, stored: Mapping[str, Any] | None) -> Json:
    """A status about to be written by who writes everything else, with what is stored of the log."""
    kept = {key: value for key, value in status.items() if key not in (LOG_FIELD, _CONDITIONS)}
    known = stored or {}
    conditions = [
        *(each for each in status.get(_CONDITIONS) or () if each["type"] != CONDITION),
        *(each for each in known.get(_CONDITIONS) or () if each["type"] == CONDITION),
    ]
    told = {LOG_FIELD: known.get(LOG_FIELD), _CONDITIONS: conditions}
    return {**kept, **{key: value for key, value in told.items() if value}}
