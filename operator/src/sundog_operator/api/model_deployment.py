"""ModelDeployment: one model, its endpoint, and how its next revision takes over."""

import re
from datetime import timedelta
from ipaddress import ip_network
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.conditions import Condition
from sundog_operator.api.model_uri import PIN_RULES
from sundog_operator.api.quantities import RATE_PATTERN
from sundog_operator.api.resource import Metadata, Resource, Status
from sundog_operator.api.rollout import (
    CAPACITY_IN_PLACE,
    IN_PLACE_RULES,
    HeaderName,
    PositiveDuration,
    Rollout,
    set_fields,
)
from sundog_operator.api.scalars import (
    Bytes,
    Cpu,
    Digest,
    Duration,
    Entrypoint,
    Host,
    Image,
    Integer,
    Items,
    Json,
    LabelValue,
    Message,
    MinimumBytes,
    Name,
    Namespace,
    ObjectName,
    PercentNumber,
    QualifiedName,
    Text,
    Timestamp,
    Uri,
)
from sundog_operator.api.schema.rules import Confidential, ExpectedNoun, ListType, Rule

ModelFormat = Literal["auto", "torch", "exported", "torchscript", "transformers", "python"]
ReplicaCount = Annotated[Integer, Field(ge=0, le=1000)]
RevisionNumber = Annotated[Integer, Field(ge=1)]
WholePercent = Annotated[Integer, Field(ge=0, le=100)]
NonNegativeInt = Annotated[Integer, Field(ge=0)]

RESERVED_VARIABLE_PREFIXES = ("RAY_", "SUNDOG_", "KUBERAY_")
RESERVED_LABEL_PREFIXES = ("serving.sundog.dev/", "app.kubernetes.io/", "ray.io/")


class ModelCredentials(ApiBase):
    """How the model's source is read: a Secret, or workload identity."""

    secret_name: ObjectName = Field("", description="A Secret of the own namespace.")
    service_account_name: ObjectName = Field("", description="A ServiceAccount of the own namespace.")


TRUST_CODE_RULE = Rule(
    cel="!(self.format in ['exported', 'torchscript']) || self.trustCode",
    holds=lambda model: model.format not in ("exported", "torchscript") or model.trust_code,
    message="{format} archives can run code when they are loaded; set trustCode: true to accept that",
    field="format",
)


class ModelSource(ApiBase):
    """What is served. A change makes a revision."""

    uri: Annotated[Uri, Field(min_length=1)] = Field(
        description="Where the model is: file, pvc, s3, gs, https, hf or oci."
    )
    digest: Digest = Field("", description="Checked before the model is loaded.")
    format: ModelFormat = Field("auto", description="What is in it; auto looks.")
    entrypoint: Entrypoint = Field("", description="module:attribute inside the model directory, for torch and python.")
    config: Json = Field({}, description="Given to the entrypoint as it is.")
    trust_code: bool = Field(False, description="Accept formats that run code when they are loaded.")
    credentials: ModelCredentials = Field(ModelCredentials(), description="How the source is read.")

    rules: ClassVar[tuple[Rule, ...]] = (TRUST_CODE_RULE, *PIN_RULES)


class KeyRef(ApiBase):
    """One key of a Secret or ConfigMap of the own namespace."""

    name: Annotated[ObjectName, Field(min_length=1)] = Field(description="The Secret or ConfigMap.")
    key: Annotated[
        str,
        Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$"),
        ExpectedNoun("a key of letters, digits, -, _ and ."),
    ] = Field(description="The key in it.")
    optional: bool = Field(False, description="Start without the variable where the key is missing.")


class EnvSource(ApiBase):
    """Where a variable's value comes from."""

    secret_key_ref: KeyRef | None = Field(None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(None, description="A key of a ConfigMap.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.secretKeyRef) != has(self.configMapKeyRef)",
            holds=lambda source: len(set_fields(source, ("secret_key_ref", "config_map_key_ref"))) == 1,
            message="exactly one of secretKeyRef and configMapKeyRef has to be given",
        ),
    )


