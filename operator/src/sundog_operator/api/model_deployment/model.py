"""The model and how its server runs."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.model_uri import PIN_RULES
from sundog_operator.api.rollout.defaults import PositiveDuration, set_fields
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
