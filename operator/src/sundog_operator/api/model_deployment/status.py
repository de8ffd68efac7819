"""`status` of a ModelDeployment."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sundog_operator.api.base import ApiBase
from sundog_operator.api.conditions import Condition
from sundog_operator.api.older_releases import add_stored_rollback, add_stored_rollout_code
from sundog_operator.api.resource import Status
from sundog_operator.api.scalars import (
    Duration,
    Integer,
    Items,
    Message,
    PercentNumber,
    Text,
    Timestamp,
)
from sundog_operator.api.schema.rules import ListType

RevisionNumber = Annotated[Integer, Field(ge=1)]
WholePercent = Annotated[Integer, Field(ge=0, le=100)]
NonNegativeInt = Annotated[Integer, Field(ge=0)]


class RevisionStatus(ApiBase):
    """One revision with its share of traffic."""

    revision: RevisionNumber = Field(description="Number of the revision.")
    cluster: Annotated[str, Field(max_length=253)] = Field(
        "", description="Its RayCluster; empty means status.cluster."
    )
    weight: PercentNumber = Field(0, description="Its committed percent of the traffic.")
    uri: Annotated[str, Field(max_length=2048)] = Field("", description="Its spec.model.uri.")
    digest: Text = Field("", description="Its spec.model.digest.")
    replicas: NonNegativeInt = Field(0, description="Desired replicas.")
    ready_replicas: NonNegativeInt = Field(
        0, description="Replicas that Serve runs; the last known number while Serve does not answer."
    )
    since: Timestamp | None = Field(None, description="When it took this role.")
    failures: NonNegativeInt = Field(0, description="Consecutive failed starts.")
    retry_at: Timestamp | None = Field(
        None, description="Time of the next start; until then a candidate is not deployed."
    )
    lost_since: Timestamp | None = Field(
        None,
        description="Since when no edge sees a healthy replica of it, although it has traffic and the edges see stable's.",
    )
    held_since: Timestamp | None = Field(None, description="For a candidate: since when the spec holds its rollout.")
    resumed_at: Timestamp | None = Field(
        None,
        description="For a candidate: when the spec last stopped holding its rollout. Its progressDeadline counts from then on.",
    )
    brought_back: bool | None = Field(
        None,
        description="For a candidate: whether a command restored it. Absent for old candidates.",
    )


class ArmRevision(RevisionStatus):
    """The revision of an arm of the running Experiment."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="Name of the arm.")
    problem: Message | None = Field(None, description="Its last failure while it started.")


class DrainingRevision(ApiBase):
    """A revision without traffic whose replicas still drain."""

    revision: RevisionNumber = Field(description="Number of the revision.")
    cluster: Annotated[str, Field(max_length=253)] = Field(
        "", description="Its RayCluster; empty means status.cluster."
    )
    replicas: NonNegativeInt = Field(1, description="Replicas that still run.")
    since: Timestamp = Field(description="When it lost its traffic.")


class CapacityStatus(ApiBase):
    """GPUs of all revisions together, and where a candidate gets its own."""

    gpus_requested: Annotated[float, Field(ge=0)] = 0.0
    gpus_allocated: Annotated[float, Field(ge=0)] = 0.0
    mode: Literal["surge", "inPlace"] | None = Field(
        None, description="The resolved spec.rollout.capacity of the current rollout; surge without one."
    )
    needed_replicas: NonNegativeInt | None = Field(
        None, description="With mode inPlace: replicas that all of the traffic needs; both revisions share them."
    )
    spare_replicas: NonNegativeInt | None = Field(
        None,
        description="With mode inPlace: replicas beyond those that the cluster had capacity for at the start, 0 or 1.",
    )


class EdgeLoadStatus(ApiBase):
    """Requests at the edges, waiting ones included, that need more replicas than Ray Serve has asked for."""

    replicas: NonNegativeInt = Field(description="Replicas that they need: the lowest number since `since`.")
    since: Timestamp = Field(description="Since when they need more.")
    in_force: bool = Field(
        False,
        description="Whether Ray Serve keeps at least these replicas: once the load has lasted spec.autoscaling.upscaleDelay,"
        " until it is lower.",
    )


class IdleStatus(ApiBase):
    """A rollout with scale to zero: whether it has requests, and whether its revisions have replicas."""

    state: Annotated[str, Field(max_length=16)] = Field(
        description="Counting: a replica of each revision runs. AtZero: no request came for spec.autoscaling.scaleToZeroDelay, so both"
        " revisions may scale to zero. Waking: their first replicas start."
    )
    since: Timestamp = Field(description="Since when.")
    requests: NonNegativeInt | None = Field(None, description="Requests of both arms that edges had counted then.")


