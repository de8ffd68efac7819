"""The split document: what the operator wants of this edge, typed and checked. It is taken whole or refused whole."""

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from sundog_edge.errors import DocumentError
from sundog_edge.split.assignment import BUCKET_COUNT, Segment, build_segments
from sundog_edge.split.policies import Auth, Cors, Queue, RateLimit, SecretName

VERSION = 1
MAX_ARMS = 11
MAX_SEGMENTS = 256
MAX_OVERRIDES = 16
MAX_CALLERS = 64
MAX_NETWORKS = 256
MAX_METRICS = 25
MAX_MATCHED = 8
MAX_PARTS = 8
MAX_BYTES = 4 << 20
MAX_INTEGER = (1 << 63) - 1

# These strings become fields of HAProxy map values and of log lines, so they hold no separator and no blank.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,63}$")]
Host = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Prefix = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]{1,127}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
CookieName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
ClaimName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:-]{1,63}$")]
JsonPath = Annotated[str, StringConstraints(pattern=r"^\$(\.[A-Za-z0-9_-]{1,63}|\[[0-9]{1,4}\]){1,8}$", max_length=200)]
MatchedName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,63}$")]
# Compared by its hash, so that it may hold what separates fields of maps.
MatchedValue = Annotated[str, StringConstraints(pattern=r"^[!-~]([ -~]{0,254}[!-~])?$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~-]{1,128}$")]
Caller = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,253}$")]
MetricName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][-A-Za-z0-9_.]{0,62}$")]
Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,253}:[0-9]{1,5}$")]
Bucket = Annotated[int, Field(ge=0, le=BUCKET_COUNT)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Cluster(_Part):
    """One Ray cluster: Serve's REST address, and its own proxy as `host:port` (empty for none)."""

    dashboard: str
    fallback: Address | Literal[""] = ""

    @field_validator("dashboard")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise ValueError("is not an http or https URL without credentials")
        return value


class Unit(_Part):
    """What is assigned: every request for itself, or the value of a header, of a cookie, at a path in a JSON body, or of a claim of
    a token that was verified.
    """

    kind: Literal["request", "header", "cookie", "jsonPath", "jwtClaim"]
    name: str = ""

    @model_validator(mode="after")
    def _name_fits_kind(self) -> Self:
        if self.kind == "request":
            return self
        if not self.name:
            raise ValueError(f"unit.kind is {self.kind}, but unit.name is missing")
        try:
            _NAME_OF_UNIT[self.kind].validate_python(self.name)
        except ValidationError:
            raise ValueError(f"unit.name {self.name[:60]!r} is no name of a {self.kind}") from None
        return self

    @property
    def source(self) -> str:
        """The unit as one word, such as `header:x-user-id`; empty where every request is a unit of its own."""
        name = self.name.lower() if self.kind == "header" else self.name
        return "" if self.kind == "request" else f"{self.kind}:{name}"


_NAME_OF_UNIT: dict[str, TypeAdapter[str]] = {
    "header": TypeAdapter(HeaderName),
    "cookie": TypeAdapter(CookieName),
    "jsonPath": TypeAdapter(JsonPath),
    "jwtClaim": TypeAdapter(ClaimName),
}


class Callers(_Part):
    """Who may override: the names of API keys, and source networks in canonical CIDR form."""

    keys: tuple[Caller, ...] = ()
    networks: tuple[str, ...] = ()

    @field_validator("keys", "networks", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(str(ipaddress.ip_network(text)) for text in value)
        except ValueError as error:
            raise ValueError(f"{error}; expected such as 10.0.0.0/8") from None

    @model_validator(mode="after")
    def _are_few(self) -> Self:
        count = len(self.keys) + len(self.networks)
        if count > MAX_CALLERS:
            raise ValueError(f"an override has {count} callers, at most {MAX_CALLERS} are possible")
        return self


class Override(_Part):
    """A header with which an allow-listed caller chooses its arm. From anybody else it has no effect."""

    header: HeaderName
    value: HeaderValue
    arm: Name
    callers: Callers


class Match(_Part):
    """Headers with which anybody's request goes to an arm, whatever its bucket: all of them, with exactly these values."""

    arm: Name
    headers: Annotated[dict[MatchedName, MatchedValue], Field(min_length=1, max_length=MAX_MATCHED)]


class Feedback(_Part):
    """Outcomes that are reported to the edge: the names of their metrics, and of how many sticky units the first exposure is kept."""

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1, max_length=MAX_METRICS)]
    maxUnits: Annotated[int, Field(gt=0, le=100_000_000)] = 2_000_000  # noqa: N815 - the document's own name

    @field_validator("metrics", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("metrics")
    @classmethod
    def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _unique(value, "metric")
        return value


Threshold = Annotated[int, Field(gt=0, le=86_400_000_000)]


class Arm(_Part):
    """One arm of a service and the Serve application behind it. `ranges` are half-open intervals of buckets; an answer whose total time is
    above `slowMicroseconds` counts as slow, none where it is left out. Those above `slowMicroseconds2` and `slowMicroseconds3` are counted
    apart, each for itself.
    """

    name: Name
    application: Token
    routePrefix: Prefix  # noqa: N815 - the document's own name
    revision: Count
    weight: Annotated[float, Field(ge=0, le=100, strict=False)]
    maxOngoingRequests: Annotated[int, Field(gt=0, le=1_000_000)] | None = None  # noqa: N815
    slowMicroseconds: Threshold | None = None  # noqa: N815
    slowMicroseconds2: Threshold | None = None  # noqa: N815
    slowMicroseconds3: Threshold | None = None  # noqa: N815
    ranges: tuple[tuple[Bucket, Bucket], ...]

    @field_validator("ranges", mode="before")
    @classmethod
    def _lists_to_tuples(cls, value: Any) -> Any:
        return (
            tuple(tuple(pair) if isinstance(pair, list) else pair for pair in value)
            if isinstance(value, list)
            else value
        )

    @model_validator(mode="after")
    def _ranges_are_ascending(self) -> Self:
        for start, end in self.ranges:
            if start >= end:
                raise ValueError(f"range [{start}, {end}] of arm {self.name} is empty")
        return self

    @model_validator(mode="after")
    def _thresholds_have_no_gap(self) -> Self:
        given = [each is not None for each in (self.slowMicroseconds, self.slowMicroseconds2, self.slowMicroseconds3)]
        if given != sorted(given, reverse=True):
            raise ValueError(f"arm {self.name} has a further threshold of slow answers without the one before it")
        return self

    @property
    def slow_us(self) -> tuple[int, ...]:
        """Its thresholds in microseconds, in the order of `loglines.SLOW`."""
        all_ = (self.slowMicroseconds, self.slowMicroseconds2, self.slowMicroseconds3)
        return tuple(each for each in all_ if each is not None)


class _Compared(_Part):
    atol: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)] = 0.0
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)] = 0.0
    path: JsonPath | Literal[""] = ""


