"""Find the problem that keeps pods from running, in the words of the kubelet and the scheduler."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

Pod = Mapping[str, Any]

OOM_KILLED: Final = "OOMKilled"
IMAGE_PULL_BACK_OFF: Final = "ImagePullBackOff"
CREATE_CONTAINER_ERROR: Final = "CreateContainerError"
CRASH_LOOP_BACK_OFF: Final = "CrashLoopBackOff"
CONTAINER_EXITED: Final = "ContainerExited"
UNSCHEDULABLE: Final = "Unschedulable"
PRECEDENCE: Final = (
    OOM_KILLED,
    IMAGE_PULL_BACK_OFF,
    CREATE_CONTAINER_ERROR,
    CRASH_LOOP_BACK_OFF,
    CONTAINER_EXITED,
    UNSCHEDULABLE,
)
"""The first of these problems counts: it is nearest to the cause."""

_WAITING: Final[Mapping[str, str]] = {
    "ImagePullBackOff": IMAGE_PULL_BACK_OFF,
    "ErrImagePull": IMAGE_PULL_BACK_OFF,
    "ErrImageNeverPull": IMAGE_PULL_BACK_OFF,
    "ImageInspectError": IMAGE_PULL_BACK_OFF,
    "InvalidImageName": IMAGE_PULL_BACK_OFF,
    "CreateContainerConfigError": CREATE_CONTAINER_ERROR,
    "CreateContainerError": CREATE_CONTAINER_ERROR,
    "RunContainerError": CREATE_CONTAINER_ERROR,
    "CrashLoopBackOff": CRASH_LOOP_BACK_OFF,
}
_MAX_MESSAGE: Final = 300


def find_pod_problem(pods: Iterable[Pod]) -> tuple[str, str] | None:
    """Return (reason, message) of the most important problem of the pods; None without one. Terminating pods do not count."""
    found = [each for pod in pods if "deletionTimestamp" not in pod["metadata"] for each in _problems(pod)]
    return min(found, key=lambda each: (PRECEDENCE.index(each[0]), each[1]), default=None)


def _problems(pod: Pod) -> Iterator[tuple[str, str]]:
    name = pod["metadata"]["name"]
    scheduled = find_condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == UNSCHEDULABLE:
        yield UNSCHEDULABLE, f"pod {name}: {_first_line(scheduled.get('message'))}"
    for container in container_statuses(pod):
        for reason, text in _container_problems(container):
            yield reason, f"pod {name}, container {container.get('name')}: {text}"


def _container_problems(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waiting = state.get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if reason in _WAITING:
        yield _WAITING[reason], _first_line(waiting.get("message") or reason)
    for ended in (state.get("terminated"), last.get("terminated") if reason else None):
        if ended and ended.get("reason") == OOM_KILLED:
            yield OOM_KILLED, "used more memory than its limit"
        elif ended and ended.get("exitCode"):
            text = f"exited with code {ended['exitCode']}"
            yield CONTAINER_EXITED, f"{text}: {_first_line(ended['message'])}" if ended.get("message") else text


def _first_line(text: Any) -> str:
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return lines[0][:_MAX_MESSAGE] if lines else "no reason given"


def container_statuses(pod: Pod) -> Iterator[Mapping[str, Any]]:
    """Yield the kubelet's status of each container, init containers first."""
    status = pod.get("status") or {}
    yield from (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))


def find_condition(obj: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """Return the condition of that type in an object's status; empty where it has none."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == type_), {})


def is_scheduled(pod: Pod) -> bool:
    """Return whether a pod has its node and has not ended."""
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return bool((pod.get("spec") or {}).get("nodeName")) and not ended
