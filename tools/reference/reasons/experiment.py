"""Conditions of Experiments and their reasons."""

from typing import Final

from reference.reasons.text import ConditionText, ReasonText

_PENDING: Final = "The revision of the rollout starts."
_RUNNING: Final = "The rollout runs its steps, or the arms have their traffic."
_UNSUPPORTED: Final = "A field asks for something that this version does not support. The message names the field."
_INVALID: Final = "The spec breaks a rule, or an arm cannot be a revision of its ModelDeployment."
_FROZEN: Final = (
    "An edit would change the plan of the running Experiment. It keeps its plan. The message names the fields."
)
_WAITS: Final = "Its ModelDeployment serves nothing yet, or is paused."
_NOT_FOUND: Final = (
    "No ModelDeployment has this name. Before the start, the Experiment waits for one. Later, it ends because its"
    " ModelDeployment was deleted."
)
_QUEUED: Final = "Another Experiment or a rollout runs first. The message names it."
_CAPACITY: Final = (
    "Nodes with devices, or all nodes that `installation.nodePools` lists, have too little free for all arms together."
    " The operator starts no arm and keeps checking. The message has the numbers."
)
_QUOTA: Final = (
    "The namespace's quota leaves too few GPUs, CPU, memory or pods for all arms together. The operator starts no arm"
    " and keeps checking. The message has the numbers."
)
_ARMS_STARTING: Final = "The arms start. The message shows what each arm lacks."
_DEADLINE: Final = "A candidate or an arm was not ready within `spec.rollout.progressDeadline`."
_ARM_UNAVAILABLE: Final = "The arms had no healthy replica for 140 s, while stable had one."
_START_FAILURE: Final = "[The start failure](#why-a-revision-did-not-start) of the candidate or an arm."

