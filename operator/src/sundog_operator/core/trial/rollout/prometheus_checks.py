"""Prometheus checks of a rollout: what to query, and what the results cause. They are limits of a user, not statistics. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sundog_operator.api import CheckStatus, ExperimentStatus, PlanCheck
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import PrometheusResult
from sundog_operator.core.trial.rollout.state import canary_weight, step_index

ANALYSIS: Final = "analysis"
"""Slot of the current step's check. Slots of guardrails begin with a fixed word, because users name guardrails."""

REPORT_PERIOD: Final = timedelta(minutes=1)
_CLOCK_TOLERANCE: Final = timedelta(seconds=1)
"""Tolerance of the interval between two checks: times are whole seconds."""

_PLACEHOLDER: Final = re.compile(r"\{\{ ?([A-Za-z]+) ?\}\}")


@dataclass(frozen=True, slots=True)
class CheckQuery:
    """A query. Two queries with equal `about` are the same check; `interval_s` is in seconds."""

    slot: str
    about: str
    expression: str
    interval_s: float


def make_queries(
    status: ExperimentStatus, namespace: str, service: str, uid: str, *, stands_still: bool
) -> tuple[CheckQuery, ...]:
    """Return the queries that are due: guardrails while both arms have traffic, also while paused; an analysis while its step runs.

    `stands_still`: the spec or its windows hold the rollout.
    """
    if status.phase != "Running":
        return ()
    numbers = {arm.name: arm.revision or 0 for arm in status.arms}
    values = {
        "namespace": namespace,
        "service": service,
        "revision": str(numbers.get(names.CANARY, 0)),
        "stableRevision": str(numbers.get(names.STABLE, 0)),
        "arm": names.CANARY,
    }
    analysis = None if stands_still or status.paused is not None else current_analysis(status)
    # Not by epoch: a new epoch with the same weights, as after a warm-up, needs no new query.
    due = [
        (guardrail_slot(check), check, canary_weight(status)) for check in status.plan.checks if has_both_arms(status)
    ]
    due += [(ANALYSIS, analysis, step_index(status))] if analysis is not None else []
    return tuple(
        CheckQuery(slot, f"{uid}/{slot}/{about}", _fill_in(check.query, values), check.interval.total_seconds())
        for slot, check, about in due
    )


def _fill_in(query: str, values: Mapping[str, str]) -> str:
    """Fill in the placeholders of a query. Kubernetes names and numbers need no quoting in PromQL; unknown placeholders stay."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), query)


def guardrail_slot(check: PlanCheck) -> str:
    """Return the slot of a guardrail's results."""
    return f"guardrail {check.name}"


def has_both_arms(status: ExperimentStatus) -> bool:
    """Whether both arms have traffic in the committed state."""
    return 0 < canary_weight(status) < 100


def current_analysis(status: ExperimentStatus) -> PlanCheck | None:
    """Return the analysis of the current step; None if it has none, or its weight is not in force yet."""
    step = status.step
    if step is None or step.gate != ANALYSIS or step.since is None or not 1 <= step.index <= len(status.plan.steps):
        return None
    return status.plan.steps[step.index - 1].analysis


def record_readings(status: ExperimentStatus, readings: Mapping[str, PrometheusResult]) -> ExperimentStatus:
    """Record the newest results. A result that was recorded before changes nothing."""
    if not readings:
        return status
    checks = tuple(
        _update_check(each, check, readings.get(guardrail_slot(check)))
        for each, check in zip(check_statuses(status), status.plan.checks, strict=True)
    )
    analysis, step, planned = readings.get(ANALYSIS), status.step, current_analysis(status)
    if step is not None and planned is not None and analysis is not None:
        result = _update_check(step.analysis or CheckStatus(name=planned.name), planned, analysis)
        step = step.model_copy(update={"analysis": result})
    return status.model_copy(update={"checks": checks if any(each.verdict for each in checks) else (), "step": step})


def check_statuses(status: ExperimentStatus) -> tuple[CheckStatus, ...]:
    """Return the status of each check of the plan."""
    by_name = {each.name: each for each in status.checks}
    return tuple(by_name.get(check.name, CheckStatus(name=check.name)) for check in status.plan.checks)


def _update_check(before: CheckStatus, check: PlanCheck, reading: PrometheusResult | None) -> CheckStatus:
    if reading is None or reading.at is None:
        return before
    if before.at is not None and before.at - reading.at > check.interval:
        # The clock was set back: the time of the last check is meaningless.
        before = before.model_copy(update={"at": None})
    if before.at is not None and reading.at <= before.at:
        return before
    verdict = _verdict(check, reading)
    # A restarted operator queries at once: a result before its time does not count again.
    early = (
        before.at is not None and before.verdict != "" and reading.at - before.at < check.interval - _CLOCK_TOLERANCE
    )
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
        message=_message(check, reading),
    )


