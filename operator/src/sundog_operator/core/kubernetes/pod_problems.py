"""What keeps pods from running, in one line, as the kubelet and the scheduler tell it."""

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
"""Of several problems the first counts: what is nearer to the cause."""

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
_LONGEST: Final = 300


def find_pod_problem(pods: Iterable[Pod]) -> tuple[str, str] | None:
    """(reason, message) of what keeps one of the pods from running; None where nothing does. Pods that are leaving do not count."""
    found = [each for pod in pods if "deletionTimestamp" not in pod["metadata"] for each in _problems(pod)]
    return min(found, key=lambda each: (PRECEDENCE.index(each[0]), each[1]), default=None)


def _problems(pod: Pod) -> Iterator[tuple[str, str]]:
    name = pod["metadata"]["name"]
    scheduled = find_condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == UNSCHEDULABLE:
        yield UNSCHEDULABLE, f"pod {name}: {_line(scheduled.get('message'))}"
    for container in container_statuses(pod):
        for reason, text in _of_container(container):
            yield reason, f"pod {name}, container {container.get('name')}: {text}"


def _of_container(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waiting = state.get("waiting") or {}
    told = str(waiting.get("reason") or "")
    if told in _WAITING:
        yield _WAITING[told], _line(waiting.get("message") or told)
    for ended in (state.get("terminated"), last.get("terminated") if told else None):
        if ended and ended.get("reason") == OOM_KILLED:
            yield OOM_KILLED, "it needed more memory than its limit"
        elif ended and ended.get("exitCode"):
            text = f"it ended with code {ended['exitCode']}"
            yield CONTAINER_EXITED, f"{text}: {_line(ended['message'])}" if ended.get("message") else text


def _line(text: Any) -> str:
    lines = [line.strip() for line in str(text or "no reason given").splitlines() if line.strip()]
    return lines[0][:_LONGEST] if lines else "no reason given"


def container_statuses(pod: Pod) -> Iterator[Mapping[str, Any]]:
    """What the kubelet tells of each, those that run first included."""
    status = pod.get("status") or {}
    yield from (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))


def find_condition(pod: Pod, type_: str) -> Mapping[str, Any]:
    """A pod's condition; empty where it has none of that type."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == type_), {})


def is_scheduled(pod: Pod) -> bool:
    """Whether a pod has its node and what it asked for, until it ends."""
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return bool((pod.get("spec") or {}).get("nodeName")) and not ended
