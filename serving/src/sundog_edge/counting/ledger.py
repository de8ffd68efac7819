"""Counts per boot and row, from log lines and from HAProxy's own counts. Pure: no I/O, no clock.

A row is `service/attempt/epoch/arm/origin/unit`. Probes have separate rows. The numbers of a row have three sources:

- `assigned` is HAProxy's own count at the choice of the arm, read from a stick table;
- an end is counted when its line arrives;
- `lost` are requests that must have ended although their lines never came.

HAProxy also counts the running requests of a row. It writes a request's line into the pipe before it subtracts the request from that
count. The agent reads the table at a time T, then reads the pipe until it is empty. Then `assigned(T) - running(T) - counted ends` is at
most the number of lost lines, because ends after T only lower it. So the largest such value never counts a late line as lost. It is exact
after the first reading without an end between table and pipe.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sundog_edge.counting import histogram, unit_counts, unit_groups
from sundog_edge.counting.blocks import BLOCK_S, TimeBlockCounts
from sundog_edge.counting.boots import UNSIGNED, Boot
from sundog_edge.counting.log_lines import (
    ENDS,
    OFREP_KIND,
    ROW_COLUMNS,
    SLOW_COLUMNS,
    TAIL_FIELDS,
    AgentHead,
    EndHead,
    RefusalHead,
    parse_head,
)
from sundog_edge.counting.rows import (
    FIRST_ATTEMPT_FAILED,
    KIND_OF_END,
    SLOW_PLACES,
    TIMED_ENDS,
    RowCounters,
    RowKey,
)
from sundog_edge.counting.unit_counts import COLUMN_OF_END, UnitRows
from sundog_edge.counting.unit_groups import UnitGroupCounts
from sundog_edge.counting.unit_sample import EVENT_OF_END, UnitSample
from sundog_edge.feedback.first_seen import FirstExposureTracker
from sundog_edge.haproxy.names import ASSIGNED_ORIGIN, FALLBACK_PREFIX, HELD_ORIGIN, PROBE_ORIGIN, STICKY_UNIT
from sundog_edge.split.document import SplitDocument

_MAX_CELLS = 10_000
_NEVER = 1 << 62


class _Cell:
    """Counts of the lines with one head: the parsed head, and the sums since the last flush."""

    __slots__ = (
        *("boot", "column", "events", "firsts", "further", "further_us", "groups", "head", "highest", "key", "n"),
        *("retried", "row", "sample", "slow", "slow_us", "total", "ttfb", "unit_columns", "unit_rows", "us"),
    )

    def __init__(self, boot: Boot, head: EndHead | RefusalHead | AgentHead) -> None:
        self.boot = boot
        self.head = head
        self.n = self.slow = self.highest = self.us = 0
        self.row: RowCounters | None = None
        self.groups: UnitGroupCounts | None = None
        self.sample: UnitSample | None = None
        self.unit_rows: UnitRows = {}
        self.unit_columns: tuple[int, ...] = ()
        self.firsts: FirstExposureTracker | None = None
        self.total: list[int] | None = None
        self.ttfb: list[int] = []
        self.slow_us = _NEVER
        self.further_us: tuple[int, ...] = ()
        self.further: list[int] = []
        self.retried = False
        if isinstance(head, EndHead):
            self._open(boot, head)

    def _open(self, boot: Boot, head: EndHead) -> None:
        self.key = RowKey.of(head.row)
        self.column = ENDS.index(head.end)
        self.retried = head.retries > 0
        of_end = (COLUMN_OF_END[head.end],) if head.end in COLUMN_OF_END else ()
        self.unit_columns = (
            *of_end,
            *((unit_counts.FIRST_ATTEMPT_FAILED,) if self.retried else ()),
        )
        self.events = (EVENT_OF_END[head.end],) if head.end in EVENT_OF_END else ()
        self.row = row = boot.row(head.row)
        if self.key.origin == HELD_ORIGIN or not head.server.startswith(FALLBACK_PREFIX):
            # Serve's own proxy holds requests while there is no replica. That wait does not measure the arm's model, and in a row of held
            # requests it is what is measured.
            self.total = row.total[KIND_OF_END[head.end]]
            self.ttfb = row.ttfb[KIND_OF_END[head.end]]
        if self.key.unit == STICKY_UNIT:
            self.groups = row.groups
        if head.slow_us and head.end in TIMED_ENDS:
            # That wait counts as slow all the same: the arm has no replica.
            self.slow_us, *further = head.slow_us
            self.further_us, self.further = tuple(further), [0] * len(further)


@dataclass(slots=True)
class Ledger:
    """All running and recently ended boots of this edge, and a sample of units for every attempt.

    Attributes:
        strays: unparsable lines without a known boot.
        dirty: whether anything changed since the last snapshot.
        samples: samples of units by `service/attempt`.
        revisions: revision by `service/attempt/arm`.
        past: sums of dropped rows by `service/revision/arm`, without probes.
        past_probes: sums of dropped rows of probes.
        past_held: sums of dropped rows of requests that waited for a replica of an application scaled to zero.
        gone: sums of dropped boots.
        named_at: Unix seconds at which a document last named a sum, by its name, and a service.
        first_seen: trackers of first exposures by `service/attempt`.
    """

    boots: dict[str, Boot] = field(default_factory=dict)
    strays: int = 0
    dirty: bool = False
    samples: dict[str, UnitSample] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    past: dict[str, RowCounters] = field(default_factory=dict)
    past_probes: dict[str, RowCounters] = field(default_factory=dict)
    past_held: dict[str, RowCounters] = field(default_factory=dict)
    gone: Boot = field(default_factory=lambda: Boot("gone", 0, 0.0))
    named_at: dict[str, float] = field(default_factory=dict)
    first_seen: Mapping[str, FirstExposureTracker] = field(default_factory=dict)
    _cells: dict[bytes, _Cell] = field(default_factory=dict)

    def consume(self, lines: Iterable[bytes], now: float) -> None:
        """Count lines at `now`, in Unix seconds.

        The agent spends most of its time here: each line costs one split, one look-up by its head and a few additions.
        """
        cells = self._cells
        touched: list[_Cell] = []
        for line in lines:
            try:
                head, count, ttfb, total, _, unit, group, received = line.rsplit(b" ", TAIL_FIELDS)
                cell = cells.get(head) or self._open_cell(head, now)
                if not cell.n:
                    touched.append(cell)
                if cell.row is None:
                    cell.n += 1
                    continue
                total_us = max(0, int(total))
                ttfb_us = total_us if ttfb == b"-" else max(0, int(ttfb))
                number = int(count)
                if cell.groups is not None:
                    _count_unit(cell, total_us, int(unit), int(group), int(received))
            except ValueError:
                self._count_unparsable(line)
                continue
            cell.n += 1
            if number > cell.highest:
                cell.highest = number
            cell.slow += total_us > cell.slow_us
            if cell.further_us:
                _count_further_thresholds(cell, total_us)
            if cell.total is not None:
                _add_times(cell, cell.total, total_us, ttfb_us)
        self._flush_cells(touched, now)

    def _flush_cells(self, touched: Iterable[_Cell], now: float) -> None:
        for cell in touched:
            _flush_cell(cell, now)
        if len(self._cells) > _MAX_CELLS:
            self._cells.clear()
        self.dirty = True

    def _open_cell(self, head: bytes, now: float) -> _Cell:
        parsed = parse_head(head)
        cell = self._cells[head] = _Cell(self.boot(parsed.boot, now), parsed)
        if cell.groups is not None and cell.key.origin == ASSIGNED_ORIGIN:
            cell.sample = self.sample(cell.key)
            cell.unit_rows = cell.sample.counts.of(cell.key.epoch, cell.key.arm)
            cell.firsts = self.first_seen.get(f"{cell.key.service}/{cell.key.attempt}")
        return cell

    def watch(self, first_seen: Mapping[str, FirstExposureTracker]) -> None:
        """Set the trackers of first exposures by attempt; units of other attempts are not tracked from now on."""
        self.first_seen = first_seen
        self._cells.clear()

    def sample(self, key: RowKey) -> UnitSample:
        """Return the sample of an attempt's units. Adding a new sample may shrink all others."""
        name = f"{key.service}/{key.attempt}"
        found = self.samples.get(name)
        if found is None:
            found = self.samples[name] = UnitSample()
            self._share_budget()
        return found

    def _share_budget(self) -> None:
        for sample in self.samples.values():
            sample.share_budget(len(self.samples))

    def boot(self, boot_id: str, now: float) -> Boot:
        """Return the boot of an id `<start of HAProxy>-<pid>`; add it if it is new."""
        found = self.boots.get(boot_id)
        if found is None:
            pid = boot_id.rpartition("-")[2]
            found = self.boots[boot_id] = Boot(id=boot_id, pid=int(pid) if pid.isdigit() else 0, started_at=now)
        return found

    def idle_rows(self, boot_id: str, before: float, attempts: Collection[tuple[str, str]]) -> list[str]:
        """Return rows of a boot without requests in flight that last changed before `before`, except rows of the (service, attempt)s."""
        boot = self.boots.get(boot_id)
        return [
            key
            for key, row in (boot.rows.items() if boot is not None else ())
            if row.changed < before and not row.in_flight and RowKey.of(key)[:2] not in attempts
        ]

    def forget_rows(self, boot_id: str, keys: Iterable[str]) -> None:
        """Drop rows of a boot that its worker has cleared; their sums stay."""
        for key in keys:
            self._keep_sums(key, self.boots[boot_id].rows.pop(key))
        self._cells.clear()
        self.dirty = True

    def forget(self, before: float, attempts: Collection[tuple[str, str]]) -> None:
        """Drop boots that ended before `before`, and samples and revisions of attempts without rows.

        Samples and revisions of `attempts`, the (service, attempt)s in force, stay. So do the sums of rows (see `sum_retention`). For each
        service in force, the newest other sample of one arm stays too: operators read from it how units behaved before the attempt.
        """
        gone = [boot for boot in self.boots.values() if boot.ended_at and boot.ended_at < before]
        for boot in gone:
            for key, row in boot.rows.items():
                self._keep_sums(key, row)
            self.gone.add_sums(boot)
            del self.boots[boot.id]
        known = {f"{key.service}/{key.attempt}" for boot in self.boots.values() for key in map(RowKey.of, boot.rows)}
        known |= {f"{service}/{attempt}" for service, attempt in attempts}
        before_attempts = self._samples_before({service for service, _ in attempts}, known)
        self.samples = {name: sample for name, sample in self.samples.items() if name in known | before_attempts}
        self.revisions = {key: number for key, number in self.revisions.items() if key.rpartition("/")[0] in known}
        if gone:
            self._cells.clear()
            self.dirty = True

    def _samples_before(self, services: Collection[str], known: Collection[str]) -> set[str]:
        """Return the names of the newest sample of one arm of each service that has no rows any more."""
        newest = {
            service: name
            for name, sample in self.samples.items()
            if name not in known and (service := name.partition("/")[0]) in services and sample.counts.has_one_arm
        }
        return {*newest.values()}

    def _keep_sums(self, key: str, row: RowCounters) -> None:
        parts = RowKey.of(key)
        row.blocks, row.groups = TimeBlockCounts(len(ROW_COLUMNS)), {}
        past = {PROBE_ORIGIN: self.past_probes, HELD_ORIGIN: self.past_held}.get(parts.origin, self.past)
        past.setdefault(self.sum_name(parts), RowCounters()).merge(row)

    def sum_name(self, key: RowKey) -> str:
        """Return the name of the sum of a row and all others of its arm's revision."""
        return f"{key.service}/{self.revision(key)}/{key.arm}"

    def record_revisions(self, document: SplitDocument) -> None:
        """Store the revision of each arm of a document."""
        for service in document.services:
            for arm in service.arms:
                self.revisions[f"{service.name}/{service.attempt}/{arm.name}"] = arm.revision

    def revision(self, key: RowKey) -> str:
        """Return the revision of a row's arm as a label; empty if it is not known."""
        return str(self.revisions.get(f"{key.service}/{key.attempt}/{key.arm}", ""))

    def as_json(self) -> dict[str, Any]:
        """Return the cumulative counts for the snapshot."""
        return {
            "boots": [boot.as_json() for boot in self.boots.values()],
            "strays": self.strays,
            "revisions": self.revisions,
            "gone": self.gone.as_json(),
            "namedAt": self.named_at,
            "past": {name: row.as_json() for name, row in self.past.items()},
            "pastProbes": {name: row.as_json() for name, row in self.past_probes.items()},
            "pastHeld": {name: row.as_json() for name, row in self.past_held.items()},
        }

    def details_as_json(self) -> dict[str, Any]:
        """Return blocks and groups of every row, and the samples of units, for the snapshot."""
        return {
            "rows": [
                [boot.id, key, row.details_as_json()] for boot in self.boots.values() for key, row in boot.rows.items()
            ],
            "samples": {name: sample.as_json() for name, sample in self.samples.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], details: Mapping[str, Any] | None = None) -> "Ledger":
        """Return the ledger that `as_json` and `details_as_json` gave."""
        boots = [Boot.from_json(boot) for boot in stored["boots"]]
        ledger = cls({boot.id: boot for boot in boots}, stored["strays"])
        ledger.revisions = dict(stored["revisions"])
        ledger.gone = Boot.from_json(stored["gone"])
        ledger.past = {name: RowCounters(**row) for name, row in stored["past"].items()}
        ledger.named_at = dict(stored.get("namedAt", {}))
        # Older agents, which did not separate probes or held requests, have not written these.
        ledger.past_probes = {name: RowCounters(**row) for name, row in stored.get("pastProbes", {}).items()}
        ledger.past_held = {name: RowCounters(**row) for name, row in stored.get("pastHeld", {}).items()}
        for boot_id, key, own in (details or {}).get("rows", ()):
            row = ledger.boots[boot_id].rows.get(key) if boot_id in ledger.boots else None
            if row is not None:
                row.add_details(own)
        ledger.samples = {name: UnitSample.from_json(own) for name, own in (details or {}).get("samples", {}).items()}
        ledger._share_budget()
        return ledger

    def _count_unparsable(self, line: bytes) -> None:
        boot = self.boots.get(line.split(b" ", 1)[0].decode(errors="replace"))
        if boot is None:
            self.strays += 1
        else:
            boot.unparsable += 1


