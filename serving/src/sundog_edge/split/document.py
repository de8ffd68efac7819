"""The split document: what the operator wants of this edge, parsed and checked. The edge accepts or refuses it as a whole."""

import ipaddress
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from sundog_edge.errors import DocumentError
from sundog_edge.split.assignment import Segment, build_segments
from sundog_edge.split.feedback import Feedback
from sundog_edge.split.fields import (
    MAX_INTEGER,
    Address,
    Bucket,
    Caller,
    ClaimName,
    CookieName,
    Count,
    DocumentPart,
    ExperimentName,
    HeaderName,
    HeaderValue,
    Host,
    JsonPath,
    MatchedName,
    MatchedValue,
    Name,
    Prefix,
    SecretName,
    Threshold,
    Token,
    check_unique,
    list_to_tuple,
)
from sundog_edge.split.policies import DEFAULT_WAIT_MS, Auth, Cors, Queue, RateLimit
from sundog_edge.split.shadow import Shadow

VERSION = 1
MAX_ARMS = 11
MAX_SEGMENTS = 256
MAX_OVERRIDES = 16
MAX_CALLERS = 64
MAX_NETWORKS = 256
MAX_MATCHED = 8
MAX_BYTES = 4 << 20
_CREDENTIALS = re.compile("//[^/]*@")


class Cluster(DocumentPart):
    """One Ray cluster: Serve's REST address, and its own proxy as `host:port` (empty for none)."""

    dashboard: str
    fallback: Address | Literal[""] = ""

    @field_validator("dashboard")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise ValueError("expected an http or https URL without credentials")
        return value


class Unit(DocumentPart):
    """The unit of assignment: the request, or the value of a header, a cookie, a path in a JSON body, or a claim of a verified token."""

    kind: Literal["request", "header", "cookie", "jsonPath", "jwtClaim"]
    name: str = ""

    @model_validator(mode="after")
    def _name_fits_kind(self) -> Self:
        if self.kind == "request":
            return self
        if not self.name:
            raise ValueError(f"unit.name is missing; expected the name of a {self.kind}")
        try:
            _UNIT_NAME_TYPES[self.kind].validate_python(self.name)
        except ValidationError:
            raise ValueError(f"unit.name: found {self.name[:60]!r}; expected the name of a {self.kind}") from None
        return self

    @property
    def source(self) -> str:
        """The unit as one word, such as `header:x-user-id`; empty where each request is its own unit."""
        name = self.name.lower() if self.kind == "header" else self.name
        return "" if self.kind == "request" else f"{self.kind}:{name}"


_UNIT_NAME_TYPES: dict[str, TypeAdapter[str]] = {
    "header": TypeAdapter(HeaderName),
    "cookie": TypeAdapter(CookieName),
    "jsonPath": TypeAdapter(JsonPath),
    "jwtClaim": TypeAdapter(ClaimName),
}


class Callers(DocumentPart):
    """Callers that may override: names of API keys, and source networks in canonical CIDR form."""

    keys: tuple[Caller, ...] = ()
    networks: tuple[str, ...] = ()

    _lists = field_validator("keys", "networks", mode="before")(list_to_tuple)

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(str(ipaddress.ip_network(text)) for text in value)
        except ValueError as error:
            raise ValueError(f"{error}; expected a network such as 10.0.0.0/8") from None

    @model_validator(mode="after")
    def _are_few(self) -> Self:
        count = len(self.keys) + len(self.networks)
        if count > MAX_CALLERS:
            raise ValueError(f"an override has {count} callers; expected at most {MAX_CALLERS}")
        return self


class Override(DocumentPart):
    """A header with which an allow-listed caller chooses its arm. It has no effect from other callers."""

    header: HeaderName
    value: HeaderValue
    arm: Name
    callers: Callers


class Match(DocumentPart):
    """Headers that send any caller's request to an arm, whatever its bucket. The request needs all of them, with exactly these values."""

    arm: Name
    headers: Annotated[dict[MatchedName, MatchedValue], Field(min_length=1, max_length=MAX_MATCHED)]


