"""Settings of an administrator for a whole installation: the file that the chart writes and `sundog-operator --config` reads."""

from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.quantities import QUANTITY_PATTERN
from sundog_operator.api.rollout.common import PositiveDuration
from sundog_operator.api.scalars import (
    Bytes,
    DeviceTypeName,
    Host,
    Image,
    Integer,
    IntegerAsText,
    IPv4Network,
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
    python=lambda items: _is_named(items, "name"),
    message="item without a name; expected a name in each",
)
HAS_MOUNT_PATHS_RULE = Rule(
    cel="self.all(item, has(item.name) && has(item.mountPath))",
    python=lambda items: _is_named(items, "name", "mountPath"),
    message="item without a name or mountPath; expected both in each",
)


class PullSecret(ApiBase):
    """A Secret in the pods' own namespace, for pulling images."""

    name: Annotated[ObjectName, Field(min_length=1)]


class PodTemplate(ApiBase):
    """Additions to pods, with the names of a PodSpec. Only the API server checks free-form parts."""

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
    """Ray's autoscaler, a container of the head's pod."""

    resources: ResourceRequirements = ResourceRequirements(
        requests={"cpu": "100m", "memory": "256Mi"}, limits={"cpu": "500m", "memory": "512Mi"}
    )


class StorageClaim(ApiBase):
    """A volume claim. Without a size there is no claim, and the data is lost with its pod."""

    size: MinimumBytes = "1Gi"
    class_name: ObjectName = Field("", description="Empty means the default one. A change applies to new stores.")


Address = Annotated[
    str,
    Field(max_length=320, pattern=r"^([a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?:[0-9]{1,5})?$"),
    ExpectedNoun("an address such as redis.example.com:6379"),
]


class ExternalStore(ApiBase):
    """A Redis or Valkey that others operate. Each namespace that uses it has the Secret, with the key `password`."""

    address: Address = Field("", description="Empty means that Sundog runs a store where one is needed.")
    password_secret_name: ObjectName = ""
    username_from_secret: bool = Field(
        False,
        description="Whether the Secret of each namespace has the key username too. Without it all use the store's default user.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.address != '' || self.passwordSecretName == ''",
            message="empty with passwordSecretName; expected an address",
            field="address",
        ),
        Rule(
            cel="self.passwordSecretName != '' || !self.usernameFromSecret",
            message="empty with usernameFromSecret; expected the Secret with the keys username and password",
            field="passwordSecretName",
        ),
    )


