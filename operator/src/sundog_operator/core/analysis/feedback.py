"""Sums of outcomes, which every edge reads from the one feedback store of its namespace. Pure.

All edges report the same sums, some of them a second later: the highest sequence wins, and nothing is added. The latest sums are kept, so
that a lost edge or store takes nothing back.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sundog_operator.api import PlanOutcome
from sundog_operator.api.reasons import Cause, ExperimentReason
from sundog_operator.core.edge.reported_counts import PARSE_ERRORS, list_or_empty, parse_count
from sundog_operator.core.observed import EdgeReport

ATTEMPT_COUNTERS: Final = ("accepted", "overflow", "unknown", "late", "early", "future", "undelayed")
"""Counts of a whole attempt, which are part of no sum."""

_MILLION: Final = 1_000_000
_MAX_NAMED_EDGES: Final = 3
"""Edges that a message names."""

_MAX_SUM: Final = 2**144
"""Limit of sums of millionths, of their squares and products; a higher one is invalid.

Edges accept 4 million events of at most 10⁹ in an attempt. If all are of one unit, its total is 4 · 10²¹ millionths, and the square of that
is 1.6 · 10⁴³.
"""

Json = dict[str, Any]


def cap_in_millionths(outcome: PlanOutcome) -> int | None:
    """Return the cap of units' totals; None for none."""
    return None if outcome.cap is None else max(1, round(outcome.cap * _MILLION))


def window_s(outcome: PlanOutcome) -> int:
    """Return the conversion window in seconds; 0 for none."""
    return 0 if outcome.window is None else int(outcome.window.total_seconds())


def after_s(outcome: PlanOutcome) -> int:
    """Return how long after the exposure the conversion window begins in seconds; 0 for at once."""
    return 0 if outcome.after is None else int(outcome.after.total_seconds())


def name_sums(outcome: PlanOutcome) -> str:
    """Return the name of an outcome's sums in the edges' reports; sums with a cap or a conversion window have their own."""
    cap, after, window = cap_in_millionths(outcome), after_s(outcome), window_s(outcome)
    capped = outcome.feedback if cap is None else f"{outcome.feedback}@{cap}"
    begin = f"{after}-" if after else ""
    return f"{capped}@{begin}{window}s" if window else capped


def name_other_sums(outcome: PlanOutcome) -> str:
    """Return the name of the sums of a unit's other value: a ratio's denominator, or a mean's covariate; empty without one."""
    return outcome.denominator or (f"{outcome.covariate}<" if outcome.covariate else "")


def name_product(outcome: PlanOutcome) -> str:
    """Return the name of the sums of products of a unit's two totals; empty for outcomes with one."""
    other = name_other_sums(outcome)
    return f"{outcome.feedback}*{other}" if other else ""


def feedback_names(outcome: PlanOutcome) -> tuple[str, ...]:
    """Return the feedback that an outcome needs: its own, and that of a denominator or a covariate."""
    return tuple(filter(None, (outcome.feedback, outcome.denominator, outcome.covariate)))


def feedback_of_sums(name: str) -> str:
    """Return the feedback of which sums with this name are, with or without a cap or a window."""
    return name.partition("@")[0]


class OutcomeSums(NamedTuple):
    """Outcomes of one metric of one arm in one epoch.

    Units with an outcome, units whose first outcome was above 0, Σ of the units' totals in millionths, and Σ of the squares of these.
    """

    units: int = 0
    positive: int = 0
    total: int = 0
    squares: int = 0


@dataclass(frozen=True, slots=True)
class FeedbackSelection:
    """The sums to keep: epochs, arms, names of sums and of sums of products of one attempt of a service.

    `has_delayed`: some sums are of windows that begin after the exposure, which edges of an earlier release do not keep.
    """

    service: str
    attempt: str
    epochs: Collection[int]
    arms: Collection[str]
    metrics: Collection[str]
    products: Collection[str] = ()
    has_delayed: bool = False


