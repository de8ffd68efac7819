"""Events of ModelDeployments."""

from typing import Final

from reference.reasons.text import ReasonText

_REFUSED: Final = "The operator refused the spec: once for each generation."

EVENTS: Final = (
    ReasonText("Normal", "RevisionCreated", "A change of the spec created a revision."),
    ReasonText("Normal", "RolloutStarted", "A candidate starts beside stable, with steps."),
    ReasonText("Normal", "TrafficShifted", "The operator committed a new weight. The note has the cause."),
    ReasonText(
        "Warning",
        "TrafficKept",
        "The status named a stable revision without replicas, such as one from an earlier backup. What serves keeps the traffic.",
    ),
    ReasonText("Normal", "GateOpened", "A gate opened, and the next step starts at the same weight."),
    ReasonText("Warning", "RolloutPaused", "The evidence does not decide, or is not reliable. The note says which."),
    ReasonText("Normal", "RolloutResumed", "The rollout continues: stable had failed, and was healthy for 5 minutes."),
    ReasonText(
        "Normal",
        "Promoted",
        "A revision became stable. The note has the cause, and the steps that passed without evidence.",
    ),
    ReasonText(
        "Warning",
        "NotificationFailed",
        "A receiver of `spec.rollout.notify` did not accept a notification: once for each rollout and receiver.",
    ),
    ReasonText("Normal", "RolloutSuperseded", "The operator dropped a candidate because the spec changed."),
    ReasonText("Warning", "RolloutAborted", "A rollout failed or was aborted. Stable has all traffic."),
    ReasonText("Warning", "RolloutRolledBack", "A candidate did harm, or a rollback ended a rollout."),
    ReasonText("Normal", "ExperimentStarted", "The arms of your Experiment start beside stable."),
    ReasonText("Normal", "ExperimentRunning", "The arms of your Experiment have their traffic."),
    ReasonText("Normal", "WeightsMoved", "Outcomes changed the weights of the arms."),
    ReasonText(
        "Warning",
        "ExperimentPaused",
        "Control fails. The Experiment collects no evidence until control has been healthy for 5 minutes.",
    ),
    ReasonText("Normal", "ExperimentResumed", "The Experiment collects evidence again."),
    ReasonText(
        "Warning",
        "EvidenceDoubted",
        "`DataQuality` of the Experiment has been False for a minute. There is no verdict meanwhile.",
    ),
    ReasonText("Normal", "ArmWon", "An arm won, and `spec.onWin` is `pause`. Nothing changes until you end it."),
    ReasonText(
        "Warning", "ArmDropped", "An arm lost its traffic, and the other arms continue. The note has the cause."
    ),
    ReasonText("Normal", "ExperimentConcluded", "The Experiment ended as planned. Stable has all traffic."),
    ReasonText("Warning", "ExperimentStopped", "The Experiment was ended early, or failed. Stable has all traffic."),
    ReasonText(
        "Warning", "LogNotWritten", "The operator could not write an exposure log: once for each. Still retrying."
    ),
    ReasonText(
        "Warning",
        "ServiceRefused",
        "The API server refused the ModelDeployment's Service, for example because of a quota. Still retrying.",
    ),
    ReasonText(
        "Warning",
        "InsufficientCapacity",
        "Too little is free on nodes for the pods of a revision: once for each set of causes.",
    ),
    ReasonText(
        "Warning",
        "InsufficientQuota",
        "The namespace's quota leaves too little for the pods of a revision: once for each quota.",
    ),
    ReasonText(
        "Warning", "Unschedulable", "No node accepts a pod of a revision: once for each pod and set of constraints."
    ),
    ReasonText("Warning", "PodRefused", "The API server refuses a pod of a revision: once for each cause."),
    ReasonText("Warning", "ReplicaLost", "A replica crashed, hung or lost its node. Ray Serve starts another."),
    ReasonText(
        "Warning", "EdgeReplaced", "An edge did not apply an abort within a minute. The operator deleted its pod."
    ),
    ReasonText(
        "Warning",
        "HeadReplaced",
        "The autoscaler in a head of Ray has ended. The operator deleted the head, and KubeRay creates another.",
    ),
    ReasonText(
        "Warning",
        "PoisonRequest",
        "A request got no answer from two replicas, one after the other. It may have crashed both. The edge does not"
        " retry it a third time.",
    ),
    ReasonText("Normal", "CommandAccepted", "The operator ran a command."),
    ReasonText("Warning", "CommandRejected", "The operator rejected a command. The note has the cause."),
    ReasonText("Warning", "InvalidSpec", _REFUSED),
    ReasonText("Warning", "NotYetSupported", _REFUSED),
    ReasonText("Warning", "DigestRequired", _REFUSED),
    ReasonText("Warning", "HostTaken", _REFUSED),
    ReasonText("Warning", "NotOwned", _REFUSED),
)
"""A start failure is a Warning too, with its own reason."""
