"""The exposure log of an experiment: what an edge tells line by line, read, checked, and as it is written for others.

The lines are one of a head, then one of each first exposure and of each outcome, then one of an end, which says how many they were. What
is cut off or does not add up is no log.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import orjson

from sundog_operator.api import ExperimentStatus
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.edge import units as edge_units
from sundog_operator.core.experiments.hash_set import SeenUnits
from sundog_operator.core.experiments.outcome_evaluation import count_exposed_units
from sundog_operator.errors import SundogError

FORMAT_VERSION: Final = 1
MILLIONTHS: Final = 1_000_000
"""Of which a value is a whole number; divided by this it is the value that was told, and times this it is that number again."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONG: Final = ("tallies", "history", "notices", "deliveries", "exposureLog")
"""Of a status: what is of no use without the operator."""

Json = dict[str, Any]


class InvalidExposureLog(SundogError):
    """What an edge told is no whole log."""


class ExposureRow(NamedTuple):
    """The first exposure of a unit. `unit` is its hash in 16 hex digits."""

    unit: str
    time: datetime
    epoch: int
    arm: str


class OutcomeRow(NamedTuple):
    """One outcome, with epoch and arm of the first exposure of its unit. `value` is as it was told."""

    unit: str
    metric: str
    value: float
    time: datetime
    epoch: int
    arm: str


LogRow = ExposureRow | OutcomeRow


@dataclass(slots=True)
class ExposureLogReader:
    """Reads the lines of one export, and keeps what they are checked by.

    Attributes:
        most: exposures that are read at most; None for any number.
        head: what the sums were when it was begun.
        end: what they were when all was told.
        exposures: how many units so far.
        outcomes: likewise.
    """

    most: int | None = None
    head: Json = field(default_factory=dict)
    end: Json = field(default_factory=dict)
    exposures: int = 0
    outcomes: int = 0
    _units: SeenUnits = field(default_factory=SeenUnits)
    _told: int = 0

    def read(self, line: bytes) -> LogRow | None:
        """The row that a line is; None for head and end, and for a unit that was told before. Raises LogBroken."""
        try:
            ((kind, content),) = orjson.loads(line).items()
            if kind in ("head", "end"):
                # Sums of squares outgrow 64 bits, beyond which orjson would round them.
                content = json.loads(line)[kind]
            if (not self.head) != (kind == "head") or self.end:
                raise InvalidExposureLog(f"a line of {kind} where none can be")
            match kind:
                case "exposure":
                    return self._exposure(*content)
                case "outcome":
                    return self._outcome(*content)
                case "head" if content["version"] == FORMAT_VERSION:
                    self.head = dict(content)
                    self._make_room()
                case "end":
                    self.end = dict(content)
                case _:
                    raise InvalidExposureLog(f"{kind}: this version of sundog knows no such line")
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
            raise InvalidExposureLog(f"line {line[:80]!r} is none of an export") from None
        return None

    def _make_room(self) -> None:
        told = _exposed_in(self.head)
        if self.most is not None and told > self.most:
            raise InvalidExposureLog(
                f"it has {told} exposures, and {self.most} are written at most; `sundog experiment export` writes any number"
            )
        self._units = SeenUnits(told)

    def _exposure(self, unit: str, us: int, epoch: int, arm: str) -> ExposureRow | None:
        self._told += 1
        # A store may tell one twice, where it is rearranged meanwhile.
        if not self._units.add(int(unit, 16)):
            return None
        self.exposures += 1
        return ExposureRow(unit, _EPOCH + timedelta(microseconds=us), epoch, arm)

    def _outcome(self, unit: str, metric: str, epoch: int, arm: str, value: int, seconds: int) -> OutcomeRow:
        self.outcomes += 1
        return OutcomeRow(unit, metric, value / MILLIONTHS, _EPOCH + timedelta(seconds=seconds), epoch, arm)

    def check(self) -> None:
        """Raises LogBroken where lines are missing."""
        if not self.end:
            raise InvalidExposureLog(f"it was cut off after {self._told} exposures and {self.outcomes} outcomes")
        told = (self.end.get("exposures"), self.end.get("outcomes"))
        if told != (self._told, self.outcomes):
            raise InvalidExposureLog(
                f"it has {self._told} exposures and {self.outcomes} outcomes, and says that it has {told[0]} and {told[1]}"
            )

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing came from the head to the end."""
        first, last = ((told.get("feedback") or {}).get("sequence") for told in (self.head, self.end))
        return bool(first == last)

    @property
    def is_whole(self) -> bool:
        """Whether the rows are just what the sums at the end are of: nothing came meanwhile, and no outcome was too old to be kept."""
        return self.is_unchanged and self.outcomes == self.end.get("events") and self.exposures == _exposed_in(self.end)

    def behind(self, judged: FeedbackSums) -> str:
        """Why these lines cannot have all that was judged; empty where they have."""
        told = self.end.get("feedback") or {}
        if not judged.sequence:
            return ""
        if told.get("store") != judged.store:
            return f"the store of outcomes is {told.get('store')}, and it was judged by {judged.store}, which is lost"
        if told.get("sequence", 0) < judged.sequence:
            return (
                f"the store of outcomes is at change {told.get('sequence', 0)}, and it was judged by change {judged.sequence}:"
                " what came until then is lost, or was forgotten a week after the end"
            )
        return ""


def _exposed_in(told: Mapping[str, Any]) -> int:
    """Units with an exposure, by the sums of a head or an end."""
    return sum(units for _, _, units in (told.get("feedback") or {}).get("exposed") or ())


def make_plan_document(experiment: Mapping[str, Any], lines: ExposureLogReader, now: datetime) -> Json:
    """What is written beside exposures and outcomes: spec, plan and verdict of the Experiment, and the sums that the edge has.

    `complete` says whether exposures and outcomes are what the sums are of. `assigned` are units by epoch and arm, where each request is
    one: nobody keeps their exposures. `judged` are the sums that the operator has looked at last.
    """
    meta, status = experiment["metadata"], experiment.get("status") or {}
    return {
        "version": FORMAT_VERSION,
        "experiment": {name: meta.get(name) for name in ("name", "namespace", "uid", "generation")},
        "exportedAt": now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "complete": lines.is_whole,
        "rows": {"exposures": lines.exposures, "outcomes": lines.outcomes},
        "feedback": lines.end.get("feedback") or {},
        "assigned": _assigned(str(meta.get("uid")), status),
        "judged": evaluated_sums(experiment).as_json(),
        "spec": experiment.get("spec") or {},
        "status": {name: value for name, value in status.items() if name not in _LONG},
    }


def evaluated_sums(experiment: Mapping[str, Any]) -> FeedbackSums:
    """The sums that an Experiment was judged by last."""
    status = experiment.get("status") or {}
    return Counters.unpack(str(status.get("tallies") or ""), str(experiment["metadata"].get("uid"))).feedback


def _assigned(attempt: str, status: Mapping[str, Any]) -> list[tuple[int, str, int]]:
    progress = ExperimentStatus.parse(status)
    if edge_units.frozen_unit(progress.plan) != edge_units.PER_REQUEST:
        return []
    counted = Counters.unpack(progress.tallies, attempt)
    places = sorted({place for rows in counted.sources.values() for place in rows})
    return [(epoch, arm, count_exposed_units(progress, counted, epoch, arm)) for epoch, arm in places]