class EnvVar(ApiBase):
    """An environment variable of the replicas."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
        ExpectedNoun("a variable name such as LOG_LEVEL"),
        Rule(
            cel="!(" + " || ".join(f"self.startsWith('{prefix}')" for prefix in RESERVED_VARIABLE_PREFIXES) + ")",
            holds=lambda name: not name.startswith(RESERVED_VARIABLE_PREFIXES),
            message=f"{{}} begins as those that are set by the operator: {', '.join(RESERVED_VARIABLE_PREFIXES)}",
        ),
    ] = Field(description="The variable.")
    value: Annotated[str, Field(max_length=32768), Confidential()] | None = Field(None, description="Its value.")
    value_from: EnvSource | None = Field(None, description="Where its value comes from.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.value) || !has(self.valueFrom)",
            holds=lambda var: var.value is None or var.value_from is None,
            message="at most one of value and valueFrom can be given",
        ),
    )


class Batching(ApiBase):
    """Requests that the model sees together."""

    max_size: Annotated[Integer, Field(ge=1, le=4096)] = Field(1, description="1 means no batching.")
    max_delay: Duration = Field(timedelta(milliseconds=2), description="How long the first request waits for others.")


class Warmup(ApiBase):
    """Requests a replica answers before it is ready."""

    requests: Annotated[Integer, Field(ge=0, le=1000)] = Field(4, description="How many; 0 means none.")
    timeout: PositiveDuration = Field(timedelta(minutes=5), description="How long all of them may take.")


RESERVED_POD_LABELS_RULE = Rule(
    cel="!self.exists(k, " + " || ".join(f"k.startsWith('{prefix}')" for prefix in RESERVED_LABEL_PREFIXES) + ")",
    holds=lambda labels: not any(key.startswith(RESERVED_LABEL_PREFIXES) for key in labels),
    message=f"keys below {', '.join(RESERVED_LABEL_PREFIXES)} are set by the operator",
)


class Runtime(ApiBase):
    """How the model is run. A change makes a revision, userConfig excepted."""

    image: Image = Field("", description="The replicas' image; empty means the installation's.")
    env: Annotated[Items[EnvVar], Field(max_length=100), ListType("map", "name")] = Field(
        (), description="Environment variables."
    )
    max_ongoing_requests: Annotated[Integer, Field(ge=1, le=10_000)] = Field(
        64, description="Requests that a replica works on at once, waiting ones included."
    )
    batching: Batching = Field(Batching(), description="Requests that the model sees together.")
    placement: Literal["dedicated", "shared"] = Field(
        "dedicated", description="dedicated: a pod per replica; shared: small models share pods of the namespace."
    )
    pod_labels: Annotated[dict[QualifiedName, LabelValue], Field(max_length=32), RESERVED_POD_LABELS_RULE] = Field(
        {}, description="Labels of the replicas' pods."
    )
    warmup: Warmup = Field(Warmup(), description="Requests a replica answers before it is ready.")
    user_config: Json = Field({}, description="Applied in place, without a new revision.")


GPU_FRACTION_RULE = Rule(
    cel="self == '' || double(self) > 0.0 && double(self) < 1.0",
    holds=lambda share: share == "" or 0 < float(share) < 1,
    message="{} is not between 0 and 1",
)


class GpuSharing(ApiBase):
    """How a GPU is shared with other replicas."""

    mode: Literal["exclusive", "mig", "fraction", "timeSliced", "mps"] = Field(
        "exclusive",
        description="exclusive: whole GPUs; mig: a slice; fraction: replicas share a pod; timeSliced, mps: what nodes offer.",
    )
    profile: Annotated[
        str,
        Field(max_length=32, pattern=r"^([1-7]g\.[1-9][0-9]{0,2}gb(\.[a-z]{2,8})?)?$"),
        ExpectedNoun("a MIG profile such as 1g.10gb"),
    ] = Field("", description="The MIG profile; with mode mig.")
    fraction: Annotated[
        str,
        Field(max_length=16, pattern=r"^([0-9]+(\.[0-9]+)?|\.[0-9]+)?$"),
        ExpectedNoun("a number in quotes such as '0.5'"),
        GPU_FRACTION_RULE,
    ] = Field("", description="The share of one GPU, above 0 and below 1; with mode fraction.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.mode != 'mig' || self.profile != ''",
            holds=lambda sharing: sharing.mode != "mig" or sharing.profile != "",
            message="mode mig needs a profile such as 1g.10gb",
            field="profile",
        ),
        Rule(
            cel="self.mode == 'mig' || self.profile == ''",
            holds=lambda sharing: sharing.mode == "mig" or not sharing.profile,
            message="{profile} goes with mode mig only, not with {mode}",
            field="profile",
        ),
        Rule(
            cel="self.mode != 'fraction' || self.fraction != ''",
            holds=lambda sharing: sharing.mode != "fraction" or sharing.fraction != "",
            message="mode fraction needs a fraction such as '0.5'",
            field="fraction",
        ),
        Rule(
            cel="self.mode == 'fraction' || self.fraction == ''",
            holds=lambda sharing: sharing.mode == "fraction" or not sharing.fraction,
            message="{fraction} goes with mode fraction only, not with {mode}",
            field="fraction",
        ),
    )


class GpuTopology(ApiBase):
    """Where the GPUs of one replica are."""

    nodes: Annotated[Integer, Field(ge=1, le=64)] = Field(1, description="Over how many nodes one replica is spread.")
    interconnect: Literal["any", "nvlink"] = Field("any", description="How the GPUs have to be connected.")


class Gpu(ApiBase):
    """The accelerators of one replica."""

    count: Annotated[Integer, Field(ge=0, le=128)] = Field(0, description="0 means none.")
    vendor: Literal["nvidia", "amd", "intel", "gaudi", "tpu", "neuron"] = Field(
        "nvidia", description="Whose accelerator."
    )
    type: Annotated[Items[Name], Field(max_length=8)] = Field(
        (), description="Types that will do, the preferred one first."
    )
    memory: MinimumBytes = Field("", description="The least memory of each device.")
    sharing: GpuSharing = Field(GpuSharing(), description="How a GPU is shared with other replicas.")
    allocation: Literal["auto", "devicePlugin", "dra"] = Field(
        "auto", description="How pods ask for it: by device plugin, by DRA, or as the cluster offers."
    )
    topology: GpuTopology = Field(GpuTopology(), description="Where the GPUs of one replica are.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.sharing.mode == 'exclusive' || self.count == 1",
            holds=lambda gpu: gpu.sharing.mode == "exclusive" or gpu.count == 1,
            message="{count} is not 1, which sharing mode {sharing.mode} requires",
            field="count",
        ),
    )


class Resources(ApiBase):
    """What one replica gets. A change makes a revision."""

    cpu: Cpu = Field("1", description="Cores.")
    memory: Bytes = Field("2Gi", description="Main memory.")
    gpu: Gpu = Field(Gpu(), description="Accelerators.")


class Autoscaling(ApiBase):
    """Replicas by load; left out means a fixed number."""

    min_replicas: ReplicaCount = Field(1, description="0 scales to zero; the edge holds requests meanwhile.")
    max_replicas: Annotated[Integer, Field(ge=1, le=1000)] = Field(4, description="The most replicas.")
    target_ongoing_requests: Annotated[Integer, Field(ge=1, le=10_000)] = Field(
        2, description="Requests per replica to aim at; at most half of runtime.maxOngoingRequests."
    )
    upscale_delay: Duration = Field(
        timedelta(seconds=10), description="How long load has to last before replicas are added."
    )
    downscale_delay: Duration = Field(
        timedelta(minutes=5), description="How long idleness has to last before replicas go."
    )
    scale_to_zero_delay: Duration = Field(
        timedelta(minutes=10), description="How long idleness has to last before the last replica goes."
    )
    cold_start_timeout: PositiveDuration = Field(
        timedelta(minutes=2), description="How long a request may be held at zero."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.minReplicas <= self.maxReplicas",
            holds=lambda scaling: scaling.min_replicas <= scaling.max_replicas,
            message="{minReplicas} is greater than maxReplicas, {maxReplicas}",
            field="minReplicas",
        ),
    )


class Toleration(ApiBase):
    """A taint that the replicas' pods accept. The key is required: tolerating everything is not for a model."""

    key: QualifiedName = Field(description="The taint's key.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Exists takes every value.")
    value: LabelValue = Field("", description="The taint's value; with Equal.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        "", description="Empty means every effect."
    )
    toleration_seconds: Annotated[Integer, Field(ge=0, le=31_536_000)] | None = Field(
        None, description="How long a pod stays; with NoExecute."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.operator == 'Equal' || self.value == ''",
            holds=lambda toleration: toleration.operator == "Equal" or not toleration.value,
            message="{value} goes with operator Equal only",
            field="value",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || self.effect == 'NoExecute'",
            holds=lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
            message="goes with effect NoExecute only",
            field="tolerationSeconds",
        ),
    )


