"""CPU, memory, GPUs, autoscaling and scheduling."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.model_deployment.endpoint import WITHIN_A_DAY_RULE
from sundog_operator.api.rollout.common import PositiveDuration
from sundog_operator.api.scalars import (
    Bytes,
    Cpu,
    DeviceTypeName,
    Duration,
    Integer,
    Items,
    LabelValue,
    MinimumBytes,
    ObjectName,
    PercentText,
    PercentUpTo100Text,
    QualifiedName,
)
from sundog_operator.api.schema.rules import ExpectedNoun, Rule, nonzero_rule

ReplicaCount = Annotated[Integer, Field(ge=0, le=1000)]
FACTOR_RULE = nonzero_rule("{} never changes the replicas; expected more than 0%")
GPU_FRACTION_RULE = Rule(
    cel="self == '' || double(self) >= 0.01 && double(self) < 1.0",
    python=lambda share: share == "" or 0.01 <= float(share) < 1,
    message="{} is out of range; expected at least 0.01 and less than 1",
)


SHARING_MODE_RULE = Rule(
    cel="self != 'mps'",
    message="mps is not supported, because one client's fault ends all clients of its device; expected exclusive, mig, fraction"
    " or timeSliced",
    is_unsupported=True,
)
VENDOR_RULE = Rule(
    cel="self != 'tpu'",
    message="tpu is not supported yet; expected nvidia, amd, intel, gaudi or neuron",
    is_unsupported=True,
)
INTERCONNECT_RULE = Rule(
    cel="self != 'nvlink'",
    message="nvlink is not supported yet; expected any",
    is_unsupported=True,
)


class GpuSharing(ApiBase):
    """How replicas share a GPU."""

    mode: Annotated[Literal["exclusive", "mig", "fraction", "timeSliced", "mps"], SHARING_MODE_RULE] = Field(
        "exclusive",
        description="exclusive (default): whole GPUs. mig: a slice. fraction: replicas share a pod and its GPU. timeSliced: a"
        " GPU that pods share in turns.",
    )
    profile: Annotated[
        str,
        Field(max_length=32, pattern=r"^([1-7]g\.[1-9][0-9]{0,2}gb(\.[a-z]{2,8})?)?$"),
        ExpectedNoun("a MIG profile such as 1g.10gb"),
    ] = Field("", description="With mode mig: the MIG profile.")
    fraction: Annotated[
        str,
        Field(max_length=16, pattern=r"^([0-9]+(\.[0-9]+)?|\.[0-9]+)?$"),
        ExpectedNoun("a number in quotes such as '0.5'"),
        GPU_FRACTION_RULE,
    ] = Field("", description="With mode fraction: share of one GPU, at least 0.01 and below 1.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.mode != 'mig' || self.profile != ''",
            message="none with mode mig; expected a profile such as 1g.10gb",
            field="profile",
        ),
        Rule(
            cel="self.mode == 'mig' || self.profile == ''",
            message="{profile} with mode {mode}; expected a profile only with mode mig",
            field="profile",
        ),
        Rule(
            cel="self.mode != 'fraction' || self.fraction != ''",
            message="none with mode fraction; expected a fraction such as '0.5'",
            field="fraction",
        ),
        Rule(
            cel="self.mode == 'fraction' || self.fraction == ''",
            message="{fraction} with mode {mode}; expected a fraction only with mode fraction",
            field="fraction",
        ),
    )


class GpuTopology(ApiBase):
    """Placement of one replica's GPUs."""

    nodes: Annotated[Integer, Field(ge=1, le=64)] = Field(
        1,
        description="Pods over which a replica is spread, each with all of resources; default 1. Replicas with count 8 and nodes 2 have"
        " 16 devices. More than 1 needs model.format python.",
    )
    interconnect: Annotated[Literal["any", "nvlink"], INTERCONNECT_RULE] = Field(
        "any", description="Connection that the GPUs need; default any."
    )


class Gpu(ApiBase):
    """The accelerators of one replica."""

    count: Annotated[Integer, Field(ge=0, le=128)] = Field(0, description="Number of devices; default 0.")
    vendor: Annotated[Literal["nvidia", "amd", "intel", "gaudi", "tpu", "neuron"], VENDOR_RULE] = Field(
        "nvidia", description="Vendor of the accelerator; default nvidia."
    )
    type: Annotated[Items[DeviceTypeName], Field(max_length=8)] = Field(
        (), description="Suitable device types, preferred first; empty means any. Also as a node's label spells them."
    )
    memory: MinimumBytes = Field(
        "",
        description="Least memory of each device; default none. A device reports less than its name: one of 80 GB has 79 Gi.",
    )
    sharing: GpuSharing = Field(GpuSharing(), description="How replicas share a GPU.")
    allocation: Literal["auto", "devicePlugin", "dra"] = Field(
        "auto",
        description="How pods request devices: by devicePlugin (also auto, default), or by claims of Dynamic Resource Allocation (dra).",
    )
    topology: GpuTopology = Field(GpuTopology(), description="Placement of one replica's GPUs.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.sharing.mode == 'exclusive' || self.count == 1",
            message="{count} with sharing mode {sharing.mode}; expected 1",
            field="count",
        ),
        Rule(
            cel="self.memory == '' || self.count > 0",
            message="set with count 0; expected none, or a count of 1 or more",
            field="memory",
        ),
        Rule(
            cel="self.memory == '' || self.sharing.mode != 'mig'",
            message="set with sharing mode mig; expected none, because the profile names the memory",
            field="memory",
        ),
        Rule(
            cel="self.memory == '' || self.vendor != 'neuron'",
            message="set with vendor neuron; expected none, because a device is a NeuronCore, a part of a chip. Name the chip in type",
            field="memory",
        ),
        Rule(
            cel="self.vendor == 'nvidia' || self.sharing.mode == 'exclusive'",
            message="{vendor} with sharing mode {sharing.mode}; expected nvidia, or mode exclusive",
            field="vendor",
        ),
        Rule(
            cel="self.vendor == 'nvidia' || self.allocation != 'dra'",
            message="dra with vendor {vendor}; expected devicePlugin, because only claims to devices of nvidia are known",
            field="allocation",
        ),
        Rule(
            cel="self.sharing.mode in ['exclusive', 'mig', 'fraction'] || self.allocation != 'dra'",
            message="dra with sharing mode {sharing.mode}; expected devicePlugin, because no claim shares a device in time",
            field="allocation",
        ),
        Rule(
            cel="self.topology.nodes == 1 || self.count > 0",
            message="{topology.nodes} with count 0; expected 1, or a count of 1 or more",
            field="topology.nodes",
        ),
        Rule(
            cel="self.topology.nodes == 1 || self.sharing.mode == 'exclusive'",
            message="{topology.nodes} with sharing mode {sharing.mode}; expected 1, or mode exclusive",
            field="topology.nodes",
        ),
    )


