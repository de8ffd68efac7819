"""Queues of Kueue: each worker pod waits in a LocalQueue until Kueue admits it.

Kueue admits pods and not the RayCluster. ModelDeployments share RayClusters, and Kueue suspends a whole RayCluster whose worker groups
change. It also refuses RayClusters with Ray's autoscaler.

The pods have Kueue's scheduling gate from the start. So they wait also where Kueue does not run, instead of running outside of the quota.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core.kubernetes.pod_problems import find_condition

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
ADMISSION_GATE: Final = "kueue.x-k8s.io/admission"
"""The scheduling gate that Kueue removes from a pod when it admits it."""
MANAGED_LABEL: Final = "kueue.x-k8s.io/managed"
"""The label of pods that Kueue has taken up."""
POD_UID_LABEL: Final = "kueue.x-k8s.io/job-uid"
"""The label of a Workload that holds the uid of its pod."""

_MAX_MESSAGE: Final = 300

Json = dict[str, Any]
Pod = Mapping[str, Any]


def find_waiting_pod(pods: Iterable[Pod]) -> Pod | None:
    """Return the first pod by name that Kueue has not admitted; None without one."""
    waiting = [pod for pod in pods if _is_waiting(pod)]
    return min(waiting, key=lambda pod: str(pod["metadata"]["name"]), default=None)


def find_pending_message(workloads: Iterable[Mapping[str, Any]]) -> str:
    """Return why Kueue has not admitted the Workloads of one pod, in its own words; empty if it does not say."""
    for workload in workloads:
        for type_ in ("QuotaReserved", "Admitted"):
            condition = find_condition(workload, type_)
            lines = str(condition.get("message") or "").splitlines()
            if condition.get("status") == "False" and lines:
                return lines[0][:_MAX_MESSAGE]
    return ""


def describe_wait(pod: Pod, pending: str) -> Cause:
    """Return why a pod of `find_waiting_pod` does not run. `pending` is the result of `find_pending_message`."""
    meta = pod["metadata"]
    labels = meta.get("labels") or {}
    wait = f"pod {meta['name']} waits in LocalQueue {labels.get(QUEUE_LABEL, '')} of Kueue"
    if MANAGED_LABEL not in labels:
        return Cause(
            DeploymentReason.NOT_ADMITTED,
            f"{wait}, which has not taken it up; expected the label {MANAGED_LABEL}. Enable Kueue's integration pod for this"
            " namespace, or leave out spec.scheduling.queue",
        )
    return Cause(DeploymentReason.NOT_ADMITTED, f"{wait}: {pending}" if pending else wait)


def _is_waiting(pod: Pod) -> bool:
    gates = (pod.get("spec") or {}).get("schedulingGates") or ()
    return "deletionTimestamp" not in pod["metadata"] and any(gate.get("name") == ADMISSION_GATE for gate in gates)