class Startup(ApiBase):
    """Duration of each phase of the last revision's start, or of its last start from zero; unknown phases are left out."""

    revision: RevisionNumber | None = Field(None, description="Number of the revision.")
    woken_at: Timestamp | None = Field(
        None, description="When a request woke the revision at zero replicas; left out for the start of a new revision."
    )
    cluster: Duration | None = Field(
        None, description="Until its first pod was created. A first model waits for Ray's store and head."
    )
    scheduled: Duration | None = Field(None, description="Until its slowest pod had a node.")
    image: Duration | None = Field(None, description="Until the first container of its slowest pod ran.")
    ray: Duration | None = Field(
        None,
        description="From then (without pods, from the start) until a replica began: Ray, its process and imports.",
    )
    download: Duration | None = Field(None, description="Download of the model.")
    load: Duration | None = Field(None, description="Loading of the model.")
    warmup: Duration | None = Field(None, description="Its warm-up requests.")
    total: Duration | None = Field(
        None,
        description="From the decision to run it until all its replicas ran; from zero, until the first one answered.",
    )


class LastCommand(ApiBase):
    """The last command annotation and its result."""

    id: Text = Field(description="Id of the command; each runs once.")
    verb: Text = Field(description="Verb of the command.")
    revision: RevisionNumber | None = Field(None, description="Revision that the command names.")
    result: Literal["Accepted", "Rejected"] = Field(description="Whether the command was executed.")
    message: Message = Field("", description="Why it was rejected.")
    at: Timestamp = Field(description="When it was handled.")


class LastRollout(ApiBase):
    """How the last rollout ended."""

    experiment: Text = Field(description="Its Experiment; empty for a rollout without steps.")
    revision: RevisionNumber = Field(description="The revision that was rolled out.")
    outcome: Literal["Promoted", "Aborted", "RolledBack", "Superseded"] = Field(
        description="Aborted and RolledBack hold the revision back until `retry`, or until the spec matches the stable revision."
    )
    reason: Message = Field("", description="Why it ended so.")
    code: Text | None = Field(
        None, description="As in the Experiment's status.verdict.code: the outcome, or the failure that aborted it."
    )
    at: Timestamp = Field(description="When it ended.")

    @model_validator(mode="before")
    @classmethod
    def _read_code(cls, data: Any) -> Any:
        return add_stored_rollout_code(data)


class ModelDeploymentStatus(Status):
    """State that the operator observed, and its decisions."""

    observed_generation: Annotated[Integer, Field(ge=-1)] = Field(
        -1, description="The generation of the spec that this status describes."
    )
    url: Annotated[str, Field(max_length=2048)] = Field("", description="Address at which the edge serves the model.")
    replicas: NonNegativeInt = Field(0, description="Desired replicas of stable, candidate and arms together.")
    ready_replicas: NonNegativeInt = Field(0, description="How many of them Serve runs.")
    selector: Annotated[str, Field(max_length=1024)] = Field("", description="Label selector of its pods, for /scale.")
    cluster: Annotated[str, Field(max_length=253)] = Field(
        "", description="RayCluster of the newest revision. Another image needs another cluster."
    )
    stable: RevisionStatus | None = Field(None, description="The revision that serves.")
    candidate: RevisionStatus | None = Field(None, description="The revision that may replace it.")
    queued: RevisionNumber | None = Field(
        None, description="The revision that waits for the current rollout to end, by spec.rollout.onNewRevision."
    )
    stable_before: Annotated[Items[RevisionNumber], Field(max_length=20)] = Field(
        (),
        description="Earlier stable revisions, newest first. Without those that were rolled back from, and those that later lost"
        " their traffic as a candidate. spec.rollout.rollbackWindow counts these.",
    )
    arms: Annotated[Items[ArmRevision], Field(max_length=9), ListType("map", "name")] | None = Field(
        None,
        description="The other revisions of a user's running Experiment; absent without one.",
    )
    retiring: Annotated[Items[DrainingRevision], Field(max_length=20)] = Field(
        (), description="Revisions without traffic that still answer their last requests."
    )
    kept: Annotated[Items[DrainingRevision], Field(max_length=8)] = Field(
        (),
        description="Revisions that spec.rollout.keepPrevious keeps warm, with the time when they lost their traffic.",
    )
    experiment: Annotated[str, Field(max_length=253)] = Field(
        "", description="The current Experiment: the rollout's, or a user's."
    )
    capacity: CapacityStatus | None = Field(
        None,
        description="Accelerators of all revisions together. Absent if none needs any and no rollout is in place.",
    )
    edge_load: EdgeLoadStatus | None = Field(
        None,
        description="With spec.autoscaling: load at the edges that Ray Serve has no replicas for. Absent without such load.",
    )
    idle: IdleStatus | None = Field(
        None, description="During a rollout of a service that may scale to zero: whether it waits for requests."
    )
    startup: Startup | None = Field(
        None, description="Phases of the last revision's start; `cluster`, `scheduled` and `image` only in a cluster."
    )
    last_command: LastCommand | None = Field(None, description="The last command and its result.")
    command_ids: Annotated[Items[Text], Field(max_length=20)] = Field(
        (), description="Ids of the last commands, which never run again."
    )
    last_rollout: LastRollout | None = Field(None, description="How the last rollout ended.")
    held_back: Annotated[Items[LastRollout], Field(max_length=10)] = Field(
        (),
        description="Ends of the rollouts of revisions that are held back until `retry`, or until the spec matches the stable"
        " revision; newest last.",
    )
    conditions: Annotated[Items[Condition], Field(max_length=16), ListType("map", "type")] = Field(
        (), description="See the conditions below."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_rollback(cls, data: Any) -> Any:
        return add_stored_rollback(data)
