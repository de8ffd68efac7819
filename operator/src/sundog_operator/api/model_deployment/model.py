"""The model and how its server runs."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.model_uri import PIN_RULES
from sundog_operator.api.rollout.common import PositiveDuration
from sundog_operator.api.scalars import (
    Digest,
    Duration,
    Entrypoint,
    Image,
    Integer,
    Items,
    Json,
    LabelValue,
    ObjectName,
    QualifiedName,
    Uri,
)
from sundog_operator.api.schema.rules import Confidential, ExpectedNoun, ListType, Rule

ModelFormat = Literal["auto", "torch", "exported", "torchscript", "transformers", "python"]
RESERVED_VARIABLE_PREFIXES = ("RAY_", "SUNDOG_", "KUBERAY_")
DEVICE_VARIABLES = ("NVIDIA_VISIBLE_DEVICES", "NVIDIA_IMEX_CHANNELS", "AMD_VISIBLE_DEVICES", "HABANA_VISIBLE_DEVICES")
"""Variables by which some container runtimes give devices of the node to a container, beyond those that Kubernetes allocates."""
RESERVED_LABEL_PREFIXES = ("serving.sundog.dev/", "app.kubernetes.io/", "ray.io/")


class ModelCredentials(ApiBase):
    """Access to the model's source: a Secret, or workload identity."""

    secret_name: ObjectName = Field("", description="A Secret in this namespace.")
    service_account_name: ObjectName = Field("", description="A ServiceAccount in this namespace.")


TRUST_CODE_RULE = Rule(
    cel="!(self.format in ['exported', 'torchscript']) || self.trustCode",
    message="{format} archives can run code when they are loaded; expected trustCode: true to accept that",
    field="format",
)


class ModelSource(ApiBase):
    """The model. A change makes a new revision."""

    uri: Annotated[Uri, Field(min_length=1)] = Field(
        description="Location of the model, with the scheme file, pvc, s3, gs, https, hf or oci."
    )
    digest: Digest = Field("", description="SHA-256 digest, verified before the model is loaded; default none.")
    format: ModelFormat = Field("auto", description="Format of the model; auto (default) detects it.")
    entrypoint: Entrypoint = Field("", description="module:attribute in the model directory, for torch and python.")
    config: Json = Field({}, description="Configuration that the entrypoint gets unchanged; at most 64 KiB of JSON.")
    trust_code: bool = Field(False, description="Accept formats that run code when they are loaded; default false.")
    credentials: ModelCredentials = Field(ModelCredentials(), description="Access to the source.")

    rules: ClassVar[tuple[Rule, ...]] = (TRUST_CODE_RULE, *PIN_RULES)


class KeyRef(ApiBase):
    """One key of a Secret or ConfigMap in this namespace."""

    name: Annotated[ObjectName, Field(min_length=1)] = Field(description="Name of the Secret or ConfigMap.")
    key: Annotated[
        str,
        Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$"),
        ExpectedNoun("a key of letters, digits, -, _ and ."),
    ] = Field(description="Key in it.")
    optional: bool = Field(False, description="Start without the variable if the key is missing; default false.")


class EnvSource(ApiBase):
    """Source of a variable's value."""

    secret_key_ref: KeyRef | None = Field(None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(None, description="A key of a ConfigMap.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.secretKeyRef) != has(self.configMapKeyRef)",
            message="expected exactly one of secretKeyRef and configMapKeyRef",
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
            message=f"{{}} is reserved for the operator; expected no name that begins with {', '.join(RESERVED_VARIABLE_PREFIXES)}",
        ),
    ] = Field(description="Name of the variable.")
    value: Annotated[str, Field(max_length=32768), Confidential()] | None = Field(None, description="Its value.")
    value_from: EnvSource | None = Field(None, description="Source of its value.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.value) || !has(self.valueFrom)",
            message="expected at most one of value and valueFrom",
        ),
        Rule(
            cel="!(self.name in [" + ", ".join(f"'{name}'" for name in DEVICE_VARIABLES) + "])"
            " || (has(self.value) && (self.value == 'void' || self.value == 'none'))",
            message=f"{', '.join(DEVICE_VARIABLES)} may give a container all devices of its node; expected value void or none for"
            " these, and devices in resources.gpu",
        ),
    )


class Batching(ApiBase):
    """Requests that the model gets together."""

    max_size: Annotated[Integer, Field(ge=1, le=4096)] = Field(
        1, description="Most requests in a batch; default 1, which means no batching."
    )
    max_delay: Duration = Field(
        timedelta(milliseconds=2), description="How long the first request waits for others; default 2ms."
    )


class Warmup(ApiBase):
    """Requests that a replica must answer before it is ready."""

    requests: Annotated[Integer, Field(ge=0, le=1000)] = Field(
        4, description="Number of requests; default 4. 0 means none."
    )
    timeout: PositiveDuration = Field(timedelta(minutes=5), description="Time limit for all of them; default 5m.")


RESERVED_POD_LABELS_RULE = Rule(
    cel="!self.exists(k, " + " || ".join(f"k.startsWith('{prefix}')" for prefix in RESERVED_LABEL_PREFIXES) + ")",
    message=f"reserved key; expected none that begins with {', '.join(RESERVED_LABEL_PREFIXES)}",
)


FOREIGN_QUEUE_LABELS = ("kai.scheduler/queue", "volcano.sh/queue-name")
FOREIGN_QUEUES_RULE = Rule(
    cel="!self.exists(k, k in [" + ", ".join(f"'{label}'" for label in FOREIGN_QUEUE_LABELS) + "])",
    message="queue of KAI or Volcano, which place pods by a scheduler of their own; expected scheduling.queue, a LocalQueue of Kueue",
)


class Runtime(ApiBase):
    """How the model runs. A change makes a new revision, except in userConfig."""

    image: Image = Field("", description="Image of the replicas; empty means the installation's.")
    env: Annotated[Items[EnvVar], Field(max_length=100), ListType("map", "name")] = Field(
        (), description="Environment variables."
    )
    max_ongoing_requests: Annotated[Integer, Field(ge=1, le=10_000)] = Field(
        64, description="Requests that a replica holds at once, including waiting ones; default 64."
    )
    batching: Batching = Field(Batching(), description="Requests that the model gets together.")
    placement: Literal["dedicated", "shared"] = Field(
        "dedicated",
        description="dedicated (default): pods of its own. shared: replicas without devices share pods with other models of the"
        " namespace. In local mode all replicas share the machine.",
    )
    pod_labels: Annotated[
        dict[QualifiedName, LabelValue], Field(max_length=32), RESERVED_POD_LABELS_RULE, FOREIGN_QUEUES_RULE
    ] = Field({}, description="Labels of the replicas' pods.")
    warmup: Warmup = Field(Warmup(), description="Requests that a replica must answer before it is ready.")
    user_config: Json = Field(
        {}, description="Configuration that is applied in place, without a new revision; at most 64 KiB of JSON."
    )
