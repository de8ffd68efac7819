"""What edges have counted for one rollout: sums that outlive edges, their restarts and our own. Pure.

Edges count cumulatively, each process for itself. Of each the highest counts that it ever reported are kept; their sum is the evidence. How
events vary with time comes in blocks of ten seconds of arrival, which are added over edges before they are squared; a block is folded into
sums once its requests have ended, and not looked at again.

Verdicts are reached by what lies in blocks: if events counted earlier than blocks, a burst would be judged before its dispersion is known.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Self

from sundog_operator.api import ArmStatus
from sundog_operator.core.analysis import feedback as analysis_feedback
from sundog_operator.core.analysis import packed_json, unit_groups
from sundog_operator.core.analysis.feedback import FeedbackSums as FeedbackSums
from sundog_operator.core.analysis.unit_groups import GroupCounts
from sundog_operator.core.edge.reported_counts import (
    ERRORS,
    EVENTS,
    FIRST_ATTEMPT_FAILED,
    LEGACY_EVENT_COUNT,
    MAX_COUNT,
    PARSE_ERRORS,
    REJECTIONS,
    SINGLE_LATENCY_EVENT_COUNT,
    SLOW,
    column_indexes,
    count_errors_and_rejections,
    list_or_empty,
    parse_count,
    parse_failed_first_attempts,
)
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport

FORMAT_VERSION: Final = 1
BLOCK_S: Final = 10
BLOCK_LENGTHS: Final = (1, 3, 6)
"""Of the blocks whose sums are kept, in blocks of the edges."""

GRACE_S: Final = 5
"""Until a block is looked at after its end: for that long lines and reports are under way."""

_MOST_BEHIND_S: Final = 60
"""A clock that is further behind is wrong, and would hold up everything."""

_KEPT_BLOCKS: Final = 350
_MOST_SOURCES: Final = 64
_MOST_BYTES: Final = 4 << 20
MAX_PACKED_CHARS: Final = 524_288
"""Characters that a status has room for."""

_LATER_COLUMNS: Final = ("retried", *SLOW[1:])
"""What may be missing in what was stored before it was counted."""

_MOST_IN_A_BLOCK: Final = 10**8
"""So that sums of squares stay within 64 bits for any rollout."""

Json = dict[str, Any]


class ArmCounts(NamedTuple):
    """Requests of one arm in one epoch, cumulative.

    Attributes:
        assigned: all of them.
        errors: those that failed, as `ERRORS` has it.
        slow: those that took long by the first latency of the plan, answered or given up by the client.
        rejections: those that were refused or given up, as `REJECTIONS` has it.
        retried: those whose first replica did not answer, whatever became of them.
        lost: those that have ended, nobody knows how.
        running: those that have not ended, when that was last told.
        slow2: those that took long by its second latency.
        slow3: those that took long by its third.
    """

    assigned: int = 0
    errors: int = 0
    slow: int = 0
    rejections: int = 0
    retried: int = 0
    lost: int = 0
    running: int = 0
    slow2: int = 0
    slow3: int = 0

    def plus(self, other: "ArmCounts") -> "ArmCounts":
        """Both together."""
        return ArmCounts(*map(sum, zip(self, other, strict=True)))

    def merge_newer(self, newer: "ArmCounts") -> "ArmCounts":
        """The higher of each count; of what runs the newer, and of what is lost too: a request may turn out to run still, or to have ended.

        Who has forgotten assignments may have forgotten losses as well: of those the higher then.
        """
        lost = newer.lost if newer.assigned >= self.assigned else max(self.lost, newer.lost)
        return ArmCounts(*map(max, self, newer))._replace(running=newer.running, lost=lost)

    def written_off(self) -> "ArmCounts":
        """What runs is lost."""
        return self._replace(lost=self.lost + self.running, running=0)


BlockSums = tuple[int, int, int, int, int]
"""Σx, Σs, Σx², Σxs and Σs² over blocks, with x the candidate's events and s those of both arms."""