class Scheduling(ApiBase):
    """Where the replicas' pods run. A change makes a revision."""

    queue: ObjectName = Field("", description="The queue that admits the pods.")
    priority_class_name: ObjectName = Field("", description="The pods' PriorityClass.")
    spot: Literal["never", "prefer", "require"] = Field("never", description="Whether the pods run on spot nodes.")
    node_selector: Annotated[dict[QualifiedName, LabelValue], Field(max_length=32)] = Field(
        {}, description="Labels of the nodes."
    )
    tolerations: Annotated[Items[Toleration], Field(max_length=32)] = Field(
        (), description="Taints that the pods accept."
    )
    runtime_class_name: ObjectName = Field("", description="The pods' RuntimeClass.")


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


class Baseline(ApiBase):
    """Pins the stable model in Git while a rollout runs, so that a rebuilt cluster serves it first."""

    uri: Uri = Field("", description="As spec.model.uri.")
    digest: Digest = Field("", description="As spec.model.digest.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.digest == '' || self.uri != ''",
            holds=lambda baseline: not baseline.digest or baseline.uri != "",
            message="a digest is given without a uri",
            field="uri",
        ),
    )


def _scales_before_full(spec: "ModelDeploymentSpec") -> bool:
    return spec.autoscaling is None or spec.autoscaling.target_ongoing_requests * 2 <= spec.runtime.max_ongoing_requests