def _count_further_thresholds(cell: _Cell, total_us: int) -> None:
    for place, limit in enumerate(cell.further_us):
        cell.further[place] += total_us > limit


def _add_times(cell: _Cell, total: list[int], total_us: int, ttfb_us: int) -> None:
    cell.us += total_us
    histogram.add(total, histogram.find_bucket(total_us))
    histogram.add(cell.ttfb, histogram.find_bucket(ttfb_us))


def _count_unit(cell: _Cell, total_us: int, unit: int, group: int, received: int) -> None:
    """Count one request of a sticky unit in its group and, if the unit is sampled, in the sample."""
    counts = unit_groups.get_or_add_counts(cell.groups if cell.groups is not None else {}, group)
    slow = total_us > cell.slow_us
    counts[cell.column] += 1
    if slow:
        counts[_SLOW_OF_GROUP] += 1
    if cell.further_us:
        for column, limit in zip(_FURTHER_OF_GROUP, cell.further_us, strict=False):
            counts[column] += total_us > limit
    if cell.retried:
        counts[FIRST_ATTEMPT_FAILED] += 1
    sample = cell.sample
    if sample is not None:
        number = unit & UNSIGNED
        if cell.firsts is not None:
            cell.firsts.observe(number, received, cell.key.epoch, cell.key.arm)
        if number < sample.counts.tau:
            _count_in_sample(cell, sample, number, total_us, slow=slow)
        if number < sample.tau:
            events = (*cell.events, SLOW_COLUMNS[0]) if slow else cell.events
            if cell.further_us:
                above = (total_us > limit for limit in cell.further_us)
                events = (*events, *itertools.compress(SLOW_COLUMNS[1:], above))
            sample.observe(number, (received, cell.key.epoch, cell.key.arm), events)


