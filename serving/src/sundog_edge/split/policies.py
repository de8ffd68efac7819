"""What a service asks of the edge beside its split: who may call, also from which pages, how often, and how many may wait."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
# A field of a HAProxy map value: no separator, no control character, no blank at its ends.
Words = Annotated[
    str, StringConstraints(pattern=r"^([^|\x00-\x20\x7f]([^|\x00-\x1f\x7f]*[^|\x00-\x20\x7f])?)?$", max_length=512)
]

ANY_ORIGIN = "*"
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z][a-z0-9+.-]{0,31}://[a-z0-9._:\[\]-]{1,253})$")]
CorsHeader = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][-a-z0-9_]{0,62}$")]

DEFAULT_WAIT_MS = 5000
_LEAST_SHARE = 10


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Jwt(_Part):
    """Tokens that are accepted: signed by a key of `jwks.json` in the Secret, from `issuer` and for `audience` where these are given."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    jwks: SecretName
    issuer: Words = ""
    audience: Words = ""


class Auth(_Part):
    """Who may call: whoever has an API key of the Secret or a token; nobody is asked where both are missing.

    A member that is not known here is refused: to overlook a demand would let everybody in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    apiKeys: SecretName | Literal[""] = ""  # noqa: N815 - the document's own name
    jwt: Jwt | None = None


class Queue(_Part):
    """How many requests may wait for a replica, and for how long each."""

    maxRequests: Annotated[int, Field(ge=0, le=100_000)] = 1000  # noqa: N815
    timeoutSeconds: Annotated[float, Field(ge=0, le=86_400, strict=False)] = DEFAULT_WAIT_MS / 1000  # noqa: N815

    @property
    def wait_ms(self) -> int:
        """The longest wait, at least a millisecond: HAProxy takes 0 for no limit."""
        return max(1, round(self.timeoutSeconds * 1000))

    def share(self, weight: float) -> int:
        """How many of the waiting may be an arm's: as many as its weight in percent says, so that arms are treated alike, and at
        least a tenth, because an override can choose an arm of any weight.
        """
        return max(1, math.ceil(self.maxRequests * max(weight, _LEAST_SHARE) / 100))


class Rate(_Part):
    """So many requests in any span of so many seconds."""

    requests: Annotated[int, Field(gt=0, le=1_000_000_000)]
    seconds: Literal[1, 60, 3600]

    @property
    def retry_after(self) -> int:
        """When the next request is due on average, in whole seconds."""
        return math.ceil(self.seconds / self.requests)


class RateLimit(_Part):
    """Limits per client (API key, token's subject, else source address) and over all clients, of one edge."""

    perClient: Rate | None = None  # noqa: N815
    total: Rate | None = None


class Cors(_Part):
    """Which pages of other origins may call, as browsers ask on their behalf (the CORS protocol of the Fetch standard).

    `allowedHeaders` and `exposedHeaders` come on top of those that every client of a service needs.
    """

    allowedOrigins: Annotated[tuple[Origin, ...], Field(min_length=1, max_length=32)]  # noqa: N815
    allowedHeaders: Annotated[tuple[CorsHeader, ...], Field(max_length=16)] = ()  # noqa: N815
    exposedHeaders: Annotated[tuple[CorsHeader, ...], Field(max_length=16)] = ()  # noqa: N815
    maxAgeSeconds: Annotated[int, Field(ge=0, le=86_400)] = 600  # noqa: N815
    allowCredentials: bool = False  # noqa: N815

    @field_validator("allowedOrigins", "allowedHeaders", "exposedHeaders", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("allowCredentials")
    @classmethod
    def _origins_are_named(cls, value: bool, info: ValidationInfo) -> bool:
        if value and ANY_ORIGIN in info.data.get("allowedOrigins", ()):
            raise ValueError("credentials are for origins that are named, and allowedOrigins has *")
        return value
