"""First exposures: the arm of each unit's first request, from samples that all edges draw by the same hash. Pure.

The hash of a unit alone decides whether it is in a sample. So samples of several edges merge into one: take the units that are in the range
of all samples, and the earliest request of each.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sundog_operator.core.edge.reported_counts import PARSE_ERRORS, list_or_empty, parse_count
from sundog_operator.core.observed import EdgeReport

_HASH_RANGE: Final = 1 << 64

FirstRequest = tuple[int, int, str]
"""(Unix microseconds, epoch, arm) of a request."""


def count_first_exposures(attempt: str, reports: Iterable[EdgeReport], before_s: float) -> dict[tuple[int, str], int]:
    """Return how many units had their first request in each (epoch, arm), before an instant (Unix seconds).

    Later first requests are left out. A unit appears only after a request has ended, so units with slow or hanging requests would be
    missing in one arm.
    """
    return sample_first_exposures(attempt, reports, before_s)[1]


def sample_first_exposures(
    attempt: str, reports: Iterable[EdgeReport], before_s: float
) -> tuple[float, dict[tuple[int, str], int]]:
    """Return the sampled share of all units, and their counts as in `count_first_exposures`; 0 and {} if no edge has a sample."""
    samples = [_sample(each) for report in reports for each in _documents(report) if each.get("attempt") == attempt]
    valid = [each for each in samples if each is not None]
    least = min((tau for tau, _ in valid), default=0)
    earliest: dict[int, FirstRequest] = {}
    for _, units in valid:
        for number, moment in units.items():
            if number < least:
                earliest[number] = min(earliest.get(number, moment), moment)
    found: dict[tuple[int, str], int] = {}
    for at_us, epoch, arm in earliest.values():
        if at_us < before_s * 1e6:
            found[epoch, arm] = found.get((epoch, arm), 0) + 1
    return least / _HASH_RANGE, found


def _documents(report: EdgeReport) -> Iterable[Mapping[str, Any]]:
    return (each for each in list_or_empty((report.evidence or {}).get("units")) if isinstance(each, Mapping))


def _sample(document: Mapping[str, Any]) -> tuple[int, dict[int, FirstRequest]] | None:
    """Return (τ, first request by hash); None if the document is not a sample."""
    try:
        tau = parse_count(int(document["tau"], 16), _HASH_RANGE + 1)
        return tau, {int(number, 16): _first_request(*moment) for number, moment, *_ in document["units"]}
    except PARSE_ERRORS:
        return None


def _first_request(at_us: Any, epoch: Any, arm: Any) -> FirstRequest:
    if not isinstance(arm, str):
        raise TypeError(f"{arm!r} is not an arm name")
    return parse_count(at_us), parse_count(epoch), arm
