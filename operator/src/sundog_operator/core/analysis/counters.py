"""Counters of one rollout: sums that survive restarts of edges and of the operator. Pure.

Each edge process has cumulative counts of its own. For each process, the highest reported counts are kept; their sum is the evidence. The
dispersion of events is measured over blocks. A block has the requests that arrived in the same ten seconds. Blocks are added over edges,
and their counts are then squared. Once its requests have ended, a block is folded into sums and not read again.

Verdicts use only the counts in folded blocks. With earlier counts of events, they would test a burst before its dispersion is known.
"""

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sundog_operator.api import ArmStatus
from sundog_operator.core.analysis import edge_reports, packed_json, unit_groups
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.blocks import BLOCK_S, GRACE_S, MOST_IN_A_BLOCK, Block, BlockCounts, BlocksByEpoch
from sundog_operator.core.analysis.counters_json import (
    CountsBySource,
    MutableCounts,
    first_kinds,
    parse_folded,
    parse_rows,
    rows_as_json,
)
from sundog_operator.core.analysis.dispersion_sums import DispersionSums, EpochBlocks
from sundog_operator.core.analysis.feedback import FeedbackSums, parse_sums
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
    list_or_empty,
    parse_count,
    parse_counts,
)
from sundog_operator.core.edge.request_counts import ORIGIN_ASSIGNED, ORIGIN_OVERRIDE
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport

