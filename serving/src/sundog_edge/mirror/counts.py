"""Counts of mirrored requests by service, attempt and epoch: cumulative integers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from sundog_edge.counting import histogram

_SCALARS = ("sent", "dropped", "paired", "errors", "timeouts", "lost")

_HISTOGRAMS = ("slower", "faster", "stable", "candidate")


@dataclass(slots=True)
class MirrorCounts:
    """Counts of one key. `sent` is paired + errors + timeouts + in flight + lost.

    Every sampled request is sent, dropped or skipped, or still waits.

    Attributes:
        sent: repeated at the candidate.
        dropped: not repeated, because the mirror was too slow.
        skipped: not repeated, by reason.
        paired: answered with 200 by the candidate and by stable.
        errors: answered with another status by the candidate, or not at all, or without a replica.
        timeouts: not answered in time.
        lost: repeated by a mirror that ended before the answer.
        in_flight: repeated, and not answered yet.
        verdicts: (agree, disagree, incomparable) of the pairs, by comparator.
        slower: histogram of pairs by the candidate's additional time, in microseconds.
        faster: histogram of the other pairs by the candidate's saved time.
        stable: histogram of pairs by stable's time.
        candidate: histogram of pairs by the candidate's time, including the mirror's own time.
    """

    sent: int = 0
    dropped: int = 0
    paired: int = 0
    errors: int = 0
    timeouts: int = 0
    lost: int = 0
    in_flight: Annotated[int, Field(alias="inFlight")] = 0
    skipped: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, list[int]] = field(default_factory=dict)
    slower: list[int] = field(default_factory=list)
    faster: list[int] = field(default_factory=list)
    stable: list[int] = field(default_factory=list)
    candidate: list[int] = field(default_factory=list)

    @property
    def received(self) -> int:
        """Number of requests that reached the mirror."""
        return self.sent + self.dropped + sum(self.skipped.values())

    def skip(self, reason: str) -> None:
        """Count a request that is not repeated."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def add_verdict(self, comparator: str, *, agree: bool | None) -> None:
        """Count one verdict; None if the comparator does not apply to stable's answer."""
        self.verdicts.setdefault(comparator, [0, 0, 0])[2 if agree is None else 0 if agree else 1] += 1

    def add_pair(self, candidate_us: int, stable_us: int) -> None:
        """Count a pair with both durations."""
        self.paired += 1
        difference_us = candidate_us - stable_us
        histogram.add(self.candidate, histogram.find_bucket(candidate_us))
        histogram.add(self.stable, histogram.find_bucket(stable_us))
        histogram.add(self.slower if difference_us >= 0 else self.faster, histogram.find_bucket(abs(difference_us)))

    def add(self, other: "MirrorCounts") -> None:
        """Add other counts in place. `in_flight` is not cumulative and stays."""
        for name in _SCALARS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + count
        for comparator, counted in other.verdicts.items():
            before = self.verdicts.get(comparator, [0, 0, 0])
            self.verdicts[comparator] = [one + another for one, another in zip(before, counted, strict=True)]
        for name in _HISTOGRAMS:
            histogram.merge(getattr(self, name), getattr(other, name))

    def as_ended(self) -> "MirrorCounts":
        """Return the counts after the end of their mirror: requests in flight are lost."""
        ended = MirrorCounts(lost=self.in_flight)
        ended.add(self)
        return ended

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON."""
        plain: dict[str, Any] = _COUNTS.dump_python(self, by_alias=True)
        return plain

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "MirrorCounts":
        """Return the counts that `as_json` gave. An earlier version did not store `stable` and `candidate`."""
        return _COUNTS.validate_python(stored)


_COUNTS = TypeAdapter(MirrorCounts)
