"""Find the problem that keeps pods from running, in the words of the kubelet and the scheduler."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core.kubernetes import scheduler_message

Pod = Mapping[str, Any]

PRECEDENCE: Final[Sequence[str]] = (
    DeploymentReason.OOM_KILLED,
    DeploymentReason.IMAGE_PULL_BACK_OFF,
    DeploymentReason.CREATE_CONTAINER_ERROR,
    DeploymentReason.CRASH_LOOP_BACK_OFF,
    DeploymentReason.CONTAINER_EXITED,
    DeploymentReason.UNSCHEDULABLE,
)
"""The first of these problems counts: it is nearest to the cause."""

_WAITING: Final[Mapping[str, str]] = {
    "ImagePullBackOff": DeploymentReason.IMAGE_PULL_BACK_OFF,
    "ErrImagePull": DeploymentReason.IMAGE_PULL_BACK_OFF,
    "ErrImageNeverPull": DeploymentReason.IMAGE_PULL_BACK_OFF,
    "ImageInspectError": DeploymentReason.IMAGE_PULL_BACK_OFF,
    "InvalidImageName": DeploymentReason.IMAGE_PULL_BACK_OFF,
    "CreateContainerConfigError": DeploymentReason.CREATE_CONTAINER_ERROR,
    "CreateContainerError": DeploymentReason.CREATE_CONTAINER_ERROR,
    "RunContainerError": DeploymentReason.CREATE_CONTAINER_ERROR,
    "CrashLoopBackOff": DeploymentReason.CRASH_LOOP_BACK_OFF,
}
_MAX_MESSAGE: Final = 300


def find_pod_problem(pods: Iterable[Pod]) -> Cause | None:
    """Return the most important problem of the pods; None without one. Terminating pods do not count."""
    found = [each for pod in pods if "deletionTimestamp" not in pod["metadata"] for each in _problems(pod)]
    return most_important(found)


def most_important(problems: Iterable[Cause]) -> Cause | None:
    """Return the most important of problems of pods; None without one."""
    return min(problems, key=lambda each: (PRECEDENCE.index(each.reason), each.message), default=None)


def _problems(pod: Pod) -> Iterator[Cause]:
    name = pod["metadata"]["name"]
    scheduled = find_condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == DeploymentReason.UNSCHEDULABLE:
        found = _first_line(scheduled.get("message"))
        message = f"pod {name}: {scheduler_message.explain(found)[:_MAX_MESSAGE].rstrip('.')}"
        yield Cause(DeploymentReason.UNSCHEDULABLE, f"{message}. {scheduler_message.find_fix(found)}")
    for container in container_statuses(pod):
        for problem in _container_problems(container):
            message = f"pod {name}, container {container.get('name')}: {problem.message}"
            yield problem._replace(message=message)


def _container_problems(container: Mapping[str, Any]) -> Iterator[Cause]:
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waiting = state.get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if reason in _WAITING:
        yield Cause(_WAITING[reason], _first_line(waiting.get("message") or reason)[:_MAX_MESSAGE])
    for ended in (state.get("terminated"), last.get("terminated") if reason else None):
        if ended and ended.get("reason") == DeploymentReason.OOM_KILLED:
            yield Cause(DeploymentReason.OOM_KILLED, "used more memory than its limit")
        elif ended and ended.get("exitCode"):
            text = f"exited with code {ended['exitCode']}"
            message = f"{text}: {_first_line(ended['message'])[:_MAX_MESSAGE]}" if ended.get("message") else text
            yield Cause(DeploymentReason.CONTAINER_EXITED, message)


def _first_line(text: Any) -> str:
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"


def container_statuses(pod: Pod) -> Iterator[Mapping[str, Any]]:
    """Yield the kubelet's status of each container, init containers first."""
    status = pod.get("status") or {}
    yield from (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))


def find_condition(obj: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """Return the condition of that type in an object's status; empty where it has none."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == type_), {})


def count_placed(pods: Iterable[Pod]) -> tuple[int, int]:
    """Return how many pods have a node, and how many wait for one."""
    placed = waiting = 0
    for pod in pods:
        if is_scheduled(pod):
            placed += 1
        elif "deletionTimestamp" not in pod["metadata"] and not _has_ended(pod):
            waiting += 1
    return placed, waiting


def is_scheduled(pod: Pod) -> bool:
    """Return whether a pod has its node and has not ended."""
    return bool((pod.get("spec") or {}).get("nodeName")) and not _has_ended(pod)


def is_leaving(pod: Pod) -> bool:
    """Return whether a pod is deleted, or is about to be evicted. Until it has ended, its node's resources are taken."""
    is_disrupted = find_condition(pod, "DisruptionTarget").get("status") == "True"
    return "deletionTimestamp" in pod["metadata"] or is_disrupted


def _has_ended(pod: Pod) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
