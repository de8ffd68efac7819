"""The registry of reasons: why something is as it is, in one word for programs.

Each member of an enum of conditions and events has an entry in the reference. Reasons of the model server, of Ray and of a Gateway's
controller are passed on as they are, so fields that hold a reason are of type `str`.
"""

from enum import StrEnum
from typing import Final, NamedTuple

REASONS_PAGE: Final = "docs/reference/condition-reasons.md"
"""The page of the documentation that has an entry for each reason, with the reason in lower case as its anchor."""


class Cause(NamedTuple):
    """A reason for programs, and its message for people."""

    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class StartFailure(StrEnum):
    """Why a revision could not start, as the model server or Ray Serve reports it."""

    ACCESS_DENIED = "AccessDenied"
    CODE_NOT_TRUSTED = "CodeNotTrusted"
    DEPLOY_FAILED = "DeployFailed"
    DIGEST_MISMATCH = "DigestMismatch"
    ENTRYPOINT_MISSING = "EntrypointMissing"
    FORMAT_NOT_RECOGNISED = "FormatNotRecognised"
    LOAD_FAILED = "LoadFailed"
    LOAD_TIMEOUT = "LoadTimeout"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_TOO_LARGE = "ModelTooLarge"
    NO_SPACE = "NoSpace"
    SOURCE_REFUSED = "SourceRefused"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    WARMUP_FAILED = "WarmupFailed"
    WARMUP_TIMEOUT = "WarmupTimeout"


class DeploymentReason(StrEnum):
    """Reasons of a ModelDeployment's conditions."""

    ABORTED = "Aborted"
    ACCEPTED = "Accepted"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    COMPLETE = "Complete"
    CONFIG_MAP_INCOMPLETE = "ConfigMapIncomplete"
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    CONFIRMING = "Confirming"
    CONTAINER_EXITED = "ContainerExited"
    CRASH_LOOP_BACK_OFF = "CrashLoopBackOff"
    CREATE_CONTAINER_ERROR = "CreateContainerError"
    DEPLOYING = "Deploying"
    """The reason while a start continues. It is no failure."""
    DIGEST_REQUIRED = "DigestRequired"
    DRY_RUN = "DryRun"
    EDGE_NOT_CONFIRMED = "EdgeNotConfirmed"
    EXPERIMENT_RUNNING = "ExperimentRunning"
    FITS = "Fits"
    GATEWAY_API_MISSING = "GatewayAPIMissing"
    HOST_TAKEN = "HostTaken"
    IMAGE_PULL_BACK_OFF = "ImagePullBackOff"
    IN_FORCE = "InForce"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"
    INSUFFICIENT_QUOTA = "InsufficientQuota"
    INVALID_SPEC = "InvalidSpec"
    NO_GPU_REQUESTED = "NoGPURequested"
    NO_HEALTHY_REPLICA = "NoHealthyReplica"
    NO_REVISION = "NoRevision"
    NOT_ACCEPTED = "NotAccepted"
    NOT_ANSWERED = "NotAnswered"
    NOT_OWNED = "NotOwned"
    NOT_PROMOTED = "NotPromoted"
    NOT_STARTED = "NotStarted"
    NOT_WRITTEN = "NotWritten"
    NOT_YET_SUPPORTED = "NotYetSupported"
    NOTHING_SERVES = "NothingServes"
    OOM_KILLED = "OOMKilled"
    PAUSED = "Paused"
    POD_REFUSED = "PodRefused"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    PROMOTED = "Promoted"
    QUEUED = "Queued"
    RAY_UNKNOWN = "RayUnknown"
    READY = "Ready"
    RETRYING = "Retrying"
    REVISION_MISSING = "RevisionMissing"
    ROLLED_BACK = "RolledBack"
    ROLLING_BACK = "RollingBack"
    ROLLING_OUT = "RollingOut"
    SALT_REUSED = "SaltReused"
    SECRET_INCOMPLETE = "SecretIncomplete"
    SECRET_INVALID = "SecretInvalid"
    SECRET_NOT_FOUND = "SecretNotFound"
    SERVICE_ACCOUNT_NOT_FOUND = "ServiceAccountNotFound"
    SERVING = "Serving"
    SPEC_REFUSED = "SpecRefused"
    UNHEALTHY = "Unhealthy"
    UNSCHEDULABLE = "Unschedulable"


class ExperimentReason(StrEnum):
    """Reasons of an Experiment's conditions."""

    ABORTED = "Aborted"
    ACCEPTED = "Accepted"
    ARM_UNAVAILABLE = "ArmUnavailable"
    ARM_WITHOUT_REQUESTS = "ArmWithoutRequests"
    ARMS_EQUAL = "ArmsEqual"
    ARMS_STARTING = "ArmsStarting"
    CANDIDATE_UNAVAILABLE = "CandidateUnavailable"
    CAPACITY_LOST = "CapacityLost"
    CLOCK_SKEW = "ClockSkew"
    CONCLUDED = "Concluded"
    CONSISTENT = "Consistent"
    CONTROL_DEGRADED = "ControlDegraded"
    CONTROL_UNHEALTHY = "ControlUnhealthy"
    EDGE_SILENT = "EdgeSilent"
    FEEDBACK_OVERFLOW = "FeedbackOverflow"
    FEEDBACK_STORE_REPLACED = "FeedbackStoreReplaced"
    FEEDBACK_UNAVAILABLE = "FeedbackUnavailable"
    HARM = "Harm"
    INCONCLUSIVE = "Inconclusive"
    INVALID_SPEC = "InvalidSpec"
    MAX_DURATION = "MaxDuration"
    MAX_UNITS = "MaxUnits"
    MODEL_DEPLOYMENT_NOT_FOUND = "ModelDeploymentNotFound"
    NO_DATA = "NoData"
    NO_WINNER = "NoWinner"
    NOT_EVALUATED = "NotEvaluated"
    NOT_OWNED = "NotOwned"
    NOT_WRITTEN = "NotWritten"
    NOT_YET_SUPPORTED = "NotYetSupported"
    PASSED = "Passed"
    PENDING = "Pending"
    PLACE_NOT_ALLOWED = "PlaceNotAllowed"
    PLAN_FROZEN = "PlanFrozen"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    PROMOTED = "Promoted"
    QUEUED = "Queued"
    REQUESTS_LOST = "RequestsLost"
    ROLLED_BACK = "RolledBack"
    RUNNING = "Running"
    SALT_REUSED = "SaltReused"
    SAMPLE_RATIO_MISMATCH = "SampleRatioMismatch"
    SECRET_INCOMPLETE = "SecretIncomplete"
    SECRET_NOT_FOUND = "SecretNotFound"
    STOP_COMMAND = "StopCommand"
    STOPPED = "Stopped"
    STOPPED_BY_USER = "StoppedByUser"
    SUPERSEDED = "Superseded"
    UNDECIDED = "Undecided"
    WAITS_FOR_MODEL_DEPLOYMENT = "WaitsForModelDeployment"
    WINNER = "Winner"
    WRITTEN = "Written"