ZERO_SUMS: Final[BlockSums] = (0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class DispersionSums:
    """Blocks of one length: how many are closed, for each kind of event the sums over them, and (x, s) of the one that is open.

    Of several arms that are compared with control those of the first come first. None is open until the first one that is seen as a
    whole: one whose begin is missing would vary for that alone.
    """

    closed: int = 0
    sums: tuple[BlockSums, ...] = (ZERO_SUMS,) * len(EVENTS)
    open: tuple[tuple[int, int], ...] = ()

    def take(self, events: Sequence[tuple[int, int]], *, closes: bool) -> "DispersionSums":
        """Take in one block of ten seconds, with which a block of this length may be over."""
        nothing = ((0, 0),) * len(events)
        if not self.open:
            return replace(self, open=nothing) if closes else self
        both = tuple((x + a, s + b) for (x, s), (a, b) in zip(self.open, events, strict=True))
        if not closes:
            return replace(self, open=both)
        sums = tuple(
            (a + x, b + s, c + x * x, d + x * s, e + s * s)
            for (a, b, c, d, e), (x, s) in zip(self.sums, both, strict=True)
        )
        return DispersionSums(self.closed + 1, sums, nothing)

    def of(self, kind: int, arm: int = 0) -> BlockSums:
        """The sums of one of `EVENTS`, of one of the arms."""
        place = arm * len(EVENTS) + kind
        return self.sums[place] if place < len(self.sums) else ZERO_SUMS


@dataclass(frozen=True, slots=True)
class EpochBlocks:
    """What lies in the blocks of one epoch: what is judged of it.

    Attributes:
        following: the next block to take in, Unix seconds by `BLOCK_S`.
        lengths: the sums of each of `LENGTHS`.
        requests: how many requests came in the blocks that the shortest length has, of control and of each arm beside it.
    """

    following: int
    lengths: tuple[DispersionSums, ...] = (DispersionSums(),) * len(BLOCK_LENGTHS)
    requests: tuple[int, ...] = (0, 0)

    @classmethod
    def begun(cls, following: int, arms: int) -> "EpochBlocks":
        """With nothing taken in yet, of so many arms beside control."""
        return cls(
            following,
            (DispersionSums(sums=(ZERO_SUMS,) * (arms * len(EVENTS))),) * len(BLOCK_LENGTHS),
            (0,) * (1 + arms),
        )

    @property
    def closed(self) -> int:
        """How many blocks of ten seconds are in it, each seen as a whole."""
        return self.lengths[0].closed

    def counts(self, arm: int = 0) -> tuple[ArmCounts, ArmCounts]:
        """(control's, the arm's) requests and events in those blocks."""
        sums = [self.lengths[0].of(kind, arm) for kind in range(len(EVENTS))]
        own = {event: x for event, (x, *_) in zip(EVENTS, sums, strict=True)}
        control = {event: s - x for event, (x, s, *_) in zip(EVENTS, sums, strict=True)}
        requests = self.requests[1 + arm] if 1 + arm < len(self.requests) else 0
        return ArmCounts(assigned=self.requests[0], **control), ArmCounts(assigned=requests, **own)

    def take(self, block: "Block", control: str, arms: Sequence[str]) -> "EpochBlocks":
        """Take in the next block."""
        following, events = self.following + 1, block.events(control, arms)
        lengths = tuple(
            own.take(events, closes=following % length == 0)
            for own, length in zip(self.lengths, BLOCK_LENGTHS, strict=True)
        )
        if lengths[0].closed == self.closed:
            return EpochBlocks(following, lengths, self.requests)
        came = (block.of(arm).requests for arm in (control, *arms))
        return EpochBlocks(following, lengths, tuple(map(sum, zip(self.requests, came, strict=True))))


@dataclass(frozen=True, slots=True)
class Counters:
    """What is known of one attempt.

    Attributes:
        attempt: its UID.
        sources: for each process of an edge its tallies by epoch and arm.
        folded: by epoch, the blocks whose requests have ended.
        over: the same with those whose ten seconds are over although requests still run: for what cannot wait. It is made anew at every
            look, and not stored.
        groups: tallies by group.
        feedback: what was told of outcomes.
    """

    attempt: str
    sources: Mapping[str, Mapping[tuple[int, str], ArmCounts]] = field(default_factory=dict)
    folded: Mapping[int, EpochBlocks] = field(default_factory=dict)
    over: Mapping[int, EpochBlocks] = field(default_factory=dict, compare=False)
    groups: unit_groups.GroupsBySource = field(default_factory=dict)
    feedback: FeedbackSums = field(default_factory=FeedbackSums)

    def of(self, epoch: int, arm: str, present: Collection[str] = ()) -> ArmCounts:
        """An arm's tally in an epoch over all sources; what runs at those that are not present is lost."""
        total = ArmCounts()
        for source, rows in self.sources.items():
            own = rows.get((epoch, arm), ArmCounts())
            total = total.plus(own if source in present else own.written_off())
        return total

    def over_epochs(self, arm: str) -> ArmCounts:
        """An arm's tally over all sources and epochs, those that are no evidence too."""
        rows = (tally for own in self.sources.values() for (_, name), tally in own.items() if name == arm)
        return functools.reduce(ArmCounts.plus, rows, ArmCounts())

    def pack(self) -> str:
        """For a status: `as_json` in short; empty where nothing was counted.

        Where that is too long, or more than is unpacked again, the groups of the oldest epochs are left out: what is in no group is
        taken for one unit's.
        """
        if not self.sources and not self.feedback.store:
            return ""
        written, epochs = (
            packed_json.encode_json(self.as_json()),
            [epoch for rows in self.groups.values() for epoch, _ in rows],
        )
        packed = packed_json.compress(written)
        if not epochs or (len(packed) <= MAX_PACKED_CHARS and len(written) <= _MOST_BYTES):
            return packed
        oldest = min(epochs)
        groups = {
            source: {key: own for key, own in rows.items() if key[0] > oldest} for source, rows in self.groups.items()
        }
        return replace(self, groups=groups).pack()

    @classmethod
    def unpack(cls, text: str, attempt: str) -> "Counters":
        """What `pack` gave; nothing counted yet where that is damaged, too large, or of another attempt."""
        try:
            return cls.from_json(packed_json.unpack_json(text, _MOST_BYTES), attempt)
        except packed_json.UNPACK_ERRORS:
            return cls(attempt)

    def as_json(self) -> Json:
        """What is known, as plain JSON."""
        kinds, columns = self._kinds(), self._columns()
        return {
            "version": FORMAT_VERSION,
            "attempt": self.attempt,
            "columns": list(ArmCounts._fields[:columns]),
            "events": kinds,
            "sources": {
                source: {f"{epoch}/{arm}": list(tally[:columns]) for (epoch, arm), tally in sorted(rows.items())}
                for source, rows in sorted(self.sources.items())
            },
            "epochs": {
                str(epoch): {
                    "following": each.following,
                    "lengths": [[own.closed, _first(kinds, own.sums), _first(kinds, own.open)] for own in each.lengths],
                    "requests": list(each.requests),
                }
                for epoch, each in sorted(self.folded.items())
            },
            **({"groups": unit_groups.as_json(self.groups)} if self.groups else {}),
            **({"feedback": self.feedback.as_json()} if self.feedback.store else {}),
        }

    def _kinds(self) -> int:
        """How many of `EVENTS`, the first, are stored: what an operator of before there were several latencies reads, where that is all."""
        used = (
            place % len(EVENTS) + 1
            for each in self.folded.values()
            for own in each.lengths
            for counts in (own.sums, own.open)
            for place, count in enumerate(counts)
            if any(count)
        )
        return max(SINGLE_LATENCY_EVENT_COUNT, max(used, default=0))

    def _columns(self) -> int:
        """The same of the columns of tallies."""
        used = (
            place
            for rows in self.sources.values()
            for tally in rows.values()
            for place, count in enumerate(tally, start=1)
            if count
        )
        return max(len(ArmCounts._fields) - len(SLOW) + 1, max(used, default=0))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None, attempt: str) -> "Counters":
        """What `as_json` gave; nothing counted yet where that is missing, damaged, or of another attempt."""
        try:
            if not stored or stored["version"] != FORMAT_VERSION or stored["attempt"] != attempt:
                return cls(attempt)
            at = column_indexes(stored["columns"])
            sources = {
                source: dict(_row(key, counts, at) for key, counts in rows.items())
                for source, rows in stored["sources"].items()
            }
            kinds = parse_count(stored.get("events", LEGACY_EVENT_COUNT))
            # What was stored before requests were counted by block is folded anew, out of what edges have kept.
            folded = {
                int(epoch): _folded(each, kinds) for epoch, each in stored["epochs"].items() if "requests" in each
            }
            told = analysis_feedback.parse_sums(stored["feedback"]) if "feedback" in stored else FeedbackSums()
        except PARSE_ERRORS:
            return cls(attempt)
        return cls(attempt, sources, folded, groups=unit_groups.from_json(stored.get("groups", {})), feedback=told)


