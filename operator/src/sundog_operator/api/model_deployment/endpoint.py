"""The endpoint: addresses, TLS, callers, limits and cross-origin calls."""

import re
from datetime import timedelta
from ipaddress import ip_network
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.quantities import RATE_PATTERN
from sundog_operator.api.rollout.defaults import PositiveDuration
from sundog_operator.api.rollout.steps import HeaderName
from sundog_operator.api.scalars import (
    Bytes,
    Duration,
    Host,
    Integer,
    Items,
    Name,
    Namespace,
    ObjectName,
)
from sundog_operator.api.schema.rules import ExpectedNoun, ListType, Rule


class Gateway(ApiBase):
    """The Gateway that an HTTPRoute to the edge hangs on."""

    name: ObjectName = Field("", description="The Gateway; empty means no HTTPRoute.")
    namespace: Namespace = Field("", description="Where it is; empty means the own namespace.")
    section_name: ObjectName = Field("", description="Its listener; empty means all that take the route.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.__namespace__ == '' || self.name != ''",
            holds=lambda gateway: not gateway.namespace or gateway.name != "",
            message="{namespace} is given without the name of a Gateway",
            field="namespace",
        ),
        Rule(
            cel="self.sectionName == '' || self.name != ''",
            holds=lambda gateway: not gateway.section_name or gateway.name != "",
            message="{sectionName} is given without the name of a Gateway",
            field="sectionName",
        ),
    )


class Tls(ApiBase):
    """TLS at the edge."""

    secret_name: ObjectName = Field(
        "", description="A Secret of type kubernetes.io/tls of the own namespace; empty means no TLS."
    )


class ApiKeys(ApiBase):
    """Keys that clients send."""

    secret_name: ObjectName = Field(
        "", description="A Secret with one entry per client, name: key of at least 16 characters; empty means no keys."
    )


JwtClaimName = Annotated[
    str,
    # A field of the edge's maps, whose separator is |.
    Field(max_length=512, pattern=r"^([^|\x00-\x20\x7f]([^|\x00-\x1f\x7f]*[^|\x00-\x20\x7f])?)?$"),
    ExpectedNoun("a text without |, control characters and blanks at its ends"),
]


class Jwt(ApiBase):
    """Tokens that clients send."""

    jwks_secret_name: ObjectName = Field(
        "", description="A Secret with the public keys in its key jwks.json; empty means no tokens."
    )
    issuer: JwtClaimName = Field("", description="The claim iss of the tokens that are accepted; empty means any.")
    audience: JwtClaimName = Field("", description="What their claim aud has to name; empty means anything.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.jwksSecretName != '' || self.issuer == '' && self.audience == ''",
            holds=lambda jwt: jwt.jwks_secret_name != "" or not (jwt.issuer or jwt.audience),
            message="issuer and audience need the Secret with the keys",
            field="jwksSecretName",
        ),
    )


class Auth(ApiBase):
    """Who may ask; none of both means anyone who reaches the edge."""

    api_keys: ApiKeys = Field(ApiKeys(), description="Keys that clients send.")
    jwt: Jwt = Field(Jwt(), description="Tokens that clients send.")


WITHIN_A_DAY_RULE = Rule(
    cel="self.contains('d') ? !self.matches('[1-9]') : duration(self) < duration('24h')",
    holds=lambda timeout: timeout < timedelta(days=1),
    message="must be less than a day",
)


class Queue(ApiBase):
    """Requests that wait at the edge."""

    max_requests: Annotated[Integer, Field(ge=0, le=100_000)] = Field(
        1000, description="How many may wait; 0 means none."
    )
    timeout: Annotated[Duration, WITHIN_A_DAY_RULE] = Field(
        timedelta(seconds=5), description="How long one may wait, less than a day."
    )


RateText = Annotated[
    str,
    Field(max_length=16, pattern=rf"^({RATE_PATTERN[1:-1]})?$"),
    ExpectedNoun("a rate such as 100/s, 600/m or 5000/h"),
]


class RateLimit(ApiBase):
    """Requests per time; empty means no limit."""

    per_client: RateText = Field("", description="For each client.")
    total: RateText = Field("", description="For all clients together.")


_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"


def _is_whole_network(text: str) -> bool:
    return str(ip_network(text, strict=False)) == text


IPv4Network = Annotated[
    str,
    # Edges listen on IPv4.
    Field(max_length=18, pattern=rf"^({_BYTE}\.){{3}}{_BYTE}/(3[0-2]|[12]?[0-9])$"),
    ExpectedNoun("an IPv4 network such as 10.0.0.0/8"),
    Rule(
        cel="cidr(self) == cidr(self).masked()",
        holds=_is_whole_network,
        message="{} is an address within its network; the bits beyond the prefix have to be 0",
    ),
]
ClientName = Annotated[
    str,
    Field(max_length=63, pattern=r"^[A-Za-z0-9._-]+$"),
    ExpectedNoun("the name of an API key, of letters, digits, dots, dashes and underscores"),
]


class Callers(ApiBase):
    """Who may choose: any of these."""

    api_keys: Annotated[Items[ClientName], Field(max_length=32), ListType("set")] = Field(
        (),
        description="Clients whose key let them in: names of entries of the Secret of auth.apiKeys, which has to be set.",
    )
    networks: Annotated[Items[IPv4Network], Field(max_length=32), ListType("set")] = Field(
        (),
        description="Networks that connections come from, such as 10.0.0.0/8. Forwarded-for headers count for nothing.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.apiKeys.size() + self.networks.size() > 0",
            holds=lambda callers: bool(callers.api_keys or callers.networks),
            message="at least one of apiKeys and networks has to be given",
        ),
    )


