"""The shape of the texts about reasons."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasonText:
    """One reason. `truth` is the status of the condition, the type of the event, or whether a start is retried."""

    truth: str
    reason: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ConditionText:
    """One condition. `borrows` names the reasons of other conditions that it can have."""

    type: str
    meaning: str
    reasons: tuple[ReasonText, ...] = ()
    borrows: str = ""


@dataclass(frozen=True, slots=True)
class Advice:
    """A command to look closer at a reason, and the fix."""

    look: str
    fix: str
