"""Renders the API reference, a Markdown page, from the types.

Reasons of conditions and events are told in tables here, which a test holds to the code that sets them.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from sundog_operator.api.experiment.experiment import Experiment
from sundog_operator.api.model_deployment.model_deployment import ModelDeployment
from sundog_operator.api.model_deployment.spec import ModelDeploymentSpec
from sundog_operator.api.resource import Resource
from sundog_operator.api.scalars import MODEL_SCHEMES
from sundog_operator.api.schema.node_tree import FieldNode, Node, ValueBounds, build_node_tree
from sundog_operator.api.schema.unsupported import CLUSTER_ONLY_FIELDS, SUPPORTED_FIELDS, find_unsupported_fields

REVISION_PARTS: Final = ("spec.model", "spec.runtime", "spec.resources", "spec.scheduling")
IN_PLACE_FIELDS: Final = ("spec.runtime.userConfig",)

_HEADER: Final = """# API reference

Generated from the types by `python -m sundog_operator.api.generate`; edit those instead.

`serving.sundog.dev/v1alpha1`. Durations are written like `30s`, `5m`, `1h30m` or `14d`, quantities like `512Mi` or `250m`, percentages like
`25%`. What breaks a limit or a rule is refused by the API server, and again by Sundog where an object got past it.

