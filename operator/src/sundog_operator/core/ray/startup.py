"""How long the phases of a revision's start took, by the API server's times of its pods and by what one of its replicas tells an edge."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sundog_operator.api import parse_timestamp
from sundog_operator.core.kubernetes.pod_problems import Pod, container_statuses, find_condition
from sundog_operator.core.observed import EdgeReport, ReplicaStart

_TOLD: Final = ("download", "load", "warmup")
_SECOND: Final = timedelta(seconds=1)
_MOST_S: Final = 1e7


def startup_phases(
    since: datetime | None, pods: Sequence[Pod], told: ReplicaStart, now: datetime
) -> dict[str, timedelta]:
    """The phases in their order; what is not known is left out.

    `since` is when the revision was to run, `now` when its replicas were seen to; of one whose start had begun before, how long it took is
    not known. Kubernetes tells times to the second, and the clocks of nodes differ: what comes out below zero is told as zero.

    - `cluster`: until the first pod is made. Of a first model the RayCluster's store, head and autoscaler start meanwhile.
    - `scheduled`, `image`: how long the slowest pod waited for its node, and for the image of its first container.
    - `ray`: from the first container, without pods from `since`, until the replica begins: Ray in the pod, Serve's choice of it, a process
      and what it imports.
    - `download`, `load`, `warmup`: as the replica tells.
    - `total`: from `since` to `now`.
    """
    made = min((at for pod in pods if (at := _made(pod)) is not None), default=None)
    started = min((at for pod in pods if (at := _first_started(pod)) is not None), default=None)
    if since is not None and any(at is not None and since > at + _SECOND for at in (made, told.began)):
        since = None
    spans = {
        "cluster": _between(since, made),
        **_of_slowest(pods),
        "ray": _between(started if pods else since, told.began),
        **{name: timedelta(seconds=round(told.phases[name], 3)) for name in _TOLD if name in told.phases},
        "total": _between(since, now),
    }
    return {name: span for name, span in spans.items() if span is not None}


def find_reported_start(service: str, application: str, reports: Iterable[EdgeReport]) -> ReplicaStart | None:
    """What edges report of the start of an application: the first with phases; None where none has asked a replica yet.

    The evidence comes from pods of a tenant's namespace: a start of another shape counts as one without phases.
    """
    found = [_read(each) for report in reports for each in _startups(service, application, report)]
    return next((each for each in found if each.phases), found[0] if found else None)


def _startups(service: str, application: str, report: EdgeReport) -> Iterator[Any]:
    services = (report.evidence or {}).get("services")
    entry = services.get(service) if isinstance(services, Mapping) else None
    arms = entry.get("arms") if isinstance(entry, Mapping) else None
    for arm in arms.values() if isinstance(arms, Mapping) else ():
        if isinstance(arm, Mapping) and arm.get("application") == application and "startup" in arm:
            yield arm["startup"]


def _read(startup: Any) -> ReplicaStart:
    try:
        phases = {name: float(startup["phases"][name]) for name in _TOLD if name in startup["phases"]}
        began = startup.get("beganAt")
        if not all(math.isfinite(seconds) and 0 <= seconds <= _MOST_S for seconds in phases.values()):
            return ReplicaStart()
        return ReplicaStart(phases, None if began is None else datetime.fromtimestamp(float(began), UTC))
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
        return ReplicaStart()


def _between(begin: datetime | None, end: datetime | None) -> timedelta | None:
    if begin is None or end is None:
        return None
    span = max(timedelta(), end - begin)
    return timedelta(milliseconds=round(span / timedelta(milliseconds=1)))


def _of_slowest(pods: Sequence[Pod]) -> dict[str, timedelta | None]:
    waits = [dict(_waits(pod)) for pod in pods]
    known = {name: [span for each in waits if (span := each[name]) is not None] for name in ("scheduled", "image")}
    return {name: max(spans, default=None) for name, spans in known.items()}


def _waits(pod: Pod) -> Iterator[tuple[str, timedelta | None]]:
    yield "scheduled", _between(_made(pod), _became(pod, "PodScheduled"))
    yield "image", _between(_became(pod, "PodReadyToStartContainers"), _first_started(pod))


def _made(pod: Pod) -> datetime | None:
    return _instant(pod["metadata"].get("creationTimestamp"))


def _became(pod: Pod, type_: str) -> datetime | None:
    told = find_condition(pod, type_)
    return _instant(told.get("lastTransitionTime")) if told.get("status") == "True" else None


def _first_started(pod: Pod) -> datetime | None:
    states = [state for each in container_statuses(pod) for state in (each.get("state") or {}).values()]
    return min((at for state in states if (at := _instant(state.get("startedAt"))) is not None), default=None)


def _instant(text: Any) -> datetime | None:
    try:
        return parse_timestamp(text) if isinstance(text, str) else None
    except ValueError:
        return None
