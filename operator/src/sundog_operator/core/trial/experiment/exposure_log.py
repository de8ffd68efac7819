"""Exposure log of an experiment: the lines of an edge's export, read and checked, and the plan document beside them.

The first line is a head. Then come one line for each first exposure and for each outcome. The last line is an end with their numbers. A log
that is cut off or has other numbers is invalid.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import orjson

from sundog_operator.api import ExperimentStatus
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.edge import units as edge_units
from sundog_operator.core.kubernetes import names
from sundog_operator.core.stats.outcome_counts import MILLIONTHS
from sundog_operator.core.trial.experiment.final_evaluation import evaluate_final_log
from sundog_operator.core.trial.experiment.hash_set import SeenUnits
from sundog_operator.errors import SundogError

EXPORT_VERSION: Final = 1
"""Version of an edge's export."""

FORMAT_VERSION: Final = 2
"""Version of the files: of the rows of the two tables, and of the plan document."""

MAX_ROW_BYTES: Final = 2048
"""Longest line of an exposure or an outcome; thousands are buffered. With the longest names it has some 250 bytes, and 1024 more with
properties of 512 bytes, in which each quote is escaped.
"""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INTERNAL_FIELDS: Final = ("tallies", "history", "notices", "deliveries", "exposureLog")
"""Status fields that only the operator uses."""

NO_PROPERTIES: Final = "{}"

Json = dict[str, Any]


class InvalidExposureLog(SundogError):
    """An edge's export is invalid or incomplete."""


class ExposureRow(NamedTuple):
    """First exposure of a unit. `unit` is its hash in 16 hex digits."""

    unit: str
    time: datetime
    epoch: int
    arm: str


class OutcomeRow(NamedTuple):
    """Outcome of a unit, with epoch and arm of its first exposure. `value` is as reported; `properties` is a JSON object."""

    unit: str
    metric: str
    value: float
    time: datetime
    epoch: int
    arm: str
    properties: str = NO_PROPERTIES


LogRow = ExposureRow | OutcomeRow


class FlagIdentity(NamedTuple):
    """An Experiment as a feature flag of OpenTelemetry. `flag_set` is `namespace/ModelDeployment`."""

    key: str
    flag_set: str
    uid: str

    @classmethod
    def of(cls, experiment: Mapping[str, Any]) -> "FlagIdentity":
        """Return the identity of a stored Experiment."""
        meta = experiment["metadata"]
        return cls(meta["name"], f"{meta['namespace']}/{experiment['spec']['modelDeployment']}", meta["uid"])


PROPERTIES_COLUMN: Final = "properties"
_VERSION_COLUMN: Final = "version"
# Attributes of OpenTelemetry's event `feature_flag.evaluation`.
_FLAG_KEY: Final = "feature_flag.key"
_FLAG_SET: Final = "feature_flag.set.id"
_FLAG_PROVIDER: Final = "feature_flag.provider.name"
_FLAG_VERSION: Final = "feature_flag.version"
_FLAG_CONTEXT: Final = "feature_flag.context.id"
_FLAG_VARIANT: Final = "feature_flag.result.variant"
_FLAG_REASON: Final = "feature_flag.result.reason"
_PROVIDER: Final = "sundog"


def column_types(row: type[LogRow]) -> dict[str, type]:
    """Return the columns of the table of such rows, in order, with the types of their values."""
    flag = (_FLAG_KEY, _FLAG_SET, _FLAG_PROVIDER, _FLAG_VERSION, _FLAG_CONTEXT, _FLAG_VARIANT, _FLAG_REASON)
    return {_VERSION_COLUMN: int, **row.__annotations__, **dict.fromkeys(flag, str)}


