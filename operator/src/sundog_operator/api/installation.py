"""What an administrator decides for a whole installation: the file that the chart writes and `sundog-operator --config` reads."""

from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.quantities import QUANTITY_PATTERN
from sundog_operator.api.rollout.defaults import PositiveDuration
from sundog_operator.api.scalars import (
    Bytes,
    Host,
    Image,
    Integer,
    IntegerAsText,
    Items,
    Json,
    LabelValue,
    LogPlacePrefix,
    MinimumBytes,
    Name,
    ObjectName,
    QualifiedName,
)
from sundog_operator.api.schema import strict_yaml
from sundog_operator.api.schema.rules import ExpectedNoun, ListType, Rule, TextOrInteger
from sundog_operator.api.schema.validation import find_unknown_fields, validate
from sundog_operator.errors import InstallationError

MAX_INSTALLATION_BYTES: Final = 2**20

Quantity = Annotated[
    str,
    IntegerAsText,
    Field(max_length=32, pattern=QUANTITY_PATTERN),
    TextOrInteger(),
    ExpectedNoun("a quantity above 0 such as 500m, 2 or 8Gi"),
]


def _is_named(items: tuple[dict[str, Any], ...], *keys: str) -> bool:
    return all(isinstance(item.get(key), str) and item[key] for item in items for key in keys)


HAS_NAMES_RULE = Rule(
    cel="self.all(item, has(item.name))",
    holds=lambda items: _is_named(items, "name"),
    message="each of them needs a name",
)
HAS_MOUNT_PATHS_RULE = Rule(
    cel="self.all(item, has(item.name) && has(item.mountPath))",
    holds=lambda items: _is_named(items, "name", "mountPath"),
    message="each of them needs a name and a mountPath",
)


class PullSecret(ApiBase):
    """A Secret of the pods' own namespace with which images are pulled."""

    name: Annotated[ObjectName, Field(min_length=1)]


class PodTemplate(ApiBase):
    """What an administrator adds to pods, in the words of a PodSpec. Free-form parts are checked by the API server alone."""

    service_account_name: ObjectName = ""
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    image_pull_secrets: Items[PullSecret] = ()
    node_selector: dict[QualifiedName, LabelValue] = Field({})
    tolerations: Items[Json] = ()
    priority_class_name: ObjectName = ""
    runtime_class_name: ObjectName = ""
    labels: dict[QualifiedName, LabelValue] = Field({})
    annotations: dict[QualifiedName, str] = Field({})
    env: Annotated[Items[Json], HAS_NAMES_RULE] = ()
    volumes: Annotated[Items[Json], HAS_NAMES_RULE] = ()
    volume_mounts: Annotated[Items[Json], HAS_MOUNT_PATHS_RULE] = ()
    security_context: Json | None = Field(None, description="Of the pod; None means that of `restricted` pods.")
    container_security_context: Json | None = Field(None, description="Of its containers; None likewise.")


class ResourceRequirements(ApiBase):
    """Requests and limits of a container."""

    requests: dict[QualifiedName, Quantity] = Field({})
    limits: dict[QualifiedName, Quantity] = Field({})


class RayHead(ApiBase):
    """The head of a RayCluster, which runs no model."""

    resources: ResourceRequirements = ResourceRequirements(
        requests={"cpu": "500m", "memory": "2Gi"}, limits={"cpu": "2", "memory": "4Gi"}
    )


class RayAutoscaler(ApiBase):
    """Ray's autoscaler beside the head."""

    resources: ResourceRequirements = ResourceRequirements(
        requests={"cpu": "100m", "memory": "256Mi"}, limits={"cpu": "500m", "memory": "512Mi"}
    )


class StorageClaim(ApiBase):
    """A claim. Without a size there is none, and what is stored lives as long as its pod."""

    size: MinimumBytes = "1Gi"
    class_name: ObjectName = Field("", description="Empty means the cluster's default StorageClass.")


Address = Annotated[
    str,
    Field(max_length=320, pattern=r"^([a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?:[0-9]{1,5})?$"),
    ExpectedNoun("an address such as redis.example.com:6379"),
]


class ExternalStore(ApiBase):
    """A Redis or Valkey that somebody else runs. The Secret, of each namespace that uses it, has the key `password`."""

    address: Address = Field("", description="Empty means that Sundog runs one wherever one is needed.")
    password_secret_name: ObjectName = ""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.address != '' || self.passwordSecretName == ''",
            holds=lambda store: store.address != "" or not store.password_secret_name,
            message="is needed beside passwordSecretName",
            field="address",
        ),
    )


