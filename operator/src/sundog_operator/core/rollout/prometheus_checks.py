"""Numbers of Prometheus that a rollout is held to: what to ask, and what follows. They are limits of a user, and no statistics. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sundog_operator.api import CheckStatus, ExperimentStatus, PlanCheck
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import PrometheusResult

ANALYSIS: Final = "analysis"
"""The slot of the check of a step. Those of guardrails begin with a word of their own, for a user names them."""

REPORT_PERIOD: Final = timedelta(minutes=1)
_EARLY: Final = timedelta(seconds=1)
"""By so much less than its interval may two checks be apart: instants are whole seconds."""

_PLACE: Final = re.compile(r"\{\{ ?([A-Za-z]+) ?\}\}")


@dataclass(frozen=True, slots=True)
class CheckQuery:
    """What to ask. Of equal `about` it is the same check; `interval_s` is in seconds."""

    slot: str
    about: str
    expression: str
    interval_s: float


def make_queries(
    status: ExperimentStatus, namespace: str, service: str, uid: str, *, stands_still: bool
) -> tuple[CheckQuery, ...]:
    """What is to be asked now: guardrails while both arms have traffic, also while paused; an analysis while its step goes on.

    `stands_still`: the spec or its windows hold the rollout.
    """
    if status.phase != "Running":
        return ()
    numbers = {arm.name: arm.revision or 0 for arm in status.arms}
    places = {
        "namespace": namespace,
        "service": service,
        "revision": str(numbers.get(names.CANARY, 0)),
        "stableRevision": str(numbers.get(names.STABLE, 0)),
        "arm": names.CANARY,
    }
    analysis = None if stands_still or status.paused is not None else current_analysis(status)
    number = status.step.index if status.step else 0
    # Not by epoch: one with the weights of the one before, as after a warm-up, is no reason to ask again.
    asked = [(guardrail_slot(check), check, _weight(status)) for check in status.plan.checks if has_both_arms(status)]
    asked += [(ANALYSIS, analysis, number)] if analysis is not None else []
    return tuple(
        CheckQuery(slot, f"{uid}/{slot}/{about}", _filled(check.query, places), check.interval.total_seconds())
        for slot, check, about in asked
    )


def _filled(query: str, places: Mapping[str, str]) -> str:
    """Names of Kubernetes and numbers need no quoting in PromQL. What is no place of ours stays as it is."""
    return _PLACE.sub(lambda match: places.get(match[1], match[0]), query)


def guardrail_slot(check: PlanCheck) -> str:
    """Where the answers of a guardrail are kept."""
    return f"guardrail {check.name}"


def has_both_arms(status: ExperimentStatus) -> bool:
    """Whether both arms have traffic, as far as is committed."""
    return 0 < _weight(status) < 100


def _weight(status: ExperimentStatus) -> float:
    return next((arm.weight for arm in status.arms if arm.name == names.CANARY), 0)


def current_analysis(status: ExperimentStatus) -> PlanCheck | None:
    """What the current step asks for; None where it asks for nothing, or its weight is not in force yet."""
    step = status.step
    if step is None or step.gate != ANALYSIS or step.since is None or not 1 <= step.index <= len(status.plan.steps):
        return None
    return status.plan.steps[step.index - 1].analysis


def record_readings(status: ExperimentStatus, readings: Mapping[str, PrometheusResult]) -> ExperimentStatus:
    """The status with the newest answers. One that was taken already changes nothing."""
    if not readings:
        return status
    checks = tuple(
        _after(each, check, readings.get(guardrail_slot(check)))
        for each, check in zip(check_statuses(status), status.plan.checks, strict=True)
    )
    analysis, step, asked = readings.get(ANALYSIS), status.step, current_analysis(status)
    if step is not None and asked is not None and analysis is not None:
        told = _after(step.analysis or CheckStatus(name=asked.name), asked, analysis)
        step = step.model_copy(update={"analysis": told})
    return status.model_copy(update={"checks": checks if any(each.verdict for each in checks) else (), "step": step})


def check_statuses(status: ExperimentStatus) -> tuple[CheckStatus, ...]:
    """What is known of each check of the plan."""
    by_name = {each.name: each for each in status.checks}
    return tuple(by_name.get(check.name, CheckStatus(name=check.name)) for check in status.plan.checks)


def _after(before: CheckStatus, check: PlanCheck, reading: PrometheusResult | None) -> CheckStatus:
    if reading is None or reading.at is None:
        return before
    if before.at is not None and before.at - reading.at > check.interval:
        # The clock was set back, and what it told before is no measure of when it was asked.
        before = before.model_copy(update={"at": None})
    if before.at is not None and reading.at <= before.at:
        return before
    verdict = _verdict(check, reading)
    # An operator that begins anew asks at once: what comes before its time does not count once more.
    early = before.at is not None and before.verdict != "" and reading.at - before.at < check.interval - _EARLY
    if early and (verdict != "Passed" or check.count > 1):
        return before
    if verdict == "Passed" == before.verdict and before.passed >= check.count and not _is_due(before, reading.at):
        return before
    return CheckStatus(
        name=check.name,
        verdict=verdict,
        value=reading.value,
        passed=min(before.passed + (verdict == "Passed"), check.count),
        failed={"Passed": 0, "Failed": before.failed + 1}.get(verdict, before.failed),
        unknown=before.unknown + 1 if verdict == "NoData" else 0,
        at=reading.at,
        message=_sentence(check, reading),
    )


def _is_due(before: CheckStatus, at: datetime) -> bool:
    return before.at is None or at - before.at >= REPORT_PERIOD


def _verdict(check: PlanCheck, reading: PrometheusResult) -> Literal["Passed", "Failed", "NoData"]:
    if reading.value is None:
        return "NoData"
    below = check.min is not None and reading.value < check.min
    above = check.max is not None and reading.value > check.max
    return "Failed" if below or above else "Passed"


def _sentence(check: PlanCheck, reading: PrometheusResult) -> str:
    if reading.value is None:
        return f"check {check.name} {reading.problem}"
    if check.min is not None and reading.value < check.min:
        return f"check {check.name} gives {reading.value:g}, less than {check.min:g}"
    if check.max is not None and reading.value > check.max:
        return f"check {check.name} gives {reading.value:g}, more than {check.max:g}"
    return f"check {check.name} gives {reading.value:g}, {format_limits(check)}"


def format_limits(check: PlanCheck) -> str:
    """What a number may be, such as `at most 0.05`."""
    least = "" if check.min is None else f"at least {check.min:g}"
    most = "" if check.max is None else f"at most {check.max:g}"
    return " and ".join(filter(None, (least, most)))


def reset_passes(status: ExperimentStatus) -> ExperimentStatus:
    """With what is known of guardrails as of before the weights changed: failures in a row count on, and all have to pass again."""
    checks = tuple(
        CheckStatus(name=each.name, failed=each.failed, value=each.value, message=each.message)
        for each in status.checks
    )
    return status.model_copy(update={"checks": checks})


def reset_inconclusive(status: ExperimentStatus) -> ExperimentStatus:
    """With the patience of every check as at the start: somebody lets the rollout go on."""
    step = status.step
    if step is not None and step.analysis is not None:
        step = step.model_copy(update={"analysis": step.analysis.model_copy(update={"unknown": 0})})
    checks = tuple(each.model_copy(update={"unknown": 0}) for each in status.checks)
    return status.model_copy(update={"checks": checks, "step": step})


def find_failure(status: ExperimentStatus) -> str:
    """Which check failed too often in a row, in a sentence; empty where none did."""
    failed = (
        f"{each.message}: {each.failed} times in a row"
        for check, each in _all(status)
        if each.failed >= check.failure_limit and each.verdict == "Failed"
    )
    return next(failed, "")


def find_inconclusive(status: ExperimentStatus) -> str:
    """Which check had no number too often in a row, in a sentence; empty where none had."""
    unknown = (
        f"{each.message}: {each.unknown} times in a row"
        for check, each in _all(status)
        if each.unknown >= check.inconclusive_limit
    )
    return next(unknown, "")


def find_ignored_check(status: ExperimentStatus) -> str:
    """Which check the current gate opens without, for it has no number, in a sentence; empty where it waits for all."""
    if status.plan.on_inconclusive != "promote":
        return ""
    unknown = (check.name for check, each in _all(status) if each.unknown >= check.inconclusive_limit)
    return next((f"check {name} has no number" for name in unknown), "")


def _all(status: ExperimentStatus) -> Iterable[tuple[PlanCheck, CheckStatus]]:
    if has_both_arms(status):
        yield from zip(status.plan.checks, check_statuses(status), strict=True)
    asked, step = current_analysis(status), status.step
    if asked is not None and step is not None and step.analysis is not None:
        yield asked, step.analysis


def find_blocking_check(status: ExperimentStatus) -> str:
    """Which guardrail lets no gate open, in a sentence; empty where all passed since the weights are as they are.

    One without a number is not waited for beyond its patience where `onInconclusive` says to go on without.
    """
    if not has_both_arms(status):
        return ""
    for check, each in zip(status.plan.checks, check_statuses(status), strict=True):
        given_up = each.unknown >= check.inconclusive_limit and status.plan.on_inconclusive == "promote"
        if each.verdict != "Passed" and not given_up:
            return each.message if each.verdict else f"check {check.name} has not been made yet"
    return ""


def is_analysis_done(status: ExperimentStatus) -> bool:
    """Whether the analysis of the current step was good often enough, or is done without."""
    asked, told = current_analysis(status), status.step.analysis if status.step else None
    if asked is None or told is None:
        return False
    given_up = told.unknown >= asked.inconclusive_limit and status.plan.on_inconclusive == "promote"
    return given_up or (told.passed >= asked.count and told.verdict == "Passed")


def describe_analysis(status: ExperimentStatus) -> str:
    """What the analysis of the current step waits for."""
    asked, told = current_analysis(status), status.step.analysis if status.step else None
    if asked is None or told is None:
        return "asks Prometheus"
    return f"{told.message}; {told.passed} of {asked.count} checks passed"