AUTOSCALING_TARGET_RULE = Rule(
    # Replicas report only the requests they have let in; a target above half of that is never exceeded.
    cel="!has(self.autoscaling) || self.autoscaling.targetOngoingRequests * 2 <= self.runtime.maxOngoingRequests",
    holds=_scales_before_full,
    message=(
        "{autoscaling.targetOngoingRequests} is more than half of runtime.maxOngoingRequests,"
        " {runtime.maxOngoingRequests}"
    ),
    field="autoscaling.targetOngoingRequests",
)


JWT_CLAIM_UNIT_RULE = Rule(
    cel="!has(self.rollout.unit.jwtClaim) || self.endpoint.auth.jwt.jwksSecretName != ''",
    holds=lambda spec: spec.rollout.unit.jwt_claim is None or bool(spec.endpoint.auth.jwt.jwks_secret_name),
    message="{rollout.unit.jwtClaim} is read from verified tokens, and endpoint.auth.jwt.jwksSecretName is not set",
    field="rollout.unit.jwtClaim",
)


IN_PLACE_REPLICAS_RULE = Rule(
    cel=f"!has(self.autoscaling) || self.rollout.capacity != '{CAPACITY_IN_PLACE}'",
    holds=lambda spec: spec.autoscaling is None or spec.rollout.capacity != CAPACITY_IN_PLACE,
    message="inPlace shares a fixed number of replicas, and autoscaling is set; leave it at auto",
    field="rollout.capacity",
)


def find_in_place_conflict(spec: "ModelDeploymentSpec") -> str:
    """What in a spec does not go with `rollout.capacity: inPlace`, whatever that is; empty for nothing."""
    rollout = spec.rollout.model_copy(update={"capacity": CAPACITY_IN_PLACE})
    asked = spec.model_copy(update={"rollout": rollout})
    broken = [rule for rule in IN_PLACE_RULES if not rule.holds(rollout)]
    broken += [] if IN_PLACE_REPLICAS_RULE.holds(asked) else [IN_PLACE_REPLICAS_RULE]
    return next((rule.message for rule in broken), "")


class ModelDeploymentSpec(ApiBase):
    """What a team asks for."""

    model: ModelSource = Field(description="What is served. A change makes a revision.")
    runtime: Runtime = Field(Runtime(), description="How it is run. A change makes a revision, userConfig excepted.")
    resources: Resources = Field(Resources(), description="What one replica gets. A change makes a revision.")
    replicas: ReplicaCount = Field(1, description="Ignored while autoscaling is set.")
    autoscaling: Autoscaling | None = Field(None, description="Replicas by load; left out means a fixed number.")
    rollout: Rollout = Field(
        Rollout(),
        description="How a new revision takes over; {} is a canary decided on evidence.",
    )
    scheduling: Scheduling = Field(Scheduling(), description="Where the replicas' pods run. A change makes a revision.")
    endpoint: Endpoint = Field(Endpoint(), description="The edge's part. A change makes no revision.")
    baseline: Baseline = Field(Baseline(), description="Pins the stable model in Git while a rollout runs.")
    paused: bool = Field(False, description="Freeze rollouts, keep serving.")

    rules: ClassVar[tuple[Rule, ...]] = (AUTOSCALING_TARGET_RULE, JWT_CLAIM_UNIT_RULE, IN_PLACE_REPLICAS_RULE)


