"""What keeps pods from running, in one line, as the kubelet and the scheduler tell it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sundog_operator.api import parse_instant

Pod = Mapping[str, Any]

OOM_KILLED: Final = "OOMKilled"
IMAGE: Final = "ImagePullBackOff"
CREATE: Final = "CreateContainerError"
CRASHES: Final = "CrashLoopBackOff"
EXITED: Final = "ContainerExited"
UNSCHEDULABLE: Final = "Unschedulable"
ORDER: Final = (OOM_KILLED, IMAGE, CREATE, CRASHES, EXITED, UNSCHEDULABLE)
"""Of several problems the first counts: what is nearer to the cause."""

_WAITING: Final[Mapping[str, str]] = {
    "ImagePullBackOff": IMAGE,
    "ErrImagePull": IMAGE,
    "ErrImageNeverPull": IMAGE,
    "ImageInspectError": IMAGE,
    "InvalidImageName": IMAGE,
    "CreateContainerConfigError": CREATE,
    "CreateContainerError": CREATE,
    "RunContainerError": CREATE,
    "CrashLoopBackOff": CRASHES,
}
_LONGEST: Final = 300


def problem(pods: Iterable[Pod]) -> tuple[str, str] | None:
    """(reason, message) of what keeps one of the pods from running; None where nothing does. Pods that are leaving do not count."""
    found = [each for pod in pods if "deletionTimestamp" not in pod["metadata"] for each in _problems(pod)]
    return min(found, key=lambda each: (ORDER.index(each[0]), each[1]), default=None)


def _problems(pod: Pod) -> Iterator[tuple[str, str]]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False" and scheduled.get("reason") == UNSCHEDULABLE:
        yield UNSCHEDULABLE, f"pod {name}: {_line(scheduled.get('message'))}"
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
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
            yield EXITED, f"{text}: {_line(ended['message'])}" if ended.get("message") else text


def _line(text: Any) -> str:
    lines = [line.strip() for line in str(text or "no reason given").splitlines() if line.strip()]
    return lines[0][:_LONGEST] if lines else "no reason given"


def _condition(pod: Pod, type_: str) -> Mapping[str, Any] | None:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == type_), None)


def is_scheduled(pod: Pod) -> bool:
    """Whether a pod has its node and what it asked for, until it ends."""
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return bool((pod.get("spec") or {}).get("nodeName")) and not ended


def start_times(pods: Sequence[Pod]) -> dict[str, timedelta]:
    """How long the slowest pod waited for its node, `scheduled`, and for the image of its first container, `image`; to the second."""
    found: dict[str, timedelta] = {}
    for pod in pods:
        begun = _instant(pod["metadata"].get("creationTimestamp"))
        placed = _since(pod, "PodScheduled")
        prepared = _since(pod, "PodReadyToStartContainers")
        started = _first_started(pod)
        for phase, start, end in (("scheduled", begun, placed), ("image", prepared, started)):
            if start is not None and end is not None:
                found[phase] = max(found.get(phase, timedelta()), end - start)
    return found


def _since(pod: Pod, type_: str) -> datetime | None:
    condition = _condition(pod, type_)
    return _instant(condition.get("lastTransitionTime")) if condition and condition.get("status") == "True" else None


def _first_started(pod: Pod) -> datetime | None:
    status = pod.get("status") or {}
    states = [
        state
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
        for state in (container.get("state") or {}).values()
    ]
    return min((at for state in states if (at := _instant(state.get("startedAt")))), default=None)


def _instant(text: Any) -> datetime | None:
    try:
        return parse_instant(text) if isinstance(text, str) else None
    except ValueError:
        return None