def make_columns(rows: Sequence[LogRow], flag: FlagIdentity) -> dict[str, Sequence[Any]]:
    """Return the values of each column of some rows, at least one, of one table."""
    own = dict(zip(rows[0]._fields, zip(*rows, strict=True), strict=True))
    return {
        _VERSION_COLUMN: [FORMAT_VERSION] * len(rows),
        **own,
        _FLAG_KEY: [flag.key] * len(rows),
        _FLAG_SET: [flag.flag_set] * len(rows),
        _FLAG_PROVIDER: [_PROVIDER] * len(rows),
        _FLAG_VERSION: [f"{flag.uid}/{epoch}" for epoch in own["epoch"]],
        _FLAG_CONTEXT: own["unit"],
        _FLAG_VARIANT: own["arm"],
        _FLAG_REASON: ["default" if arm == names.STABLE else "split" for arm in own["arm"]],
    }


@dataclass(slots=True)
class ExposureLogReader:
    """Reader of one export's lines, with the counts that check them.

    Attributes:
        most: the largest number of exposures; None for no limit.
        head: the sums when the export began.
        end: the sums when it ended.
        exposures: units so far.
        outcomes: outcomes so far.
    """

    most: int | None = None
    head: Json = field(default_factory=dict)
    end: Json = field(default_factory=dict)
    exposures: int = 0
    outcomes: int = 0
    _units: SeenUnits = field(default_factory=SeenUnits)
    _exposure_lines: int = 0

    def read(self, line: bytes) -> LogRow | None:
        """Read the next line and return its row; None for head, end and a repeated unit. Raises InvalidExposureLog."""
        try:
            ((kind, content),) = orjson.loads(line).items()
            if kind in ("head", "end"):
                # Sums of squares outgrow 64 bits, beyond which orjson would round them.
                content = json.loads(line)[kind]
            elif len(line) > MAX_ROW_BYTES:
                raise InvalidExposureLog(f"{kind}: a line of {len(line)} bytes; expected at most {MAX_ROW_BYTES}")
            if (not self.head) != (kind == "head") or self.end:
                raise InvalidExposureLog(f"{kind}: unexpected line; expected one head first and one end last")
            match kind:
                case "exposure":
                    return self._exposure(*content)
                case "outcome":
                    return self._outcome(*content)
                case "head" if content["version"] == EXPORT_VERSION:
                    self.head = dict(content)
                    self._start_units()
                case "end":
                    self.end = dict(content)
                case _:
                    raise InvalidExposureLog(
                        f"{kind}: unknown type or version of line. Use the cluster's version of sundog."
                    )
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
            raise InvalidExposureLog(f"line {line[:80]!r}: not a line of an exposure log") from None
        return None

    def _start_units(self) -> None:
        exposed = _exposed_in(self.head)
        self._check_most(exposed)
        self._units = SeenUnits(exposed)

    def _check_most(self, exposures: int) -> None:
        if self.most is not None and exposures > self.most:
            raise InvalidExposureLog(
                f"the log has {exposures} exposures; expected at most {self.most}. Use `sundog experiment export`, which has no limit."
            )

    def _exposure(self, unit: str, us: int, epoch: int, arm: str) -> ExposureRow | None:
        self._exposure_lines += 1
        # A store that is rearranged during the export may send a unit twice.
        if not self._units.add(int(unit, 16)):
            return None
        self.exposures += 1
        self._check_most(self.exposures)
        return ExposureRow(unit, _EPOCH + timedelta(microseconds=us), epoch, arm)

    def _outcome(
        self,
        unit: str,
        metric: str,
        epoch: int,
        arm: str,
        value: int,
        seconds: int,
        properties: str = NO_PROPERTIES,
    ) -> OutcomeRow:
        self.outcomes += 1
        if properties is not NO_PROPERTIES and not isinstance(orjson.loads(properties), dict):
            raise TypeError("properties: not an object")
        return OutcomeRow(unit, metric, value / MILLIONTHS, _EPOCH + timedelta(seconds=seconds), epoch, arm, properties)

    def check(self) -> None:
        """Raise InvalidExposureLog if lines are missing."""
        if not self.end:
            raise InvalidExposureLog(
                f"the log ends after {self._exposure_lines} exposures and {self.outcomes} outcomes; expected an end line"
            )
        announced = (self.end.get("exposures"), self.end.get("outcomes"))
        if announced != (self._exposure_lines, self.outcomes):
            raise InvalidExposureLog(
                f"the log has {self._exposure_lines} exposures and {self.outcomes} outcomes;"
                f" expected {announced[0]} and {announced[1]} by its end line"
            )

    @property
    def is_unchanged(self) -> bool:
        """True if no exposure or outcome came during the export."""
        first, last = ((sums.get("feedback") or {}).get("sequence") for sums in (self.head, self.end))
        return bool(first == last)

    @property
    def is_whole(self) -> bool:
        """True if the rows add up to the sums at the end: nothing came meanwhile, and no outcome was too old to be kept."""
        return self.is_unchanged and self.outcomes == self.end.get("events") and self.exposures == _exposed_in(self.end)

    @property
    def feedback(self) -> Json:
        """Return the sums at the end."""
        return self.end.get("feedback") or {}

    def behind(self, evaluated: FeedbackSums) -> str:
        """Return why these lines lack data that the operator has evaluated; empty where they lack none."""
        stored = self.feedback
        if not evaluated.sequence:
            return ""
        if stored.get("store") != evaluated.store:
            return (
                f"feedback store {stored.get('store')}: the last evaluation used store {evaluated.store}, which is lost"
            )
        if stored.get("sequence", 0) < evaluated.sequence:
            return (
                f"feedback store at change {stored.get('sequence', 0)}: the last evaluation used change {evaluated.sequence};"
                " data up to it is lost, or was deleted a week after the experiment ended"
            )
        return ""


