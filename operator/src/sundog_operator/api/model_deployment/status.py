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
    code: Text | None = Field(
        None, description="As in the Experiment's status.verdict.code: the outcome, or the failure that aborted it."
    )
    at: Timestamp = Field(description="When it ended.")

    @model_validator(mode="before")
    @classmethod
    def _read_code(cls, data: Any) -> Any:
        return add_stored_rollout_code(data)


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

    @model_validator(mode="before")
    @classmethod
    def _read_rollback(cls, data: Any) -> Any:
        return add_stored_rollback(data)
