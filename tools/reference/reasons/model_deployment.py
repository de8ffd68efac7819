"""Conditions of ModelDeployments and their reasons."""

from typing import Final

from reference.reasons.text import ConditionText, ReasonText

_HELD_BACK: Final = "The revision of the spec failed or was aborted, and is held back."
_ROLLED_BACK: Final = (
    "The revision of the spec is held back: it did harm, or a command went back to an earlier revision."
)
_CAPACITY: Final = (
    "Not enough GPUs, CPU or memory are free on nodes that match. The operator keeps checking, and starts no candidate"
    " with GPUs meanwhile. The message has the numbers, why other nodes do not match, and what to do."
)
_QUOTA: Final = (
    "The namespace's quota, or the installation's limit of shared pods, leaves too few GPUs, CPU, memory or pods. The"
    " operator starts nothing and keeps checking. The message has the numbers."
)
_ABSENT: Final = "A Secret that `spec.endpoint` names does not exist. The edge refuses requests that need it."
_INCOMPLETE: Final = (
    "A Secret that `spec.endpoint` names lacks a key. The message names both. The edge refuses requests that need it."
)
_NO_REPLICA: Final = "The revision should have traffic, and no edge sees a healthy replica of it."

MODEL_DEPLOYMENT_CONDITIONS: Final = (
    ConditionText(
        "Ready",
        "The stable revision serves: every ready edge that reports sees a healthy replica of it. While none reports, Ready"
        " stays True until an edge is late (`EdgeNotConfirmed`), in a cluster only while an edge is ready.",
        (
            ReasonText("True", "Serving", "The stable revision serves."),
            ReasonText("False", "NoHealthyReplica", _NO_REPLICA),
            ReasonText("False", "SecretNotFound", _ABSENT),
            ReasonText("False", "SecretIncomplete", _INCOMPLETE),
            ReasonText(
                "False",
                "SecretInvalid",
                "No edge can use any key of the Secrets in `spec.endpoint.auth`, so edges refuse every request.",
            ),
        ),
        "Without a stable revision: the reason of `SpecAccepted` if that is False, else the reason of `RevisionReady`.",
    ),
    ConditionText(
        "Reconciling",
        "Present while nothing serves and the operator works on it.",
        borrows="The reason of `Ready`.",
    ),
    ConditionText(
        "Stalled",
        "Present while the operator cannot continue without you.",
        (
            ReasonText("True", "Aborted", _HELD_BACK),
            ReasonText("True", "RolledBack", _ROLLED_BACK),
            ReasonText(
                "True",
                "ProgressDeadlineExceeded",
                "The first revision is not ready within `spec.rollout.progressDeadline`, or a later one without steps"
                " while `progressDeadlineAction` is `pause`. Still retrying.",
            ),
            ReasonText("True", "InsufficientCapacity", _CAPACITY),
            ReasonText("True", "InsufficientQuota", _QUOTA),
            ReasonText(
                "True",
                "NamespaceTooLarge",
                "Sundog's objects of the namespace take more of the operator's memory than `installation.maxNamespaceMemory`."
                " All of the namespace serves as before, and no change has an effect.",
            ),
            ReasonText(
                "True",
                "PlanTooSlow",
                "A decision about the object, or another one of its namespace, took more than five seconds and was abandoned."
                " It serves as before. Still retrying.",
            ),
        ),
        "The reason of `SpecAccepted` if that is False, or the final start failure of a first revision.",
    ),
    ConditionText(
        "SpecAccepted",
        "The operator accepts the spec.",
        (
            ReasonText("True", "Accepted", "The spec is valid and supported."),
            ReasonText(
                "True",
                "SaltReused",
                "An Experiment or another ModelDeployment has the same salt (`spec.rollout.unit.salt`). Their"
                " assignments depend on each other.",
            ),
            ReasonText("False", "InvalidSpec", "The spec breaks a rule. The message names field, value and limit."),
            ReasonText(
                "False",
                "NotYetSupported",
                "A field asks for something that this version does not support. The message names the field.",
            ),
            ReasonText("False", "DigestRequired", "The administrator requires `spec.model.digest`."),
            ReasonText(
                "False", "HostTaken", "Another ModelDeployment of the namespace already has `spec.endpoint.host`."
            ),
            ReasonText(
                "False",
                "NotOwned",
                "An object that Sundog did not create has a name that Sundog needs. Sundog does not change it.",
            ),
        ),
    ),
    ConditionText(
        "CapacityAvailable",
        "Enough GPUs, CPU and memory are available.",
        (
            ReasonText(
                "True",
                "NoGPURequested",
                "The spec requests no GPU. CPU and memory of the newest revision are allocated or free, or the operator"
                " could not check them.",
            ),
            ReasonText(
                "True",
                "Fits",
                "The GPUs, CPU and memory of the newest revision are allocated or free, or the operator could not check"
                " them.",
            ),
            ReasonText("False", "InsufficientCapacity", _CAPACITY),
            ReasonText("False", "InsufficientQuota", _QUOTA),
        ),
    ),
    ConditionText(
        "RevisionReady",
        "The newest revision runs: the candidate, else stable.",
        (
            ReasonText("True", "Ready", "Ray Serve reports it healthy. If it has traffic, the edges do as well."),
            ReasonText("Unknown", "NoRevision", "There is no revision yet."),
            ReasonText("Unknown", "RayUnknown", "Ray Serve's REST API does not answer, so the state is unknown."),
            ReasonText(
                "False",
                "Deploying",
                "Ray Serve starts it, or its pods wait until other pods have ended. The message says which.",
            ),
            ReasonText("False", "Unhealthy", "Ray Serve reports it unhealthy, and still retries."),
            ReasonText("False", "NoHealthyReplica", _NO_REPLICA),
            ReasonText("False", "RevisionMissing", "Its ControllerRevision was deleted."),
            ReasonText(
                "False",
                "Unschedulable",
                "No node accepts a pod of it, or of Ray's head or store. The message has the constraints and numbers of"
                " nodes, from the scheduler.",
            ),
            ReasonText(
                "False",
                "DRAMissing",
                "`resources.gpu.allocation` is `dra`, and the API server does not serve `resource.k8s.io/v1`. Still retrying.",
            ),
            ReasonText(
                "False",
                "NotAdmitted",
                "A pod of it waits in the queue of `scheduling.queue`. The message is Kueue's. Still waiting.",
            ),
            ReasonText(
                "False",
                "PodRefused",
                "The API server refuses a pod of it, for example because of a quota, or the RayCluster that has its pods, for"
                " example because of its size. The message has the cause.",
            ),
            ReasonText("False", "ImagePullBackOff", "The node cannot pull an image."),
            ReasonText("False", "CreateContainerError", "The kubelet cannot create a container."),
            ReasonText("False", "CrashLoopBackOff", "A container ends again and again."),
            ReasonText("False", "ContainerExited", "A container ended with an error."),
            ReasonText("False", "OOMKilled", "A container used more memory than its limit."),
            ReasonText("False", "SecretNotFound", "A Secret that the spec names does not exist. Still retrying."),
            ReasonText("False", "SecretIncomplete", "A Secret lacks the key that the spec names. Still retrying."),
            ReasonText("False", "ConfigMapNotFound", "A ConfigMap that the spec names does not exist. Still retrying."),
            ReasonText(
                "False", "ConfigMapIncomplete", "A ConfigMap lacks the key that the spec names. Still retrying."
            ),
            ReasonText(
                "False", "ServiceAccountNotFound", "The ServiceAccount of the spec does not exist. Still retrying."
            ),
            ReasonText("False", "ClaimNotFound", "The claim of a `pvc://` model does not exist. Still retrying."),
        ),
        "[The start failure](#why-a-revision-did-not-start), until the revision is ready or the spec changes.",
    ),
    ConditionText(
        "TrafficSynced",
        "Every edge has applied the split and the endpoint, and can use the Secrets of the endpoint.",
        (
            ReasonText("True", "InForce", "Every edge confirmed the split and the endpoint."),
            ReasonText(
                "Unknown",
                "Confirming",
                "Not every edge has confirmed the split and the endpoint yet. This lasts 30 s at most.",
            ),
            ReasonText(
                "False",
                "EdgeNotConfirmed",
                "An edge has not confirmed the split or an edit of the endpoint for 30 s. The message names its pod and the cause.",
            ),
            ReasonText("False", "NothingServes", "No revision is ready for traffic, so there is no split."),
            ReasonText("False", "SecretNotFound", _ABSENT),
            ReasonText("False", "SecretIncomplete", _INCOMPLETE),
            ReasonText(
                "False",
                "SecretInvalid",
                "An edge cannot use part of a Secret of `spec.endpoint`, and uses the rest. The message names the part.",
            ),
        ),
    ),
    ConditionText(
        "ModelUnchanged",
        "Present, as False, while the files of the spec's revision are not those that it was created with. Local mode looks"
        " at the files of `file://` models. No other condition depends on it.",
        (
            ReasonText(
                "False",
                "FilesChanged",
                "The files changed under the same `model.uri`. Replicas that start later load the changed ones.",
            ),
        ),
    ),
    ConditionText(
        "RouteAccepted",
        "The controller of the Gateway accepts the HTTPRoute. Present while `spec.endpoint.gateway` names a Gateway."
        " No other condition depends on it.",
        (
            ReasonText(
                "True", "Accepted", "The controller reports `Accepted` and `ResolvedRefs` for the present route."
            ),
            ReasonText("Unknown", "NotWritten", "There is no HTTPRoute yet. The operator creates the edge first."),
            ReasonText(
                "Unknown",
                "NotAnswered",
                "No controller reported on the HTTPRoute: the Gateway does not exist, or has no controller.",
            ),
            ReasonText(
                "False",
                "GatewayAPIMissing",
                "The cluster has no HTTPRoutes, or the operator has no permission to list them. It checks every 20 s.",
            ),
            ReasonText(
                "False",
                "NotOwned",
                "An HTTPRoute that Sundog did not create has the name. Sundog does not change it.",
            ),
            ReasonText("False", "NotAccepted", "The controller refuses the route with a reason that is not one word."),
        ),
        "The controller's own reason for a refusal, such as `NotAllowedByListeners`. The message is the controller's.",
    ),
    ConditionText(
        "Progressing",
        "A revision is on its way to all traffic.",
        (
            ReasonText(
                "True",
                "Deploying",
                "A revision starts and then gets all traffic: the first one, one with strategy `recreate`, or a"
                " rollback.",
            ),
            ReasonText(
                "True", "RollingOut", "The rollout runs. The message shows the step and what the rollout waits for."
            ),
            ReasonText(
                "True",
                "Paused",
                "The rollout is paused: by a command, by the spec, outside its windows, because the evidence does not"
                " decide, or because the candidate was not ready in time.",
            ),
            ReasonText(
                "True",
                "RollingBack",
                "A rollout in place ends. Traffic returns to stable as its replicas become ready. The message has the"
                " cause and the progress.",
            ),
            ReasonText("True", "Queued", "The revision waits until the replicas of an earlier candidate have ended."),
            ReasonText("True", "Retrying", "The revision did not start. The message has the time of the next attempt."),
            ReasonText("False", "Complete", "No rollout runs."),
            ReasonText(
                "False",
                "ExperimentRunning",
                "A revision waits until your Experiment has ended (`spec.rollout.duringExperiment`).",
            ),
            ReasonText("False", "DryRun", "`spec.rollout.dryRun` is true. The message shows what would start."),
            ReasonText("False", "NotStarted", "No revision has started yet."),
            ReasonText("False", "Aborted", _HELD_BACK),
            ReasonText("False", "RolledBack", _ROLLED_BACK),
            ReasonText("False", "InsufficientCapacity", _CAPACITY),
            ReasonText("False", "InsufficientQuota", _QUOTA),
        ),
    ),
    ConditionText(
        "Promoted",
        "The revision of the spec has all traffic.",
        (
            ReasonText("True", "Promoted", "The revision has all traffic, and every edge confirmed it."),
            ReasonText("False", "NotPromoted", "The revision does not have all traffic."),
            ReasonText("False", "Confirming", "The revision is stable, and not every edge has confirmed it."),
            ReasonText("Unknown", "SpecRefused", "The operator refused the spec, so it has no revision."),
        ),
    ),
)
