"""The endpoint: addresses, TLS, callers, limits and cross-origin calls."""

from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.quantities import RATE_PATTERN
from sundog_operator.api.rollout.common import PositiveDuration
from sundog_operator.api.rollout.steps import HeaderName
from sundog_operator.api.scalars import (
    Bytes,
    Duration,
    Host,
    Integer,
    IPv4Network,
    Items,
    Name,
    Namespace,
    ObjectName,
)
from sundog_operator.api.schema.rules import ExpectedNoun, ListType, Rule


class Gateway(ApiBase):
    """The Gateway to which an HTTPRoute attaches the edge."""

    name: ObjectName = Field("", description="Name of the Gateway; empty means no HTTPRoute.")
    namespace: Namespace = Field("", description="Its namespace; empty means this namespace.")
    section_name: ObjectName = Field("", description="Its listener; empty means all that accept the route.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.__namespace__ == '' || self.name != ''",
            message="{namespace} without the name of a Gateway; expected a name",
            field="namespace",
        ),
        Rule(
            cel="self.sectionName == '' || self.name != ''",
            message="{sectionName} without the name of a Gateway; expected a name",
            field="sectionName",
        ),
    )


class Tls(ApiBase):
    """TLS at the edge."""

    secret_name: ObjectName = Field(
        "", description="A Secret of type kubernetes.io/tls in this namespace; empty means no TLS."
    )


class ApiKeys(ApiBase):
    """API keys of clients."""

    secret_name: ObjectName = Field(
        "",
        description="A Secret with one entry per client; the value is a key of at least 16 characters. Empty means no keys.",
    )


JwtClaimName = Annotated[
    str,
    # The edge's maps separate their fields by |.
    Field(max_length=512, pattern=r"^([^|\x00-\x20\x7f]([^|\x00-\x1f\x7f]*[^|\x00-\x20\x7f])?)?$"),
    ExpectedNoun("a text without |, control characters, and blanks at its ends"),
]


class Jwt(ApiBase):
    """JSON Web Tokens of clients."""

    jwks_secret_name: ObjectName = Field(
        "", description="A Secret with the public keys in its key jwks.json; empty means no tokens."
    )
    issuer: JwtClaimName = Field("", description="Claim iss that tokens must have; empty means any.")
    audience: JwtClaimName = Field("", description="Value that their claim aud must contain; empty means any.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.jwksSecretName != '' || self.issuer == '' && self.audience == ''",
            message="issuer or audience without a Secret; expected the Secret with the public keys",
            field="jwksSecretName",
        ),
    )


class Auth(ApiBase):
    """Clients that may send requests. Without keys and tokens everyone who reaches the edge may."""

    api_keys: ApiKeys = Field(ApiKeys(), description="API keys of clients.")
    jwt: Jwt = Field(Jwt(), description="JSON Web Tokens of clients.")


WITHIN_A_DAY_RULE = Rule(
    cel="self.contains('d') ? !self.matches('[1-9]') : duration(self) < duration('24h')",
    python=lambda timeout: timeout < timedelta(days=1),
    message="too long; expected less than a day",
)


class Queue(ApiBase):
    """Requests that wait at the edge."""

    max_requests: Annotated[Integer, Field(ge=0, le=100_000)] = Field(
        1000,
        description="Greatest number of waiting requests at each edge, HTTP and gRPC each; default 1000. 0 means none may wait.",
    )
    timeout: Annotated[Duration, WITHIN_A_DAY_RULE] = Field(
        timedelta(seconds=5), description="Longest wait, less than a day; default 5s."
    )


RateText = Annotated[
    str,
    Field(max_length=16, pattern=rf"^({RATE_PATTERN[1:-1]})?$"),
    ExpectedNoun("a rate such as 100/s, 600/m or 5000/h"),
]


class RateLimit(ApiBase):
    """Requests per time; empty means no limit."""

    per_client: RateText = Field("", description="Limit for each client.")
    total: RateText = Field("", description="Limit for all clients together.")


ClientName = Annotated[
    str,
    Field(max_length=63, pattern=r"^[A-Za-z0-9._-]+$"),
    ExpectedNoun("the name of an API key, of letters, digits, dots, dashes and underscores"),
]


class Callers(ApiBase):
    """Clients that may use an override: any of these."""

    api_keys: Annotated[Items[ClientName], Field(max_length=32), ListType("set")] = Field(
        (),
        description="Clients by API key: names of entries in the Secret of auth.apiKeys, which must be set.",
    )
    networks: Annotated[Items[IPv4Network], Field(max_length=32), ListType("set")] = Field(
        (),
        description="Networks of clients, such as 10.0.0.0/8. X-Forwarded-For counts from trusted proxies of the installation alone.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.apiKeys.size() + self.networks.size() > 0",
            message="expected apiKeys, networks or both",
        ),
    )