FORMAT_VERSION: Final = 1
_MAX_CLOCK_LAG_S: Final = 60
"""The clock of an edge that lags more is wrong and is ignored, because waiting for it would delay every evaluation."""
_KEPT_BLOCKS: Final = 350
_MAX_SOURCES: Final = 64
_MAX_JSON_BYTES: Final = 4 << 20
MAX_PACKED_CHARS: Final = 524_288
"""Limit of packed counters in a status."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of one attempt.

    Attributes:
        attempt: UID of the attempt.
        sources: counts of each edge process, by epoch and arm.
        folded: by epoch, the sums of blocks whose requests have ended.
        ended_blocks: the same for all blocks that have ended, although some of their requests may still run. It is for tests that cannot
            wait, is computed at every evaluation, and is not stored.
        groups: counts by unit group.
        feedback: sums of outcomes.
        forced: counts like `sources`, of requests that a header or an override sent to an arm. They are no evidence.
    """

    attempt: str
    sources: CountsBySource = field(default_factory=dict)
    folded: Mapping[int, EpochBlocks] = field(default_factory=dict)
    ended_blocks: Mapping[int, EpochBlocks] = field(default_factory=dict, compare=False)
    groups: unit_groups.GroupsBySource = field(default_factory=dict)
    feedback: FeedbackSums = field(default_factory=FeedbackSums)
    forced: CountsBySource = field(default_factory=dict)

    def of(self, epoch: int, arm: str, present: Collection[str] = ()) -> ArmCounts:
        """Return an arm's counts in an epoch over all sources. At sources that are not present, running requests count as lost."""
        total = ArmCounts()
        for source, rows in self.sources.items():
            own = rows.get((epoch, arm), ArmCounts())
            total = total.plus(own if source in present else own.with_running_lost())
        return total

    def count_exposed_units(self, epoch: int, arm: str, *, sticky: bool) -> int:
        """Return the units of an arm that were first exposed in an epoch.

        Where each request is a unit, these are the requests that edges counted, and at least those with outcomes: a lost edge takes its
        counts with it.
        """
        if sticky:
            return self.feedback.exposed.get((epoch, arm), 0)
        return max(self.of(epoch, arm).assigned, self.feedback.reported(epoch, arm))

    def over_epochs(self, arm: str, *, forced: bool = False, first: int = 0) -> ArmCounts:
        """Return an arm's counts over all sources and epochs from `first` on, including those that are no evidence.

        With `forced`, those of `forced`.
        """
        sources = self.forced if forced else self.sources
        rows = (
            counts
            for own in sources.values()
            for (epoch, name), counts in own.items()
            if name == arm and epoch >= first
        )
        return functools.reduce(ArmCounts.plus, rows, ArmCounts())

    def pack(self) -> str:
        """Return the compressed text of `as_json`, to store in a status; empty if nothing was counted.

        If the text is too long to store or to unpack, the groups of the oldest epochs are left out. Requests without a group then count as
        requests of one unit.
        """
        if not self.sources and not self.forced and not self.feedback.store:
            return ""
        written, epochs = (
            packed_json.encode_json(self.as_json()),
            [epoch for rows in self.groups.values() for epoch, _ in rows],
        )
        packed = packed_json.compress(written)
        if not epochs or (len(packed) <= MAX_PACKED_CHARS and len(written) <= _MAX_JSON_BYTES):
            return packed
        oldest = min(epochs)
        groups = {
            source: {key: own for key, own in rows.items() if key[0] > oldest} for source, rows in self.groups.items()
        }
        return replace(self, groups=groups).pack()

    @classmethod
    def unpack(cls, text: str, attempt: str) -> "Counters":
        """Return the counters from a packed text; empty counters if it is damaged, too large, or of another attempt."""
        try:
            return cls.from_json(packed_json.unpack_json(text, _MAX_JSON_BYTES), attempt)
        except packed_json.UNPACK_ERRORS:
            return cls(attempt)

    def as_json(self) -> Json:
        """Return the counters as plain JSON."""
        kinds, columns = self._stored_kinds(), self._stored_columns()
        return {
            "version": FORMAT_VERSION,
            "attempt": self.attempt,
            "columns": list(ArmCounts._fields[:columns]),
            "events": kinds,
            "sources": rows_as_json(self.sources, columns),
            **({"forced": rows_as_json(self.forced, columns)} if self.forced else {}),
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

    def _stored_kinds(self) -> int:
        """Return how many of `EVENTS` are stored. Without further latencies, they are as many as an older operator reads."""
        used = (
            index % len(EVENTS) + 1
            for each in self.folded.values()
            for own in each.lengths
            for counts in (own.sums, own.open)
            for index, count in enumerate(counts)
            if any(count)
        )
        return max(SINGLE_LATENCY_EVENT_COUNT, max(used, default=0))

    def _stored_columns(self) -> int:
        """Return how many columns of counts are stored, by the same rule as `_stored_kinds`."""
        used = (
            number
            for rows in (*self.sources.values(), *self.forced.values())
            for counts in rows.values()
            for number, count in enumerate(counts, start=1)
            if count
        )
        return max(len(ArmCounts._fields) - len(SLOW) + 1, max(used, default=0))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None, attempt: str) -> "Counters":
        """Return the counters from `as_json`; empty counters if it is missing, damaged, or of another attempt."""
        try:
            if not stored or stored["version"] != FORMAT_VERSION or stored["attempt"] != attempt:
                return cls(attempt)
            at = column_indexes(stored["columns"])
            sources, forced = parse_rows(stored["sources"], at), parse_rows(stored.get("forced", {}), at)
            kinds = parse_count(stored.get("events", LEGACY_EVENT_COUNT))
            # The status of an older operator has no requests by block. Its blocks are folded again from those that edges still have.
            folded = {
                int(epoch): parse_folded(each, kinds) for epoch, each in stored["epochs"].items() if "requests" in each
            }
            sums = parse_sums(stored["feedback"]) if "feedback" in stored else FeedbackSums()
        except PARSE_ERRORS:
            return cls(attempt)
        groups = unit_groups.from_json(stored.get("groups", {}))
        return cls(attempt, sources, folded, groups=groups, feedback=sums, forced=forced)


def counted_until_s(reports: Iterable[EdgeReport], now_s: float) -> float:
    """Return the time up to which every edge has counted, in Unix seconds: now, or the earliest clock that lags by a minute at most."""
    clocks = [(report.evidence or {}).get("clock") for report in reports]
    behind = (each for each in clocks if isinstance(each, int | float) and each >= now_s - _MAX_CLOCK_LAG_S)
    return min((now_s, *behind))


@dataclass(frozen=True, slots=True)
class CountScope:
    """Scope of one evaluation.

    Attributes:
        epochs: epochs whose blocks are used.
        in_force: the epoch to which new requests belong.
        now_s: the current time in Unix seconds.
        timeout_s: timeout of a request; a block waits no longer for it.
        control: the baseline.
        arms: the arms that are compared with control.
    """

    epochs: Sequence[int]
    in_force: int
    now_s: float
    timeout_s: float
    control: str = names.STABLE
    arms: Sequence[str] = (names.CANARY,)