class EventReason(StrEnum):
    """Reasons of events."""

    ARM_DROPPED = "ArmDropped"
    ARM_WON = "ArmWon"
    COMMAND_ACCEPTED = "CommandAccepted"
    COMMAND_REJECTED = "CommandRejected"
    DIGEST_REQUIRED = "DigestRequired"
    EDGE_REPLACED = "EdgeReplaced"
    EVIDENCE_DOUBTED = "EvidenceDoubted"
    EXPERIMENT_CONCLUDED = "ExperimentConcluded"
    EXPERIMENT_PAUSED = "ExperimentPaused"
    EXPERIMENT_RESUMED = "ExperimentResumed"
    EXPERIMENT_RUNNING = "ExperimentRunning"
    EXPERIMENT_STARTED = "ExperimentStarted"
    EXPERIMENT_STOPPED = "ExperimentStopped"
    GATE_OPENED = "GateOpened"
    HOST_TAKEN = "HostTaken"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"
    INSUFFICIENT_QUOTA = "InsufficientQuota"
    INVALID_SPEC = "InvalidSpec"
    LOG_NOT_WRITTEN = "LogNotWritten"
    NOT_OWNED = "NotOwned"
    NOT_YET_SUPPORTED = "NotYetSupported"
    NOTIFICATION_FAILED = "NotificationFailed"
    POD_REFUSED = "PodRefused"
    POISON_REQUEST = "PoisonRequest"
    PROMOTED = "Promoted"
    REPLICA_LOST = "ReplicaLost"
    REVISION_CREATED = "RevisionCreated"
    ROLLOUT_ABORTED = "RolloutAborted"
    ROLLOUT_PAUSED = "RolloutPaused"
    ROLLOUT_RESUMED = "RolloutResumed"
    ROLLOUT_ROLLED_BACK = "RolloutRolledBack"
    ROLLOUT_STARTED = "RolloutStarted"
    ROLLOUT_SUPERSEDED = "RolloutSuperseded"
    SERVICE_REFUSED = "ServiceRefused"
    TRAFFIC_SHIFTED = "TrafficShifted"
    UNSCHEDULABLE = "Unschedulable"
    WEIGHTS_MOVED = "WeightsMoved"


class EndReason(StrEnum):
    """Reasons for which a rollout or an Experiment ends. The reason of a failed start is a `StartFailure` instead."""

    ABORTED = "Aborted"
    ARM_UNAVAILABLE = "ArmUnavailable"
    CANDIDATE_UNAVAILABLE = "CandidateUnavailable"
    CAPACITY_LOST = "CapacityLost"
    HARM = "Harm"
    INCONCLUSIVE = "Inconclusive"
    MAX_DURATION = "MaxDuration"
    MAX_UNITS = "MaxUnits"
    MODEL_DEPLOYMENT_NOT_FOUND = "ModelDeploymentNotFound"
    NO_DATA = "NoData"
    NO_WINNER = "NoWinner"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    SAMPLE_RATIO_MISMATCH = "SampleRatioMismatch"
    STOP_COMMAND = "StopCommand"
    STOPPED_BY_USER = "StoppedByUser"
    SUPERSEDED = "Superseded"
    WINNER = "Winner"


class PauseReason(StrEnum):
    """Reasons for which a rollout or an Experiment is paused."""

    CONTROL_DEGRADED = "ControlDegraded"
    CONTROL_UNHEALTHY = "ControlUnhealthy"
    INCONCLUSIVE = "Inconclusive"
    MANUAL = "Manual"
    NO_DATA = "NoData"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    SAMPLE_RATIO = "SampleRatio"
    WAITS_FOR_PROMOTE = "WaitsForPromote"
    """The gate of a step waits for a user. Notifications and `status.step` have it, `status.paused` has not."""
    WON = "Won"


class MetricNote(StrEnum):
    """Additions to the verdict of an undecided metric, such as why it may stay undecided."""

    ARM_DROPPED = "ArmDropped"
    DISCOVERY = "Discovery"
    UNLIKELY = "Unlikely"
    UNREPORTED = "Unreported"


def is_documented(reason: str) -> bool:
    """Whether the reason of a condition has an entry in the documentation. Gateway controllers use reasons of their own."""
    return reason in {*StartFailure, *DeploymentReason, *ExperimentReason}


def reason_link(reason: str) -> str:
    """Return the link to the entry of a reason in the documentation."""
    return f"{REASONS_PAGE}#{reason.lower()}"
