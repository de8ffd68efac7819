"""To which arm units fell at their first request, out of the samples that edges draw by the same hash. Pure.

Whoever is in a sample is decided by his hash alone, so samples of several edges are one: of what all of them look at, the earliest of each.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sundog_operator.core.edge.reported_counts import PARSE_ERRORS, list_or_empty, parse_count
from sundog_operator.core.observed import EdgeReport

_WHOLE: Final = 1 << 64

FirstRequest = tuple[int, int, str]
"""(Unix microseconds, epoch, arm) of a request."""


def count_first_exposures(attempt: str, reports: Iterable[EdgeReport], before_s: float) -> dict[tuple[int, str], int]:
    """Units of an attempt by the epoch and arm of their first request, as far as that came before an instant (Unix seconds).

    Later ones are left out because a unit is known by a request that has ended: what takes long or hangs in one arm would be missing there.
    """
    return sample_first_exposures(attempt, reports, before_s)[1]


def sample_first_exposures(
    attempt: str, reports: Iterable[EdgeReport], before_s: float
) -> tuple[float, dict[tuple[int, str], int]]:
    """The share of all units that is looked at, and of those what `first` tells; 0 and nothing where no edge has a sample."""
    samples = [_sample(each) for report in reports for each in _documents(report) if each.get("attempt") == attempt]
    told = [each for each in samples if each is not None]
    least = min((tau for tau, _ in told), default=0)
    earliest: dict[int, FirstRequest] = {}
    for _, units in told:
        for number, moment in units.items():
            if number < least:
                earliest[number] = min(earliest.get(number, moment), moment)
    found: dict[tuple[int, str], int] = {}
    for at_us, epoch, arm in earliest.values():
        if at_us < before_s * 1e6:
            found[epoch, arm] = found.get((epoch, arm), 0) + 1
    return least / _WHOLE, found


def _documents(report: EdgeReport) -> Iterable[Mapping[str, Any]]:
    return (each for each in list_or_empty((report.evidence or {}).get("units")) if isinstance(each, Mapping))


def _sample(told: Mapping[str, Any]) -> tuple[int, dict[int, FirstRequest]] | None:
    """(τ, first request by hash); None for what is no sample."""
    try:
        tau = parse_count(int(told["tau"], 16), _WHOLE + 1)
        return tau, {int(number, 16): _moment(*moment) for number, moment, *_ in told["units"]}
    except PARSE_ERRORS:
        return None


def _moment(at_us: Any, epoch: Any, arm: Any) -> FirstRequest:
    if not isinstance(arm, str):
        raise TypeError(f"{arm!r} is no arm")
    return parse_count(at_us), parse_count(epoch), arm