class RevisionStatus(ApiBase):
    """One revision with its share of traffic."""

    revision: RevisionNumber = Field(description="Its number.")
    cluster: Annotated[str, Field(max_length=253)] = Field(
        "", description="Its RayCluster; empty means status.cluster."
    )
    weight: PercentNumber = Field(0, description="Percent of the traffic that was committed to it.")
    uri: Annotated[str, Field(max_length=2048)] = Field("", description="Its spec.model.uri.")
    digest: Text = Field("", description="Its spec.model.digest.")
    replicas: NonNegativeInt = Field(0, description="How many it is to have now.")
    ready_replicas: NonNegativeInt = Field(
        0, description="How many Serve runs; the last known number while Serve is silent."
    )
    since: Timestamp | None = Field(None, description="When it took this role.")
    failures: NonNegativeInt = Field(0, description="Failed starts in a row.")
    retry_at: Timestamp | None = Field(
        None, description="When it is started again; until then a candidate is not deployed."
    )
    lost_since: Timestamp | None = Field(
        None, description="Since when no edge sees a healthy replica of it, while it has traffic and stable's are seen."
    )
    held_since: Timestamp | None = Field(None, description="Of a candidate: since when the spec holds its rollout.")
    resumed_at: Timestamp | None = Field(
        None,
        description="Of a candidate: when the spec last ceased to hold its rollout; its progressDeadline counts from then on.",
    )
    brought_back: bool | None = Field(
        None,
        description="Of a candidate: whether a command brought it back. Absent where it became one before this was told.",
    )


class ArmRevision(RevisionStatus):
    """The revision of an arm of the Experiment that runs."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="The arm.")
    problem: Message | None = Field(None, description="What it failed of last, while it was brought up.")


class DrainingRevision(ApiBase):
    """A revision without traffic whose replicas still drain."""

    revision: RevisionNumber = Field(description="Its number.")
    cluster: Annotated[str, Field(max_length=253)] = Field(
        "", description="Its RayCluster; empty means status.cluster."
    )
    replicas: NonNegativeInt = Field(1, description="How many still run.")
    since: Timestamp = Field(description="When it lost its traffic.")


class CapacityStatus(ApiBase):
    """GPUs of all revisions together, and where those of a candidate come from."""

    gpus_requested: Annotated[float, Field(ge=0)] = 0.0
    gpus_allocated: Annotated[float, Field(ge=0)] = 0.0
    mode: Literal["surge", "inPlace"] | None = Field(
        None, description="As spec.rollout.capacity was resolved for the rollout under way; surge without one."
    )
    needed_replicas: NonNegativeInt | None = Field(
        None, description="With mode inPlace: replicas for all of the traffic, which both revisions share."
    )
    spare_replicas: NonNegativeInt | None = Field(
        None, description="With mode inPlace: replicas beyond those that there was room for when it began, 0 or 1."
    )


class Startup(ApiBase):
    """How long the phases of the last revision's start took; what is not known is left out."""

    revision: RevisionNumber | None = Field(None, description="The revision.")
    cluster: Duration | None = Field(
        None, description="Until its first pod was made: a first model waits for Ray's store and head."
    )
    scheduled: Duration | None = Field(None, description="Of its slowest pod, until it had a node.")
    image: Duration | None = Field(None, description="Of its slowest pod, until its first container ran.")
    ray: Duration | None = Field(
        None, description="From then, without pods from the begin, until a replica began: Ray, its process and imports."
    )
    download: Duration | None = Field(None, description="Of the model.")
    load: Duration | None = Field(None, description="Of the model.")
    warmup: Duration | None = Field(None, description="Its first requests.")
    total: Duration | None = Field(None, description="From when it was to run until its replicas were seen to run.")


class LastCommand(ApiBase):
    """The last command annotation and what became of it."""

    id: Text = Field(description="The command's id; each is run once.")
    verb: Text = Field(description="What it asked for.")
    revision: RevisionNumber | None = Field(None, description="The revision it was about.")
    result: Literal["Accepted", "Rejected"] = Field(description="Whether it was run.")
    message: Message = Field("", description="Why it was rejected.")
    at: Timestamp = Field(description="When it was handled.")


