"""What edges have counted for one rollout: sums that outlive edges, their restarts and our own. Pure.

Edges count cumulatively, each process for itself. Of each the highest counts that it ever reported are kept; their sum is the evidence. How
events vary with time comes in blocks of ten seconds of arrival, which are added over edges before they are squared; a block is folded into
sums once its requests have ended, and not looked at again.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from sundog_operator.core import names
from sundog_operator.core.observed import EdgeReport

VERSION: Final = 1
BLOCK_S: Final = 10
LENGTHS: Final = (1, 3, 6)
"""Of the blocks whose sums are kept, in blocks of the edges."""

ERRORS: Final = ("server5xx", "edge5xx", "timeout", "truncated", "invalid")
REJECTIONS: Final = ("client4xx", "throttled", "abortBefore", "abortDuring")
EVENTS: Final = ("errors", "slow", "rejections")
"""What is told apart. Errors are slow too: who fails at once has not answered in time."""

_NONE: Final = (0, 0, 0, 0, 0)
GRACE_S: Final = 5
"""Until a block is looked at after its end: for that long lines and reports are under way."""

_KEPT_BLOCKS: Final = 350
_MOST_SOURCES: Final = 64
_GONE: Final = "gone"

Json = dict[str, Any]


class Tally(NamedTuple):
    """Of one arm in one epoch: requests assigned, events among them, those whose end is not known, and those that run."""

    assigned: int = 0
    errors: int = 0
    slow: int = 0
    rejections: int = 0
    lost: int = 0
    running: int = 0

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(*map(sum, zip(self, other, strict=True)))

    def seen_again(self, newer: "Tally") -> "Tally":
        """The higher of each count; of what runs the newer."""
        return Tally(*map(max, self, newer))._replace(running=newer.running)

    def written_off(self) -> "Tally":
        """What runs is lost."""
        return self._replace(lost=self.lost + self.running, running=0)


Sums = tuple[int, int, int, int, int]
"""Σx, Σs, Σx², Σxs and Σs² over blocks, with x the candidate's events and s those of both arms."""