@dataclass(frozen=True, slots=True)
class FeedbackSums:
    """Sums of one store.

    Attributes:
        store: id of the store; empty before the first report.
        sequence: number that rises with each change.
        exposed: first exposures of units by epoch and arm; empty if each request is a unit.
        outcomes: sums by metric, epoch and arm.
        matured: units whose conversion window has passed, by (window in seconds, epoch, arm).
        until: Unix time in seconds before which these were first exposed, by window.
        products: for ratios and covariates: Σ of the product of units' two totals, in square millionths, by name, epoch and arm.
        overflow: exposures and outcomes of the whole attempt that did not fit; a repeated one counts again.
        unknown: outcomes of the whole attempt whose unit does not belong to it.
        accepted: outcomes of the whole attempt that count, in metrics of no sum too; 0 where edges are of an older release.
        late: outcomes of the whole attempt that are timed before their exposure or too long after it; a repeated one counts again.
        early: those late outcomes that are timed before the signed exposure that they name.
        future: outcomes of the whole attempt that were timed in the future.
        undelayed: exposures and outcomes of the whole attempt that edges of an earlier release added to no delayed window.
    """

    store: str = ""
    sequence: int = 0
    exposed: Mapping[tuple[int, str], int] = field(default_factory=dict)
    outcomes: Mapping[tuple[str, int, str], OutcomeSums] = field(default_factory=dict)
    products: Mapping[tuple[str, int, str], int] = field(default_factory=dict)
    overflow: int = 0
    unknown: int = 0
    accepted: int = 0
    late: int = 0
    early: int = 0
    future: int = 0
    undelayed: int = 0
    matured: Mapping[tuple[int, int, str], int] = field(default_factory=dict)
    until: Mapping[int, int] = field(default_factory=dict)

    def of(self, metric: str, epoch: int, arm: str) -> OutcomeSums:
        """Return the sums of one metric, epoch and arm."""
        return self.outcomes.get((metric, epoch, arm), OutcomeSums())

    def reported(self, epoch: int, arm: str) -> int:
        """Return the most units with an outcome of one metric: at least so many were exposed."""
        return max((own.units for (_, *key), own in self.outcomes.items() if key == [epoch, arm]), default=0)

    @property
    def reported_metrics(self) -> frozenset[str]:
        """Metrics of which any unit has an outcome."""
        return frozenset(name for (name, _, _), own in self.outcomes.items() if own.units)

    def as_json(self) -> Json:
        """Return the sums in the format of an edge's report."""
        return {
            "store": self.store,
            "sequence": self.sequence,
            "exposed": [[*key, units] for key, units in sorted(self.exposed.items())],
            "outcomes": [[*key, *own] for key, own in sorted(self.outcomes.items())],
            **({"matured": [[*key, units] for key, units in sorted(self.matured.items())]} if self.matured else {}),
            **({"until": [[*each] for each in sorted(self.until.items())]} if self.until else {}),
            **({"products": [[*key, sum_] for key, sum_ in sorted(self.products.items())]} if self.products else {}),
            **{name: count for name in ATTEMPT_COUNTERS if (count := getattr(self, name))},
        }


def parse_sums(stored: Any) -> FeedbackSums:
    """Parse the sums from `as_json`. Raises `PARSE_ERRORS`."""
    if not isinstance(stored, Mapping):
        raise TypeError("feedback: not an object")
    store = stored["store"]
    if not isinstance(store, str) or len(store) > 64:
        raise TypeError("store: not a store id")
    return FeedbackSums(
        store,
        parse_count(stored["sequence"]),
        {(parse_count(epoch), str(arm)): parse_count(units) for epoch, arm, units in stored["exposed"]},
        {
            (str(metric), parse_count(epoch), str(arm)): OutcomeSums(
                parse_count(units), parse_count(positive), _sum(total), parse_count(squares, _MAX_SUM)
            )
            for metric, epoch, arm, units, positive, total, squares in stored["outcomes"]
        },
        {
            (str(name), parse_count(epoch), str(arm)): _sum(total)
            for name, epoch, arm, total in stored.get("products", ())
        },
        **{name: parse_count(stored.get(name, 0)) for name in ATTEMPT_COUNTERS},
        matured={
            (parse_count(window), parse_count(epoch), str(arm)): parse_count(units)
            for window, epoch, arm, units in stored.get("matured", ())
        },
        until={parse_count(window): parse_count(seconds) for window, seconds in stored.get("until", ())},
    )


