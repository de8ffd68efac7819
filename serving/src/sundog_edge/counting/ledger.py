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

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sundog_edge.counting.boots import Boot
from sundog_edge.counting.line_cells import LineCell
from sundog_edge.counting.log_lines import TAIL_FIELDS, parse_head
from sundog_edge.counting.rows import RowCounters, RowKey
from sundog_edge.counting.unit_sample import UnitSample
from sundog_edge.feedback.first_seen import FirstExposureTracker
from sundog_edge.haproxy.names import HELD_ORIGIN, PROBE_ORIGIN
from sundog_edge.split.document import SplitDocument

_MAX_CELLS = 10_000


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
    _cells: dict[bytes, LineCell] = field(default_factory=dict)

    def consume(self, lines: Iterable[bytes], now: float) -> None:
        """Count lines at `now`, in Unix seconds.

        The agent spends most of its time here: each line costs one split, one look-up by its head and a few additions.
        """
        cells = self._cells
        touched: list[LineCell] = []
        for line in lines:
            try:
                head, *tail = line.rsplit(b" ", TAIL_FIELDS)
                cell = cells.get(head) or self._open_cell(head, now)
                if not cell.n:
                    touched.append(cell)
                cell.count(tail)
            except ValueError:
                self._count_unparsable(line)
        for cell in touched:
            cell.flush(now)
        if len(cells) > _MAX_CELLS:
            cells.clear()
        self.dirty = True

    def _open_cell(self, head: bytes, now: float) -> LineCell:
        parsed = parse_head(head)
        cell = self._cells[head] = LineCell(self.boot(parsed.boot, now), parsed)
        if cell.has_assigned_units:
            cell.watch_units(self.sample(cell.key), self.first_seen.get(f"{cell.key.service}/{cell.key.attempt}"))
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