NOTHING: Final[Sums] = (0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Dispersed:
    """Blocks of one length: how many are closed, for each kind of event the sums over them, and (x, s) of the one that is open."""

    closed: int = 0
    sums: tuple[Sums, ...] = (NOTHING,) * len(EVENTS)
    open: tuple[tuple[int, int], ...] = ((0, 0),) * len(EVENTS)

    def take(self, events: Sequence[tuple[int, int]], *, closes: bool) -> "Dispersed":
        """Take in one block of ten seconds, with which a block of this length may be over."""
        both = tuple((x + a, s + b) for (x, s), (a, b) in zip(self.open, events, strict=True))
        if not closes:
            return replace(self, open=both)
        sums = tuple(
            (a + x, b + s, c + x * x, d + x * s, e + s * s)
            for (a, b, c, d, e), (x, s) in zip(self.sums, both, strict=True)
        )
        return Dispersed(self.closed + 1, sums)


@dataclass(frozen=True, slots=True)
class Folded:
    """How one epoch's events vary with time: the next block to take in (Unix seconds by `BLOCK_S`), and the sums of each of `LENGTHS`."""

    following: int
    lengths: tuple[Dispersed, ...] = (Dispersed(),) * len(LENGTHS)


@dataclass(frozen=True, slots=True)
class Tallies:
    """What is known of one attempt. `sources` has for each process of an edge its tallies by epoch and arm."""

    attempt: str
    sources: Mapping[str, Mapping[tuple[int, str], Tally]] = field(default_factory=dict)
    folded: Mapping[int, Folded] = field(default_factory=dict)

    def of(self, epoch: int, arm: str, present: Collection[str] = ()) -> Tally:
        """An arm's tally in an epoch over all sources; what runs at those that are not present is lost."""
        total = Tally()
        for source, rows in self.sources.items():
            own = rows.get((epoch, arm), Tally())
            total = total.plus(own if source in present else own.written_off())
        return total

    def as_json(self) -> Json:
        """For the ConfigMap."""
        return {
            "version": VERSION,
            "attempt": self.attempt,
            "columns": list(Tally._fields),
            "sources": {
                source: {f"{epoch}/{arm}": list(tally) for (epoch, arm), tally in sorted(rows.items())}
                for source, rows in sorted(self.sources.items())
            },
            "epochs": {
                str(epoch): {
                    "following": each.following,
                    "lengths": [
                        [own.closed, list(map(list, own.sums)), list(map(list, own.open))] for own in each.lengths
                    ],
                }
                for epoch, each in sorted(self.folded.items())
            },
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None, attempt: str) -> "Tallies":
        """What `as_json` gave; nothing counted yet where that is missing, damaged, or of another attempt."""
        try:
            if not stored or stored["version"] != VERSION or stored["attempt"] != attempt:
                return cls(attempt)
            sources = {source: dict(map(_row, rows.items())) for source, rows in stored["sources"].items()}
            folded = {int(epoch): _folded(each) for epoch, each in stored["epochs"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls(attempt)
        return cls(attempt, sources, folded)


def _row(item: tuple[str, Sequence[int]]) -> tuple[tuple[int, str], Tally]:
    epoch, _, arm = item[0].partition("/")
    return (int(epoch), arm), Tally(*map(int, item[1]))


def _folded(stored: Mapping[str, Any]) -> Folded:
    lengths = tuple(
        Dispersed(int(closed), tuple((a, b, c, d, e) for a, b, c, d, e in sums), tuple((x, s) for x, s in open_))
        for closed, sums, open_ in stored["lengths"]
    )
    if [len(each.sums) for each in lengths] != [len(EVENTS)] * len(LENGTHS):
        raise ValueError("of another shape")
    return Folded(int(stored["following"]), lengths)


def rows_of(attempt: str, reports: Iterable[EdgeReport]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(source, row) of each row of assigned requests that edges report of an attempt."""
    for report in reports:
        for row in (report.evidence or {}).get("counters", ()):
            if row.get("attempt") == attempt and row.get("origin") == "assigned":
                yield f"{report.pod}/{row.get('boot')}", row


def take(
    before: Tallies, reports: Sequence[EdgeReport], epochs: Sequence[int], now_s: float, timeout_s: float
) -> Tallies:
    """What is known with these reports.

    Args:
        before: what was known.
        reports: of every edge, with blocks.
        epochs: those whose blocks are wanted, the newest last; it is the one in force.
        now_s: Unix seconds.
        timeout_s: after which a request that has not ended is not waited for.
    """
    told: dict[str, dict[tuple[int, str], Tally]] = {}
    for source, row in rows_of(before.attempt, reports):
        own, key = told.setdefault(source, {}), (int(row["epoch"]), str(row["arm"]))
        own[key] = own.get(key, Tally()).plus(_tally(row))
    sources = {name: dict(rows) for name, rows in before.sources.items()}
    for source, rows in told.items():
        known = sources.setdefault(source, {})
        known.update({key: known.get(key, Tally()).seen_again(tally) for key, tally in rows.items()})
    return Tallies(before.attempt, _bounded(sources, told), _fold(before, reports, epochs, now_s, timeout_s))


def _bounded(
    sources: dict[str, dict[tuple[int, str], Tally]], present: Collection[str]
) -> dict[str, dict[tuple[int, str], Tally]]:
    """Many processes that are gone are kept as one."""
    absent = sorted(source for source in sources if source not in present and source != _GONE)
    if len(sources) <= _MOST_SOURCES or not absent:
        return sources
    gone = sources.setdefault(_GONE, {})
    for source in absent:
        for key, tally in sources.pop(source).items():
            gone[key] = gone.get(key, Tally()).plus(tally.written_off())
    return sources


def _tally(row: Mapping[str, Any]) -> Tally:
    ends = row.get("ends", {})
    errors = sum(int(ends.get(end, 0)) for end in ERRORS)
    return Tally(
        assigned=int(row.get("assigned", 0)),
        errors=errors,
        slow=errors + int(row.get("slow", 0)),
        rejections=sum(int(ends.get(end, 0)) for end in REJECTIONS),
        lost=int(row.get("lost", 0)),
        running=int(row.get("inFlight", 0)),
    )


BlockCounts = tuple[int, int, int, int, int]


@dataclass(slots=True)
class Block:
    """Ten seconds of one epoch over all edges: (errors, slow, rejections, ended, still running) by arm."""

    arms: dict[str, BlockCounts] = field(default_factory=dict)

    def add(self, arm: str, counts: BlockCounts) -> None:
        """Add one row's."""
        errors, slow, rejections, ended, running = map(sum, zip(self.of(arm), counts, strict=True))
        self.arms[arm] = (errors, slow, rejections, ended, running)

    def of(self, arm: str) -> BlockCounts:
        """One arm's."""
        return self.arms.get(arm, _NONE)

    @property
    def running(self) -> int:
        """How many of its requests still run."""
        return sum(counts[-1] for counts in self.arms.values())

    @property
    def events(self) -> list[tuple[int, int]]:
        """(x, s) of each kind of event."""
        stable, canary = self.of(names.STABLE), self.of(names.CANARY)
        return [(x, x + other) for x, other in zip(canary[:3], stable[:3], strict=True)]


def blocks_of(attempt: str, reports: Sequence[EdgeReport]) -> dict[int, dict[int, Block]]:
    """Blocks by epoch and number, added over edges."""
    found: dict[int, dict[int, Block]] = {}
    for report in reports:
        columns = ((report.evidence or {}).get("blocks") or {}).get("columns")
        if not columns:
            continue
        at = {name: index for index, name in enumerate(columns)}
        for _, row in rows_of(attempt, (report,)):
            own = found.setdefault(int(row["epoch"]), {})
            for counts in row.get("blocks", ()):
                block = own.setdefault(int(counts[0]) // BLOCK_S, Block())
                block.add(str(row["arm"]), _block_counts(counts, at))
    return found


def _block_counts(counts: Sequence[int], at: Mapping[str, int]) -> BlockCounts:
    errors = sum(counts[at[end]] for end in ERRORS)
    rejections = sum(counts[at[end]] for end in REJECTIONS)
    return (
        errors,
        errors + counts[at["slow"]],
        rejections,
        errors + rejections + counts[at["ok"]],
        counts[at["inFlight"]],
    )


def _fold(
    before: Tallies, reports: Sequence[EdgeReport], epochs: Sequence[int], now_s: float, timeout_s: float
) -> Mapping[int, Folded]:
    folded = dict(before.folded)
    if any(report.ready and report.evidence is None for report in reports):
        # What a silent edge has counted belongs into the same blocks as what the others have.
        return folded
    blocks = blocks_of(before.attempt, reports)
    for epoch in epochs:
        own = blocks.get(epoch, {})
        if epoch not in folded and not own:
            continue
        known = folded.get(epoch) or Folded(min(own))
        last = int(now_s) // BLOCK_S if epoch == epochs[-1] else max(own, default=known.following - 1) + 1
        folded[epoch] = _fold_epoch(known, own, last, now_s, timeout_s)
    return folded


def _fold_epoch(known: Folded, blocks: Mapping[int, Block], end: int, now_s: float, timeout_s: float) -> Folded:
    """Take in the blocks before `end` that are over, in order."""
    following, lengths = max(known.following, end - _KEPT_BLOCKS), known.lengths
    while following < end:
        block, over_s = blocks.get(following, Block()), (following + 1) * BLOCK_S + GRACE_S
        if now_s < over_s or (block.running and now_s < over_s + timeout_s):
            break
        following += 1
        lengths = tuple(
            own.take(block.events, closes=following % length == 0) for own, length in zip(lengths, LENGTHS, strict=True)
        )
    return Folded(following, lengths)


def overdue(attempt: str, reports: Iterable[EdgeReport], now_s: float, timeout_s: float) -> dict[tuple[int, str], int]:
    """Requests by epoch and arm that run although their time is over."""
    found: dict[tuple[int, str], int] = {}
    for _, row in rows_of(attempt, reports):
        late = sum(
            int(count) for start, count in row.get("inFlightSince", ()) if start + BLOCK_S + GRACE_S + timeout_s < now_s
        )
        if late:
            key = int(row["epoch"]), str(row["arm"])
            found[key] = found.get(key, 0) + late
    return found
