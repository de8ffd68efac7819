"""What edges have counted for one rollout: sums that outlive edges, their restarts and our own. Pure.

Edges count cumulatively, each process for itself. Of each the highest counts that it ever reported are kept; their sum is the evidence. How
events vary with time comes in blocks of ten seconds of arrival, which are added over edges before they are squared; a block is folded into
sums once its requests have ended, and not looked at again.
"""

import base64
import functools
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Self

from sundog_operator.core import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout import grouped
from sundog_operator.core.rollout.grouped import Grouped
from sundog_operator.core.rollout.reported import (
    DAMAGED,
    ERRORS,
    EVENTS,
    MOST,
    REJECTIONS,
    count,
    failed_and_refused,
    listed,
    places,
)

VERSION: Final = 1
BLOCK_S: Final = 10
LENGTHS: Final = (1, 3, 6)
"""Of the blocks whose sums are kept, in blocks of the edges."""

GRACE_S: Final = 5
"""Until a block is looked at after its end: for that long lines and reports are under way."""

_MOST_BEHIND_S: Final = 60
"""A clock that is further behind is wrong, and would hold up everything."""

_KEPT_BLOCKS: Final = 350
_MOST_SOURCES: Final = 64
_MOST_BYTES: Final = 4 << 20
_MOST_IN_A_BLOCK: Final = 10**8
"""So that sums of squares stay within 64 bits for any rollout."""

Json = dict[str, Any]


class Tally(NamedTuple):
    """Requests of one arm in one epoch, cumulative.

    Attributes:
        assigned: all of them.
        errors: those that failed, as `ERRORS` has it.
        slow: those that took long, answered or given up by the client.
        rejections: those that were refused or given up, as `REJECTIONS` has it.
        lost: those that have ended, nobody knows how.
        running: those that have not ended, when that was last told.
    """

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
        """The higher of each count; of what runs the newer, and of what is lost too: a request may turn out to run still, or to have ended.

        Who has forgotten assignments may have forgotten losses as well: of those the higher then.
        """
        lost = newer.lost if newer.assigned >= self.assigned else max(self.lost, newer.lost)
        return Tally(*map(max, self, newer))._replace(running=newer.running, lost=lost)

    def written_off(self) -> "Tally":
        """What runs is lost."""
        return self._replace(lost=self.lost + self.running, running=0)


Sums = tuple[int, int, int, int, int]
"""Σx, Σs, Σx², Σxs and Σs² over blocks, with x the candidate's events and s those of both arms."""

NOTHING: Final[Sums] = (0, 0, 0, 0, 0)
_NO_EVENTS: Final = ((0, 0),) * len(EVENTS)


@dataclass(frozen=True, slots=True)
class Dispersed:
    """Blocks of one length: how many are closed, for each kind of event the sums over them, and (x, s) of the one that is open.

    None is open until the first one that is seen as a whole: one whose begin is missing would vary for that alone.
    """

    closed: int = 0
    sums: tuple[Sums, ...] = (NOTHING,) * len(EVENTS)
    open: tuple[tuple[int, int], ...] = ()

    def take(self, events: Sequence[tuple[int, int]], *, closes: bool) -> "Dispersed":
        """Take in one block of ten seconds, with which a block of this length may be over."""
        if not self.open:
            return replace(self, open=_NO_EVENTS) if closes else self
        both = tuple((x + a, s + b) for (x, s), (a, b) in zip(self.open, events, strict=True))
        if not closes:
            return replace(self, open=both)
        sums = tuple(
            (a + x, b + s, c + x * x, d + x * s, e + s * s)
            for (a, b, c, d, e), (x, s) in zip(self.sums, both, strict=True)
        )
        return Dispersed(self.closed + 1, sums, _NO_EVENTS)


@dataclass(frozen=True, slots=True)
class Folded:
    """How one epoch's events vary with time: the next block to take in (Unix seconds by `BLOCK_S`), and the sums of each of `LENGTHS`."""

    following: int
    lengths: tuple[Dispersed, ...] = (Dispersed(),) * len(LENGTHS)


