"""The value of one condition."""

from typing import NamedTuple, Self

from sundog_operator.api import Condition


class Conclusion(NamedTuple):
    """Status, reason and message of a condition."""

    status: str
    reason: str
    message: str

    @classmethod
    def of(cls, condition: Condition) -> Self:
        """Return the value of a stored condition."""
        return cls(condition.status, condition.reason, condition.message)