class Override(ApiBase):
    """A header with which callers of yours choose the arm that answers them. From anybody else it has no effect."""

    header: HeaderName = Field(description="Its name, in lower case.")
    value: Annotated[
        str,
        Field(max_length=128, pattern=r"^[A-Za-z0-9._~-]+$"),
        ExpectedNoun("letters, digits, dots, dashes, _ and ~"),
    ] = Field(description="The value that it has to have, exactly.")
    arm: Name = Field(
        description="stable, canary, or an arm of an Experiment. While none of this name is there and ready, the override has no effect."
    )
    callers: Callers = Field(description="Who may choose: any of these.")


ANY_ORIGIN: Final = "*"
_DEFAULT_PORT = "^(http://.*:80|https://.*:443)$"
CorsOrigin = Annotated[
    str,
    Field(
        max_length=253,
        pattern=r"^(\*|[a-z][a-z0-9+.-]*://([a-z0-9]([-a-z0-9._]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?)$",
    ),
    ExpectedNoun("an origin such as https://app.example.com, in lower case and without a path, or *"),
    Rule(
        cel=f"!self.matches('{_DEFAULT_PORT}')",
        holds=lambda origin: not re.search(_DEFAULT_PORT, origin),
        message="{} names the port that browsers leave out, and would match none of them; leave it out",
    ),
]
ANY_ORIGIN_ALONE_RULE = Rule(
    cel=f"!('{ANY_ORIGIN}' in self.allowedOrigins) || self.allowedOrigins.size() == 1",
    holds=lambda cors: ANY_ORIGIN not in cors.allowed_origins or len(cors.allowed_origins) == 1,
    message="* stands for every origin; leave out the others",
    field="allowedOrigins",
)
CORS_CREDENTIALS_RULE = Rule(
    cel=f"!self.allowCredentials || !('{ANY_ORIGIN}' in self.allowedOrigins)",
    holds=lambda cors: not cors.allow_credentials or ANY_ORIGIN not in cors.allowed_origins,
    message="is for origins that are named, and allowedOrigins has *; name them",
    field="allowCredentials",
)


class Cors(ApiBase):
    """Which pages of other origins may call from a browser, and read the answers (CORS). It replaces no `auth`."""

    allowed_origins: Annotated[Items[CorsOrigin], Field(min_length=1, max_length=32), ListType("set")] = Field(
        description="Origins of these pages, such as https://app.example.com, compared as they are written; or * alone for every page."
    )
    allowed_headers: Annotated[Items[HeaderName], Field(max_length=16), ListType("set")] = Field(
        (),
        description=(
            "Request headers that pages may send, beside authorization, content-type, inference-header-content-length, x-api-key,"
            " x-request-id, and the one of rollout.unit.header."
        ),
    )
    exposed_headers: Annotated[Items[HeaderName], Field(max_length=16), ListType("set")] = Field(
        (),
        description=(
            "Response headers that pages may read, beside inference-header-content-length, retry-after, x-request-id, x-sundog-arm,"
            " x-sundog-exposure and x-sundog-revision."
        ),
    )
    max_age: Annotated[Duration, WITHIN_A_DAY_RULE] = Field(
        timedelta(minutes=10),
        description="How long a browser may keep the answer to its preflight, less than a day, in whole seconds.",
    )
    allow_credentials: bool = Field(
        False, description="Let pages send cookies, and client certificates; needs origins that are named."
    )

    rules: ClassVar[tuple[Rule, ...]] = (ANY_ORIGIN_ALONE_RULE, CORS_CREDENTIALS_RULE)


UNIQUE_OVERRIDE_HEADERS_RULE = Rule(
    cel="self.all(o, self.exists_one(p, p.header == o.header && p.value == o.value))",
    holds=lambda overrides: len({(each.header, each.value) for each in overrides}) == len(overrides),
    message="two overrides have the same header and value",
)


class Endpoint(ApiBase):
    """The edge's part. A change makes no revision."""

    host: Host = Field("", description="Empty means <name>.<namespace>.svc.")
    gateway: Gateway = Field(Gateway(), description="The Gateway that an HTTPRoute to the edge hangs on.")
    tls: Tls = Field(Tls(), description="TLS at the edge.")
    auth: Auth = Field(Auth(), description="Who may ask.")
    cors: Cors | None = Field(
        None, description="Which pages of other origins may ask from a browser; left out means none may read an answer."
    )
    compression: Literal["none", "gzip"] = Field(
        "none",
        description=(
            "gzip: answers of type application/json are compressed for clients that ask for it, however short they are. For large answers"
            " over slow networks; it costs the edge CPU time."
        ),
    )
    request_timeout: Annotated[PositiveDuration, WITHIN_A_DAY_RULE] = Field(
        timedelta(seconds=30), description="The deadline of a request, less than a day."
    )
    max_request_bytes: Bytes = Field("10Mi", description="The largest body that is accepted.")
    queue: Queue = Field(Queue(), description="Requests that wait at the edge.")
    rate_limit: RateLimit = Field(RateLimit(), description="Requests per time.")
    overrides: Annotated[Items[Override], Field(max_length=16), UNIQUE_OVERRIDE_HEADERS_RULE] = Field(
        (),
        description="Headers with which callers of yours choose the arm that answers them, as testers do; no evidence is made of them.",
    )
    reveal: bool = Field(
        True,
        description="Tell clients which arm and revision answered, by x-sundog-arm and x-sundog-revision; false for blinded experiments.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.auth.apiKeys.secretName != '' || self.overrides.all(o, o.callers.apiKeys.size() == 0)",
            holds=lambda endpoint: (
                bool(endpoint.auth.api_keys.secret_name)
                or not any(each.callers.api_keys for each in endpoint.overrides)
            ),
            message="an override names API keys, and auth.apiKeys.secretName is not set",
            field="overrides",
        ),
    )