def _count_in_sample(cell: _Cell, sample: UnitSample, number: int, total_us: int, *, slow: bool) -> None:
    row = cell.unit_rows.get(number) or sample.counts.get_or_add_row(cell.unit_rows, number)
    row[unit_counts.REQUESTS] += 1
    for column in cell.unit_columns:
        row[column] += 1
    if slow:
        row[unit_counts.SLOW] += 1
    if cell.further_us:
        for column, limit in zip(unit_counts.SLOW_FURTHER, cell.further_us, strict=False):
            row[column] += total_us > limit


_SLOW_OF_GROUP, *_FURTHER_OF_GROUP = SLOW_PLACES


def _flush_cell(cell: _Cell, now: float) -> None:
    """Add the sums of a cell to its boot and row."""
    n, head, boot = cell.n, cell.head, cell.boot
    cell.n = 0
    boot.lines += n
    if isinstance(head, RefusalHead):
        boot.counted_lines += n if head.counted else 0
        kinds = boot.refused.setdefault(head.service, {})
        kinds[head.kind] = kinds.get(head.kind, 0) + n
    elif isinstance(head, AgentHead):
        boot.counted_lines += n if head.counted else 0
        statuses = (boot.ofrep if head.kind == OFREP_KIND else boot.feedback).setdefault(head.service, {})
        statuses[str(head.status)] = statuses.get(str(head.status), 0) + n
    elif cell.row is not None:
        boot.counted_lines += n
        _flush_ends(cell, cell.row, head, n, int(now) // BLOCK_S)
        cell.row.changed = now


def _flush_ends(cell: _Cell, row: RowCounters, head: EndHead, n: int, present: int) -> None:
    row.take_back(n)
    row.ended += n
    row.ends[head.end] += n
    row.highest = max(row.highest, cell.highest)
    row.client_closed += n if head.client_closed else 0
    if head.retries:
        row.first_attempt_failed += n
        row.retries += n * head.retries
        row.redispatched += n if head.redispatched else 0
        row.rescued += n if head.end == "ok" else 0
        row.poison += n if head.poison else 0
        row.blocks.add(head.block, FIRST_ATTEMPT_FAILED, n, present)
    if cell.total is None:
        row.served_elsewhere += n
    row.slow += cell.slow
    row.duration_us += cell.us
    row.blocks.add(head.block, cell.column, n, present)
    if cell.slow:
        row.blocks.add(head.block, SLOW_PLACES[0], cell.slow, present)
    for place, count in enumerate(cell.further):
        if count:
            name, column = SLOW_COLUMNS[1 + place], SLOW_PLACES[1 + place]
            setattr(row, name, getattr(row, name) + count)
            row.blocks.add(head.block, column, count, present)
            cell.further[place] = 0
    cell.slow = cell.us = 0
