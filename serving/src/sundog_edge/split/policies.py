"""Policies of a service besides its split: who may call, from which web pages, how often, and how many requests may wait."""

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from sundog_edge.split.fields import DocumentPart, SecretName, Words, list_to_tuple

ANY_ORIGIN = "*"
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z][a-z0-9+.-]{0,31}://[a-z0-9._:\[\]-]{1,253})$")]
CorsHeader = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][-a-z0-9_]{0,62}$")]

DEFAULT_WAIT_MS = 5000
_MIN_SHARE_PERCENT = 10


class Jwt(DocumentPart):
    """Accepted tokens: signed by a key of `jwks.json` in the Secret `jwks`, from `issuer` and for `audience` where these are given."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    jwks: SecretName
    issuer: Words = ""
    audience: Words = ""


class Auth(DocumentPart):
    """Who may call: callers with an API key of the Secret, or with a token. Without both, every caller may.

    An unknown member is an error: to ignore a requirement would let every caller in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    apiKeys: SecretName | Literal[""] = ""  # noqa: N815 - the document's own name
    jwt: Jwt | None = None


class Queue(DocumentPart):
    """How many requests may wait for a replica, and how long each may."""

    maxRequests: Annotated[int, Field(ge=0, le=100_000)] = 1000  # noqa: N815
    timeoutSeconds: Annotated[float, Field(ge=0, le=86_400, strict=False)] = DEFAULT_WAIT_MS / 1000  # noqa: N815

    @property
    def wait_ms(self) -> int:
        """The longest wait, at least a millisecond: HAProxy reads 0 as no limit."""
        return max(1, round(self.timeoutSeconds * 1000))

    def share(self, weight: float) -> int:
        """Return how many requests of an arm may wait: its weight in percent of the queue, so that all arms are treated alike.

        An arm gets at least a tenth, because an override can choose an arm of any weight.
        """
        return max(1, math.ceil(self.maxRequests * max(weight, _MIN_SHARE_PERCENT) / 100))


class Rate(DocumentPart):
    """At most `requests` in any period of `seconds`."""

    requests: Annotated[int, Field(gt=0, le=1_000_000_000)]
    seconds: Literal[1, 60, 3600]

    @property
    def retry_after(self) -> int:
        """Average time until the next request is allowed, in whole seconds, rounded up."""
        return math.ceil(self.seconds / self.requests)


class RateLimit(DocumentPart):
    """Limits of one edge: per client (API key, token's subject, else source address), and over all clients."""

    perClient: Rate | None = None  # noqa: N815
    total: Rate | None = None


class Cors(DocumentPart):
    """Which web pages of other origins may call, by the CORS protocol of the Fetch standard.

    `allowedHeaders` and `exposedHeaders` are added to the headers that every client of a service needs.
    """

    allowedOrigins: Annotated[tuple[Origin, ...], Field(min_length=1, max_length=32)]  # noqa: N815
    allowedHeaders: Annotated[tuple[CorsHeader, ...], Field(max_length=16)] = ()  # noqa: N815
    exposedHeaders: Annotated[tuple[CorsHeader, ...], Field(max_length=16)] = ()  # noqa: N815
    maxAgeSeconds: Annotated[int, Field(ge=0, le=86_400)] = 600  # noqa: N815
    allowCredentials: bool = False  # noqa: N815

    _lists = field_validator("allowedOrigins", "allowedHeaders", "exposedHeaders", mode="before")(list_to_tuple)

    @field_validator("allowCredentials")
    @classmethod
    def _origins_are_named(cls, value: bool, info: ValidationInfo) -> bool:
        if value and ANY_ORIGIN in info.data.get("allowedOrigins", ()):
            raise ValueError("allowedOrigins has *; expected named origins with allowCredentials")
        return value
