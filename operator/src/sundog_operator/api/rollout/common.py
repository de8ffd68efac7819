"""Types and defaults that parts of `spec.rollout` share."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from sundog_operator.api.scalars import (
    POSITIVE_DURATION_RULE,
    Duration,
    Integer,
)
from sundog_operator.api.schema.rules import Rule

Gate = Literal["evidence", "time", "manual"]
PartComparator = Literal["exact", "tolerance", "argmax"]
Comparator = Literal[PartComparator, "custom"]
Weight = Annotated[Integer, Field(ge=1, le=100)]
PositiveDuration = Annotated[Duration, POSITIVE_DURATION_RULE]
LONGEST_DEADLINE_RULE = Rule(
    cel="self.contains('d') ? int(self.split('d')[0]) <= 7 : duration(self) <= duration('168h')",
    python=lambda deadline: deadline <= timedelta(days=7),
    message="{}; expected at most 7d",
    spares_stored=True,
)
DEFAULT_GATE: Gate = "evidence"
DEFAULT_MIN_DURATION = timedelta(minutes=5)
DEFAULT_MAX_DURATION = timedelta(hours=24)
JSON_PATH = r"^\$(\.[A-Za-z0-9_-]{1,63}|\[[0-9]{1,4}\]){1,8}$"
JSON_PATH_NOUN = "a JSON path such as $.user.id or $.rows[0].id, of at most 8 parts"