class Resources(ApiBase):
    """Resources of one replica. A change makes a new revision."""

    cpu: Cpu = Field("1", description="CPU cores; default 1.")
    memory: Bytes = Field("2Gi", description="Memory; default 2Gi.")
    gpu: Gpu = Field(Gpu(), description="Accelerators.")


class Autoscaling(ApiBase):
    """Number of replicas by load; default a fixed number."""

    min_replicas: ReplicaCount = Field(
        1, description="Least replicas; default 1. 0 scales to zero: then the edge holds requests until one started."
    )
    max_replicas: Annotated[Integer, Field(ge=1, le=1000)] = Field(4, description="Most replicas; default 4.")
    target_ongoing_requests: Annotated[Integer, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="Requests per replica to aim at; default 1, or 2 with runtime.batching.maxSize above 1. At most half of"
        " runtime.maxOngoingRequests.",
    )
    upscale_delay: Duration = Field(
        timedelta(seconds=20), description="How long load must last before replicas are added; default 20s."
    )
    downscale_delay: Duration = Field(
        timedelta(minutes=5), description="How long idleness must last before replicas are removed; default 5m."
    )
    upscale_factor: Annotated[PercentText, FACTOR_RULE] = Field(
        "100%",
        description="Part of the missing replicas that each increase adds; default 100%. More than 100% adds more than the load"
        " needs.",
    )
    downscale_factor: Annotated[PercentUpTo100Text, FACTOR_RULE] = Field(
        "20%",
        description="Part of the surplus replicas that each decrease removes, at least one; default 20%. 100% removes all at"
        " once, and a load near a replica's capacity then oscillates.",
    )
    scale_to_zero_delay: Duration = Field(
        timedelta(minutes=10),
        description="How long idleness must last before the last replica is removed; default 10m.",
    )
    cold_start_timeout: Annotated[PositiveDuration, WITHIN_A_DAY_RULE] = Field(
        timedelta(minutes=2),
        description="With minReplicas 0, how long a request may wait for the first replica; default 2m. Then it is answered"
        " 503, or UNAVAILABLE by gRPC.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.minReplicas <= self.maxReplicas",
            message="{minReplicas} is greater than maxReplicas; expected at most {maxReplicas}",
            field="minReplicas",
        ),
    )

    def target_requests(self, max_batch_size: int) -> int:
        """Return the requests that each replica should have, for a model that computes so many at once.

        A model that batches nothing runs one request, and others wait. A higher target asks for fewer replicas than its load needs.
        """
        return self.target_ongoing_requests or (1 if max_batch_size == 1 else 2)


class Toleration(ApiBase):
    """A taint that the replicas' pods tolerate. The key is required, because a model should not tolerate every taint."""

    key: QualifiedName = Field(description="Key of the taint.")
    operator: Literal["Exists", "Equal"] = Field(
        "Equal", description="Equal (default) compares the value; Exists accepts every value."
    )
    value: LabelValue = Field("", description="With Equal: value of the taint.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        "", description="Effect of the taint; empty means every effect."
    )
    toleration_seconds: Annotated[Integer, Field(ge=0, le=31_536_000)] | None = Field(
        None, description="With NoExecute: seconds that a pod stays."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.operator == 'Equal' || self.value == ''",
            message="{value} with operator Exists; expected a value only with operator Equal",
            field="value",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || self.effect == 'NoExecute'",
            message="set without effect NoExecute; expected it only with that effect",
            field="tolerationSeconds",
        ),
    )


class Scheduling(ApiBase):
    """Where the replicas' pods run. A change makes a new revision."""

    queue: ObjectName = Field(
        "", description="LocalQueue of Kueue in this namespace, which admits each pod; default none."
    )
    priority_class_name: ObjectName = Field("", description="PriorityClass of the pods.")
    spot: Literal["never", "prefer", "require"] = Field(
        "never",
        description="never (default): no spot nodes. prefer: spot nodes first, else others. require: spot nodes only.",
    )
    node_selector: Annotated[dict[QualifiedName, LabelValue], Field(max_length=32)] = Field(
        {}, description="Labels that nodes must have."
    )
    tolerations: Annotated[Items[Toleration], Field(max_length=32)] = Field(
        (), description="Taints that the pods tolerate."
    )
    runtime_class_name: ObjectName = Field("", description="RuntimeClass of the pods.")