class PartComparator(_Compared):
    """When a part of two answers to the same request agrees: `exact` as JSON, `tolerance` number by number within `atol + rtol·|stable's|`,
    `argmax` where the largest number of each row is in the same place. `path` is the part; all of the answer where it is empty.
    """

    kind: Literal["exact", "tolerance", "argmax"] = "exact"


class Comparator(_Compared):
    """When two answers to the same request agree: as a part does, or with `custom` where each of `parts` does."""

    kind: Literal["exact", "tolerance", "argmax", "custom"] = "exact"
    parts: Annotated[tuple[PartComparator, ...], Field(max_length=MAX_PARTS, strict=False)] = ()

    @model_validator(mode="after")
    def _parts_are_custom(self) -> Self:
        if (self.kind == "custom") != bool(self.parts):
            raise ValueError("a comparator has parts if it is custom, and only then")
        return self


class Shadow(_Part):
    """Copies of a share of the other arms' requests, in percent, go to `arm`; nobody gets its answers, which are compared."""

    arm: Name
    percent: Annotated[int, Field(ge=1, le=100)]
    comparator: Comparator = Comparator()


class Service(_Part):
    """One service of the namespace. Without arms it answers 503."""

    name: Name
    hosts: tuple[Host, ...] = ()
    cluster: str
    attempt: Token
    salt: Token
    unit: Unit
    epoch: Count
    arms: tuple[Arm, ...]
    requestTimeoutSeconds: Annotated[float, Field(gt=0, le=86_400, strict=False)]  # noqa: N815
    maxRequestBytes: Annotated[int, Field(gt=0, le=MAX_INTEGER)]  # noqa: N815
    maxOngoingRequests: Annotated[int, Field(gt=0, le=1_000_000)]  # noqa: N815
    reveal: bool = True
    overrides: tuple[Override, ...] = ()
    match: Match | None = None
    auth: Auth = Auth()
    compression: Literal["", "gzip"] = ""
    cors: Cors | None = None
    tls: SecretName | Literal[""] = ""
    queue: Queue | None = None
    shadow: Shadow | None = None
    rateLimit: RateLimit = RateLimit()  # noqa: N815
    feedback: Feedback | None = None

    @field_validator("hosts", "arms", "overrides", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _table_is_whole(self) -> Self:
        if len(self.arms) > MAX_ARMS:
            raise ValueError(f"service {self.name} has {len(self.arms)} arms, at most {MAX_ARMS} are possible")
        _unique((arm.name for arm in self.arms), f"arm name of service {self.name}")
        try:
            table = build_segments([arm.ranges for arm in self.arms])
        except ValueError as error:
            raise ValueError(f"ranges of service {self.name}: {error}") from None
        if len(table) > MAX_SEGMENTS:
            raise ValueError(
                f"ranges of service {self.name}: {len(table)} segments, at most {MAX_SEGMENTS} are possible"
            )
        return self

    @model_validator(mode="after")
    def _overrides_have_arms(self) -> Self:
        if len(self.overrides) > MAX_OVERRIDES:
            raise ValueError(
                f"service {self.name} has {len(self.overrides)} overrides, at most {MAX_OVERRIDES} are possible"
            )
        arms = {arm.name for arm in self.arms}
        for override in self.overrides:
            if arms and override.arm not in arms:
                raise ValueError(
                    f"an override of service {self.name} names arm {override.arm!r}, which it does not have"
                )
        _unique((f"{one.header.lower()}: {one.value}" for one in self.overrides), f"override of service {self.name}")
        return self

    @model_validator(mode="after")
    def _match_has_an_arm(self) -> Self:
        if self.match is not None and self.arms and self.match.arm not in {arm.name for arm in self.arms}:
            raise ValueError(f"match of service {self.name} names arm {self.match.arm!r}, which it does not have")
        return self

    @model_validator(mode="after")
    def _shadow_has_an_arm(self) -> Self:
        if self.shadow is not None and self.shadow.arm not in {arm.name for arm in self.arms}:
            raise ValueError(f"shadow of service {self.name} names arm {self.shadow.arm!r}, which it does not have")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """The Secrets that the edge needs for this service."""
        jwt = self.auth.jwt
        return tuple(name for name in (self.tls, self.auth.apiKeys, jwt.jwks if jwt else "") if name)

    @property
    def table(self) -> tuple[Segment, ...]:
        """The range table; segment arms index `arms`."""
        return build_segments([arm.ranges for arm in self.arms])


class SplitDocument(_Part):
    """The split document of one namespace."""

    version: Literal[1]
    namespace: str
    generation: Count
    clusters: dict[str, Cluster]
    services: tuple[Service, ...]

    @field_validator("services", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        _unique((service.name for service in self.services), "service name")
        _unique((host for service in self.services for host in service.hosts), "host")
        if len(self.networks) > MAX_NETWORKS:
            raise ValueError(f"overrides name {len(self.networks)} networks, at most {MAX_NETWORKS} are possible")
        owners: dict[str, tuple[str, str]] = {}
        for service in self.services:
            if service.cluster not in self.clusters:
                raise ValueError(f"service {service.name} names cluster {service.cluster!r}, which is not in clusters")
            for arm in service.arms:
                owner = owners.setdefault(arm.application, (service.name, arm.routePrefix))
                if owner != (service.name, arm.routePrefix):
                    raise ValueError(
                        f"application {arm.application} is {owner[1]} of service {owner[0]}"
                        f" and also {arm.routePrefix} of service {service.name}"
                    )
        return self

    @property
    def networks(self) -> frozenset[str]:
        """Every network that an override names."""
        return frozenset(
            network
            for service in self.services
            for override in service.overrides
            for network in override.callers.networks
        )


def _unique(values: Iterable[str], what: str) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"{what} {repeated[0]!r} appears twice")


def parse_document(raw: bytes, namespace: str) -> SplitDocument:
    """The document in `raw`, meant for `namespace`. Raises DocumentError with one line that names the field and what was found."""
    if len(raw) > MAX_BYTES:
        raise DocumentError(f"split document has {len(raw)} bytes, at most {MAX_BYTES} are read")
    try:
        document = SplitDocument.model_validate_json(raw)
    except ValidationError as error:
        raise DocumentError(f"split document refused: {_one_line(error)}") from None
    if document.namespace != namespace:
        raise DocumentError(f"split document is for namespace {document.namespace!r}, this edge serves {namespace!r}")
    return document


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    found = first["input"] if isinstance(first["input"], str | int | float | bool) else None
    shown = f" (found {str(found)[:60]!r})" if found is not None and first["type"] != "json_invalid" else ""
    return " ".join(f"{path + ': ' if path else ''}{message}{shown}".split())[:400]
