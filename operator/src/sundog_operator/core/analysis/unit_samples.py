"""Requests and events of sampled units, from samples that all edges draw by the same hash, and those before the attempt. Pure.

An attempt in which stable had all requests shows how units behaved before. If an edge is gone, its part of the sample is gone too. That
costs power only: which edge served a unit does not depend on its arm.
"""

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.edge.reported_counts import PARSE_ERRORS, SLOW, list_or_empty, parse_count
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.guardrail_comparison import SampledUnits

_HASH_RANGE: Final = 1 << 64
_MAX_COLUMNS: Final = 32
_MAX_BYTES: Final = 16 << 20
_MAX_COUNTS: Final = 100_000
"""Units times epochs that are tested, about two seconds of a core. Edges limit only the rows, and a unit need not return in every epoch."""
_READ_ERRORS: Final = (*PARSE_ERRORS, zlib.error)
_COLUMNS: Final = {"retried": "firstAttemptFailed", **{name: name for name in ("errors", "rejections", *SLOW)}}
"""The edges' column of each event."""

Rows = NDArray[np.void]
"""Rows of units: `hash` and the edges' columns."""


@dataclass(frozen=True, slots=True)
class _Sample:
    tau: int
    rows: Mapping[tuple[int, str], Rows]


@dataclass(frozen=True, slots=True)
class UnitSamples:
    """The sample of an attempt, and that of stable before.

    Attributes:
        hashes: of the units with requests in the attempt, ascending, shape (units,).
        rows: rows of the attempt by epoch and arm, of all edges.
        before: rows of stable before the attempt, of all edges.
    """

    hashes: NDArray[np.uint64]
    rows: Mapping[tuple[int, str], Sequence[Rows]]
    before: Sequence[Rows]

    def only(self, epochs: Sequence[int], arms: tuple[str, str]) -> Self | None:
        """Return the units that had requests in these epochs and arms, the lowest hashes where they are too many; None without any."""
        parts = [rows["hash"] for epoch in epochs for arm in arms for rows in self.rows.get((epoch, arm), ())]
        hashes = np.unique(np.concatenate(parts)) if parts else self.hashes[:0]
        return replace(self, hashes=hashes[: _MAX_COUNTS // len(epochs)]) if hashes.size else None

    def of(self, epoch: int, arms: tuple[str, str], weight: float, kinds: Sequence[str]) -> SampledUnits:
        """Return the counts of an epoch; a unit with requests in both arms has none. `kinds` are the events of each metric."""
        control, treatment = ([*self.rows.get((epoch, arm), ())] for arm in arms)
        requests, of_treatment = self._sum([*control, *treatment], "requests"), self._sum(treatment, "requests")
        is_treatment = of_treatment > 0
        is_one_arm = ~is_treatment | (of_treatment == requests)
        columns = [_COLUMNS[kind] for kind in kinds]
        return SampledUnits(
            weight=weight,
            requests=np.where(is_one_arm, requests, 0.0),
            events=[np.where(is_one_arm, self._sum([*control, *treatment], column), 0.0) for column in columns],
            is_treatment=is_treatment,
            requests_before=self._sum(self.before, "requests"),
            events_before=[self._sum(self.before, column) for column in columns],
        )

    def _sum(self, parts: Sequence[Rows], column: str) -> Numbers:
        """Return a column's sum for each unit, shape (units,). Units without a hash of these are left out."""
        found = np.zeros(len(self.hashes))
        for rows in parts:
            places = np.searchsorted(self.hashes, rows["hash"])
            known = self.hashes[np.minimum(places, len(self.hashes) - 1)] == rows["hash"]
            found += np.bincount(places[known], rows[column][known], minlength=len(found))
        return found


def read_unit_samples(attempt: str, reports: Iterable[EdgeReport]) -> UnitSamples | None:
    """Return the samples of all edges; None without units, or if an edge that reports the attempt does not count by unit."""
    documents = [
        each
        for report in reports
        for each in list_or_empty((report.evidence or {}).get("units"))
        if isinstance(each, Mapping)
    ]
    own = [each for each in documents if each.get("attempt") == attempt]
    services = {each.get("service") for each in own}
    samples = [_parse(each) for each in own]
    known = [each for each in samples if each is not None]
    if len(known) < len(samples) or not any(each.rows for each in known):
        return None
    tau = min(each.tau for each in known)
    rows: dict[tuple[int, str], list[Rows]] = {}
    for sample in known:
        for key, part in sample.rows.items():
            rows.setdefault(key, []).append(part[part["hash"] <= np.uint64(tau - 1)])
    hashes = np.unique(np.concatenate([part["hash"] for parts in rows.values() for part in parts]))
    others = (each for each in documents if each.get("attempt") != attempt and each.get("service") in services)
    before = [
        part
        for sample in map(_parse, others)
        if sample is not None and all(arm == names.STABLE for _, arm in sample.rows)
        for part in sample.rows.values()
    ]
    return UnitSamples(hashes, rows, before) if hashes.size else None


def _parse(document: Mapping[str, Any]) -> _Sample | None:
    """Return the counts of a document; None without counts, or with invalid ones."""
    try:
        stored = document["counts"]
        columns = [str(name) for name in stored["columns"][:_MAX_COLUMNS]]
        if not {"requests", *_COLUMNS.values()} <= {*columns}:
            return None
        kind = np.dtype([("hash", "<u8"), *((name, "<u4") for name in columns)])
        rows = {(parse_count(epoch), str(arm)): _unpack(packed, kind) for epoch, arm, packed in stored["rows"]}
        return _Sample(parse_count(int(stored["tau"], 16) - 1, _HASH_RANGE) + 1, rows)
    except _READ_ERRORS:
        return None


def _unpack(packed: str, kind: np.dtype[np.void]) -> Rows:
    unpacking = zlib.decompressobj()
    whole = unpacking.decompress(base64.b64decode(packed, validate=True), _MAX_BYTES)
    if not unpacking.eof:
        raise ValueError(f"rows of units: incomplete, or more than {_MAX_BYTES} bytes")
    found: Rows = np.frombuffer(whole, kind)
    return found
