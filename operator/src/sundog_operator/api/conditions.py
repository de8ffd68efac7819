"""Conditions: observations about a resource, with a reason and a time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.scalars import Integer, Message, Timestamp
from sundog_operator.api.schema.rules import ExpectedNoun

ConditionStatus = Literal["True", "False", "Unknown"]
CAMEL_CASE = r"^[A-Za-z]([A-Za-z0-9]*[A-Za-z0-9])?$"
MAX_MESSAGE_LENGTH = 32_768


class Condition(ApiBase):
    """One observation, as Kubernetes defines it. `last_transition_time` is when `status` last changed."""

    type: Annotated[
        str, Field(min_length=1, max_length=316, pattern=CAMEL_CASE), ExpectedNoun("a CamelCase word such as Ready")
    ]
    status: ConditionStatus
    reason: Annotated[
        str,
        Field(min_length=1, max_length=1024, pattern=CAMEL_CASE),
        ExpectedNoun("a CamelCase word such as SpecInvalid"),
    ]
    message: Message = ""
    last_transition_time: Timestamp
    observed_generation: Annotated[Integer, Field(ge=0)] = 0


class Conclusion(NamedTuple):
    """Status, reason and message of a condition before it is stored."""

    status: ConditionStatus
    reason: str
    message: str

    @classmethod
    def of(cls, condition: Condition) -> Self:
        """Return what a stored condition says."""
        return cls(condition.status, condition.reason, condition.message)


_PROBLEM_IF_TRUE: Final = ("Reconciling", "Stalled")
_ACTIVITIES: Final = ("Progressing", "Running", "Conclusive")


def has_problem(condition: Condition) -> bool:
    """Whether a condition is not as it should be. Conditions that only describe an activity have no such status."""
    if condition.type in _ACTIVITIES:
        return False
    return (condition.status == "True") == (condition.type in _PROBLEM_IF_TRUE)


def truncate(message: str, limit: int = MAX_MESSAGE_LENGTH) -> str:
    """Return the message, with an ellipsis if it is longer than `limit` characters."""
    return message if len(message) <= limit else message[: limit - 1] + "…"


class ConditionSet:
    """The conditions of one object during one pass.

    Callers mark what they observe. An unmarked condition keeps its stored state; at first it is Unknown with reason Pending.
    `abnormal` conditions are present only while they are True, `optional` ones from when they are marked until they are removed.
    An earlier time than the stored one never moves `last_transition_time` back.
    """

    def __init__(
        self,
        types: Sequence[str],
        *,
        abnormal: Sequence[str] = (),
        optional: Sequence[str] = (),
        previous: Sequence[Condition] = (),
        generation: int = 0,
        at: datetime,
    ) -> None:
        self._abnormal = tuple(abnormal)
        self._order = (*types[:1], *abnormal, *types[1:])
        self._stored = {condition.type: condition for condition in previous}
        self._generation = generation
        self._conditions = {
            type_: self._stored.get(type_) or self._condition(type_, "Unknown", "Pending", "", at)
            for type_ in self._order
            if type_ not in (*abnormal, *optional) or type_ in self._stored
        }

    def mark_true(self, type_: str, reason: str, message: str = "", *, at: datetime) -> None:
        """Mark a condition as True. Raises ValueError for an unknown type."""
        self._mark(type_, "True", reason, message, at)

    def mark_false(self, type_: str, reason: str, message: str = "", *, at: datetime) -> None:
        """Mark a condition as False; an abnormal one is removed. Raises ValueError for an unknown type."""
        self._mark(type_, "False", reason, message, at)

    def mark(self, type_: str, conclusion: Conclusion, *, at: datetime) -> None:
        """Set a condition; an abnormal one that is not True disappears. Raises ValueError for an unknown type."""
        self._mark(type_, conclusion.status, conclusion.reason, conclusion.message, at)

    def drop(self, type_: str) -> None:
        """Remove an optional condition that no longer applies."""
        self._conditions.pop(type_, None)

    def get(self, type_: str) -> Condition | None:
        """Return the present condition of a type; None if absent."""
        return self._conditions.get(type_)

    def conditions(self) -> tuple[Condition, ...]:
        """Return all present conditions, in a fixed order."""
        return tuple(condition for type_ in self._order if (condition := self.get(type_)) is not None)

    def _mark(self, type_: str, status: ConditionStatus, reason: str, message: str, at: datetime) -> None:
        if type_ not in self._order:
            raise ValueError(f"{type_}: unknown condition; expected one of {', '.join(self._order)}")
        if type_ in self._abnormal and status != "True":
            self._conditions.pop(type_, None)
            return
        self._conditions[type_] = self._condition(type_, status, reason, message, at)

    def _condition(self, type_: str, status: ConditionStatus, reason: str, message: str, at: datetime) -> Condition:
        stored = self._stored.get(type_)
        since = at
        if stored is not None:
            since = stored.last_transition_time if stored.status == status else max(at, stored.last_transition_time)
        return Condition(
            type=type_,
            status=status,
            reason=reason,
            message=truncate(message),
            last_transition_time=since,
            observed_generation=self._generation,
        )


def model_deployment_conditions(previous: Sequence[Condition], *, generation: int, at: datetime) -> ConditionSet:
    """Return the conditions of a ModelDeployment.

    `Ready` means that the stable revision serves. It is marked separately, because a failed candidate or a refused spec does not stop
    serving.
    """
    return ConditionSet(
        (
            *("Ready", "SpecAccepted", "CapacityAvailable", "RevisionReady", "TrafficSynced", "RouteAccepted"),
            *("ModelUnchanged", "Progressing", "Promoted"),
        ),
        abnormal=("Reconciling", "Stalled"),
        optional=("RouteAccepted", "ModelUnchanged"),
        previous=previous,
        generation=generation,
        at=at,
    )


def experiment_conditions(previous: Sequence[Condition], *, generation: int, at: datetime) -> ConditionSet:
    """Return the conditions of an Experiment. A concluded one is Ready too. A rollout's has no SpecAccepted, because no user wrote its
    spec.
    """
    return ConditionSet(
        ("Ready", "SpecAccepted", "Running", "DataQuality", "Conclusive", "LogWritten"),
        abnormal=("Stalled",),
        optional=("SpecAccepted", "LogWritten"),
        previous=previous,
        generation=generation,
        at=at,
    )