@dataclass(frozen=True, slots=True)
class Tallies:
    """What is known of one attempt. `sources` has for each process of an edge its tallies by epoch and arm, `groups` those by group."""

    attempt: str
    sources: Mapping[str, Mapping[tuple[int, str], Tally]] = field(default_factory=dict)
    folded: Mapping[int, Folded] = field(default_factory=dict)
    groups: grouped.Sources = field(default_factory=dict)

    def of(self, epoch: int, arm: str, present: Collection[str] = ()) -> Tally:
        """An arm's tally in an epoch over all sources; what runs at those that are not present is lost."""
        total = Tally()
        for source, rows in self.sources.items():
            own = rows.get((epoch, arm), Tally())
            total = total.plus(own if source in present else own.written_off())
        return total

    def pack(self) -> str:
        """For a status: `as_json` in short; empty where nothing was counted."""
        if not self.sources:
            return ""
        return base64.b64encode(zlib.compress(json.dumps(self.as_json(), separators=(",", ":")).encode(), 9)).decode()

    @classmethod
    def unpack(cls, text: str, attempt: str) -> "Tallies":
        """What `pack` gave; nothing counted yet where that is damaged, too large, or of another attempt."""
        try:
            plain = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
            return cls.from_json(json.loads(plain), attempt)
        except (ValueError, zlib.error, RecursionError):
            return cls(attempt)

    def as_json(self) -> Json:
        """What is known, as plain JSON."""
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
            **({"groups": grouped.as_json(self.groups)} if self.groups else {}),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None, attempt: str) -> "Tallies":
        """What `as_json` gave; nothing counted yet where that is missing, damaged, or of another attempt."""
        try:
            if not stored or stored["version"] != VERSION or stored["attempt"] != attempt:
                return cls(attempt)
            at = places(stored["columns"])
            sources = {
                source: dict(_row(key, counts, at) for key, counts in rows.items())
                for source, rows in stored["sources"].items()
            }
            folded = {int(epoch): _folded(each) for epoch, each in stored["epochs"].items()}
        except DAMAGED:
            return cls(attempt)
        return cls(attempt, sources, folded, grouped.from_json(stored.get("groups", {})))


def _row(key: str, counts: Sequence[int], at: Mapping[str, int]) -> tuple[tuple[int, str], Tally]:
    epoch, _, arm = key.partition("/")
    return (int(epoch), arm), Tally(*(count(counts[at[name]]) for name in Tally._fields))


def _folded(stored: Mapping[str, Any]) -> Folded:
    lengths = tuple(Dispersed(count(closed), _sums(sums), _open(open_)) for closed, sums, open_ in stored["lengths"])
    if len(lengths) != len(LENGTHS):
        raise ValueError(f"{len(lengths)} lengths of blocks instead of {len(LENGTHS)}")
    return Folded(count(stored["following"]), lengths)


def _sums(stored: Sequence[Sequence[int]]) -> tuple[Sums, ...]:
    return tuple(
        (count(a), count(b), count(c), count(d), count(e)) for _, (a, b, c, d, e) in zip(EVENTS, stored, strict=True)
    )