class FaultTolerance(ApiBase):
    """Where Ray keeps what a new head needs to take up the work of a lost one."""

    enabled: bool = True
    image: Annotated[Image, Field(min_length=1)] = Field(
        "docker.io/valkey/valkey:8.1", description="With valkey-server or redis-server, and a shell."
    )
    storage: StorageClaim = StorageClaim()
    external: ExternalStore = ExternalStore()


RayVersion = Annotated[
    str, Field(max_length=32, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$"), ExpectedNoun("a release of Ray such as 2.60.0")
]


CacheFolder = Annotated[
    str,
    Field(max_length=256, pattern=r"^((/[A-Za-z0-9_-][A-Za-z0-9._-]*)+)?$"),
    ExpectedNoun("an absolute path such as /var/lib/sundog"),
]


class CacheSettings(ApiBase):
    """Where replicas keep models that were downloaded and code that was compiled."""

    host_path: CacheFolder = Field(
        "",
        description="A folder that every node has, which the pods' user may write to and the pods of a node share; empty: each pod has"
        " its own, which goes with it. Namespaces with restricted or baseline pods take none.",
    )


class RaySettings(ApiBase):
    """The RayClusters."""

    version: RayVersion = Field("2.60.0", description="The Ray in the runtime image; KubeRay goes by it.")
    pods: PodTemplate = PodTemplate()
    cache: CacheSettings = CacheSettings()
    head: RayHead = RayHead()
    autoscaler: RayAutoscaler = RayAutoscaler()
    idle_timeout: PositiveDuration = Field(timedelta(minutes=1), description="How long a worker pod may be idle.")
    gcs_fault_tolerance: FaultTolerance = FaultTolerance()


class FeedbackStore(ApiBase):
    """Where the edges of a namespace keep exposures and outcomes, while an Experiment has metrics of outcomes."""

    image: Annotated[Image, Field(min_length=1)] = Field(
        "docker.io/valkey/valkey:8.1", description="With valkey-server or redis-server, and a shell."
    )
    memory: Bytes = Field(
        "1Gi", description="Of its container. At seven tenths of it what comes is refused, and nothing is forgotten."
    )
    storage: StorageClaim = StorageClaim(size="4Gi")
    external: ExternalStore = ExternalStore()


class FeedbackSettings(ApiBase):
    """What clients tell of outcomes."""

    store: FeedbackStore = FeedbackStore()


class HaproxySettings(ApiBase):
    """What HAProxy of an edge grants its clients."""

    buffer_bytes: Annotated[Integer, Field(ge=16_384, le=1_048_576)] = Field(
        16_384,
        description="The largest request, with its headers, that is tried again and searched for a unit. Each connection takes two such"
        " buffers: give memory for them.",
    )
    request_timeout: PositiveDuration = Field(
        timedelta(seconds=15), description="For headers and the first bufferBytes of a body to come, in whole seconds."
    )
    client_timeout: PositiveDuration = Field(
        timedelta(seconds=30), description="The longest silence of a client after that, in whole seconds."
    )
    source_connections: Annotated[Integer, Field(ge=0)] = Field(
        8192, description="The most connections of one client address to each edge; 0 is any number."
    )


class EdgeSettings(ApiBase):
    """The edge of each namespace."""

    replicas: Annotated[Integer, Field(ge=1, le=100)] = 2
    resources: ResourceRequirements = ResourceRequirements(
        requests={"cpu": "200m", "memory": "256Mi"}, limits={"memory": "1Gi"}
    )
    haproxy: HaproxySettings = HaproxySettings()
    pods: PodTemplate = PodTemplate()


NodeLabelValue = Annotated[str, Field(min_length=1, max_length=63)]


class AcceleratorSettings(ApiBase):
    """How GPU types are told apart by nodes' labels."""

    aliases: dict[Name, dict[QualifiedName, Items[NodeLabelValue]]] = Field(
        {}, description="By type and label key the values that mean it, beside those that are known."
    )
    nodes_come: bool = Field(
        False, description="Pods that wait bring nodes, so that a canary is held back by quotas alone."
    )


Port = Annotated[Integer, Field(ge=1, le=65535)]


class NetworkPolicySettings(ApiBase):
    """The NetworkPolicies of namespaces with an edge."""

    enabled: bool = False
    operator_namespace: ObjectName = Field("", description="Where the operator's pods are, which read edges and Ray.")
    metrics_from: Items[Json] = Field((), description="Peers that may scrape the edges' agents and Ray.")
    api_server_ports: Annotated[Items[Port], Field(min_length=1, max_length=16)] = Field(
        (443, 6443),
        description="Of the API server, behind its Service and as pods see it: edges and heads may ask any address there.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.enabled || self.operatorNamespace != ''",
            holds=lambda policies: not policies.enabled or policies.operator_namespace != "",
            message="is needed: without it the operator itself would be kept out",
            field="operatorNamespace",
        ),
    )