def _is_due(before: CheckStatus, at: datetime) -> bool:
    return before.at is None or at - before.at >= REPORT_PERIOD


def _verdict(check: PlanCheck, reading: PrometheusResult) -> Literal["Passed", "Failed", "NoData"]:
    if reading.value is None:
        return "NoData"
    below = check.min is not None and reading.value < check.min
    above = check.max is not None and reading.value > check.max
    return "Failed" if below or above else "Passed"


def _message(check: PlanCheck, reading: PrometheusResult) -> str:
    if reading.value is None:
        return f"check {check.name} {reading.problem}"
    if check.min is not None and reading.value < check.min:
        return f"check {check.name} gives {reading.value:g}, less than {check.min:g}"
    if check.max is not None and reading.value > check.max:
        return f"check {check.name} gives {reading.value:g}, more than {check.max:g}"
    return f"check {check.name} gives {reading.value:g}, {format_limits(check)}"


def format_limits(check: PlanCheck) -> str:
    """Format the limits of a check, such as `at most 0.05`."""
    least = "" if check.min is None else f"at least {check.min:g}"
    most = "" if check.max is None else f"at most {check.max:g}"
    return " and ".join(filter(None, (least, most)))


def reset_passes(status: ExperimentStatus) -> ExperimentStatus:
    """Reset the passes of guardrails after a change of weights. Failures in a row keep counting; all checks must pass again."""
    checks = tuple(
        CheckStatus(name=each.name, failed=each.failed, value=each.value, message=each.message)
        for each in status.checks
    )
    return status.model_copy(update={"checks": checks})


def reset_inconclusive(status: ExperimentStatus) -> ExperimentStatus:
    """Reset the number of inconclusive results of every check, because a user resumes the rollout."""
    step = status.step
    if step is not None and step.analysis is not None:
        step = step.model_copy(update={"analysis": step.analysis.model_copy(update={"unknown": 0})})
    checks = tuple(each.model_copy(update={"unknown": 0}) for each in status.checks)
    return status.model_copy(update={"checks": checks, "step": step})


def find_failure(status: ExperimentStatus) -> str:
    """Return which check failed too often in a row, in a sentence; empty if none did."""
    failed = (
        f"{each.message}: {each.failed} times in a row"
        for check, each in _active_checks(status)
        if each.failed >= check.failure_limit and each.verdict == "Failed"
    )
    return next(failed, "")


def find_inconclusive(status: ExperimentStatus) -> str:
    """Return which check had no number too often in a row, in a sentence; empty if none had."""
    unknown = (
        f"{each.message}: {each.unknown} times in a row"
        for check, each in _active_checks(status)
        if each.unknown >= check.inconclusive_limit
    )
    return next(unknown, "")


def find_ignored_check(status: ExperimentStatus) -> str:
    """Return which check without a number the current gate ignores by policy, in a sentence; empty if there is none."""
    if status.plan.on_inconclusive != "promote":
        return ""
    unknown = (check.name for check, each in _active_checks(status) if each.unknown >= check.inconclusive_limit)
    return next((f"check {name} has no number" for name in unknown), "")


def _active_checks(status: ExperimentStatus) -> Iterable[tuple[PlanCheck, CheckStatus]]:
    if has_both_arms(status):
        yield from zip(status.plan.checks, check_statuses(status), strict=True)
    planned, step = current_analysis(status), status.step
    if planned is not None and step is not None and step.analysis is not None:
        yield planned, step.analysis


def find_blocking_check(status: ExperimentStatus) -> str:
    """Return which check keeps gates closed, in a sentence; empty if all passed since the weights changed.

    With `onInconclusive: promote`, a check with too many results without a number does not keep gates closed.
    """
    if not has_both_arms(status):
        return ""
    for check, each in zip(status.plan.checks, check_statuses(status), strict=True):
        is_ignored = each.unknown >= check.inconclusive_limit and status.plan.on_inconclusive == "promote"
        if each.verdict != "Passed" and not is_ignored:
            return each.message if each.verdict else f"check {check.name} has not run yet"
    return ""


def is_analysis_done(status: ExperimentStatus) -> bool:
    """Whether the analysis of the current step passed often enough, or is ignored by policy."""
    planned, result = current_analysis(status), status.step.analysis if status.step else None
    if planned is None or result is None:
        return False
    is_ignored = result.unknown >= planned.inconclusive_limit and status.plan.on_inconclusive == "promote"
    return is_ignored or (result.passed >= planned.count and result.verdict == "Passed")


def describe_analysis(status: ExperimentStatus) -> str:
    """Describe what the analysis of the current step waits for."""
    planned, result = current_analysis(status), status.step.analysis if status.step else None
    if planned is None or result is None:
        return "asks Prometheus"
    return f"{result.message}; {result.passed} of {planned.count} checks passed"