def _open(stored: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return () if not stored else tuple((count(x), count(s)) for _, (x, s) in zip(EVENTS, stored, strict=True))


def attempts_of(service: str, reports: Iterable[EdgeReport]) -> set[str]:
    """The attempts of a service that edges report anything of."""
    rows = (row for report in reports for row in listed((report.evidence or {}).get("counters")))
    return {str(row.get("attempt")) for row in rows if isinstance(row, Mapping) and row.get("service") == service}


def rows_of(attempt: str, reports: Iterable[EdgeReport]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(source, row) of each row of assigned requests that edges report of an attempt; what is no row is left out."""
    for report in reports:
        for row in listed((report.evidence or {}).get("counters")):
            if isinstance(row, Mapping) and row.get("attempt") == attempt and row.get("origin") == "assigned":
                yield f"{report.pod}/{row.get('boot')}", row


def counted_until(reports: Iterable[EdgeReport], now_s: float) -> float:
    """Until when every edge has counted, in Unix seconds: now, or what the clock of an edge says that is behind, by a minute at most."""
    clocks = [(report.evidence or {}).get("clock") for report in reports]
    behind = (each for each in clocks if isinstance(each, int | float) and each >= now_s - _MOST_BEHIND_S)
    return min((now_s, *behind))


def _key(row: Mapping[str, Any]) -> tuple[int, str]:
    """(epoch, arm) of a row; what it raises is `DAMAGED`."""
    arm = row["arm"]
    if not isinstance(arm, str):
        raise TypeError(f"{arm!r} is no arm")
    return count(row["epoch"]), arm


class BlockCounts(NamedTuple):
    """Requests of one arm that came in ten seconds: of each of `EVENTS` how many, how many have ended, and how many still run."""

    errors: int = 0
    slow: int = 0
    rejections: int = 0
    ended: int = 0
    running: int = 0

    def plus(self, other: Self) -> Self:
        """Both together."""
        return type(self)(*map(sum, zip(self, other, strict=True)))


@dataclass(slots=True)
class Block:
    """Ten seconds of one epoch over all edges, by arm."""

    arms: dict[str, BlockCounts] = field(default_factory=dict)

    def add(self, arm: str, counts: BlockCounts) -> None:
        """Add one row's."""
        self.arms[arm] = self.of(arm).plus(counts)

    def of(self, arm: str) -> BlockCounts:
        """One arm's."""
        return self.arms.get(arm, BlockCounts())

    @property
    def running(self) -> int:
        """How many of its requests still run."""
        return sum(counts.running for counts in self.arms.values())

    @property
    def events(self) -> list[tuple[int, int]]:
        """(x, s) of each kind of event."""
        stable, canary = self.of(names.STABLE), self.of(names.CANARY)
        return [(x, x + other) for x, other in zip(canary[: len(EVENTS)], stable, strict=False)]


Blocks = Mapping[int, Mapping[int, Block]]
"""By epoch and number, which is Unix seconds by `BLOCK_S`."""


def sum_of(arm: str, blocks: Iterable[Block]) -> BlockCounts:
    """An arm's requests in all of these blocks."""
    return functools.reduce(BlockCounts.plus, (block.of(arm) for block in blocks), BlockCounts())


@dataclass(frozen=True, slots=True)
class Look:
    """When and at what is looked.

    Attributes:
        epochs: those whose blocks are wanted.
        in_force: the epoch that requests are assigned to now.
        now_s: Unix seconds.
        timeout_s: after which a request that has not ended is not waited for.
    """

    epochs: Sequence[int]
    in_force: int
    now_s: float
    timeout_s: float


def take(before: Tallies, reports: Sequence[EdgeReport], blocks: Blocks, look: Look) -> Tallies:
    """What is known with the reports of every edge, and the blocks in them. What an edge reports and is no count is left out."""
    told: dict[str, dict[tuple[int, str], Tally]] = {}
    for source, row in rows_of(before.attempt, reports):
        own = told.setdefault(source, {})
        try:
            key, tally = _key(row), _tally(row)
        except DAMAGED:
            continue
        own[key] = own.get(key, Tally()).plus(tally)
    sources = {name: dict(rows) for name, rows in before.sources.items()}
    for source, rows in told.items():
        known = sources.setdefault(source, {})
        known.update({key: known.get(key, Tally()).seen_again(tally) for key, tally in rows.items()})
    silent = {report.pod for report in reports if report.evidence is None}
    present = {source for source in sources if source in told or source.partition("/")[0] in silent}
    known_groups, told_groups = (
        {source: {key: own for key, own in rows.items() if key[0] in look.epochs} for source, rows in each.items()}
        for each in (before.groups, groups_of(before.attempt, reports))
    )
    groups = grouped.take(known_groups, told_groups, present)
    return Tallies(before.attempt, _bounded(sources, present), _fold(before, reports, blocks, look), groups)


def groups_of(attempt: str, reports: Iterable[EdgeReport]) -> grouped.Sources:
    """Counts by group as edges report them. What is none is left out."""
    found: dict[str, dict[tuple[int, str], Grouped]] = {}
    for report in reports:
        at = grouped.columns_of(report.evidence)
        for source, row in rows_of(attempt, (report,) if at else ()):
            try:
                key, own = _key(row), grouped.of_row(row, at)
            except DAMAGED:
                continue
            rows = found.setdefault(source, {})
            rows[key] = grouped.plus(rows.get(key, grouped.NOTHING), own)
    return found


def ungrouped(attempt: str, reports: Iterable[EdgeReport]) -> list[str]:
    """The pods of edges that count requests of an attempt, and do not tell in which groups of units."""
    return sorted(
        {
            source.partition("/")[0]
            for report in reports
            if not grouped.columns_of(report.evidence)
            for source, _ in rows_of(attempt, (report,))
        }
    )


def _bounded(
    sources: dict[str, dict[tuple[int, str], Tally]], present: Collection[str]
) -> dict[str, dict[tuple[int, str], Tally]]:
    """Many processes that are gone are kept as one. None that may be heard of again: it would count twice."""
    absent = sorted(source for source in sources if source not in present and source != grouped.GONE)
    if len(sources) <= _MOST_SOURCES or not absent:
        return sources
    gone = sources.setdefault(grouped.GONE, {})
    for source in absent:
        for key, tally in sources.pop(source).items():
            gone[key] = gone.get(key, Tally()).plus(tally.written_off())
    return sources


def _tally(row: Mapping[str, Any]) -> Tally:
    def of(name: str) -> int:
        return count(row.get(name, 0), MOST)

    errors, rejections = failed_and_refused(row.get("ends", {}))
    return Tally(
        assigned=of("assigned"),
        errors=errors,
        slow=of("slow"),
        rejections=rejections,
        lost=of("lost"),
        running=of("inFlight"),
    )


def blocks_of(attempt: str, reports: Sequence[EdgeReport]) -> Blocks:
    """Blocks by epoch and number, added over edges. What is no block is left out."""
    found: dict[int, dict[int, Block]] = {}
    for report in reports:
        at = _block_columns(report)
        for _, row in rows_of(attempt, (report,)):
            for counts in listed(row.get("blocks")):
                try:
                    (epoch, arm), start = _key(row), count(counts[at["start"]])
                    told = _block_counts(counts, at)
                except DAMAGED:
                    continue
                found.setdefault(epoch, {}).setdefault(start // BLOCK_S, Block()).add(arm, told)
    return found


def _block_columns(report: EdgeReport) -> Mapping[str, int]:
    try:
        return places((report.evidence or {})["blocks"]["columns"])
    except DAMAGED:
        return {}


def _block_counts(counts: Sequence[Any], at: Mapping[str, int]) -> BlockCounts:
    def of(*columns: str) -> int:
        return sum(count(counts[at[name]], _MOST_IN_A_BLOCK) for name in columns)

    errors, rejections = of(*ERRORS), of(*REJECTIONS)
    return BlockCounts(errors, of("slow"), rejections, errors + rejections + of("ok"), of("inFlight"))


def _fold(before: Tallies, reports: Sequence[EdgeReport], blocks: Blocks, look: Look) -> Mapping[int, Folded]:
    folded = dict(before.folded)
    if silent(before, reports):
        # What an edge has counted and does not tell belongs into the same blocks as what the others have. One that leaves may never tell.
        return folded
    for epoch in look.epochs:
        own = blocks.get(epoch, {})
        if epoch not in folded and not own:
            continue
        known = folded.get(epoch) or Folded(min(own))
        # Of the last block of an epoch that is over only the beginning is its own.
        last = int(look.now_s) // BLOCK_S if epoch == look.in_force else max(own, default=known.following)
        folded[epoch] = _fold_epoch(known, own, last, look)
    return folded


def silent(known: Tallies, reports: Iterable[EdgeReport]) -> list[str]:
    """The pods of edges that have counted something and do not tell it."""
    return sorted(report.pod for report in reports if not _block_columns(report) and _has_counted(known, report))


def _has_counted(before: Tallies, report: EdgeReport) -> bool:
    """Whether an edge that tells nothing now will have something to tell. One whose agent starts anew is not ready, but told before."""
    known = any(source.partition("/")[0] == report.pod for source in before.sources)
    return (report.ready or known) and not report.terminating


def _fold_epoch(known: Folded, blocks: Mapping[int, Block], end: int, look: Look) -> Folded:
    """Take in the blocks before `end` that are over, in order."""
    following, lengths = known.following, known.lengths
    if following < end - _KEPT_BLOCKS:
        # Edges have forgotten the blocks between: what is open would be closed with others than its own.
        following = end - _KEPT_BLOCKS
        lengths = tuple(Dispersed(own.closed, own.sums) for own in lengths)
    while following < end:
        block, over_s = blocks.get(following, Block()), (following + 1) * BLOCK_S + GRACE_S
        if look.now_s < over_s or (block.running and look.now_s < over_s + look.timeout_s):
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
        try:
            key, late = _key(row), _late(row, now_s - BLOCK_S - GRACE_S - timeout_s)
        except DAMAGED:
            continue
        if late:
            found[key] = found.get(key, 0) + late
    return found


def _late(row: Mapping[str, Any], before_s: float) -> int:
    told = [(count(start), count(running, MOST)) for start, running in listed(row.get("inFlightSince"))]
    return sum(running for start, running in told if start < before_s)