- [ModelDeployment](#modeldeployment): [spec](#modeldeploymentspec), [status](#modeldeploymentstatus),
  [conditions](#modeldeployment-conditions), [why a revision did not start](#why-a-revision-did-not-start),
  [events](#modeldeployment-events)
- [Experiment](#experiment): [spec](#experimentspec), [status](#experimentstatus), [conditions](#experiment-conditions)

The column *change* tells what a change of a field does:

| | |
|---|---|
| **revision** | makes a new revision and rolls it out |
| *in place* | is applied to what runs, or holds from the next rollout on |
| *cluster* | with one of these: in a Kubernetes cluster only; local mode, which has no pods, takes the default and refuses the rest |
| *later* | is not supported yet: accepted at its default only, else `SpecAccepted=False`, `NotYetSupported` |

Of `spec.rollout`, `paused`, `dryRun`, `progressDeadline`, `windows`, `onNewRevision` and `keepPrevious` hold at any time; all else is
frozen into the Experiment when a rollout starts.
"""
_EXPERIMENT: Final = """Sundog writes one for each rollout that has steps, and keeps its status. One that you write yourself is not
supported yet: it is accepted and answered `Ready=False`, `NotYetSupported`.
"""
_FAILURES: Final = """### Why a revision did not start

The model server tells the reason. What is *retried* is tried again by itself after 10 s, 20 s, 40 s, … at most 5 minutes;
what is *final* waits for an edit or `sundog retry`. Beside a stable revision, a candidate that fails for good, or is not ready
within `spec.rollout.progressDeadline`, ends its rollout, and stable keeps serving.

"""
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z.]+)\}")


@dataclass(frozen=True, slots=True)
class ReasonText:
    """One reason: `truth` is the status of the condition, or the type of the event."""

    truth: str
    reason: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ConditionText:
    """One condition. `borrows` says whose reasons it shows beside its own."""

    type: str
    meaning: str
    reasons: tuple[ReasonText, ...] = ()
    borrows: str = ""


START_FAILURE_REASONS: Final = (
    ReasonText("retried", "ModelNotFound", "Nothing is at `spec.model.uri`."),
    ReasonText("retried", "AccessDenied", "The model is there, and the replica may not read it."),
    ReasonText("retried", "NoSpace", "The disk is full."),
    ReasonText("retried", "SourceUnavailable", "The store does not answer, or not as it should."),
    ReasonText("retried", "LoadTimeout", "Loading did not end in time."),
    ReasonText("retried", "WarmupTimeout", "The warm-up did not end within `spec.runtime.warmup.timeout`."),
    ReasonText("retried", "DeployFailed", "Serve gave up and the model server told nothing, as when a process dies."),
    ReasonText("final", "DigestMismatch", "The model's bytes are not those that `spec.model.digest` promises."),
    ReasonText("final", "ModelTooLarge", "The model has too many files or bytes, or does not fit into memory."),
    ReasonText(
        "final", "SourceRefused", "The source leads to a forbidden address, or its archive holds what none may hold."
    ),
    ReasonText("final", "FormatNotRecognised", "There is nothing that the model server can load."),
    ReasonText("final", "CodeNotTrusted", "The archive can run code, and `spec.model.trustCode` is not set."),
    ReasonText("final", "EntrypointMissing", "The entrypoint is needed and not given, or names nothing."),
    ReasonText("final", "LoadFailed", "Loading raised; the message has the first useful line."),
    ReasonText("final", "WarmupFailed", "A warm-up request raised."),
)
"""Why a revision did not start. What is retried may pass without an edit; what is final waits for one, or for `retry`."""

MODEL_DEPLOYMENT_CONDITIONS: Final = (
    ConditionText(
        "Ready",
        "The stable revision serves: every ready edge that tells sees a healthy replica of it. While none tells, as when an agent starts "
        "anew, it stays True until edges are late (`EdgeNotConfirmed`), in a cluster only as long as one is ready.",
        (
            ReasonText("True", "Serving", "It does."),
            ReasonText("False", "NoHealthyReplica", "A revision is stable, and an edge sees no healthy replica of it."),
            ReasonText("False", "SecretNotFound", "See `TrafficSynced`: the edge cannot let requests in."),
            ReasonText("False", "SecretIncomplete", "See `TrafficSynced`."),
        ),
        "While nothing is stable: the reason of `SpecAccepted` where that is False, else that of `RevisionReady`.",
    ),
    ConditionText(
        "Reconciling", "Present while nothing serves and Sundog is at work on it.", borrows="The reason of `Ready`."
    ),
    ConditionText(
        "Stalled",
        "Present while nothing goes on without you.",
        (
            ReasonText("True", "Aborted", "What the spec stands for failed or was aborted, and is held back."),
            ReasonText(
                "True",
                "RolledBack",
                "The candidate did harm, or a command went back to an earlier revision; what the spec says is held back.",
            ),
            ReasonText(
                "True",
                "ProgressDeadlineExceeded",
                "A first revision, or one without steps that is to be waited for, is not ready in time; it is tried on.",
            ),
            ReasonText("True", "InsufficientCapacity", "See `CapacityAvailable`; it is looked at again."),
            ReasonText("True", "InsufficientQuota", "See `CapacityAvailable`; it is looked at again."),
        ),
        "The reason of `SpecAccepted` where that is False; why a first revision failed for good.",
    ),
    ConditionText(
        "SpecAccepted",
        "The spec can be acted on.",
        (
            ReasonText("True", "Accepted", "It can."),
            ReasonText(
                "True",
                "SaltReused",
                "`spec.rollout.unit.salt` is that of an Experiment or another ModelDeployment: the assignments depend on each other.",
            ),
            ReasonText("False", "InvalidSpec", "A rule is broken; the message names field, value and limit."),
            ReasonText(
                "False", "NotYetSupported", "A field asks for what this version does not do; the message names it."
            ),
            ReasonText("False", "DigestRequired", "The administrator asks for `spec.model.digest`."),
            ReasonText(
                "False", "HostTaken", "`spec.endpoint.host` belongs to another ModelDeployment of the namespace."
            ),
            ReasonText("False", "NotOwned", "An object stands where one of ours should; it is left alone."),
        ),
    ),
    ConditionText(
        "CapacityAvailable",
        "What is asked for fits.",
        (
            ReasonText("True", "NoGPURequested", "No GPU is asked for, and nothing else is looked at yet."),
            ReasonText("True", "Fits", "The GPUs of the newest revision are allocated, or free, or nobody could look."),
            ReasonText(
                "False", "InsufficientCapacity", "Not enough are free on nodes that fit; the message has the numbers."
            ),
            ReasonText(
                "False", "InsufficientQuota", "The namespace's quota leaves too few; the message has the numbers."
            ),
        ),
    ),
    ConditionText(
        "RevisionReady",
        "The newest revision, the candidate or else stable, runs.",
        (
            ReasonText("True", "Ready", "Serve calls it healthy, and where it has traffic, the edges do too."),
            ReasonText("Unknown", "NoRevision", "There is no revision yet."),
            ReasonText(
                "Unknown", "RayUnknown", "Serve's REST API did not answer, which says nothing about the revision."
            ),
            ReasonText(
                "False",
                "Deploying",
                "Serve does not have it yet, or is starting it, or its pods take the places of others that are yet to go.",
            ),
            ReasonText("False", "Unhealthy", "Serve calls it unhealthy, and goes on trying."),
            ReasonText("False", "NoHealthyReplica", "It has traffic, and an edge sees no healthy replica of it."),
            ReasonText("False", "RevisionMissing", "Its ControllerRevision was deleted."),
            ReasonText(
                "False",
                "Unschedulable",
                "No node takes a pod of it, or of Ray's head or store; the message has the scheduler's.",
            ),
            ReasonText("False", "PodRefused", "KubeRay may make no pod for it, as by a quota; the message has why."),
            ReasonText("False", "ImagePullBackOff", "An image cannot be had."),
            ReasonText("False", "CreateContainerError", "A container cannot be made."),
            ReasonText("False", "CrashLoopBackOff", "A container ends again and again."),
            ReasonText("False", "ContainerExited", "A container ended with an error."),
            ReasonText("False", "OOMKilled", "A container needed more memory than its limit."),
            ReasonText("False", "SecretNotFound", "A Secret that the spec names does not exist; it is looked for."),
            ReasonText("False", "SecretIncomplete", "It lacks the key that the spec names."),
            ReasonText(
                "False", "ConfigMapNotFound", "A ConfigMap that the spec names does not exist; it is looked for."
            ),
            ReasonText("False", "ConfigMapIncomplete", "It lacks the key that the spec names."),
            ReasonText("False", "ServiceAccountNotFound", "The ServiceAccount does not exist; it is looked for."),
            ReasonText("False", "ClaimNotFound", "The claim of a `pvc://` model does not exist; it is looked for."),
        ),
        "[Why it could not be started](#why-a-revision-did-not-start), until it is ready or the spec changes.",
    ),
    ConditionText(
        "TrafficSynced",
        "Every edge has the split in force, and the Secrets that the endpoint needs.",
        (
            ReasonText("True", "InForce", "Each one told so."),
            ReasonText("Unknown", "Confirming", "Not every edge has told so yet; for at most 30 s."),
            ReasonText(
                "False", "EdgeNotConfirmed", "An edge has not confirmed it for 30 s; the message names the pod."
            ),
            ReasonText("False", "NothingServes", "No revision is stable yet, so there is no split."),
            ReasonText(
                "False", "SecretNotFound", "A Secret that `spec.endpoint` names does not exist; it is looked for."
            ),
            ReasonText("False", "SecretIncomplete", "It exists and lacks a key; the message names both."),
            ReasonText(
                "False",
                "SecretInvalid",
                "An edge cannot use all that is in it; the message says what. The rest counts.",
            ),
        ),
    ),
    ConditionText(
        "RouteAccepted",
        "The Gateway's controller takes the HTTPRoute. Present while `spec.endpoint.gateway` names a Gateway; nothing else depends on it.",
        (
            ReasonText("True", "Accepted", "It told `Accepted` and `ResolvedRefs` of the route as it is now."),
            ReasonText("Unknown", "NotWritten", "There is no route yet; the edge comes first."),
            ReasonText("Unknown", "NotAnswered", "No controller told both: the Gateway is not there, or has none."),
            ReasonText(
                "False",
                "GatewayAPIMissing",
                "HTTPRoutes are not installed, or Sundog may not list them; they are looked for every 20 s.",
            ),
            ReasonText("False", "NotOwned", "An HTTPRoute of that name exists and is not ours; it is left alone."),
            ReasonText("False", "NotAccepted", "The controller refuses it, for a reason that is no single word."),
        ),
        "The reason for which the controller refuses the route, such as `NotAllowedByListeners`; the message has its words.",
    ),
    ConditionText(
        "Progressing",
        "A revision is on its way to all traffic.",
        (
            ReasonText(
                "True", "Deploying", "It is brought up for all traffic: a first one, `recreate`, or a rollback."
            ),
            ReasonText("True", "RollingOut", "It walks its steps; the message says which and what it waits for."),
            ReasonText(
                "True",
                "Paused",
                "It stands still, by command, by the spec, outside its windows, or for the evidence does not decide.",
            ),
            ReasonText(
                "True",
                "RollingBack",
                "A rollout in place ends, and gives its traffic back as stable's replicas come; the message says why, and how far it is.",
            ),
            ReasonText("True", "Queued", "It waits until the replicas of the candidate before are gone."),
            ReasonText("True", "Retrying", "It could not be started, and is tried again at the time in the message."),
            ReasonText("False", "Complete", "Nothing is on its way."),
            ReasonText(
                "False",
                "ExperimentRunning",
                "A revision waits, by `spec.rollout.duringExperiment`, until an Experiment of a user has ended.",
            ),
            ReasonText("False", "DryRun", "`spec.rollout.dryRun` is true; the message tells what would begin."),
            ReasonText("False", "NotStarted", "Nothing was ever on its way."),
            ReasonText("False", "Aborted", "What the spec stands for failed or was aborted."),
            ReasonText("False", "RolledBack", "What the spec stands for was rolled back."),
            ReasonText("False", "InsufficientCapacity", "See `CapacityAvailable`: nothing is started."),
            ReasonText("False", "InsufficientQuota", "See `CapacityAvailable`: nothing is started."),
        ),
    ),
    ConditionText(
        "Promoted",
        "What the spec stands for has all traffic.",
        (
            ReasonText("True", "Promoted", "It has, and every edge confirmed it."),
            ReasonText("False", "NotPromoted", "It has not."),
            ReasonText("False", "Confirming", "It is stable, and not every edge has confirmed it."),
            ReasonText("Unknown", "SpecRefused", "The spec is refused, so it stands for nothing."),
        ),
    ),
)

EXPERIMENT_CONDITIONS: Final = (
    ConditionText(
        "Ready",
        "Of a rollout: its status is kept. Of an Experiment of your own: it runs, or has ended as it should.",
        (
            ReasonText("True", "Pending", "Of a rollout: its revision is being brought up."),
            ReasonText("True", "Running", "It walks its steps, or its arms have their traffic."),
            ReasonText("True", "Concluded", "Its revision was promoted; an Experiment of your own has run its course."),
            ReasonText("True", "Stopped", "It ended before, with all traffic on stable."),
            ReasonText("False", "WaitsForModelDeployment", "Its ModelDeployment serves nothing yet, or is paused."),
            ReasonText("False", "ModelDeploymentNotFound", "There is none of that name; it begins when there is one."),
            ReasonText("False", "Queued", "Another Experiment or a rollout goes first; the message names it."),
            ReasonText("False", "ArmsStarting", "Its arms are being brought up; the message says what each lacks."),
            ReasonText("False", "NotYetSupported", "A field is set that nobody acts on yet; the message names it."),
            ReasonText(
                "False", "InvalidSpec", "A rule is broken, or an arm cannot be a revision of its ModelDeployment."
            ),
            ReasonText("False", "ProgressDeadlineExceeded", "See `Running`."),
            ReasonText("False", "ArmUnavailable", "See `Running`."),
        ),
        "[Why an arm could not be started](#why-a-revision-did-not-start).",
    ),
    ConditionText(
        "Stalled",
        "Somebody has to act. Present while it is True, and of Experiments of your own alone.",
        (
            ReasonText("True", "NotYetSupported", "See `SpecAccepted`."),
            ReasonText("True", "InvalidSpec", "See `SpecAccepted`."),
            ReasonText("True", "PlanFrozen", "See `SpecAccepted`."),
            ReasonText("True", "ProgressDeadlineExceeded", "See `Running`."),
            ReasonText("True", "ArmUnavailable", "See `Running`."),
            ReasonText("True", "ModelDeploymentNotFound", "Its ModelDeployment was deleted while it ran."),
        ),
        "[Why an arm could not be started](#why-a-revision-did-not-start).",
    ),
    ConditionText(
        "SpecAccepted",
        "Of an Experiment of your own: its spec can be acted on.",
        (
            ReasonText("True", "Accepted", "It can."),
            ReasonText(
                "True",
                "SaltReused",
                "`spec.unit.salt` is that of another Experiment or of a ModelDeployment: the assignments depend on each other.",
            ),
            ReasonText("False", "NotYetSupported", "See `Ready`."),
            ReasonText("False", "InvalidSpec", "See `Ready`."),
            ReasonText(
                "False",
                "PlanFrozen",
                "An edit would change the plan of what runs; the message names the fields, and what runs goes on as it was.",
            ),
        ),
    ),
    ConditionText(
        "Running",
        "The rollout, or the Experiment, is under way.",
        (
            ReasonText("True", "Pending", "See `Ready`."),
            ReasonText("True", "Running", "See `Ready`."),
            ReasonText("False", "Promoted", "It ended well."),
            ReasonText("False", "Aborted", "A command ended it."),
            ReasonText("False", "Superseded", "The spec changed to another revision."),
            ReasonText("False", "RolledBack", "Its candidate did harm, or a rollback ended it."),
            ReasonText(
                "False", "Inconclusive", "A step took longer than `maxDuration`, and `onInconclusive` is rollback."
            ),
            ReasonText(
                "False", "SampleRatioMismatch", "Requests did not fall to the arms by their weights for 5 minutes."
            ),
            ReasonText(
                "False", "CandidateUnavailable", "The candidate had no healthy replica for 30 s, while stable had."
            ),
            ReasonText("False", "ProgressDeadlineExceeded", "It was not ready within `spec.rollout.progressDeadline`."),
            ReasonText("False", "NotYetSupported", "See `Ready`."),
            ReasonText("False", "InvalidSpec", "See `Ready`."),
            ReasonText("False", "WaitsForModelDeployment", "See `Ready`."),
            ReasonText("False", "ModelDeploymentNotFound", "See `Ready`; if it ran, its ModelDeployment was deleted."),
            ReasonText("False", "Queued", "See `Ready`."),
            ReasonText("False", "ArmsStarting", "See `Ready`."),
            ReasonText("False", "StoppedByUser", "`spec.stopped` is true."),
            ReasonText("False", "StopCommand", "The command `stop` ended it."),
            ReasonText("False", "MaxDuration", "It has run for `spec.stop.maxDuration`."),
            ReasonText("False", "MaxUnits", "It has taken `spec.stop.maxUnits` units."),
            ReasonText("False", "Winner", "An arm has won, and `spec.onWin` is none; the message says by what."),
            ReasonText("False", "NoWinner", "No arm can win any more."),
            ReasonText("False", "Harm", "Every arm was worse than it may be."),
            ReasonText("False", "ArmUnavailable", "Its arms had no healthy replica for 30 s, while stable had."),
        ),
        "[Why the candidate, or an arm, could not be started](#why-a-revision-did-not-start).",
    ),
    ConditionText(
        "DataQuality",
        "The counters can be trusted.",
        (
            ReasonText(
                "True",
                "Consistent",
                "Requests fall to the arms by their weights; the message may say how many have no known end, or no unit.",
            ),
            ReasonText(
                "False", "SampleRatioMismatch", "They do not, and nothing is concluded; the message has the numbers."
            ),
            ReasonText(
                "Unknown", "EdgeSilent", "An edge that serves does not tell what it has counted; the message names it."
            ),
            ReasonText(
                "False", "ControlUnhealthy", "Control and an arm are above `max`: no evidence is counted meanwhile."
            ),
            ReasonText(
                "False",
                "ControlDegraded",
                "Control is much worse than before it began: no evidence is counted meanwhile.",
            ),
            ReasonText(
                "False",
                "NotOwned",
                "An object of somebody else's is where the edges' store of outcomes should be: none is kept.",
            ),
            ReasonText("False", "SecretNotFound", "The Secret of the store of outcomes does not exist: none is kept."),
            ReasonText("False", "SecretIncomplete", "It has no key `password`: none is kept."),
            ReasonText(
                "False",
                "FeedbackUnavailable",
                "No edge tells what outcomes it has: nobody wins meanwhile. The message says what each lacks.",
            ),
            ReasonText(
                "False",
                "FeedbackStoreReplaced",
                "The edges tell of another store of outcomes than what was counted is of: nobody wins any more.",
            ),
            ReasonText(
                "False",
                "RequestsLost",
                "Of an arm's requests more than 1 % ended nobody knows how, for their lines were lost: nobody wins before that is less of"
                " all that was counted. The message has the numbers.",
            ),
            ReasonText(
                "False",
                "FeedbackOverflow",
                "The store had no room for more than 1 % of exposures and outcomes: nobody wins meanwhile. The message has the numbers.",
            ),
            ReasonText("Unknown", "NotEvaluated", "Nothing is evidence yet, or no step of a rollout is gated by it."),
            ReasonText("Unknown", "Pending", "Nobody has looked."),
        ),
    ),
    ConditionText(
        "Conclusive",
        "The evidence decides.",
        (
            ReasonText("True", "Promoted", "By evidence, every guardrail was kept."),
            ReasonText("True", "RolledBack", "By evidence, the candidate did harm; the message says which."),
            ReasonText(
                "True", "Passed", "With strategy: shadow, the copies have passed; a person decides what follows."
            ),
            ReasonText("True", "Winner", "By outcomes, an arm has won; the message says which, and by what."),
            ReasonText("True", "NoWinner", "By outcomes and guardrails, no arm can win any more."),
            ReasonText("True", "Harm", "By evidence, every arm did harm; the message says which."),
            ReasonText(
                "False",
                "Undecided",
                "It has not decided, or none is weighed; the message says what it waits for, which step has too little time, and by which"
                " policies and gates a candidate may be promoted without; of a rollout that has ended, how.",
            ),
            ReasonText("Unknown", "Pending", "Nobody has looked."),
        ),
    ),
    ConditionText(
        "LogWritten",
        "Of an Experiment of your own with `spec.exposureLog.uri`: what is due of its log is written. Absent before anything was.",
        (
            ReasonText("True", "Written", "It is; the message says where the last one lies, and how many rows it has."),
            ReasonText(
                "False",
                "NotWritten",
                "The next one could not be; the message says why, and it is tried again for ever.",
            ),
            ReasonText(
                "False",
                "PlaceNotAllowed",
                "Nothing is written there: in a cluster to what `installation.exposureLogs.places` lists alone, and never `file://`; in"
                " local mode never `pvc://`.",
            ),
        ),
    ),
)

EVENTS: Final = (
    ReasonText("Normal", "RevisionCreated", "A change of the spec made a revision."),
    ReasonText("Normal", "RolloutStarted", "A candidate is being brought up beside stable, with steps to walk."),
    ReasonText("Normal", "TrafficShifted", "A new weight was committed, and the edges follow; the note says by what."),
    ReasonText(
        "Normal", "GateOpened", "A gate opened, and the next step begins at the same weight; the note says by what."
    ),
    ReasonText("Warning", "RolloutPaused", "The evidence does not decide, or cannot be trusted; the note says which."),
    ReasonText(
        "Normal", "RolloutResumed", "It goes on by itself: stable, which had failed, has done well for 5 minutes."
    ),
    ReasonText(
        "Normal",
        "Promoted",
        "A revision became stable; the note says by what, and which steps passed without evidence.",
    ),
    ReasonText(
        "Warning",
        "NotificationFailed",
        "A receiver of `spec.rollout.notify` could not be told; once for each rollout and receiver.",
    ),
    ReasonText("Normal", "RolloutSuperseded", "A candidate was dropped, for the spec changed."),
    ReasonText("Warning", "RolloutAborted", "A rollout failed or was aborted; stable has all traffic."),
    ReasonText("Warning", "RolloutRolledBack", "A candidate did harm, or a rollback ended a rollout."),
    ReasonText(
        "Normal", "ExperimentStarted", "The arms of an Experiment of a user are being brought up beside stable."
    ),
    ReasonText("Normal", "ExperimentRunning", "They have their traffic."),
    ReasonText("Normal", "WeightsMoved", "Outcomes have moved the weights of its arms."),
    ReasonText(
        "Warning",
        "ExperimentPaused",
        "It counts no evidence until control, which fails, has done well for 5 minutes; the note has numbers.",
    ),
    ReasonText("Normal", "ExperimentResumed", "It counts evidence again, by itself."),
    ReasonText(
        "Warning",
        "EvidenceDoubted",
        "`DataQuality` of the Experiment is False for a minute: nothing is concluded meanwhile; the note says why.",
    ),
    ReasonText(
        "Normal", "ArmWon", "One has won, and `spec.onWin` is pause: all stays as it is until somebody ends it."
    ),
    ReasonText("Warning", "ArmDropped", "One lost its traffic while the others go on; the note says why."),
    ReasonText("Normal", "ExperimentConcluded", "It has run its course; stable has all traffic."),
    ReasonText("Warning", "ExperimentStopped", "It was ended before, or failed; stable has all traffic."),
    ReasonText(
        "Warning", "LogNotWritten", "An exposure log could not be written; once for each. It is tried again for ever."
    ),
    ReasonText(
        "Warning",
        "ServiceRefused",
        "The API server does not let its Service be written, as by a quota; the note has why. It is tried again.",
    ),
    ReasonText("Warning", "ReplicaLost", "A replica was killed, hung or lost its node, and Serve starts another."),
    ReasonText("Warning", "EdgeReplaced", "An edge did not take up an abort for a minute and was deleted."),
    ReasonText(
        "Warning",
        "PoisonRequest",
        "A request ended without an answer at one replica and then at another: it may have ended both. It is not tried a third time.",
    ),
    ReasonText("Normal", "CommandAccepted", "A command was run."),
    ReasonText("Warning", "CommandRejected", "A command was refused; the note says why."),
    ReasonText(
        "Warning", "InvalidSpec", "The spec is refused: once per generation, as for each reason of `SpecAccepted`."
    ),
    ReasonText("Warning", "NotYetSupported", "As above."),
    ReasonText("Warning", "DigestRequired", "As above."),
    ReasonText("Warning", "HostTaken", "As above."),
    ReasonText("Warning", "NotOwned", "As above."),
)
"""Those of ModelDeployments. A revision that could not be started is a Warning with that reason."""

_START_EVENTS: Final = """
A revision that could not be started is told as a Warning with [that reason](#why-a-revision-did-not-start). Experiments have none of their
own: what happens to one is told of its ModelDeployment.
"""


def render_api_reference() -> str:
    """The whole page."""
    deployment = [
        *_kind("ModelDeployment", ModelDeployment),
        *_conditions("ModelDeployment", MODEL_DEPLOYMENT_CONDITIONS),
        _FAILURES + _reasons(("", "reason", "meaning"), START_FAILURE_REASONS),
        "### ModelDeployment events\n\n" + _reasons(("type", "reason", "meaning"), EVENTS) + _START_EVENTS,
    ]
    experiment = [*_kind("Experiment", Experiment, _EXPERIMENT), *_conditions("Experiment", EXPERIMENT_CONDITIONS)]
    return "\n".join([_HEADER, *deployment, *experiment])


def _kind(name: str, kind: type[Resource], note: str = "") -> Iterator[str]:
    root = build_node_tree(kind)
    spec, status = root.fields["spec"].node, root.fields["status"].node
    yield f"## {name}\n\n{root.description}\n"
    if note:
        yield note
    acted = name == "ModelDeployment"
    head = ("field", "type", "default", "change", "meaning") if acted else ("field", "type", "default", "meaning")
    yield f"### {name}.spec\n\n" + _table(head, _rows(spec, "spec", acted=acted))
    rules = [*((rule.field, _message(rule.message)) for rule in root.rules), *_all_rules(spec, "spec")]
    yield "Messages of the rules beside these limits:\n\n" + "".join(f"- `{place}`: {told}\n" for place, told in rules)
    yield f"### {name}.status\n\n" + _table(("field", "type", "meaning"), _status_rows(status, "status"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _rows(node: Node, path: str, *, acted: bool) -> Iterator[Sequence[str]]:
    for name, child in node.fields.items():
        place = f"{path}.{name}"
        change = [_change(place)] if acted else []
        told = [_told(child), *([_later_values(place, child.node)] if acted else []), _limits(child.node)]
        yield f"`{place}`", _type(child.node), _default(child), *change, _cell(" ".join(filter(None, told)))
        inner, below = _inside(child.node, place)
        if inner is not None and inner.fields:
            yield from _rows(inner, below, acted=acted)


def _status_rows(node: Node, path: str) -> Iterator[Sequence[str]]:
    for name, child in node.fields.items():
        place = f"{path}.{name}"
        yield f"`{place}`", _type(child.node), _cell(_told(child))
        inner, below = _inside(child.node, place)
        # Conditions are shaped as Kubernetes' own.
        if inner is not None and inner.fields and name != "conditions":
            yield from _status_rows(inner, below)


def _inside(node: Node, place: str) -> tuple[Node | None, str]:
    return (node.items, f"{place}[]") if node.kind == "array" else (node, place)


def _told(child: FieldNode) -> str:
    return child.description or child.node.description


def _type(node: Node) -> str:
    if node.enum:
        return _cell(" \\| ".join(f"`{value}`" for value in node.enum if value) or "string")
    if node.kind in ("array", "map") and node.items is not None:
        return f"{'list' if node.kind == 'array' else 'map'} of {node.items.kind}"
    return {"free": "any object"}.get(node.kind, node.kind)


def _default(child: FieldNode) -> str:
    if child.required:
        return "required"
    if child.default is None or child.default in ("", {}, []):
        return ""
    shown = yaml.safe_dump(child.default, default_flow_style=True).strip().removesuffix("\n...")
    return f"`{_cell(shown)}`"


def _change(path: str) -> str:
    everywhere = _is_among(path, SUPPORTED_FIELDS)
    if not everywhere and not _is_among(path, CLUSTER_ONLY_FIELDS):
        return "*later*"
    revises = any(_covers(part, path) for part in REVISION_PARTS) and path not in IN_PLACE_FIELDS
    return ("**revision**" if revises else "in place") + ("" if everywhere else ", *cluster*")


def _is_among(path: str, leaves: Collection[str]) -> bool:
    return any(_covers(leaf, path) or _covers(path, leaf) for leaf in leaves)


def _covers(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}[]"))


def _later_values(path: str, node: Node) -> str:
    """The values that are not supported yet, of a field that is."""
    values: Sequence[Any] = node.enum
    if path == "spec.model.uri":
        values = [f"{scheme}://" for scheme in MODEL_SCHEMES]
    elif path in ("spec.replicas", "spec.autoscaling.minReplicas"):
        values = [0]
    acted = path in SUPPORTED_FIELDS or path in CLUSTER_ONLY_FIELDS
    refused = [f"`{value}`" for value in values if acted and _is_refused(path, value, in_pods=True)]
    local = [f"`{value}`" for value in values if path in SUPPORTED_FIELDS and _is_refused(path, value, in_pods=False)]
    only = [value for value in local if value not in refused]
    told = f"Not supported yet: {', '.join(refused)}." if refused else ""
    return f"{told} In a cluster only: {', '.join(only)}.".strip() if only else told


_NEEDED: Final[Mapping[str, dict[str, Any]]] = {"webhook": {"url": "https://host/"}, "agreement": {"min": 0.9}}
"""What a part cannot be without."""


def _is_refused(path: str, value: Any, *, in_pods: bool) -> bool:
    content: Any = value
    for key in reversed(path.split(".")[1:]):
        if key.endswith("[]"):
            content = [{"weight": 50, "key": "k", "path": "$.a", **content}]
        elif key in _NEEDED:
            content = {**_NEEDED[key], **content}
        content = {key.removesuffix("[]"): content}
    content["model"] = {"uri": "file:///model", **content.get("model", {})}
    spec = ModelDeploymentSpec.model_validate(content)
    return path in {violation.path.replace("[0]", "[]") for violation in find_unsupported_fields(spec, in_pods=in_pods)}


def _limits(node: Node) -> str:
    limits = node.limits
    said = [node.noun] if node.noun and limits.pattern is not None else []
    if bounds := _bounds(limits):
        said.append(bounds)
    if limits.max_length is not None:
        unit = {"array": "items", "map": "entries", "free": "entries"}.get(node.kind, "characters")
        said.append(f"at most {limits.max_length} {unit}")
    return f"({'; '.join(said)})" if said else ""


def _bounds(limits: ValueBounds) -> str:
    low = f"more than {limits.gt:g}" if limits.gt is not None else _number("at least", limits.ge)
    high = f"less than {limits.lt:g}" if limits.lt is not None else _number("at most", limits.le)
    if limits.ge is not None and limits.le is not None:
        return f"{limits.ge:g} to {limits.le:g}"
    return ", ".join(filter(None, (low, high)))


def _number(word: str, value: float | None) -> str:
    return "" if value is None else f"{word} {value:g}"


def _all_rules(node: Node, path: str) -> Iterator[tuple[str, str]]:
    for rule in node.rules:
        yield (f"{path}.{rule.field}" if rule.field else path), _message(rule.message)
    for name, child in node.fields.items():
        place = f"{path}.{name}"
        yield from ((place, _message(transition.message)) for transition in child.node.transitions)
        inner, below = _inside(child.node, place)
        if child.node.kind == "array":
            yield from ((place, _message(rule.message)) for rule in child.node.rules)
        if inner is not None:
            yield from _all_rules(inner, below)


def _message(text: str) -> str:
    """A rule's message; a value of the object in it is shown by the field's path."""
    return _cell(_PLACEHOLDER.sub(r"`\1`", text.replace("{}", "the value")))


def _conditions(name: str, conditions: Sequence[ConditionText]) -> Iterator[str]:
    yield f"### {name} conditions\n"
    for condition in conditions:
        yield f"**`{condition.type}`**: {condition.meaning}\n"
        if condition.reasons:
            yield _reasons(("status", "reason", "meaning"), condition.reasons)
        if condition.borrows:
            yield f"{'Besides: ' if condition.reasons else ''}{condition.borrows}\n"


def _reasons(head: Sequence[str], said: Sequence[ReasonText]) -> str:
    return _table(head, ((each.truth, f"`{each.reason}`", _cell(each.meaning)) for each in said))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\|", "|").replace("|", "\\|")
