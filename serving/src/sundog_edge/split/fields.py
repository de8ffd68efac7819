"""Types of the split document's fields, and the base of its parts."""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sundog_edge.split.assignment import BUCKET_COUNT

MAX_INTEGER = (1 << 63) - 1

# These strings become fields of HAProxy map values and of log lines, so they hold no separator and no blank.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,63}$")]
Host = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
ExperimentName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Prefix = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]{1,127}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
CookieName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
ClaimName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:-]{1,63}$")]
JsonPath = Annotated[str, StringConstraints(pattern=r"^\$(\.[A-Za-z0-9_-]{1,63}|\[[0-9]{1,4}\]){1,8}$", max_length=200)]
MatchedName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,63}$")]
# HAProxy compares the hash of this value, so it may hold separators of map fields.
MatchedValue = Annotated[str, StringConstraints(pattern=r"^[!-~]([ -~]{0,254}[!-~])?$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~-]{1,128}$")]
Caller = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,253}$")]
MetricName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][-A-Za-z0-9_.]{0,62}$")]
Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,253}:[0-9]{1,5}$")]
# No separator of map fields, no control character, no blank at either end.
Words = Annotated[
    str, StringConstraints(pattern=r"^([^|\x00-\x20\x7f]([^|\x00-\x1f\x7f]*[^|\x00-\x20\x7f])?)?$", max_length=512)
]

Bucket = Annotated[int, Field(ge=0, le=BUCKET_COUNT)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Threshold = Annotated[int, Field(gt=0, le=86_400_000_000)]


class DocumentPart(BaseModel):
    """Base of the document's parts: frozen, strict types, unknown members ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


def list_to_tuple(value: Any) -> Any:
    """Return a list as a tuple, which strict validation of Python values needs; other values as they are."""
    return tuple(value) if isinstance(value, list) else value


def check_unique(values: Iterable[str], what: str) -> None:
    """Raise ValueError if a value appears twice; `what` names the values."""
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"{what} {repeated[0]!r} appears twice")
