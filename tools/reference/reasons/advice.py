"""Advice about each reason: a command to look closer, and the fix."""

from typing import Final

from reference.reasons.text import Advice

DESCRIBE: Final = "sundog describe NAME"
EXPERIMENT: Final = "sundog describe mexp NAME"
_LOGS: Final = "sundog logs NAME --revision N"
_POD: Final = "kubectl -n NAMESPACE describe pod POD"
_POD_LOGS: Final = "kubectl -n NAMESPACE logs POD --all-containers --previous"
_EDGES: Final = "kubectl -n NAMESPACE get pods -l app.kubernetes.io/name=sundog-edge"
_EDGE_LOGS: Final = "kubectl -n NAMESPACE logs -l app.kubernetes.io/name=sundog-edge --all-containers"
_RAY: Final = "kubectl -n NAMESPACE get rayclusters,pods -l app.kubernetes.io/name=sundog-ray"
_QUOTA: Final = "kubectl -n NAMESPACE describe resourcequota"

_EDIT_OR_RETRY: Final = "Fix the model, then edit the manifest or run `sundog retry NAME`."
_SEE_OUTAGE: Final = (
    "Fix what both arms need, such as a database. The operator continues after 5 healthy minutes. If the candidate"
    " itself overloads it, end the rollout with `sundog abort NAME`, or the Experiment with `sundog stop NAME`."
)
_NEXT_PLAN: Final = "Set `spec.stopped: true`, restore the store, then create another Experiment."

