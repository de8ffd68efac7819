"""Evaluation of a shadow step: how often the canary's answers agree with stable's, and how often it gives none. Pure.

Each pair is a trial of its own, so one rate is tested by its counts, with bounds that hold at every evaluation. A missing answer agrees
with nothing. Edges count cumulatively, each process alone; the highest reported counts of each are kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

from sundog_operator.api import DEFAULT_ALPHA, ExperimentStatus, MetricStatus, PlanShadow, ShadowStatus
from sundog_operator.core.analysis import packed_json, shadow_latency
from sundog_operator.core.edge.reported_counts import MAX_COUNT, PARSE_ERRORS, list_or_empty, parse_count
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.stats import single_rate
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.single_rate import RateFinding
from sundog_operator.core.text import format_count
from sundog_operator.core.trial.rollout import plan_text
from sundog_operator.core.trial.rollout.shadow_comparison import SHADOW, ShadowComparison, active_shadow

AGREEMENT: Final = "agreement"
FAILURES: Final = "shadowFailures"
MAX_FAILURE_SHARE: Final = 0.01
"""Share of copies that may stay without an answer: the floor of errorRate in the default plan."""

_MAX_JSON_BYTES: Final = 1 << 20
_STATUS_COUNTS: Final = (
    "sampled",
    "sent",
    "dropped",
    "skipped",
    "paired",
    "agreed",
    "disagreed",
    "errors",
    "timeouts",
)
"""Counts in a status, by its names."""


class ShadowCounts(NamedTuple):
    """Copies of requests, cumulative. `unknown` are copies whose answer was not waited for; the others are as in an edge's report."""

    sampled: int = 0
    sent: int = 0
    dropped: int = 0
    skipped: int = 0
    agreed: int = 0
    disagreed: int = 0
    incomparable: int = 0
    errors: int = 0
    timeouts: int = 0
    unknown: int = 0

    def plus(self, other: Self) -> Self:
        """Return the sum of both."""
        return type(self)(*map(sum, zip(self, other, strict=True)))

    @property
    def failed(self) -> int:
        """Return the copies without a good answer."""
        return self.errors + self.timeouts

    @property
    def paired(self) -> int:
        """Return the pairs: copies with a good answer, like stable's."""
        return self.agreed + self.disagreed + self.incomparable

    @property
    def trials(self) -> int:
        """Return the trials of agreement."""
        return self.agreed + self.disagreed + self.failed


def evaluate_shadow(status: ExperimentStatus, attempt: str, reports: Sequence[EdgeReport]) -> ShadowComparison | None:
    """Evaluate the copies from the reports of every edge; None if the rollout compares no copies now."""
    plan = active_shadow(status)
    if plan is None:
        return None
    before, alpha, shares = status.shadow or ShadowStatus(), status.plan.alpha or DEFAULT_ALPHA, status.plan.harm_shares
    rows = list(_rows(attempt, before.epoch or 0, reports))
    edges = shadow_latency.histogram_edges(reports)
    sources = _merge_reports(_unpack(before.tallies), plan.by, rows)
    total = ShadowCounts()
    for own in sources.values():
        total = total.plus(own)
    known = ShadowStatus(
        step=before.step,
        epoch=before.epoch,
        earlier=before.earlier,
        **shadow_latency.estimate_latency_difference(rows, edges, alpha),
        tallies=_pack(sources),
    )
    unanswered = total.failed + total.unknown
    latency = tuple(shadow_latency.evaluate_latency(plan, rows, edges, unanswered, alpha))
    return _decide(plan, total, alpha, shares or 1, known, latency)


def _decide(
    plan: PlanShadow,
    total: ShadowCounts,
    alpha: float,
    shares: int,
    known: ShadowStatus,
    latency: Sequence[MetricStatus],
) -> ShadowComparison:
    least = plan.min_agreement
    questions = shares * (1 if least is None else 2)
    answered = total.paired + total.failed
    failing = single_rate.evaluate_rate(total.failed, answered, total.unknown, MAX_FAILURE_SHARE, alpha, questions)
    disagreed = total.trials - total.agreed
    differing = single_rate.evaluate_rate(
        disagreed, total.trials, total.unknown, None if least is None else 1 - least, alpha, questions
    )
    agreeing = differing.turned()
    metrics = (
        _metric(AGREEMENT, _describe_agreement(plan, total, agreeing), agreeing, least),
        _metric(FAILURES, _describe_failures(total, answered, failing), failing, MAX_FAILURE_SHARE),
        *latency,
    )
    enough = total.paired >= plan.min_samples
    wrong = [each.message for each in metrics if each.verdict == MetricVerdict.HARM]
    message = "; ".join(
        [each.message for each in metrics if each.verdict != MetricVerdict.PASSED] or [each.message for each in metrics]
    )
    if not enough:
        message = f"{total.paired} of {plan.min_samples} pairs; {message}"
    counted = {name: getattr(total, name) for name in _STATUS_COUNTS}
    text = "; ".join(wrong) or f"{message}{_describe_left_out(total)}"
    status = known.model_copy(update={**counted, "message": text})
    deciding = [each for each in metrics if each.name != AGREEMENT or least is not None]
    return ShadowComparison(
        status=status,
        metrics=metrics,
        passed=enough and all(each.verdict == MetricVerdict.PASSED for each in deciding),
        failed="; ".join(wrong),
        silent=answered == 0,
    )