EXPERIMENT_CONDITIONS: Final = (
    ConditionText(
        "Ready",
        "The operator keeps the status of the rollout. An Experiment of your own runs, or ended without a problem.",
        (
            ReasonText("True", "Pending", _PENDING),
            ReasonText("True", "Running", _RUNNING),
            ReasonText("True", "Concluded", "The rollout promoted its revision, or your Experiment ended as planned."),
            ReasonText("True", "Stopped", "It ended early, and stable has all traffic."),
            ReasonText("False", "WaitsForModelDeployment", _WAITS),
            ReasonText("False", "ModelDeploymentNotFound", _NOT_FOUND),
            ReasonText("False", "Queued", _QUEUED),
            ReasonText("False", "InsufficientCapacity", _CAPACITY),
            ReasonText("False", "InsufficientQuota", _QUOTA),
            ReasonText("False", "ArmsStarting", _ARMS_STARTING),
            ReasonText("False", "NotYetSupported", _UNSUPPORTED),
            ReasonText("False", "InvalidSpec", _INVALID),
            ReasonText("False", "ProgressDeadlineExceeded", _DEADLINE),
            ReasonText("False", "ArmUnavailable", _ARM_UNAVAILABLE),
        ),
        _START_FAILURE,
    ),
    ConditionText(
        "Stalled",
        "Your Experiment cannot continue without you. Present while it is True.",
        (
            ReasonText("True", "NotYetSupported", _UNSUPPORTED),
            ReasonText("True", "InvalidSpec", _INVALID),
            ReasonText("True", "PlanFrozen", _FROZEN),
            ReasonText("True", "ProgressDeadlineExceeded", _DEADLINE),
            ReasonText("True", "ArmUnavailable", _ARM_UNAVAILABLE),
            ReasonText("True", "ModelDeploymentNotFound", _NOT_FOUND),
        ),
        _START_FAILURE,
    ),
    ConditionText(
        "SpecAccepted",
        "The operator accepts the spec of your Experiment.",
        (
            ReasonText("True", "Accepted", "The spec is valid and supported."),
            ReasonText(
                "True",
                "SaltReused",
                "Another Experiment or a ModelDeployment has the same salt (`spec.unit.salt`). Their assignments depend"
                " on each other.",
            ),
            ReasonText(
                "True",
                "ArmsEqual",
                "An arm has the same model, runtime and resources as control or as another arm. Only chance makes a"
                " difference between them. The message names them.",
            ),
            ReasonText(
                "True",
                "Underpowered",
                "A success metric is unlikely to be decided before `spec.stop` ends the Experiment. The message has the"
                " units and the time that its `minimumEffect` needs, and the units that come. It is about the values in"
                " `expected`, or those of an earlier Experiment, until the metric has an estimate of its own.",
            ),
            ReasonText("False", "NotYetSupported", _UNSUPPORTED),
            ReasonText("False", "InvalidSpec", _INVALID),
            ReasonText("False", "PlanFrozen", _FROZEN),
        ),
    ),
    ConditionText(
        "Running",
        "The rollout or the Experiment runs.",
        (
            ReasonText("True", "Pending", _PENDING),
            ReasonText("True", "Running", _RUNNING),
            ReasonText("False", "Promoted", "The rollout promoted its revision."),
            ReasonText("False", "Aborted", "A command ended the rollout."),
            ReasonText("False", "Superseded", "The spec changed to another revision."),
            ReasonText("False", "RolledBack", "The candidate did harm, or a rollback ended the rollout."),
            ReasonText(
                "False", "Inconclusive", "A step took longer than `maxDuration`, and `onInconclusive` is `rollback`."
            ),
            ReasonText("False", "SampleRatioMismatch", "For 5 minutes, requests did not reach the arms by weight."),
            ReasonText(
                "False",
                "CandidateUnavailable",
                "The candidate had no healthy replica for 140 s, while stable had one.",
            ),
            ReasonText(
                "False",
                "CapacityLost",
                "The candidate had no healthy replica for 30 s, because its pods have no node or are refused. Another"
                " rollout of the revision starts once there is capacity.",
            ),
            ReasonText(
                "False",
                "SpotReclaimed",
                "The candidate lost its spot nodes. All traffic is on stable, and the operator starts another attempt.",
            ),
            ReasonText("False", "ProgressDeadlineExceeded", _DEADLINE),
            ReasonText("False", "NotYetSupported", _UNSUPPORTED),
            ReasonText("False", "InvalidSpec", _INVALID),
            ReasonText("False", "WaitsForModelDeployment", _WAITS),
            ReasonText("False", "ModelDeploymentNotFound", _NOT_FOUND),
            ReasonText("False", "Queued", _QUEUED),
            ReasonText("False", "InsufficientCapacity", _CAPACITY),
            ReasonText("False", "InsufficientQuota", _QUOTA),
            ReasonText("False", "ArmsStarting", _ARMS_STARTING),
            ReasonText("False", "StoppedByUser", "`spec.stopped` is true."),
            ReasonText("False", "StopCommand", "The command `stop` ended the Experiment."),
            ReasonText("False", "MaxDuration", "The Experiment ran for `spec.stop.maxDuration`."),
            ReasonText("False", "MaxUnits", "The Experiment reached `spec.stop.maxUnits` units."),
            ReasonText("False", "Winner", "An arm won, and `spec.onWin` is `none`. The message has the metric."),
            ReasonText("False", "NoWinner", "No arm can win any more."),
            ReasonText("False", "Harm", "Every arm was worse than its margin allows."),
            ReasonText("False", "ArmUnavailable", _ARM_UNAVAILABLE),
        ),
        _START_FAILURE,
    ),
    ConditionText(
        "DataQuality",
        "The counters are reliable.",
        (
            ReasonText(
                "True",
                "Consistent",
                "Requests reach the arms by weight. The message may count requests whose end or unit is unknown.",
            ),
            ReasonText(
                "False",
                "SampleRatioMismatch",
                "Requests do not reach the arms by weight, so there is no verdict. The message has the numbers.",
            ),
            ReasonText("Unknown", "EdgeSilent", "A serving edge does not report its counters. The message names it."),
            ReasonText(
                "False",
                "ControlUnhealthy",
                "Control and an arm are above `max`. The operator collects no evidence meanwhile.",
            ),
            ReasonText(
                "False",
                "ControlDegraded",
                "Control is much worse than before the start. The operator collects no evidence meanwhile.",
            ),
            ReasonText(
                "False",
                "NotOwned",
                "An object that Sundog did not create has the name of the edges' store of outcomes. No outcome is stored.",
            ),
            ReasonText(
                "False",
                "SecretNotFound",
                "The Secret of the store of outcomes does not exist. No outcome is stored.",
            ),
            ReasonText(
                "False",
                "SecretIncomplete",
                "The Secret of the store of outcomes has no key `password`. No outcome is stored.",
            ),
            ReasonText(
                "False",
                "FeedbackUnavailable",
                "No edge reports outcomes, so no arm can win and no gate of a rollout opens by them meanwhile. The message"
                " shows what each edge lacks.",
            ),
            ReasonText(
                "False",
                "FeedbackStoreReplaced",
                "The edges report another store of outcomes than the one that was counted. No arm can win any more, and no gate of a"
                " rollout opens by outcomes.",
            ),
            ReasonText(
                "False",
                "ArmWithoutRequests",
                "An arm has a share of the traffic, and got none of so many units that chance is less likely than one in"
                " a million. Nothing is decided meanwhile. The message names the arm.",
            ),
            ReasonText(
                "False",
                "RequestsLost",
                "More than 1 % of an arm's requests have an unknown end, because their log lines were lost. No arm can"
                " win until that share is lower. The message has the numbers.",
            ),
            ReasonText(
                "False",
                "FeedbackOverflow",
                "The store had no space for more than 1 % of exposures and outcomes. No arm can win meanwhile. The"
                " message has the numbers.",
            ),
            ReasonText(
                "False",
                "EdgeOutdated",
                "Edges of an earlier release took more than 1 % of the exposures and outcomes of an Experiment with `after`."
                " These are in no sum of such a metric. No arm can win meanwhile. The message has the numbers.",
            ),
            ReasonText(
                "False",
                "ClockSkew",
                "More than 1 % of outcomes are timed before the exposure that they name, or in the future. They are in"
                " no sum, and an arm with faster outcomes lacks more of them. No arm can win meanwhile. The message has"
                " the numbers.",
            ),
            ReasonText(
                "Unknown", "NotEvaluated", "There is no evidence yet, or no step of the rollout is gated by evidence."
            ),
            ReasonText("Unknown", "Pending", "The operator has not evaluated it yet."),
        ),
    ),
    ConditionText(
        "Conclusive",
        "The evidence decides.",
        (
            ReasonText("True", "Promoted", "The evidence shows that the candidate kept every guardrail."),
            ReasonText(
                "True", "RolledBack", "The evidence shows that the candidate did harm. The message names the guardrail."
            ),
            ReasonText("True", "Passed", "The copies of strategy `shadow` passed. You decide what happens next."),
            ReasonText("True", "Winner", "By outcomes, an arm won. The message names the arm and the metric."),
            ReasonText("True", "NoWinner", "By outcomes and guardrails, no arm can win any more."),
            ReasonText("True", "Harm", "The evidence shows that every arm did harm. The message names the guardrail."),
            ReasonText(
                "False",
                "Undecided",
                "The evidence has not decided, or no metric is evaluated. The message shows what is missing, which step"
                " has too little time, and which settings let a candidate pass without evidence. After the end, the"
                " message has the outcome.",
            ),
            ReasonText("Unknown", "Pending", "The operator has not evaluated it yet."),
        ),
    ),
    ConditionText(
        "LogWritten",
        "The exposure log of your Experiment (`spec.exposureLog.uri`) is up to date. Absent before the first write.",
        (
            ReasonText("True", "Written", "It is up to date. The message has the place and rows of the last file."),
            ReasonText("False", "NotWritten", "The operator could not write the next file. Still retrying."),
            ReasonText(
                "False",
                "PlaceNotAllowed",
                "The place is not allowed. In a cluster, `installation.exposureLogs.places` lists the allowed ones, and"
                " `file://` never is. In local mode, `pvc://` never is.",
            ),
        ),
    ),
)