class Override(ApiBase):
    """A header by which your callers choose the arm that answers. It has no effect for anyone else."""

    header: HeaderName = Field(description="Name of the header, in lower case.")
    value: Annotated[
        str,
        Field(max_length=128, pattern=r"^[A-Za-z0-9._~-]+$"),
        ExpectedNoun("letters, digits, dots, dashes, _ and ~"),
    ] = Field(description="Its exact value.")
    arm: Name = Field(
        description="stable, canary, or an arm of an Experiment. The override has no effect while no such arm is ready."
    )
    callers: Callers = Field(description="Clients that may use it: any of these.")


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
        message="{} contains a default port; expected an origin without it, as browsers send it",
    ),
]
ANY_ORIGIN_ALONE_RULE = Rule(
    cel=f"!('{ANY_ORIGIN}' in self.allowedOrigins) || self.allowedOrigins.size() == 1",
    message="* together with other origins; expected * alone. Leave out the others",
    field="allowedOrigins",
)
CORS_CREDENTIALS_RULE = Rule(
    cel=f"!self.allowCredentials || !('{ANY_ORIGIN}' in self.allowedOrigins)",
    message="true with allowedOrigins *; expected origins by name",
    field="allowCredentials",
)


class Cors(ApiBase):
    """Pages of other origins that may call from a browser and read the answers (CORS). It does not replace `auth`."""

    allowed_origins: Annotated[Items[CorsOrigin], Field(min_length=1, max_length=32), ListType("set")] = Field(
        description="Origins of the pages, such as https://app.example.com, compared exactly; or only * for every page."
    )
    allowed_headers: Annotated[Items[HeaderName], Field(max_length=16), ListType("set")] = Field(
        (),
        description=(
            "More request headers that pages may send. Always allowed: authorization, content-type,"
            " inference-header-content-length, x-api-key, x-request-id, and the header of rollout.unit."
        ),
    )
    exposed_headers: Annotated[Items[HeaderName], Field(max_length=16), ListType("set")] = Field(
        (),
        description=(
            "More response headers that pages may read. Always allowed: inference-header-content-length, retry-after,"
            " x-request-id, x-sundog-arm, x-sundog-exposure and x-sundog-revision."
        ),
    )
    max_age: Annotated[Duration, WITHIN_A_DAY_RULE] = Field(
        timedelta(minutes=10),
        description="How long a browser may keep the answer to its preflight: whole seconds, less than a day; default 10m.",
    )
    allow_credentials: bool = Field(
        False, description="Let pages send cookies and client certificates; needs origins by name. Default false."
    )

    rules: ClassVar[tuple[Rule, ...]] = (ANY_ORIGIN_ALONE_RULE, CORS_CREDENTIALS_RULE)


UNIQUE_OVERRIDE_HEADERS_RULE = Rule(
    cel="self.all(o, self.exists_one(p, p.header == o.header && p.value == o.value))",
    message="two overrides with the same header and value; expected different ones",
)


class Endpoint(ApiBase):
    """How clients reach the model. A change makes no new revision."""

    host: Host = Field("", description="Host name; empty means <name>.<namespace>.svc.")
    gateway: Gateway = Field(Gateway(), description="The Gateway to which an HTTPRoute attaches the edge.")
    tls: Tls = Field(Tls(), description="TLS at the edge.")
    auth: Auth = Field(Auth(), description="Clients that may send requests.")
    cors: Cors | None = Field(
        None, description="Pages of other origins that may call from a browser. Default: none may read an answer."
    )
    compression: Literal["none", "gzip"] = Field(
        "none",
        description=(
            "gzip compresses answers of type application/json for clients that ask for it, whatever their size. It helps"
            " large answers over slow networks, and costs CPU time of the edge. Default none."
        ),
    )
    request_timeout: Annotated[PositiveDuration, WITHIN_A_DAY_RULE] = Field(
        timedelta(seconds=30), description="Deadline of a request, less than a day; default 30s."
    )
    max_request_bytes: Bytes = Field("10Mi", description="Largest accepted body; default 10Mi.")
    queue: Queue = Field(Queue(), description="Requests that wait at the edge.")
    rate_limit: RateLimit = Field(RateLimit(), description="Requests per time.")
    overrides: Annotated[Items[Override], Field(max_length=16), UNIQUE_OVERRIDE_HEADERS_RULE] = Field(
        (),
        description="Headers by which your callers, such as testers, choose the arm that answers. These requests are no evidence.",
    )
    reveal: bool = Field(
        True,
        description="Show clients the arm and revision that answered, in x-sundog-arm and x-sundog-revision; default true. Set"
        " false for blinded experiments.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.auth.apiKeys.secretName != '' || self.overrides.all(o, o.callers.apiKeys.size() == 0)",
            message="an override names API keys, but auth.apiKeys.secretName is empty; expected the Secret with these keys",
            field="overrides",
        ),
    )