def _metric(name: str, message: str, found: RateFinding, allowed: float | None) -> MetricStatus:
    return MetricStatus(
        name=name,
        role=SHADOW,
        arm=names.CANARY,
        ratio=None if found.rate is None else round(found.rate, 6),
        interval=() if found.rate is None else (round(found.lower, 6), round(found.upper, 6)),
        allowed=allowed,
        verdict=found.verdict,
        message=message,
    )


def _describe_agreement(plan: PlanShadow, total: ShadowCounts, found: RateFinding) -> str:
    by = f" by {plan_text.describe_comparator(plan)}"
    incomparable = f"; {plan.by} cannot compare {total.incomparable} answers of stable" if total.incomparable else ""
    if found.rate is None:
        return f"{AGREEMENT}{by}: no answer of the canary yet{incomparable}"
    required = "" if plan.min_agreement is None else f", at least {_percent(plan.min_agreement)} required"
    return (
        f"{AGREEMENT}{by}: {_percent(found.rate)} of {total.trials}, between {_percent(found.lower)} and"
        f" {_percent(found.upper)}{required}{incomparable}"
    )


def _describe_failures(total: ShadowCounts, answered: int, found: RateFinding) -> str:
    if found.rate is None:
        return f"{FAILURES}: no copy has ended yet"
    return (
        f"{FAILURES}: {format_count(total.errors, 'error')} and {format_count(total.timeouts, 'timeout')} of"
        f" {format_count(answered, 'copy', 'copies')},"
        f" between {_percent(found.lower)} and {_percent(found.upper)}, at most {_percent(MAX_FAILURE_SHARE)} allowed"
    )


def _describe_left_out(total: ShadowCounts) -> str:
    left = [f"{number} {what}" for number, what in ((total.dropped, "dropped"), (total.skipped, "left out")) if number]
    return f"; of {total.sampled} sampled {' and '.join(left)}" if left else ""


def _percent(share: float) -> str:
    return f"{round(share * 100, 3):g} %"


def _merge_reports(
    before: Mapping[str, ShadowCounts], by: str, rows: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, ShadowCounts]:
    reported: dict[str, ShadowCounts] = {}
    for source, row in rows:
        try:
            own = _counts(row, by)
        except PARSE_ERRORS:
            continue
        reported[source] = reported.get(source, ShadowCounts()).plus(own)
    sources = dict(before)
    for source, own in reported.items():
        sources[source] = ShadowCounts(*map(max, sources.get(source, ShadowCounts()), own))
    return sources


def _rows(attempt: str, since: int, reports: Sequence[EdgeReport]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (source, row) of an attempt from an epoch on, for each edge process."""
    for report in reports:
        for row in list_or_empty((report.evidence or {}).get("shadows")):
            if isinstance(row, Mapping) and row.get("attempt") == attempt and _epoch(row) >= since:
                yield f"{report.pod}/{row.get('boot')}", row


def _epoch(row: Mapping[str, Any]) -> int:
    found = row.get("epoch")
    return found if type(found) is int else 0


def _counts(row: Mapping[str, Any], by: str) -> ShadowCounts:
    def of(name: str) -> int:
        return parse_count(row.get(name, 0), MAX_COUNT)

    agreed, disagreed, incomparable = (parse_count(each, MAX_COUNT) for each in row["verdicts"].get(by, (0, 0, 0)))
    return ShadowCounts(
        sampled=of("sampled"),
        sent=of("sent"),
        dropped=of("dropped"),
        skipped=sum(parse_count(each, MAX_COUNT) for each in row["skipped"].values()),
        agreed=agreed,
        disagreed=disagreed,
        incomparable=incomparable,
        errors=of("errors"),
        timeouts=of("timeouts"),
        unknown=of("lost"),
    )


def _pack(sources: Mapping[str, ShadowCounts]) -> str:
    return packed_json.pack_json({name: list(own) for name, own in sorted(sources.items())}) if sources else ""


def _unpack(text: str) -> dict[str, ShadowCounts]:
    """Return the counts from `_pack`; {} if the text is damaged."""
    try:
        stored = packed_json.unpack_json(text, _MAX_JSON_BYTES)
        return {name: ShadowCounts(*(parse_count(each) for each in own)) for name, own in stored.items()}
    except (*PARSE_ERRORS, *packed_json.UNPACK_ERRORS):
        return {}