def _row(key: str, counts: Sequence[int], at: Mapping[str, int]) -> tuple[tuple[int, str], ArmCounts]:
    epoch, _, arm = key.partition("/")
    told = (name for name in ArmCounts._fields if name in at or name not in _LATER_COLUMNS)
    return (int(epoch), arm), ArmCounts(**{name: parse_count(counts[at[name]]) for name in told})


def _folded(stored: Mapping[str, Any], kinds: int) -> EpochBlocks:
    lengths = tuple(
        DispersionSums(
            parse_count(closed), _sums(_of_kinds(sums, kinds, ZERO_SUMS)), _open(_of_kinds(open_, kinds, (0, 0)))
        )
        for closed, sums, open_ in stored["lengths"]
    )
    if len(lengths) != len(BLOCK_LENGTHS):
        raise ValueError(f"{len(lengths)} lengths of blocks instead of {len(BLOCK_LENGTHS)}")
    requests = tuple(map(parse_count, stored["requests"]))
    if len(requests) != 1 + len(lengths[0].sums) // len(EVENTS):
        raise ValueError(f"requests of {len(requests)} arms instead of those that have sums")
    return EpochBlocks(parse_count(stored["following"]), lengths, requests)


def _sums(stored: Sequence[Sequence[int]]) -> tuple[BlockSums, ...]:
    if not stored:
        raise ValueError("no sums of any kind of events")
    return tuple(
        (parse_count(a), parse_count(b), parse_count(c), parse_count(d), parse_count(e)) for a, b, c, d, e in stored
    )