HostName = Annotated[Host, Field(min_length=1)]


class WebhookSettings(ApiBase):
    """Where webhooks and notifications of rollouts may lead: to public addresses, and to what is listed here."""

    hosts: Annotated[Items[HostName], Field(max_length=100), ListType("set")] = Field(
        (),
        description="Host names, as they are written in manifests, that may lead to private addresses, such as those of Services.",
    )


PrometheusUrl = Annotated[
    str,
    Field(max_length=512, pattern=r"^(https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?)?$"),
    ExpectedNoun("an address such as http://prometheus.monitoring.svc:9090"),
]


class PrometheusServer(ApiBase):
    """The Prometheus that guardrails and analyses of rollouts are read from."""

    url: PrometheusUrl = Field(
        "", description="Where its HTTP API is, without /api/v1; empty means that there is none."
    )
    timeout: PositiveDuration = Field(timedelta(seconds=10), description="How long one query may take.")


class ExposureLogSettings(ApiBase):
    """Where exposure logs of Experiments may be written, with what credentials the operator's environment has."""

    places: Annotated[Items[LogPlacePrefix], Field(max_length=100), ListType("set")] = Field(
        (),
        description="Beginnings of places, such as s3://logs/experiments: spec.exposureLog.uri has to be one of them or lie below one."
        " Of pvc://claim the chart mounts the claim, which is one of the operator's namespace. Empty: none is written.",
    )


class Installation(ApiBase):
    """All that is the same for every ModelDeployment of an installation."""

    runtime_image: Annotated[Image, Field(min_length=1)] = Field(
        "sundog/runtime", description="What an empty runtime.image stands for."
    )
    edge_image: Annotated[Image, Field(min_length=1)] = "sundog/edge"
    watch_namespaces: Annotated[Items[Name], Field(max_length=1000), ListType("set")] = Field(
        (), description="None means all."
    )
    workers: Annotated[Integer, Field(ge=1, le=64)] = Field(4, description="Keys at work at the same time.")
    watch_secrets: bool = Field(
        False, description="Notice a changed Secret at once; takes the right to list and watch all Secrets."
    )
    cluster_domain: Annotated[Host, Field(min_length=1)] = "cluster.local"
    ray: RaySettings = RaySettings()
    edge: EdgeSettings = EdgeSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    gpu: AcceleratorSettings = AcceleratorSettings()
    network_policies: NetworkPolicySettings = NetworkPolicySettings()
    webhooks: WebhookSettings = WebhookSettings()
    prometheus: PrometheusServer = PrometheusServer()
    exposure_logs: ExposureLogSettings = ExposureLogSettings()
    require_digest: bool = Field(False, description="Refuse models without spec.model.digest.")


def parse_installation(text: str, source: str) -> Installation:
    """Read the YAML of an installation; an empty one is all defaults.

    `source` names it in messages. Raises InstallationError, one line, for what is no YAML, of another shape, or unknown.
    """
    if len(text.encode()) > MAX_INSTALLATION_BYTES:
        raise InstallationError(f"{source}: {len(text.encode())} bytes, more than {MAX_INSTALLATION_BYTES}")
    try:
        document = strict_yaml.load(text)
    except strict_yaml.InvalidYaml as error:
        raise InstallationError(f"{source}: {error}") from error
    document = {} if document is None else document
    installation, violations = validate(Installation, document)
    found = [*violations, *find_unknown_fields(Installation, document)]
    if installation is None or found:
        raise InstallationError(f"{source}: {'; '.join(map(str, found))}")
    return installation