class FaultTolerance(ApiBase):
    """Storage of the state with which a new Ray head continues for a lost one."""

    enabled: bool = True
    image: Annotated[Image, Field(min_length=1)] = Field(
        "docker.io/valkey/valkey:8.1", description="Needs valkey-server or redis-server, and a shell."
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
    """Storage of downloaded models and compiled code."""

    host_path: CacheFolder = Field(
        "",
        description="A directory on every node that the pods' user may write to; the pods of a node share it. Empty: each pod has"
        " its own, lost with the pod. Namespaces with restricted or baseline pods do not allow it.",
    )


class SharedWorkers(ApiBase):
    """Pods that models with `runtime.placement: shared` share, in each RayCluster."""

    cpu: Annotated[Integer, Field(ge=1, le=1024)] = Field(
        4, description="CPU cores of a pod, for its replicas. 3 fills most nodes better."
    )
    memory: Bytes = Field("8Gi", description="Memory of a pod, for its replicas. Ray's own comes on top.")
    max_pods: Annotated[Integer, Field(ge=1, le=1000)] = Field(20, description="Most pods of each RayCluster.")


class RaySettings(ApiBase):
    """Settings of the RayClusters."""

    version: RayVersion = Field("2.60.0", description="Ray's version in the runtime image, for KubeRay.")
    pods: PodTemplate = PodTemplate()
    cache: CacheSettings = CacheSettings()
    head: RayHead = RayHead()
    autoscaler: RayAutoscaler = RayAutoscaler()
    shared_workers: SharedWorkers = SharedWorkers()
    idle_timeout: PositiveDuration = Field(timedelta(minutes=1), description="How long a worker pod may be idle.")
    disruption_budgets: bool = Field(
        True,
        description="Whether each worker group of two or more pods has a PodDisruptionBudget, so that node drains evict one of them"
        " at a time. Set it to false if budgets of your own select these pods: Kubernetes evicts no pod with two.",
    )
    gcs_fault_tolerance: FaultTolerance = FaultTolerance()


class FeedbackStore(ApiBase):
    """Store of a namespace's edges for exposures and outcomes, while an Experiment has outcome metrics."""

    image: Annotated[Image, Field(min_length=1)] = Field(
        "docker.io/valkey/valkey:8.1", description="Needs valkey-server or redis-server, and a shell."
    )
    memory: Bytes = Field(
        "1Gi", description="Memory of its container. At seven tenths of it, new data is refused and no data is dropped."
    )
    storage: StorageClaim = StorageClaim(size="4Gi")
    external: ExternalStore = ExternalStore()


class FeedbackSettings(ApiBase):
    """Feedback: outcomes that clients report."""

    store: FeedbackStore = FeedbackStore()


class HaproxySettings(ApiBase):
    """Limits of an edge's HAProxy for its clients."""

    buffer_bytes: Annotated[Integer, Field(ge=16_384, le=1_048_576)] = Field(
        16_384,
        description="Largest request, with its headers, that can be retried and searched for a unit. Each connection takes two"
        " such buffers of memory, and 8 KiB more for each.",
    )
    request_timeout: PositiveDuration = Field(
        timedelta(seconds=15), description="Time for the headers and the first bufferBytes of a body, in whole seconds."
    )
    client_timeout: PositiveDuration = Field(
        timedelta(seconds=30), description="Longest silence of a client after that, in whole seconds."
    )
    source_connections: Annotated[Integer, Field(ge=0)] = Field(
        8192, description="Most connections of one client address to each edge; 0 means no limit."
    )
    trusted_proxies: Annotated[Items[IPv4Network], Field(max_length=32), ListType("set")] = Field(
        (),
        description="Networks of proxies, such as a Gateway's pods. Only from these X-Forwarded-For names the client, for limits"
        " and overrides.",
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


class NodeTaint(ApiBase):
    """A taint of the nodes of a pool."""

    key: QualifiedName
    value: LabelValue = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class NodePool(ApiBase):
    """Equal nodes that an autoscaler adds for waiting pods."""

    name: Name
    max_nodes: Annotated[Integer, Field(ge=0, le=10_000)] = Field(description="Most nodes of the pool.")
    labels: Annotated[dict[QualifiedName, LabelValue], Field(min_length=1, max_length=32)] = Field(
        description="Labels of its nodes. Nodes with all of them count as the pool's."
    )
    taints: Items[NodeTaint] = ()
    allocatable: Annotated[dict[QualifiedName, Quantity], Field(min_length=1, max_length=32)] = Field(
        description="What pods can request on each node, such as cpu, memory and nvidia.com/gpu."
    )


NodeProfile = Literal["gpu-operator", "gke", "eks", "aks", "karpenter", "coreweave"]


class AcceleratorSettings(ApiBase):
    """How node labels identify GPU types."""

    aliases: dict[DeviceTypeName, dict[QualifiedName, Items[NodeLabelValue]]] = Field(
        {}, description="Additional label values for a type, by type and label key."
    )
    profiles: Annotated[Items[NodeProfile], ListType("set")] = Field(
        (),
        description="Whose labels name the types of the nodes' devices: those of NVIDIA's, AMD's and Intel's operators or plugins"
        " (gpu-operator), of GKE, EKS Auto Mode (eks), AKS with node auto-provisioning (aks), Karpenter on AWS (karpenter) or CoreWeave."
        " Empty: guessed from the nodes; `sundog capacity` shows the guess.",
    )
    nodes_come: bool = Field(
        False,
        description="Whether waiting pods cause new nodes. Then only quotas hold a canary back, unless nodePools says how many"
        " nodes come.",
    )


class SpotSettings(ApiBase):
    """How node labels identify spot nodes."""

    labels: dict[QualifiedName, Items[NodeLabelValue]] = Field(
        {},
        description="Additional labels of spot nodes, with their values. Pods also tolerate taints of that key and value.",
    )


Port = Annotated[Integer, Field(ge=1, le=65535)]


class NetworkPolicySettings(ApiBase):
    """The NetworkPolicies of namespaces with an edge."""

    enabled: bool = False
    operator_namespace: ObjectName = Field(
        "", description="Namespace of the operator's pods, which read edges and Ray."
    )
    metrics_from: Items[Json] = Field((), description="Peers that may scrape the edges' agents and Ray.")
    api_server_ports: Annotated[Items[Port], Field(min_length=1, max_length=16)] = Field(
        (443, 6443),
        description="Ports of the API server, of its Service and as pods see it. Edges and heads may connect to any address"
        " there.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.enabled || self.operatorNamespace != ''",
            message="empty; expected the operator's namespace, because the policies would block the operator",
            field="operatorNamespace",
        ),
    )


HostName = Annotated[Host, Field(min_length=1)]


class WebhookSettings(ApiBase):
    """Destinations of webhooks and notifications: public addresses, and the hosts listed here."""

    hosts: Annotated[Items[HostName], Field(max_length=100), ListType("set")] = Field(
        (),
        description="Host names, as written in manifests, that may have private addresses, such as those of Services.",
    )


PrometheusUrl = Annotated[
    str,
    Field(max_length=512, pattern=r"^(https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?)?$"),
    ExpectedNoun("an address such as http://prometheus.monitoring.svc:9090"),
]


class PrometheusServer(ApiBase):
    """The Prometheus for guardrails and analyses of rollouts."""

    url: PrometheusUrl = Field("", description="Address of its HTTP API, without /api/v1; empty means none.")
    timeout: PositiveDuration = Field(timedelta(seconds=10), description="Timeout of one query.")


class ExposureLogSettings(ApiBase):
    """Allowed locations of Experiments' exposure logs. The credentials are those of the operator's environment."""

    places: Annotated[Items[LogPlacePrefix], Field(max_length=100), ListType("set")] = Field(
        (),
        description="Allowed prefixes, such as s3://logs/experiments: spec.exposureLog.uri must equal one or lie below it. For"
        " pvc://claim the chart mounts the claim, in the operator's namespace. Empty: no log is written.",
    )


class Installation(ApiBase):
    """Settings that all ModelDeployments of an installation share."""

    runtime_image: Annotated[Image, Field(min_length=1)] = Field(
        "sundog/runtime", description="Image used if runtime.image is empty."
    )
    edge_image: Annotated[Image, Field(min_length=1)] = "sundog/edge"
    watch_namespaces: Annotated[Items[Name], Field(max_length=1000), ListType("set")] = Field(
        (), description="Empty means all."
    )
    workers: Annotated[Integer, Field(ge=1, le=64)] = Field(4, description="Objects that are reconciled in parallel.")
    max_namespace_memory: Bytes = Field(
        "32Mi",
        description="Most JSON of Sundog's objects of one namespace that the operator keeps. A namespace with more serves as before,"
        " and reports NamespaceTooLarge.",
    )
    watch_secrets: bool = Field(
        False, description="Notice a changed Secret immediately; needs permission to list and watch all Secrets."
    )
    cluster_domain: Annotated[Host, Field(min_length=1)] = "cluster.local"
    ray: RaySettings = RaySettings()
    edge: EdgeSettings = EdgeSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    gpu: AcceleratorSettings = AcceleratorSettings()
    spot: SpotSettings = SpotSettings()
    node_pools: Annotated[Items[NodePool], Field(max_length=100)] = Field(
        (),
        description="All pools to which an autoscaler adds nodes. Replicas that fit neither on present nodes nor on those to come"
        " hold a canary back, also without GPUs. Empty: unknown.",
    )
    network_policies: NetworkPolicySettings = NetworkPolicySettings()
    webhooks: WebhookSettings = WebhookSettings()
    prometheus: PrometheusServer = PrometheusServer()
    exposure_logs: ExposureLogSettings = ExposureLogSettings()
    require_digest: bool = Field(False, description="Refuse models without spec.model.digest.")


UNKNOWN_INSTALLATION: Final = Installation(ray=RaySettings(shared_workers=SharedWorkers(cpu=1024, memory="1Pi")))
"""Stands for settings that a client cannot read. It refuses nothing that an administrator may allow."""


def parse_installation(text: str, source: str) -> Installation:
    """Parse the YAML of an installation; empty text means all defaults.

    `source` names the text in messages. Raises InstallationError, in one line, for invalid YAML, wrong shapes and unknown fields.
    """
    if len(text.encode()) > MAX_INSTALLATION_BYTES:
        raise InstallationError(f"{source}: {len(text.encode())} bytes; expected at most {MAX_INSTALLATION_BYTES}")
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