class Arm(DocumentPart):
    """One arm of a service and the Serve application behind it.

    `ranges` are half-open intervals of buckets. An answer whose total time exceeds `slowMicroseconds` counts as slow; without a threshold
    no answer does. Answers above `slowMicroseconds2` and `slowMicroseconds3` are counted separately.
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
            raise ValueError(f"arm {self.name} has a threshold of slow answers without the one before it")
        return self

    @property
    def slow_us(self) -> tuple[int, ...]:
        """Thresholds of slow answers in microseconds, in the order of `log_lines.SLOW_COLUMNS`."""
        thresholds = (self.slowMicroseconds, self.slowMicroseconds2, self.slowMicroseconds3)
        return tuple(each for each in thresholds if each is not None)


class Service(DocumentPart):
    """One service of the namespace. A service without arms answers 503.

    `experiment` is the Experiment that the split belongs to, a rollout's or a user's; empty for none. A service with `coldStartSeconds` may
    scale to zero: so long may a request wait for the first replica. `hash` is the operator's name for this version of the entry.
    """

    name: Name
    hosts: tuple[Host, ...] = ()
    cluster: str
    attempt: Token
    salt: Token
    unit: Unit
    epoch: Count
    experiment: ExperimentName | Literal[""] = ""
    arms: tuple[Arm, ...]
    requestTimeoutSeconds: Annotated[float, Field(gt=0, le=86_400, strict=False)]  # noqa: N815
    maxRequestBytes: Annotated[int, Field(gt=0, le=MAX_INTEGER)]  # noqa: N815
    maxOngoingRequests: Annotated[int, Field(gt=0, le=1_000_000)]  # noqa: N815
    coldStartSeconds: Annotated[float, Field(gt=0, le=86_400, strict=False)] | None = None  # noqa: N815
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
    hash: Token | Literal[""] = ""

    _lists = field_validator("hosts", "arms", "overrides", mode="before")(list_to_tuple)

    @model_validator(mode="after")
    def _table_is_whole(self) -> Self:
        if len(self.arms) > MAX_ARMS:
            raise ValueError(f"service {self.name} has {len(self.arms)} arms; expected at most {MAX_ARMS}")
        check_unique((arm.name for arm in self.arms), f"arm name of service {self.name}")
        try:
            table = build_segments([arm.ranges for arm in self.arms])
        except ValueError as error:
            raise ValueError(f"ranges of service {self.name}: {error}") from None
        if len(table) > MAX_SEGMENTS:
            raise ValueError(f"ranges of service {self.name}: {len(table)} segments; expected at most {MAX_SEGMENTS}")
        return self

    @model_validator(mode="after")
    def _overrides_have_arms(self) -> Self:
        if len(self.overrides) > MAX_OVERRIDES:
            raise ValueError(
                f"service {self.name} has {len(self.overrides)} overrides; expected at most {MAX_OVERRIDES}"
            )
        arms = {arm.name for arm in self.arms}
        for override in self.overrides:
            if arms and override.arm not in arms:
                raise ValueError(
                    f"an override of service {self.name} names arm {override.arm!r}; expected an arm of the service"
                )
        check_unique(
            (f"{one.header.lower()}: {one.value}" for one in self.overrides), f"override of service {self.name}"
        )
        return self

    @model_validator(mode="after")
    def _match_has_an_arm(self) -> Self:
        if self.match is not None and self.arms and self.match.arm not in {arm.name for arm in self.arms}:
            raise ValueError(
                f"match of service {self.name} names arm {self.match.arm!r}; expected an arm of the service"
            )
        return self

    @model_validator(mode="after")
    def _shadow_has_an_arm(self) -> Self:
        if self.shadow is not None and self.shadow.arm not in {arm.name for arm in self.arms}:
            raise ValueError(
                f"shadow of service {self.name} names arm {self.shadow.arm!r}; expected an arm of the service"
            )
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the Secrets that the edge needs for this service."""
        jwt = self.auth.jwt
        return tuple(name for name in (self.tls, self.auth.apiKeys, jwt.jwks if jwt else "") if name)

    @property
    def wait_ms(self) -> int:
        """The longest wait for a replica. HAProxy has one such limit per backend, so a service that may scale to zero has one too."""
        wait_ms = self.queue.wait_ms if self.queue else DEFAULT_WAIT_MS
        return max(wait_ms, round((self.coldStartSeconds or 0) * 1000))

    @property
    def table(self) -> tuple[Segment, ...]:
        """The range table. The arm of a segment is an index of `arms`."""
        return build_segments([arm.ranges for arm in self.arms])


class SplitDocument(DocumentPart):
    """The split document of one namespace."""

    version: Literal[1]
    namespace: str
    generation: Count
    clusters: dict[str, Cluster]
    services: tuple[Service, ...]

    _lists = field_validator("services", mode="before")(list_to_tuple)

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        check_unique((service.name for service in self.services), "service name")
        check_unique((host for service in self.services for host in service.hosts), "host")
        if len(self.networks) > MAX_NETWORKS:
            raise ValueError(f"overrides name {len(self.networks)} networks; expected at most {MAX_NETWORKS}")
        owners: dict[str, tuple[str, str]] = {}
        for service in self.services:
            if service.cluster not in self.clusters:
                raise ValueError(f"service {service.name} names cluster {service.cluster!r}; expected one of clusters")
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
        """Every network that an override allows."""
        return frozenset(
            network
            for service in self.services
            for override in service.overrides
            for network in override.callers.networks
        )


def parse_document(raw: bytes, namespace: str) -> SplitDocument:
    """Parse the document for `namespace`. Raises DocumentError with one line that names the field and shows what was found."""
    if len(raw) > MAX_BYTES:
        raise DocumentError(f"split document has {len(raw)} bytes; expected at most {MAX_BYTES}")
    try:
        document = SplitDocument.model_validate_json(raw)
    except ValidationError as error:
        raise DocumentError(f"split document refused: {_one_line(error)}") from None
    if document.namespace != namespace:
        raise DocumentError(f"split document is for namespace {document.namespace!r}; this edge serves {namespace!r}")
    return document


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    found = first["input"] if isinstance(first["input"], str | int | float | bool) else None
    excerpt = (
        f" (found {_CREDENTIALS.sub('//…@', str(found))[:60]!r})"
        if found is not None and first["type"] != "json_invalid"
        else ""
    )
    return " ".join(f"{path + ': ' if path else ''}{message}{excerpt}".split())[:400]