def update_counters(
    before: Counters, reports: Sequence[EdgeReport], blocks: BlocksByEpoch, scope: CountScope
) -> Counters:
    """Return the counters after the reports of every edge and the blocks in these reports. Rows that cannot be parsed are skipped."""
    reported, forced = (_collect_rows(before.attempt, reports, origin) for origin in (ORIGIN_ASSIGNED, ORIGIN_OVERRIDE))
    sources, forced_sources = _merge_reported(before.sources, reported), _merge_reported(before.forced, forced)
    present = {*reported, *forced, *edge_reports.find_silent_sources((*sources, *forced_sources), reports)}
    known_groups, reported_groups = (
        {source: {key: own for key, own in rows.items() if key[0] in scope.epochs} for source, rows in each.items()}
        for each in (before.groups, edge_reports.collect_groups(before.attempt, reports))
    )
    groups = unit_groups.update_groups(known_groups, reported_groups, present)
    folded = _fold(before, reports, blocks, scope)
    ended_blocks = _fold(replace(before, folded=folded), reports, blocks, replace(scope, timeout_s=0.0))
    return Counters(
        before.attempt,
        _merge_departed(sources, present),
        folded,
        ended_blocks,
        groups,
        before.feedback,
        _merge_departed(forced_sources, present),
    )


def _collect_rows(attempt: str, reports: Sequence[EdgeReport], origin: str) -> MutableCounts:
    """Return the reported counts of an origin. Rows that cannot be parsed are skipped."""
    found: MutableCounts = {}
    for source, row in edge_reports.rows_of_origin(attempt, reports, origin):
        own = found.setdefault(source, {})
        try:
            key, counts = edge_reports.parse_key(row), edge_reports.parse_arm_counts(row)
        except PARSE_ERRORS:
            continue
        own[key] = own.get(key, ArmCounts()).plus(counts)
    return found


def _merge_reported(known: CountsBySource, reported: CountsBySource) -> MutableCounts:
    sources = {name: dict(rows) for name, rows in known.items()}
    for source, rows in reported.items():
        own = sources.setdefault(source, {})
        own.update({key: own.get(key, ArmCounts()).merge_newer(counts) for key, counts in rows.items()})
    return sources


def _merge_departed(sources: MutableCounts, present: Collection[str]) -> MutableCounts:
    """Merge the counts of departed processes if there are many. Those that may report again are not merged, or they would count twice."""
    absent = sorted(source for source in sources if source not in present and source != unit_groups.DEPARTED_SOURCE)
    if len(sources) <= _MAX_SOURCES or not absent:
        return sources
    gone = sources.setdefault(unit_groups.DEPARTED_SOURCE, {})
    for source in absent:
        for key, counts in sources.pop(source).items():
            gone[key] = gone.get(key, ArmCounts()).plus(counts.with_running_lost())
    return sources


