"""What came of the requests that were mirrored, by service, attempt and epoch. Cumulative integers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from sundog_edge.counting import histogram

_SINGLE = ("sent", "dropped", "paired", "errors", "timeouts", "lost")

_HISTOGRAMS = ("slower", "faster", "stable", "candidate")


@dataclass(slots=True)
class MirrorCounts:
    """`sent` is paired + errors + timeouts + in flight + lost. All that was sampled is sent, dropped, skipped, or on its way to be.

    Attributes:
        sent: repeated at the candidate.
        dropped: not repeated, for the mirror was behind.
        skipped: not repeated, by why.
        paired: answered by the candidate with 200, as by stable.
        errors: answered by the candidate with anything else, or not at all: likewise where it has no replica any more.
        timeouts: not answered in time.
        lost: repeated by a mirror that ended before the answer came.
        in_flight: repeated, and not answered yet.
        verdicts: (agree, disagree, incomparable) of the pairs, by comparator.
        slower: pairs by how much longer the candidate took, a histogram of microseconds.
        faster: the others, by how much less long it took.
        stable: pairs by how long stable took, likewise.
        candidate: pairs by how long the candidate took, the mirror's own time included.
    """

    sent: int = 0
    dropped: int = 0
    paired: int = 0
    errors: int = 0
    timeouts: int = 0
    lost: int = 0
    in_flight: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, list[int]] = field(default_factory=dict)
    slower: list[int] = field(default_factory=list)
    faster: list[int] = field(default_factory=list)
    stable: list[int] = field(default_factory=list)
    candidate: list[int] = field(default_factory=list)

    @property
    def received(self) -> int:
        """Everything that the mirror was told of."""
        return self.sent + self.dropped + sum(self.skipped.values())

    def skip(self, why: str) -> None:
        """Count one that is not repeated."""
        self.skipped[why] = self.skipped.get(why, 0) + 1

    def compared(self, comparator: str, *, agree: bool | None) -> None:
        """Count one verdict; None is none, for stable's own answer is not what the comparator is for."""
        self.verdicts.setdefault(comparator, [0, 0, 0])[2 if agree is None else 0 if agree else 1] += 1

    def took(self, candidate_us: int, stable_us: int) -> None:
        """Count a pair, by how long each took."""
        self.paired += 1
        difference_us = candidate_us - stable_us
        histogram.add(self.candidate, histogram.find_bucket(candidate_us))
        histogram.add(self.stable, histogram.find_bucket(stable_us))
        histogram.add(self.slower if difference_us >= 0 else self.faster, histogram.find_bucket(abs(difference_us)))

    def add(self, other: "MirrorCounts") -> None:
        """Add another's counts in place. What is in flight is no count and stays."""
        for name in _SINGLE:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for why, count in other.skipped.items():
            self.skipped[why] = self.skipped.get(why, 0) + count
        for comparator, counted in other.verdicts.items():
            before = self.verdicts.get(comparator, [0, 0, 0])
            self.verdicts[comparator] = [one + another for one, another in zip(before, counted, strict=True)]
        for name in _HISTOGRAMS:
            histogram.merge(getattr(self, name), getattr(other, name))

    def ended(self) -> "MirrorCounts":
        """As they are when their mirror is gone: what was in flight is lost."""
        made = MirrorCounts(lost=self.in_flight)
        made.add(self)
        return made

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            **{name: getattr(self, name) for name in _SINGLE},
            "inFlight": self.in_flight,
            "skipped": self.skipped,
            "verdicts": self.verdicts,
            **{name: getattr(self, name) for name in _HISTOGRAMS},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The counts that `as_json` gave."""
        return cls(
            **{name: int(stored[name]) for name in _SINGLE},
            in_flight=int(stored["inFlight"]),
            skipped=dict(stored["skipped"]),
            verdicts={name: list(both) for name, both in stored["verdicts"].items()},
            slower=list(stored["slower"]),
            faster=list(stored["faster"]),
            # What an earlier version stored has none of these.
            stable=list(stored.get("stable", ())),
            candidate=list(stored.get("candidate", ())),
        )