ADVICE: Final = {
    # ModelUnchanged
    "FilesChanged": Advice(
        DESCRIBE,
        "Save each version of a model in a folder of its own, and change `model.uri`. Or start local mode with `--watch`.",
    ),
    # SpecAccepted
    "InvalidSpec": Advice(DESCRIBE, "Change the field that the message names. The stable revision keeps serving."),
    "NotYetSupported": Advice(
        DESCRIBE,
        "Remove the field that the message names, or choose a supported value. See [limits](../explanation/limits.md).",
    ),
    "DigestRequired": Advice(
        "sundog digest PATH", "Set `spec.model.digest` to the digest that the command prints for your model."
    ),
    "HostTaken": Advice(
        "kubectl -n NAMESPACE get mdep -o yaml",
        "Choose another `spec.endpoint.host`. Meanwhile the model is reachable under its own name.",
    ),
    "NotOwned": Advice(DESCRIBE, "Rename or delete the object that the message names, or rename your own object."),
    "SaltReused": Advice(
        DESCRIBE, "If the assignments must be independent, choose a salt of its own for the next rollout or Experiment."
    ),
    "ArmsEqual": Advice(
        EXPERIMENT,
        "Nothing, if you want to see that equal arms show no difference. Else set `spec.stopped: true` and create another"
        " Experiment whose arms differ.",
    ),
    "Underpowered": Advice(
        EXPERIMENT,
        "Raise `spec.stop`, `spec.exposure` or `minimumEffect`, or compare fewer arms by fewer success metrics. Once it"
        " runs, its plan is frozen: set `spec.stopped` and create another Experiment. `sundog experiment power` estimates"
        " the time for your numbers.",
    ),
    "PlanFrozen": Advice(
        EXPERIMENT, "Undo the edit. For another plan, set `spec.stopped` and create a new Experiment."
    ),
    "SpecRefused": Advice(DESCRIBE, "See the reason of `SpecAccepted`."),
    # RevisionReady
    "NoRevision": Advice(DESCRIBE, "Wait. If the spec is refused, see the reason of `SpecAccepted`."),
    "RayUnknown": Advice(
        _RAY, "Wait about ten seconds while Ray starts. In local mode, `logs/ray-N.log` has the error if it does not."
    ),
    "Deploying": Advice(_LOGS, "Wait. The message has what Ray Serve reports. Loading torch takes some seconds."),
    "Unhealthy": Advice(_LOGS, "Read the log and the event `ReplicaLost`. Fix the model, then edit the manifest."),
    "NoHealthyReplica": Advice(
        _LOGS, "Read the log and the event `ReplicaLost`. Then read the log of the edges, which check each replica."
    ),
    "RevisionMissing": Advice(
        "kubectl -n NAMESPACE get controllerrevisions", "Edit the spec: an edit creates a new revision."
    ),
    "Unschedulable": Advice(_POD, "Free a node, add one, or request less. Pods of Ray's head and store count too."),
    "DRAMissing": Advice(
        "kubectl api-resources --api-group=resource.k8s.io",
        "Use Kubernetes 1.34 or later with NVIDIA's driver for it, or set `resources.gpu.allocation: devicePlugin`.",
    ),
    "NotAdmitted": Advice(
        "kubectl -n NAMESPACE get localqueues,workloads",
        "Wait, raise the quota of its ClusterQueue, or request less. Raise `rollout.progressDeadline` if waits are long.",
    ),
    "NamespaceTooLarge": Advice(
        "kubectl -n NAMESPACE get mdep,mexp,pods,services,controllerrevisions",
        "Delete objects that you do not need, or move ModelDeployments to another namespace. Or ask the administrator to raise"
        " `installation.maxNamespaceMemory`.",
    ),
    "PlanTooSlow": Advice(
        "kubectl -n NAMESPACE get modeldeployment NAME -o yaml",
        "Make the spec simpler, such as its windows and guardrails. Report it as a bug of Sundog: no plan should take so long.",
    ),
    "PodRefused": Advice(
        _QUOTA,
        "Raise the quota, set the limits that it requires (`spec.resources`), or adapt the pod standard or policy."
        " Shorten `runtime.env` if the RayCluster is too large.",
    ),
    "ImagePullBackOff": Advice(_POD, "Fix the name of the image, the registry, or `imagePullSecrets`."),
    "CreateContainerError": Advice(_POD, "Fix what the kubelet's message names."),
    "CrashLoopBackOff": Advice(_POD_LOGS, "Fix the error that the log shows."),
    "ContainerExited": Advice(_POD_LOGS, "Fix the error that the log shows."),
    "OOMKilled": Advice(_POD, "Raise `spec.resources.memory`."),
    "SecretNotFound": Advice(
        "kubectl -n NAMESPACE get secrets", "Create the Secret that the message names, in the same namespace."
    ),
    "SecretIncomplete": Advice(
        "kubectl -n NAMESPACE describe secret SECRET", "Add the key that the message names to the Secret."
    ),
    "SecretInvalid": Advice(
        DESCRIBE, "Replace the part that the message names, such as a certificate that does not match its key."
    ),
    "ConfigMapNotFound": Advice(
        "kubectl -n NAMESPACE get configmaps", "Create the ConfigMap that the message names, in the same namespace."
    ),
    "ConfigMapIncomplete": Advice(
        "kubectl -n NAMESPACE describe configmap CONFIGMAP", "Add the key that the message names to the ConfigMap."
    ),
    "ServiceAccountNotFound": Advice(
        "kubectl -n NAMESPACE get serviceaccounts", "Create the ServiceAccount that the message names."
    ),
    "ClaimNotFound": Advice(
        "kubectl -n NAMESPACE get persistentvolumeclaims", "Create the claim that `spec.model.uri` names."
    ),
    # Start failures
    "ModelNotFound": Advice(DESCRIBE, "Fix `spec.model.uri`, or put the model there."),
    "AccessDenied": Advice(
        DESCRIBE, "Give the replica permission to read the model: its credentials or the file mode."
    ),
    "NoSpace": Advice(DESCRIBE, "Free disk space on the node, or give the cache another directory or size."),
    "SourceUnavailable": Advice(DESCRIBE, "Check the store and the network between it and the replica."),
    "LoadTimeout": Advice(
        _LOGS, "Make the model load faster, or let the administrator raise `SUNDOG_LOAD_MAX_SECONDS`."
    ),
    "WarmupTimeout": Advice(_LOGS, "Raise `spec.runtime.warmup.timeout`, or make the warm-up shorter."),
    "DeployFailed": Advice(_LOGS, "Read the last lines of the log. A process that dies often had too little memory."),
    "DigestMismatch": Advice(
        "sundog digest PATH", "Set `spec.model.digest` to the digest of this model, or restore the model's files."
    ),
    "ModelTooLarge": Advice(
        DESCRIBE,
        "Make the model smaller, raise `spec.resources.memory`, or let the administrator raise `SUNDOG_MODEL_MAX_BYTES`.",
    ),
    "SourceRefused": Advice(
        DESCRIBE,
        "Use a public address, or let the administrator list it in `SUNDOG_SOURCE_ALLOW_HOSTS`. Pack a refused archive again.",
    ),
    "FormatNotRecognised": Advice(DESCRIBE, "Set `spec.model.format`, or put a supported file into the directory."),
    "CodeNotTrusted": Advice(
        DESCRIBE,
        "If you trust the model's author, set `spec.model.trustCode: true`. Else save its weights as safetensors.",
    ),
    "EntrypointMissing": Advice(DESCRIBE, "Set `spec.model.entrypoint` to `module:Name` of a class in the model."),
    "LoadFailed": Advice(_LOGS, _EDIT_OR_RETRY),
    "WarmupFailed": Advice(_LOGS, _EDIT_OR_RETRY),
    # Capacity
    "InsufficientCapacity": Advice(
        "sundog capacity", "Free GPUs, CPU or memory, add nodes, or request less. The stable revision is unchanged."
    ),
    "InsufficientQuota": Advice(_QUOTA, "Raise the quota, or request less. The stable revision is unchanged."),
    # Traffic
    "Confirming": Advice(DESCRIBE, "Wait. This usually takes a second."),
    "EdgeNotConfirmed": Advice(
        _EDGE_LOGS,
        "Fix the edge pod that the message names. In local mode, `logs/edge-N-agent.log` has the cause, such as a port"
        " in use.",
    ),
    "NothingServes": Advice(DESCRIBE, "See the reason of `RevisionReady`."),
    "EdgeReplaced": Advice(_EDGES, "Nothing to fix. If it repeats, check the load and the network of the edge's node."),
    "HeadReplaced": Advice(
        "kubectl -n NAMESPACE logs HEAD -c autoscaler",
        "Nothing to fix: with a store replicas serve on. If it repeats, the autoscaler has too little memory"
        " (`installation.ray.autoscaler`), or cannot reach the API server.",
    ),
    "ServiceRefused": Advice(_QUOTA, "Raise the quota of Services, or change the policy that the note names."),
    # RouteAccepted
    "NotWritten": Advice(
        DESCRIBE,
        "HTTPRoute: wait for the edge's pods; the operator's log has the cause if it lasts. Exposure log: fix the store"
        " or its credentials.",
    ),
    "NotAnswered": Advice("kubectl -n NAMESPACE get gateway", "Create the Gateway, or start its controller."),
    "GatewayAPIMissing": Advice(
        "kubectl get crd httproutes.gateway.networking.k8s.io",
        "Install the CRDs of the Gateway API. With roles of your own, grant access to `httproutes` as the chart does.",
    ),
    "NotAccepted": Advice(
        "kubectl -n NAMESPACE get httproute NAME -o yaml",
        "Change the Gateway's listener: often it allows no routes of the namespace, or has another host name.",
    ),
    # Rollouts
    "Paused": Advice(
        DESCRIBE,
        "The message shows what the rollout waits for. Then `sundog resume NAME`, `sundog promote NAME` or"
        " `sundog abort NAME`, or change the spec.",
    ),
    "Manual": Advice(DESCRIBE, "Run `sundog resume NAME` to continue, or `sundog abort NAME` to end it."),
    "WaitsForPromote": Advice(DESCRIBE, "Run `sundog promote NAME` to continue, or `sundog abort NAME` to end it."),
    "NoData": Advice(
        DESCRIBE,
        "Send requests: `sundog_edge_assigned_total` counts them by `arm`. `sundog resume NAME` waits again,"
        " `sundog promote NAME` continues without evidence.",
    ),
    "SampleRatio": Advice(
        _EDGE_LOGS,
        "Check the edges: `sundog_edge_lost_total`, `sundog_edge_log_dropped_total`, and pods of another version. The"
        " operator rejects `promote` meanwhile.",
    ),
    "RolloutPaused": Advice(
        DESCRIBE, "Read the table of metrics. Then `sundog resume NAME`, `sundog promote NAME` or `sundog abort NAME`."
    ),
    "RollingOut": Advice(DESCRIBE, "Wait, or run the command that the message names."),
    "RollingBack": Advice(DESCRIBE, "Wait for the replicas of stable. The message shows the cause of the rollback."),
    "Queued": Advice(DESCRIBE, "Wait until the rollout or Experiment that the message names has ended."),
    "Retrying": Advice(_LOGS, "Fix the reason of `RevisionReady`. `sundog retry NAME` retries at once."),
    "ExperimentRunning": Advice("sundog get mexp", "Wait, or end your Experiment with `sundog stop NAME`."),
    "DryRun": Advice(DESCRIBE, "Remove `spec.rollout.dryRun` to start the rollout."),
    "NotPromoted": Advice(DESCRIBE, "See the reason of `Progressing`."),
    "Aborted": Advice(DESCRIBE, "Read the message. Then edit the manifest, or run `sundog retry NAME`."),
    "RolledBack": Advice(
        DESCRIBE, "Read the table of metrics. Then fix the model and edit the manifest, or run `sundog retry NAME`."
    ),
    "RolloutAborted": Advice(DESCRIBE, "Read the note. Then edit the manifest, or run `sundog retry NAME`."),
    "RolloutRolledBack": Advice(DESCRIBE, "Read the note. Then fix the model and edit the manifest."),
    "ProgressDeadlineExceeded": Advice(
        DESCRIBE,
        "Fix the reason of `RevisionReady`, or raise `spec.rollout.progressDeadline`. Then `sundog retry NAME`,"
        " or create another Experiment of your own.",
    ),
    "Inconclusive": Advice(
        "sundog experiment report NAME",
        "While it is paused, `sundog resume NAME` gives the step its time again. After its end, raise the weight, the"
        " margin or `maxDuration`, then run `sundog retry NAME`.",
    ),
    "SampleRatioMismatch": Advice(
        _EDGE_LOGS,
        "Check the edges: `sundog_edge_lost_total`, `sundog_edge_log_dropped_total`, and pods of another version. Then"
        " `sundog retry NAME`. Chance alone causes one mismatch in a thousand rollouts.",
    ),
    "CandidateUnavailable": Advice(_LOGS, "Fix what ends the candidate's replicas, then edit the manifest."),
    "SpotReclaimed": Advice(
        DESCRIBE, "Nothing: the candidate is rolled out again. If it repeats, set `scheduling.spot: never`."
    ),
    "CapacityLost": Advice(
        "sundog capacity",
        "Bring the nodes or the quota back. The operator then starts another rollout of the revision.",
    ),
    "NotificationFailed": Advice(DESCRIBE, "Fix the receiver. The operator retries for an hour."),
    "TrafficKept": Advice(
        DESCRIBE,
        "Wait until the restored revision is healthy, or apply the manifest of the one that serves. See"
        " [restores](../guides/upgrade-and-backup.md#restore-while-models-serve).",
    ),
    "ReplicaLost": Advice(_LOGS, "If it repeats, read the end of the replica's log: often it needs more memory."),
    "PoisonRequest": Advice(_LOGS, "Find the request by its id in the log, and fix the model or refuse such requests."),
    "CommandRejected": Advice(DESCRIBE, "Read the note, then run a command that fits the present state."),
    # Experiments
    "WaitsForModelDeployment": Advice(DESCRIBE, "Wait until the ModelDeployment serves, or unset its `paused`."),
    "ModelDeploymentNotFound": Advice(
        "sundog get", "Create the ModelDeployment, or fix `spec.modelDeployment` of the Experiment."
    ),
    "ArmsStarting": Advice(EXPERIMENT, "Wait. The message shows what each arm lacks."),
    "ArmUnavailable": Advice(
        _LOGS, "Read the log of the arm's revision, fix the model, then create another Experiment."
    ),
    "ArmDropped": Advice(EXPERIMENT, "Read the cause in the note. Fix the arm before another Experiment uses it."),
    "Harm": Advice("sundog experiment report NAME", "Read which guardrail failed, and fix the arms."),
    "NoWinner": Advice("sundog experiment report NAME", "Keep the stable revision, or test arms that differ more."),
    "ExperimentStopped": Advice("sundog experiment report NAME", "Read the note. To repeat it, create an Experiment."),
    "ExperimentPaused": Advice(EXPERIMENT, _SEE_OUTAGE),
    "EvidenceDoubted": Advice(EXPERIMENT, "See the reason of `DataQuality`."),
    "ArmWon": Advice(
        "sundog experiment report NAME", "Put the winner into the ModelDeployment, then run `sundog stop NAME`."
    ),
    "Won": Advice(
        "sundog experiment report NAME", "Put the winner into the ModelDeployment, then run `sundog stop NAME`."
    ),
    "Winner": Advice("sundog experiment report NAME", "Put the winner into the ModelDeployment."),
    "Passed": Advice(DESCRIBE, "Decide: `sundog promote NAME` or `sundog abort NAME`."),
    "Undecided": Advice(
        "sundog experiment report NAME", "Wait. The message shows what is missing and how long that typically takes."
    ),
    # DataQuality
    "EdgeSilent": Advice(_EDGE_LOGS, "Fix the edge that the message names, or the network to it."),
    "ControlUnhealthy": Advice(EXPERIMENT, _SEE_OUTAGE),
    "ControlDegraded": Advice(EXPERIMENT, _SEE_OUTAGE),
    "FeedbackUnavailable": Advice(
        "kubectl -n NAMESPACE get pods -l app.kubernetes.io/name=sundog-edge-store",
        "Fix what the message names: the store, its Secret, or the network between edges and store.",
    ),
    "FeedbackStoreReplaced": Advice(
        EXPERIMENT, f"{_NEXT_PLAN} For a rollout, restore the store, then run `sundog retry NAME`."
    ),
    "FeedbackOverflow": Advice(
        EXPERIMENT,
        "Report fewer outcomes for each unit, or let the next Experiment end after fewer units. End a rollout with"
        " `sundog abort NAME`, or promote it with `sundog promote NAME` if you know that the canary is fine.",
    ),
    "EdgeOutdated": Advice(
        _EDGES,
        "Upgrade all edges to the operator's release. The share falls as further units come; a new Experiment begins without it.",
    ),
    "ArmWithoutRequests": Advice(
        _EDGE_LOGS,
        "Fix the edge that does not send the arm its share. Then set `spec.stopped: true` and create another Experiment:"
        " the counts of this one stay unequal.",
    ),
    "ClockSkew": Advice(
        EXPERIMENT,
        "Correct the clock of the caller or of the edge's node. Or report outcomes without `time`: the edge then takes"
        " their arrival. The share falls as further outcomes count.",
    ),
    "RequestsLost": Advice(
        _EDGE_LOGS,
        "Check `sundog_edge_log_dropped_total`: an edge had too little CPU, or was killed. Then wait:"
        " the share falls as further requests count.",
    ),
    # LogWritten
    "LogNotWritten": Advice(EXPERIMENT, "Fix the store that the note names, or its credentials."),
    "PlaceNotAllowed": Advice(
        EXPERIMENT, "Choose an allowed place, or ask the administrator to add it to `installation.exposureLogs.places`."
    ),
}
"""A reason that is not listed needs no fix."""