class LastRollout(ApiBase):
    """How the last rollout ended."""

    experiment: Text = Field(description="Its Experiment; empty for one without steps.")
    revision: RevisionNumber = Field(description="The revision it was about.")
    outcome: Literal["Promoted", "Aborted", "RolledBack", "Superseded"] = Field(
        description="Aborted and RolledBack hold the revision back until `retry`, or until the spec stands for what is stable."
    )
    reason: Message = Field("", description="Why it ended so.")
    at: Timestamp = Field(description="When it ended.")


class ModelDeploymentStatus(Status):
    """What the operator found and did."""

    observed_generation: Annotated[Integer, Field(ge=-1)] = Field(
        -1, description="The generation of the spec that all of this is about."
    )
    url: Annotated[str, Field(max_length=2048)] = Field("", description="Where the edge answers for it.")
    replicas: NonNegativeInt = Field(0, description="How many stable, candidate and arms are to have together.")
    ready_replicas: NonNegativeInt = Field(0, description="How many of them Serve runs.")
    selector: Annotated[str, Field(max_length=1024)] = Field("", description="Label selector of its pods, for /scale.")
    cluster: Annotated[str, Field(max_length=253)] = Field(
        "", description="The RayCluster of its newest revision; another image is another one."
    )
    stable: RevisionStatus | None = Field(None, description="The revision that serves.")
    candidate: RevisionStatus | None = Field(None, description="The revision that is to replace it.")
    queued: RevisionNumber | None = Field(
        None, description="The revision that waits, by spec.rollout.onNewRevision, for what is under way to end."
    )
    stable_before: Annotated[Items[RevisionNumber], Field(max_length=20)] = Field(
        (),
        description="Revisions that were stable before it, the newest first, but for those that were gone back from and those that"
        " lost their traffic as a candidate since; spec.rollout.rollbackWindow counts these.",
    )
    arms: Annotated[Items[ArmRevision], Field(max_length=9), ListType("map", "name")] | None = Field(
        None,
        description="The revisions beside stable of the Experiment of a user's own that runs; absent where none does.",
    )
    retiring: Annotated[Items[DrainingRevision], Field(max_length=20)] = Field(
        (), description="Revisions without traffic whose last requests are still answered."
    )
    kept: Annotated[Items[DrainingRevision], Field(max_length=8)] = Field(
        (), description="Revisions that spec.rollout.keepPrevious keeps warm, since when they lost their traffic."
    )
    experiment: Annotated[str, Field(max_length=253)] = Field(
        "", description="The Experiment under way: that of the rollout, or one of a user's own."
    )
    capacity: CapacityStatus | None = Field(
        None,
        description="Accelerators of all revisions together; left out where none asks for any and no rollout is in place.",
    )
    startup: Startup | None = Field(
        None, description="Phases of the last revision's start; `cluster`, `scheduled` and `image` in a cluster."
    )
    last_command: LastCommand | None = Field(None, description="The last command and what became of it.")
    command_ids: Annotated[Items[Text], Field(max_length=20)] = Field(
        (), description="Ids of the last commands, which are not run again."
    )
    last_rollout: LastRollout | None = Field(None, description="How the last rollout ended.")
    held_back: Annotated[Items[LastRollout], Field(max_length=10)] = Field(
        (),
        description="How the rollouts of revisions ended that are not rolled out again, before `retry` or a spec that stands for what is"
        " stable; the newest last.",
    )
    conditions: Annotated[Items[Condition], Field(max_length=16), ListType("map", "type")] = Field(
        (), description="See the conditions below."
    )


MAX_NAME_LENGTH = 40
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


class ModelDeployment(Resource):
    """A model, its endpoint and its rollouts."""

    kind: Literal["ModelDeployment"] = "ModelDeployment"
    metadata: Metadata
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus = ModelDeploymentStatus()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
            holds=lambda deployment: len(deployment.metadata.name) <= MAX_NAME_LENGTH,
            message=f"{{metadata.name}} is longer than {MAX_NAME_LENGTH} characters",
            field="metadata.name",
        ),
        Rule(
            cel=f"self.metadata.name.matches('^{_SERVICE_NAME.pattern}$')",
            holds=lambda deployment: _SERVICE_NAME.fullmatch(deployment.metadata.name) is not None,
            message="{metadata.name} is not a DNS label that starts with a letter, as a Service needs",
            field="metadata.name",
        ),
    )
