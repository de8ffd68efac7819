from collections.abc import Sequence

from sundog_operator.errors import SpecError


class Invalid(SpecError):
    """The API server refused the object: HTTP 422. `causes` holds one line per violation."""

    def __init__(self, subject: str, causes: Sequence[str]) -> None:
        super().__init__("Invalid", f"{subject} is invalid: {'; '.join(causes)}")
        self.causes = tuple(causes)