def collect_blocks(attempt: str, reports: Sequence[EdgeReport]) -> BlocksByEpoch:
    """Return the blocks by epoch and number, added over edges. Rows that cannot be parsed are skipped."""
    found: dict[int, dict[int, Block]] = {}
    for report in reports:
        at = _block_columns(report)
        for _, row in edge_reports.assigned_rows(attempt, (report,)):
            for counts in list_or_empty(row.get("blocks")):
                try:
                    (epoch, arm), start = edge_reports.parse_key(row), parse_count(counts[at["start"]])
                    own = _block_counts(counts, at)
                except PARSE_ERRORS:
                    continue
                found.setdefault(epoch, {}).setdefault(start // BLOCK_S, Block()).add(arm, own)
    return found


def _block_columns(report: EdgeReport) -> Mapping[str, int]:
    try:
        return column_indexes((report.evidence or {})["blocks"]["columns"])
    except PARSE_ERRORS:
        return {}


def _block_counts(counts: Sequence[Any], at: Mapping[str, int]) -> BlockCounts:
    # An older edge does not report all of these columns.
    optional = [name for name in (FIRST_ATTEMPT_FAILED, *SLOW[1:]) if name in at]
    columns = (*ERRORS, *REJECTIONS, "slow", "ok", "inFlight", *optional)
    found = dict(zip(columns, parse_counts([counts[at[name]] for name in columns], MOST_IN_A_BLOCK), strict=True))
    errors, rejections = (sum(found[name] for name in names) for names in (ERRORS, REJECTIONS))
    ended, running = errors + rejections + found["ok"], found["inFlight"]
    retried = found.get(FIRST_ATTEMPT_FAILED, 0)
    own = BlockCounts(errors, found["slow"], rejections, retried, ended=ended, running=running)
    return own._replace(**{name: found.get(name, 0) for name in SLOW[1:]})


def _fold(
    before: Counters, reports: Sequence[EdgeReport], blocks: BlocksByEpoch, scope: CountScope
) -> Mapping[int, EpochBlocks]:
    folded = dict(before.folded)
    if find_unreachable_edges(before, reports):
        # An unreachable edge has more counts for these blocks, so nothing is folded. Terminating edges are not waited for.
        return folded
    for epoch in scope.epochs:
        own = blocks.get(epoch, {})
        if epoch not in folded and not own:
            continue
        known = folded.get(epoch) or EpochBlocks.empty(min(own), len(scope.arms))
        # The last block of an ended epoch also has requests of the next epoch, so it is not folded.
        last = int(scope.now_s) // BLOCK_S if epoch == scope.in_force else max(own, default=known.following)
        folded[epoch] = _fold_epoch(known, own, last, scope)
    return folded


def find_unreachable_edges(known: Counters, reports: Iterable[EdgeReport]) -> list[str]:
    """Return the names of edge pods that should report their counts and do not."""
    return sorted(report.pod for report in reports if not _block_columns(report) and _is_report_expected(known, report))


def _is_report_expected(before: Counters, report: EdgeReport) -> bool:
    """Return whether an edge should report. One whose agent restarts is not ready, but has reported before."""
    known = any(source.partition("/")[0] == report.pod for source in before.sources)
    return (report.ready or known) and not report.terminating


def _fold_epoch(known: EpochBlocks, blocks: Mapping[int, Block], end: int, scope: CountScope) -> EpochBlocks:
    """Add the complete blocks before `end`, in order."""
    if known.following < end - _KEPT_BLOCKS:
        # Edges no longer have the blocks in between, so the open block cannot be completed and is dropped.
        lengths = tuple(DispersionSums(own.closed, own.sums) for own in known.lengths)
        known = replace(known, following=end - _KEPT_BLOCKS, lengths=lengths)
    while known.following < end:
        block, over_s = blocks.get(known.following, Block()), (known.following + 1) * BLOCK_S + GRACE_S
        if scope.now_s < over_s or (block.running and scope.now_s < over_s + scope.timeout_s):
            break
        known = known.take(block, scope.control, scope.arms)
    return known


def count_overdue_requests(
    attempt: str, reports: Iterable[EdgeReport], now_s: float, timeout_s: float
) -> dict[tuple[int, str], int]:
    """Return, by epoch and arm, how many requests still run after their timeout."""
    found: dict[tuple[int, str], int] = {}
    for _, row in edge_reports.assigned_rows(attempt, reports):
        try:
            key, overdue = (
                edge_reports.parse_key(row),
                _count_started_before(row, now_s - BLOCK_S - GRACE_S - timeout_s),
            )
        except PARSE_ERRORS:
            continue
        if overdue:
            found[key] = found.get(key, 0) + overdue
    return found


def _count_started_before(row: Mapping[str, Any], before_s: float) -> int:
    running_since = [
        (parse_count(start), parse_count(running, MAX_COUNT))
        for start, running in list_or_empty(row.get("inFlightSince"))
    ]
    return sum(running for start, running in running_since if start < before_s)


def monotonic_totals(arm: ArmStatus, counted: Counters | None, first: int = 0) -> tuple[int, int]:
    """Return an arm's requests and errors in the epochs from `first` on. They never fall, also if a status lost its counters."""
    own = counted.over_epochs(arm.name, first=first) if counted is not None else ArmCounts()
    return max(arm.requests, own.assigned), max(arm.errors, own.errors)