def _sum(value: Any) -> int:
    parse_count(abs(value), _MAX_SUM)
    return int(value)


def find_feedback_section(service: str, report: EdgeReport) -> Any:
    """Return the feedback section of a service in an edge's report; None if there is none."""
    own = ((report.evidence or {}).get("services") or {}).get(service)
    return own.get("feedback") if isinstance(own, Mapping) else None


def update_sums(
    before: FeedbackSums, reports: Sequence[EdgeReport], selection: FeedbackSelection
) -> tuple[FeedbackSums, Cause | None]:
    """Update the sums with the reports of every edge. Also return why they are not usable, else None."""
    found: list[FeedbackSums] = []
    missing: list[str] = []
    for report in reports:
        sums, problem = _read(report, selection)
        if sums is None:
            missing.append(f"{report.pod} {problem}")
        else:
            found.append(sums)
    pinned = {before.store} if before.sequence else set()
    stores = pinned | {each.store for each in found}
    known = max((before, *(each for each in found if not pinned or each.store in pinned)), key=_rank)
    if len(stores) > 1:
        ids = ", ".join(sorted(stores))
        message = f"the edges report more than one outcome store ({ids}); each has only a part of the outcomes"
        return known, Cause(ExperimentReason.FEEDBACK_STORE_REPLACED, message)
    if not found:
        return known, Cause(
            ExperimentReason.FEEDBACK_UNAVAILABLE, "; ".join(missing[:_MAX_NAMED_EDGES]) or "there is no edge"
        )
    return known, None


def _rank(sums: FeedbackSums) -> tuple[int, bool]:
    # Of two stores without changes, prefer the one with an id.
    return sums.sequence, bool(sums.store)


def _read(report: EdgeReport, selection: FeedbackSelection) -> tuple[FeedbackSums | None, str]:
    """Return the sums of one edge, or None and the problem."""
    if report.evidence is None:
        return None, "does not answer"
    section = find_feedback_section(selection.service, report)
    if not isinstance(section, Mapping) or section.get("attempt") != selection.attempt:
        return None, "reports no feedback"
    if "error" in section:
        return None, f"has no outcomes: {' '.join(str(section['error']).split())[:200]}"
    if selection.has_delayed and "undelayed" not in section:
        return None, "is of an earlier release, which does not count outcomes by `after`; upgrade it"
    try:
        return parse_section(section, selection), ""
    except PARSE_ERRORS:
        return None, "reports feedback that cannot be parsed"


def parse_section(section: Mapping[str, Any], selection: FeedbackSelection) -> FeedbackSums:
    """Return the selected sums of an edge's section. Raises `PARSE_ERRORS`."""
    return parse_sums({**section, **_filter_rows(section, selection)})


def _filter_rows(section: Mapping[str, Any], selection: FeedbackSelection) -> Json:
    """Return the wanted rows."""
    return {
        "exposed": [
            row for row in _rows(section, "exposed", 3) if row[0] in selection.epochs and row[1] in selection.arms
        ],
        "outcomes": [
            row
            for row in _rows(section, "outcomes", 7)
            if row[0] in selection.metrics and row[1] in selection.epochs and row[2] in selection.arms
        ],
        "matured": [
            row
            for row in (_rows(section, "matured", 4) if "matured" in section else ())
            if row[1] in selection.epochs and row[2] in selection.arms
        ],
        "products": [
            row
            for row in (_rows(section, "products", 4) if "products" in section else ())
            if row[0] in selection.products and row[1] in selection.epochs and row[2] in selection.arms
        ],
    }


def _rows(section: Mapping[str, Any], name: str, width: int) -> Iterator[Sequence[Any]]:
    for row in list_or_empty(section[name]):
        if len(list_or_empty(row)) != width:
            raise ValueError(f"{name}: a row without {width} columns")
        yield row
