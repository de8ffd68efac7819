"""What edges tell of outcomes: sums of the one store of their namespace, which each of them reads. Pure.

They all tell the same, some of them a second later: what has the highest sequence is taken, and nothing is ever added. What was told once
is kept, so that neither an edge nor a store that is lost takes it back.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sundog_operator.core.edge.reported_counts import PARSE_ERRORS, list_or_empty, parse_count
from sundog_operator.core.observed import EdgeReport

FEEDBACK_UNAVAILABLE: Final = "FeedbackUnavailable"
FEEDBACK_STORE_REPLACED: Final = "FeedbackStoreReplaced"

ATTEMPT_COUNTERS: Final = ("overflow", "unknown")
"""What is counted of a whole attempt, and is in no sum."""

_MOST_TOLD: Final = 3
"""Edges that a sentence names."""

_MOST_SUM: Final = 2**128
"""Of millionths and of their squares; what is larger was not counted."""

Json = dict[str, Any]


class OutcomeSums(NamedTuple):
    """The outcomes of one metric of one arm in one epoch: units with one, those whose first was above 0, Σ of units' totals in millionths,
    and Σ of the squares of these.
    """

    units: int = 0
    positive: int = 0
    total: int = 0
    squares: int = 0


@dataclass(frozen=True, slots=True)
class FeedbackSelection:
    """What of the sums is kept: epochs, arms and metrics of feedback, of one attempt of a service."""

    service: str
    attempt: str
    epochs: Collection[int]
    arms: Collection[str]
    metrics: Collection[str]


@dataclass(frozen=True, slots=True)
class FeedbackSums:
    """What a store has summed.

    Attributes:
        store: its id; empty before anything was told.
        sequence: which rises with each of its changes.
        exposed: first exposures of units by epoch and arm; none where each request is a unit.
        outcomes: by metric, epoch and arm.
        overflow: exposures and outcomes of the whole attempt that there was no room for; one that is told again is one more.
        unknown: outcomes of the whole attempt that are of no unit of it.
    """

    store: str = ""
    sequence: int = 0
    exposed: Mapping[tuple[int, str], int] = field(default_factory=dict)
    outcomes: Mapping[tuple[str, int, str], OutcomeSums] = field(default_factory=dict)
    overflow: int = 0
    unknown: int = 0

    def of(self, metric: str, epoch: int, arm: str) -> OutcomeSums:
        """Of one metric, epoch and arm."""
        return self.outcomes.get((metric, epoch, arm), OutcomeSums())

    def reported(self, epoch: int, arm: str) -> int:
        """Units of which some outcome was told: as many were exposed at least, whoever has counted them."""
        return max((own.units for (_, *place), own in self.outcomes.items() if place == [epoch, arm]), default=0)

    def as_json(self) -> Json:
        """As an edge tells it."""
        return {
            "store": self.store,
            "sequence": self.sequence,
            "exposed": [[*place, units] for place, units in sorted(self.exposed.items())],
            "outcomes": [[*place, *own] for place, own in sorted(self.outcomes.items())],
            **{name: told for name in ATTEMPT_COUNTERS if (told := getattr(self, name))},
        }


def parse_sums(stored: Any) -> FeedbackSums:
    """What `as_json` gave; what it raises is `DAMAGED`."""
    if not isinstance(stored, Mapping):
        raise TypeError("no sums")
    store = stored["store"]
    if not isinstance(store, str) or len(store) > 64:
        raise TypeError("no id of a store")
    return FeedbackSums(
        store,
        parse_count(stored["sequence"]),
        {(parse_count(epoch), str(arm)): parse_count(units) for epoch, arm, units in stored["exposed"]},
        {
            (str(metric), parse_count(epoch), str(arm)): OutcomeSums(
                parse_count(units), parse_count(positive), _sum(total), parse_count(squares, _MOST_SUM)
            )
            for metric, epoch, arm, units, positive, total, squares in stored["outcomes"]
        },
        **{name: parse_count(stored.get(name, 0)) for name in ATTEMPT_COUNTERS},
    )


def _sum(value: Any) -> int:
    parse_count(abs(value), _MOST_SUM)
    return int(value)


def find_feedback_section(service: str, report: EdgeReport) -> Any:
    """What an edge tells of a service's feedback; None where it tells of none."""
    own = ((report.evidence or {}).get("services") or {}).get(service)
    return own.get("feedback") if isinstance(own, Mapping) else None


def update_sums(
    before: FeedbackSums, reports: Sequence[EdgeReport], wanted: FeedbackSelection
) -> tuple[FeedbackSums, tuple[str, str] | None]:
    """What is known with the reports of every edge; and (reason, message) of why it is not to be built on, None where it is."""
    found: list[FeedbackSums] = []
    missing: list[str] = []
    for report in reports:
        told, problem = _read(report, wanted)
        if told is None:
            missing.append(f"{report.pod} {problem}")
        else:
            found.append(told)
    pinned = {before.store} if before.sequence else set()
    stores = pinned | {each.store for each in found}
    known = max((before, *(each for each in found if not pinned or each.store in pinned)), key=_rank)
    if len(stores) > 1:
        told_ids = ", ".join(sorted(stores))
        message = (
            f"the edges tell of more than one store of outcomes ({told_ids}): what one has counted, the other has not"
        )
        return known, (FEEDBACK_STORE_REPLACED, message)
    if not found:
        return known, (FEEDBACK_UNAVAILABLE, "; ".join(missing[:_MOST_TOLD]) or "there is no edge")
    return known, None


def _rank(sums: FeedbackSums) -> tuple[int, bool]:
    # Of two that nothing has changed in, one that has an id.
    return sums.sequence, bool(sums.store)


def _read(report: EdgeReport, wanted: FeedbackSelection) -> tuple[FeedbackSums | None, str]:
    """The sums of one edge; without any, what keeps it from telling them."""
    if report.evidence is None:
        return None, "does not answer"
    section = find_feedback_section(wanted.service, report)
    if not isinstance(section, Mapping) or section.get("attempt") != wanted.attempt:
        return None, "tells of no feedback"
    if "error" in section:
        return None, f"has no outcomes: {' '.join(str(section['error']).split())[:200]}"
    try:
        return parse_sums({**section, **_only(section, wanted)}), ""
    except PARSE_ERRORS:
        return None, "tells of feedback what cannot be read"


def _only(section: Mapping[str, Any], wanted: FeedbackSelection) -> Json:
    """The rows that are asked for."""
    return {
        "exposed": [row for row in _rows(section, "exposed", 3) if row[0] in wanted.epochs and row[1] in wanted.arms],
        "outcomes": [
            row
            for row in _rows(section, "outcomes", 7)
            if row[0] in wanted.metrics and row[1] in wanted.epochs and row[2] in wanted.arms
        ],
    }


def _rows(section: Mapping[str, Any], name: str, width: int) -> Iterator[Sequence[Any]]:
    for row in list_or_empty(section[name]):
        if len(list_or_empty(row)) != width:
            raise ValueError(f"{name} has a row that is none")
        yield row
