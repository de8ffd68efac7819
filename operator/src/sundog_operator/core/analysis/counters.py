"""What edges have counted for one rollout: sums that outlive edges, their restarts and our own. Pure.

Edges count cumulatively, each process for itself. Of each the highest counts that it ever reported are kept; their sum is the evidence. How
events vary with time comes in blocks of ten seconds of arrival, which are added over edges before they are squared; a block is folded into
sums once its requests have ended, and not looked at again.

Verdicts are reached by what lies in blocks: if events counted earlier than blocks, a burst would be judged before its dispersion is known.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sundog_operator.api import ArmStatus
from sundog_operator.core.analysis import feedback as analysis_feedback
from sundog_operator.core.analysis import packed_json, unit_groups
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.blocks import BLOCK_S, GRACE_S, MOST_IN_A_BLOCK, Block, BlockCounts, BlocksByEpoch
from sundog_operator.core.analysis.counters_json import first_kinds, parse_folded, parse_row
from sundog_operator.core.analysis.dispersion_sums import DispersionSums, EpochBlocks
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
_MOST_BEHIND_S: Final = 60
"""A clock that is further behind is wrong, and would hold up everything."""
_KEPT_BLOCKS: Final = 350
_MOST_SOURCES: Final = 64
_MOST_BYTES: Final = 4 << 20
MAX_PACKED_CHARS: Final = 524_288
"""Characters that a status has room for."""
Json = dict[str, Any]


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
                    "lengths": [
                        [own.closed, first_kinds(kinds, own.sums), first_kinds(kinds, own.open)] for own in each.lengths
                    ],
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
                source: dict(parse_row(key, counts, at) for key, counts in rows.items())
                for source, rows in stored["sources"].items()
            }
            kinds = parse_count(stored.get("events", LEGACY_EVENT_COUNT))
            # What was stored before requests were counted by block is folded anew, out of what edges have kept.
            folded = {
                int(epoch): parse_folded(each, kinds) for epoch, each in stored["epochs"].items() if "requests" in each
            }
            told = analysis_feedback.parse_sums(stored["feedback"]) if "feedback" in stored else FeedbackSums()
        except PARSE_ERRORS:
            return cls(attempt)
        return cls(attempt, sources, folded, groups=unit_groups.from_json(stored.get("groups", {})), feedback=told)


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
        return sum(parse_count(counts[at[name]], MOST_IN_A_BLOCK) for name in columns)

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
