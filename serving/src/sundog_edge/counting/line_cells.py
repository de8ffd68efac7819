"""Count the lines that have one head: its parts are parsed once, and the sums of many lines are added to their row at once. Pure."""

from collections.abc import Sequence

from sundog_edge.counting import histogram, unit_counts, unit_groups
from sundog_edge.counting.blocks import BLOCK_S
from sundog_edge.counting.boots import UNSIGNED, Boot
from sundog_edge.counting.log_lines import ENDS, OFREP_KIND, SLOW_COLUMNS, AgentHead, EndHead, RefusalHead
from sundog_edge.counting.rows import (
    FIRST_ATTEMPT_FAILED,
    KIND_OF_END,
    SLOW_PLACES,
    TIMED_ENDS,
    RowCounters,
    RowKey,
)
from sundog_edge.counting.unit_groups import UnitGroupCounts
from sundog_edge.counting.unit_sample import EVENT_OF_END, UnitSample
from sundog_edge.feedback.first_seen import FirstExposureTracker
from sundog_edge.haproxy.names import ASSIGNED_ORIGIN, FALLBACK_PREFIX, HELD_ORIGIN, STICKY_UNIT

_NEVER = 1 << 62


class LineCell:
    """Counts of the lines with one head since the last flush. Lines of refusals have only `n`, the number of lines.

    Attributes:
        columns: columns of the row's blocks and groups in which each line counts.
        unit_columns: the same for the counts of sampled units.
        limits: thresholds of slow answers in microseconds; none if the end cannot count as slow.
        total, ttfb: the row's histograms; None if its times do not count.
    """

    __slots__ = (
        *("_lowest_limit", "boot", "columns", "events", "firsts", "groups", "head", "highest", "key", "limits", "n"),
        *("row", "sample", "slow", "total", "ttfb", "unit_columns", "unit_rows", "us"),
    )

    def __init__(self, boot: Boot, head: EndHead | RefusalHead | AgentHead) -> None:
        self.boot = boot
        self.head = head
        self.n = self.highest = self.us = 0
        self.row: RowCounters | None = None
        self.groups: UnitGroupCounts | None = None
        self.sample: UnitSample | None = None
        if isinstance(head, EndHead):
            self._open(boot, head)

    def _open(self, boot: Boot, head: EndHead) -> None:
        self.key = RowKey.of(head.row)
        self.row = row = boot.row(head.row)
        of_end = [unit_counts.COLUMN_OF_END[head.end]] if head.end in unit_counts.COLUMN_OF_END else []
        self.columns, self.unit_columns = [ENDS.index(head.end)], [unit_counts.REQUESTS, *of_end]
        if head.retries:
            self.columns.append(FIRST_ATTEMPT_FAILED)
            self.unit_columns.append(unit_counts.FIRST_ATTEMPT_FAILED)
        self.events = (EVENT_OF_END[head.end],) if head.end in EVENT_OF_END else ()
        self.limits = head.slow_us if head.end in TIMED_ENDS else ()
        self._lowest_limit = min(self.limits, default=_NEVER)
        self.slow = [0] * len(self.limits)
        self.total: list[int] | None = None
        self.ttfb: list[int] = []
        # Serve's own proxy holds requests while there is no replica. That wait does not measure the arm's model, and in a row of held
        # requests it is what is measured. It counts as slow all the same: the arm has no replica.
        if self.key.origin == HELD_ORIGIN or not head.server.startswith(FALLBACK_PREFIX):
            self.total = row.total[KIND_OF_END[head.end]]
            self.ttfb = row.ttfb[KIND_OF_END[head.end]]
        if self.key.unit == STICKY_UNIT:
            self.groups = row.groups

    @property
    def has_assigned_units(self) -> bool:
        """Whether the lines are of sticky units in the arm of their bucket, which samples have."""
        return self.groups is not None and self.key.origin == ASSIGNED_ORIGIN

    def watch_units(self, sample: UnitSample, firsts: FirstExposureTracker | None) -> None:
        """Count units in the sample too, and show their exposures to the tracker, if there is one."""
        self.sample = sample
        self.unit_rows = sample.counts.of(self.key.epoch, self.key.arm)
        self.firsts = firsts

    def count(self, tail: Sequence[bytes]) -> None:
        """Count the tail of one line. Raises ValueError for a damaged tail, of which nothing is counted."""
        if self.row is None:
            self.n += 1
            return
        count, ttfb, total, _, unit, group, received = tail
        total_us = max(0, int(total))
        ttfb_us = total_us if ttfb == b"-" else max(0, int(ttfb))
        number = int(count)
        exceeded: Sequence[int] = ()
        if total_us > self._lowest_limit:
            exceeded = [place for place, limit in enumerate(self.limits) if total_us > limit]
        if self.groups is not None:
            self._count_unit(self.groups, exceeded, int(unit), int(group), int(received))
        self.n += 1
        if number > self.highest:
            self.highest = number
        for place in exceeded:
            self.slow[place] += 1
        if self.total is not None:
            self.us += total_us
            histogram.add(self.total, histogram.find_bucket(total_us))
            histogram.add(self.ttfb, histogram.find_bucket(ttfb_us))

    def _count_unit(
        self, groups: UnitGroupCounts, exceeded: Sequence[int], unit: int, group: int, received: int
    ) -> None:
        """Count one request of a sticky unit in its group and, if the unit is sampled, in the sample."""
        counts = unit_groups.get_or_add_counts(groups, group)
        for column in self.columns:
            counts[column] += 1
        for place in exceeded:
            counts[SLOW_PLACES[place]] += 1
        sample = self.sample
        if sample is None:
            return
        number = unit & UNSIGNED
        if self.firsts is not None:
            self.firsts.observe(number, received, self.key.epoch, self.key.arm)
        if number < sample.counts.tau:
            row = self.unit_rows.get(number) or sample.counts.get_or_add_row(self.unit_rows, number)
            for column in self.unit_columns:
                row[column] += 1
            for place in exceeded:
                row[unit_counts.SLOW_PLACES[place]] += 1
        if number < sample.tau:
            events = (*self.events, *[SLOW_COLUMNS[place] for place in exceeded]) if exceeded else self.events
            sample.observe(number, (received, self.key.epoch, self.key.arm), events)

    def flush(self, now: float) -> None:
        """Add the sums to the boot and the row at `now`, in Unix seconds, and begin again."""
        n, head, boot = self.n, self.head, self.boot
        self.n = 0
        boot.lines += n
        if isinstance(head, EndHead):
            boot.counted_lines += n
            if self.row is not None:
                self._flush_ends(self.row, head, n, int(now) // BLOCK_S)
                self.row.changed = now
            return
        boot.counted_lines += n if head.counted else 0
        if isinstance(head, RefusalHead):
            by_service, kind = boot.refused, head.kind
        else:
            by_service, kind = boot.ofrep if head.kind == OFREP_KIND else boot.feedback, str(head.status)
        counts = by_service.setdefault(head.service, {})
        counts[kind] = counts.get(kind, 0) + n

    def _flush_ends(self, row: RowCounters, head: EndHead, n: int, present: int) -> None:
        row.take_back(n)
        row.ended += n
        row.ends[head.end] += n
        row.highest = max(row.highest, self.highest)
        row.client_closed += n if head.client_closed else 0
        if head.retries:
            row.first_attempt_failed += n
            row.retries += n * head.retries
            row.redispatched += n if head.redispatched else 0
            row.rescued += n if head.end == "ok" else 0
            row.poison += n if head.poison else 0
        if self.total is None:
            row.served_elsewhere += n
        row.duration_us += self.us
        self.us = 0
        for column in self.columns:
            row.blocks.add(head.block, column, n, present)
        for place, count in enumerate(self.slow):
            if count:
                name = SLOW_COLUMNS[place]
                setattr(row, name, getattr(row, name) + count)
                row.blocks.add(head.block, SLOW_PLACES[place], count, present)
                self.slow[place] = 0