def _open(stored: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((parse_count(x), parse_count(s)) for x, s in stored)


def _first(kinds: int, counts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of what is kept of each of `EVENTS`, arm by arm, that of the first so many."""
    return [list(each) for place, each in enumerate(counts) if place % len(EVENTS) < kinds]


def _of_kinds(stored: Sequence[Sequence[int]], kinds: int, nothing: Sequence[int]) -> list[Sequence[int]]:
    """What is stored of the first so many of `EVENTS`, arm by arm, and nothing of the others."""
    if not 0 < kinds <= len(EVENTS) or len(stored) % kinds:
        raise ValueError(f"{len(stored)} entries are not those of {kinds} kinds of events")
    missing = [nothing] * (len(EVENTS) - kinds)
    arms = (stored[place : place + kinds] for place in range(0, len(stored), kinds))
    return [each for arm in arms for each in (*arm, *missing)]


def reported_attempts(service: str, reports: Iterable[EdgeReport]) -> set[str]:
    """The attempts of a service that edges report anything of."""
    rows = (row for report in reports for row in list_or_empty((report.evidence or {}).get("counters")))
    return {str(row.get("attempt")) for row in rows if isinstance(row, Mapping) and row.get("service") == service}


def assigned_rows(attempt: str, reports: Iterable[EdgeReport]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(source, row) of each row of assigned requests that edges report of an attempt; what is no row is left out."""
    for report in reports:
        for row in list_or_empty((report.evidence or {}).get("counters")):
            if isinstance(row, Mapping) and row.get("attempt") == attempt and row.get("origin") == "assigned":
                yield f"{report.pod}/{row.get('boot')}", row


def counted_until_s(reports: Iterable[EdgeReport], now_s: float) -> float:
    """Until when every edge has counted, in Unix seconds: now, or what the clock of an edge says that is behind, by a minute at most."""
    clocks = [(report.evidence or {}).get("clock") for report in reports]
    behind = (each for each in clocks if isinstance(each, int | float) and each >= now_s - _MOST_BEHIND_S)
    return min((now_s, *behind))


def _key(row: Mapping[str, Any]) -> tuple[int, str]:
    """(epoch, arm) of a row; what it raises is `DAMAGED`."""
    arm = row["arm"]
    if not isinstance(arm, str):
        raise TypeError(f"{arm!r} is no arm")
    return parse_count(row["epoch"]), arm


class BlockCounts(NamedTuple):
    """Requests of one arm that came in ten seconds: of each of `EVENTS` how many, how many have ended, and how many still run."""

    errors: int = 0
    slow: int = 0
    rejections: int = 0
    retried: int = 0
    slow2: int = 0
    slow3: int = 0
    ended: int = 0
    running: int = 0

    def plus(self, other: Self) -> Self:
        """Both together."""
        return type(self)(*map(sum, zip(self, other, strict=True)))

    @property
    def requests(self) -> int:
        """All of them that are known of."""
        return self.ended + self.running


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

    def events(self, control: str = names.STABLE, arms: Sequence[str] = (names.CANARY,)) -> list[tuple[int, int]]:
        """(x, s) of each kind of event, of each arm that is compared with control."""
        beside = self.of(control)[: len(EVENTS)]
        return [(x, x + other) for arm in arms for x, other in zip(self.of(arm), beside, strict=False)]


BlocksByEpoch = Mapping[int, Mapping[int, Block]]
"""By epoch and number, which is Unix seconds by `BLOCK_S`."""


def sum_arm_counts(arm: str, blocks: Iterable[Block]) -> BlockCounts:
    """An arm's requests in all of these blocks."""
    return functools.reduce(BlockCounts.plus, (block.of(arm) for block in blocks), BlockCounts())


@dataclass(frozen=True, slots=True)
class CountScope:
    """When and at what is looked.

    Attributes:
        epochs: those whose blocks are wanted.
        in_force: the epoch that requests are assigned to now.
        now_s: Unix seconds.
        timeout_s: after which a request that has not ended is not waited for.
        control: the arm that others are compared with.
        arms: those others.
    """

    epochs: Sequence[int]
    in_force: int
    now_s: float
    timeout_s: float
    control: str = names.STABLE
    arms: Sequence[str] = (names.CANARY,)


def update_counters(
    before: Counters, reports: Sequence[EdgeReport], blocks: BlocksByEpoch, look: CountScope
) -> Counters:
    """What is known with the reports of every edge, and the blocks in them. What an edge reports and is no count is left out."""
    told: dict[str, dict[tuple[int, str], ArmCounts]] = {}
    for source, row in assigned_rows(before.attempt, reports):
        own = told.setdefault(source, {})
        try:
            key, tally = _key(row), _tally(row)
        except PARSE_ERRORS:
            continue
        own[key] = own.get(key, ArmCounts()).plus(tally)
    sources = {name: dict(rows) for name, rows in before.sources.items()}
    for source, rows in told.items():
        known = sources.setdefault(source, {})
        known.update({key: known.get(key, ArmCounts()).merge_newer(tally) for key, tally in rows.items()})
    silent = {report.pod for report in reports if report.evidence is None}
    present = {source for source in sources if source in told or source.partition("/")[0] in silent}
    known_groups, told_groups = (
        {source: {key: own for key, own in rows.items() if key[0] in look.epochs} for source, rows in each.items()}
        for each in (before.groups, collect_groups(before.attempt, reports))
    )
    groups = unit_groups.update_groups(known_groups, told_groups, present)
    folded = _fold(before, reports, blocks, look)
    over = _fold(replace(before, folded=folded), reports, blocks, replace(look, timeout_s=0.0))
    return Counters(before.attempt, _bounded(sources, present), folded, over, groups, before.feedback)


def collect_groups(attempt: str, reports: Iterable[EdgeReport]) -> unit_groups.GroupsBySource:
    """Counts by group as edges report them. What is none is left out."""
    found: dict[str, dict[tuple[int, str], GroupCounts]] = {}
    for report in reports:
        at = unit_groups.group_columns(report.evidence)
        for source, row in assigned_rows(attempt, (report,) if at else ()):
            try:
                key, own = _key(row), unit_groups.parse_row(row, at)
            except PARSE_ERRORS:
                continue
            rows = found.setdefault(source, {})
            rows[key] = unit_groups.add_groups(rows.get(key, unit_groups.ZERO_GROUPS), own)
    return found


def find_edges_without_groups(attempt: str, reports: Iterable[EdgeReport]) -> list[str]:
    """The pods of edges that count requests of an attempt, and do not tell in which groups of units."""
    return sorted(
        {
            source.partition("/")[0]
            for report in reports
            if not unit_groups.group_columns(report.evidence)
            for source, _ in assigned_rows(attempt, (report,))
        }
    )


def find_edges_without_latencies(attempt: str, reports: Iterable[EdgeReport], latencies: int) -> list[str]:
    """The pods of edges that count requests of an attempt, and do not tell how many took long by each of so many latencies."""
    wanted = SLOW[:latencies]
    return sorted(
        {
            source.partition("/")[0]
            for source, row in assigned_rows(attempt, reports)
            if any(name not in row for name in wanted[1:])
        }
    )


def _bounded(
    sources: dict[str, dict[tuple[int, str], ArmCounts]], present: Collection[str]
) -> dict[str, dict[tuple[int, str], ArmCounts]]:
    """Many processes that are gone are kept as one. None that may be heard of again: it would count twice."""
    absent = sorted(source for source in sources if source not in present and source != unit_groups.DEPARTED_SOURCE)
    if len(sources) <= _MOST_SOURCES or not absent:
        return sources
    gone = sources.setdefault(unit_groups.DEPARTED_SOURCE, {})
    for source in absent:
        for key, tally in sources.pop(source).items():
            gone[key] = gone.get(key, ArmCounts()).plus(tally.written_off())
    return sources


def _tally(row: Mapping[str, Any]) -> ArmCounts:
    def of(name: str) -> int:
        return parse_count(row.get(name, 0), MAX_COUNT)

    errors, rejections = count_errors_and_rejections(row.get("ends", {}))
    return ArmCounts(
        assigned=of("assigned"),
        errors=errors,
        slow=of("slow"),
        rejections=rejections,
        retried=parse_failed_first_attempts(row),
        lost=of("lost"),
        running=of("inFlight"),
        **{name: of(name) for name in SLOW[1:]},
    )


def collect_blocks(attempt: str, reports: Sequence[EdgeReport]) -> BlocksByEpoch:
    """Blocks by epoch and number, added over edges. What is no block is left out."""
    found: dict[int, dict[int, Block]] = {}
    for report in reports:
        at = _block_columns(report)
        for _, row in assigned_rows(attempt, (report,)):
            for counts in list_or_empty(row.get("blocks")):
                try:
                    (epoch, arm), start = _key(row), parse_count(counts[at["start"]])
                    told = _block_counts(counts, at)
                except PARSE_ERRORS:
                    continue
                found.setdefault(epoch, {}).setdefault(start // BLOCK_S, Block()).add(arm, told)
    return found


def _block_columns(report: EdgeReport) -> Mapping[str, int]:
    try:
        return column_indexes((report.evidence or {})["blocks"]["columns"])
    except PARSE_ERRORS:
        return {}


def _block_counts(counts: Sequence[Any], at: Mapping[str, int]) -> BlockCounts:
    def of(*columns: str) -> int:
        return sum(parse_count(counts[at[name]], _MOST_IN_A_BLOCK) for name in columns)

    errors, rejections = of(*ERRORS), of(*REJECTIONS)
    # An edge of a version before does not tell of all of them.
    retried, *further = (of(name) if name in at else 0 for name in (FIRST_ATTEMPT_FAILED, *SLOW[1:]))
    ended, running = errors + rejections + of("ok"), of("inFlight")
    told = BlockCounts(errors, of("slow"), rejections, retried, ended=ended, running=running)
    return told._replace(**dict(zip(SLOW[1:], further, strict=True)))


def _fold(
    before: Counters, reports: Sequence[EdgeReport], blocks: BlocksByEpoch, look: CountScope
) -> Mapping[int, EpochBlocks]:
    folded = dict(before.folded)
    if find_unreachable_edges(before, reports):
        # What an edge has counted and does not tell belongs into the same blocks as what the others have. One that leaves may never tell.
        return folded
    for epoch in look.epochs:
        own = blocks.get(epoch, {})
        if epoch not in folded and not own:
            continue
        known = folded.get(epoch) or EpochBlocks.begun(min(own), len(look.arms))
        # Of the last block of an epoch that is over only the beginning is its own.
        last = int(look.now_s) // BLOCK_S if epoch == look.in_force else max(own, default=known.following)
        folded[epoch] = _fold_epoch(known, own, last, look)
    return folded


def find_unreachable_edges(known: Counters, reports: Iterable[EdgeReport]) -> list[str]:
    """The pods of edges that have counted something and do not tell it."""
    return sorted(report.pod for report in reports if not _block_columns(report) and _has_counted(known, report))


def _has_counted(before: Counters, report: EdgeReport) -> bool:
    """Whether an edge that tells nothing now will have something to tell. One whose agent starts anew is not ready, but told before."""
    known = any(source.partition("/")[0] == report.pod for source in before.sources)
    return (report.ready or known) and not report.terminating


def _fold_epoch(known: EpochBlocks, blocks: Mapping[int, Block], end: int, look: CountScope) -> EpochBlocks:
    """Take in the blocks before `end` that are over, in order."""
    if known.following < end - _KEPT_BLOCKS:
        # Edges have forgotten the blocks between: what is open would be closed with others than its own.
        lengths = tuple(DispersionSums(own.closed, own.sums) for own in known.lengths)
        known = replace(known, following=end - _KEPT_BLOCKS, lengths=lengths)
    while known.following < end:
        block, over_s = blocks.get(known.following, Block()), (known.following + 1) * BLOCK_S + GRACE_S
        if look.now_s < over_s or (block.running and look.now_s < over_s + look.timeout_s):
            break
        known = known.take(block, look.control, look.arms)
    return known


def count_overdue_requests(
    attempt: str, reports: Iterable[EdgeReport], now_s: float, timeout_s: float
) -> dict[tuple[int, str], int]:
    """Requests by epoch and arm that run although their time is over."""
    found: dict[tuple[int, str], int] = {}
    for _, row in assigned_rows(attempt, reports):
        try:
            key, late = _key(row), _late(row, now_s - BLOCK_S - GRACE_S - timeout_s)
        except PARSE_ERRORS:
            continue
        if late:
            found[key] = found.get(key, 0) + late
    return found


def _late(row: Mapping[str, Any], before_s: float) -> int:
    told = [
        (parse_count(start), parse_count(running, MAX_COUNT))
        for start, running in list_or_empty(row.get("inFlightSince"))
    ]
    return sum(running for start, running in told if start < before_s)


def monotonic_totals(arm: ArmStatus, told: tuple[int, int], counted: Counters | None) -> tuple[int, int]:
    """An arm's requests and errors, given what edges tell now: who is gone, or does not answer, takes back nothing that was counted."""
    own = counted.over_epochs(arm.name) if counted is not None else ArmCounts()
    return max(arm.requests, told[0], own.assigned), max(arm.errors, told[1], own.errors)
