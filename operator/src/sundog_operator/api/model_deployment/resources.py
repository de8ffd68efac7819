"""CPU, memory, GPUs, autoscaling and scheduling."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.defaults import PositiveDuration
from sundog_operator.api.scalars import (
    Bytes,
    Cpu,
    Duration,
    Integer,
    Items,
    LabelValue,
    MinimumBytes,
    Name,
    ObjectName,
    QualifiedName,
)
from sundog_operator.api.schema.rules import ExpectedNoun, Rule

ReplicaCount = Annotated[Integer, Field(ge=0, le=1000)]
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