def _exposed_in(sums: Mapping[str, Any]) -> int:
    """Return the number of exposed units, given the sums of a head or an end."""
    return sum(units for _, _, units in (sums.get("feedback") or {}).get("exposed") or ())


def make_plan_document(experiment: Mapping[str, Any], lines: ExposureLogReader, now: datetime) -> Json:
    """Return the document beside exposures and outcomes: the Experiment's spec, plan and verdict, and the edge's sums.

    `complete` says whether the rows add up to the sums. `assigned` has units by epoch and arm where each request is a unit, because their
    exposures are not kept. `judged` has the sums of the operator's last evaluation. After the end that is the one of these very rows.
    """
    experiment = _evaluate_rows(experiment, lines)
    meta, status = experiment["metadata"], experiment.get("status") or {}
    return {
        "version": FORMAT_VERSION,
        "experiment": {name: meta.get(name) for name in ("name", "namespace", "uid", "generation")},
        "exportedAt": now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "complete": lines.is_whole,
        "rows": {"exposures": lines.exposures, "outcomes": lines.outcomes},
        "feedback": lines.feedback,
        "assigned": _assigned(str(meta.get("uid")), status),
        "judged": evaluated_sums(experiment).as_json(),
        "spec": experiment.get("spec") or {},
        "status": {name: value for name, value in status.items() if name not in _INTERNAL_FIELDS},
    }


def _evaluate_rows(experiment: Mapping[str, Any], lines: ExposureLogReader) -> Mapping[str, Any]:
    """Return an ended Experiment with the metrics of the log."""
    stored = experiment.get("status") or {}
    before = ExperimentStatus.parse(stored)
    after = evaluate_final_log(before, str(experiment["metadata"].get("uid")), lines.feedback)
    if after == before:
        return experiment
    changed = {name: value for name, value in after.to_json().items() if name in ("metrics", "tallies")}
    return {**experiment, "status": {**stored, **changed}}


def evaluated_sums(experiment: Mapping[str, Any]) -> FeedbackSums:
    """Return the sums of an Experiment's last evaluation."""
    status = experiment.get("status") or {}
    return Counters.unpack(str(status.get("tallies") or ""), str(experiment["metadata"].get("uid"))).feedback


def _assigned(attempt: str, status: Mapping[str, Any]) -> list[tuple[int, str, int]]:
    progress = ExperimentStatus.parse(status)
    if edge_units.frozen_unit(progress.plan) != edge_units.PER_REQUEST:
        return []
    counted = Counters.unpack(progress.tallies, attempt)
    places = sorted({place for rows in counted.sources.values() for place in rows})
    return [(epoch, arm, counted.count_exposed_units(epoch, arm, sticky=False)) for epoch, arm in places]
