"""Durations of the phases of a revision's start, from the times of its pods and from a replica's report to an edge."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sundog_operator.api import parse_timestamp
from sundog_operator.core.kubernetes.pod_problems import Pod, container_statuses, find_condition
from sundog_operator.core.observed import EdgeReport, ReplicaStart

_REPORTED_PHASES: Final = ("download", "load", "warmup")
_SECOND: Final = timedelta(seconds=1)
_SAME_COLD_START: Final = timedelta(seconds=5)
_MAX_S: Final = 1e7


def startup_phases(
    since: datetime | None, pods: Sequence[Pod], reported: ReplicaStart, now: datetime
) -> dict[str, timedelta]:
    """Return the known phases in their order.

    `since` is when the revision was first wanted, `now` when its replicas were seen running. `cluster` and `total` are unknown if the start
    began before `since`. Kubernetes rounds times to seconds, and the clocks of nodes differ, so negative durations become zero.

    - `cluster`: until the first pod is created. For a first model, the RayCluster's store, head and autoscaler start in this time.
    - `scheduled`, `image`: how long the slowest pod waited for its node, and for the image of its first container.
    - `ray`: from the first container (without pods: from `since`) until the replica begins. Ray starts in the pod, Serve chooses it, and a
      process starts and imports its modules.
    - `download`, `load`, `warmup`: as the replica reports them.
    - `total`: from `since` to `now`.
    """
    created = min((at for pod in pods if (at := _created_at(pod)) is not None), default=None)
    started = min((at for pod in pods if (at := _first_started_at(pod)) is not None), default=None)
    if since is not None and any(at is not None and since > at + _SECOND for at in (created, reported.began)):
        since = None
    spans = {
        "cluster": _between(since, created),
        **_slowest_waits(pods),
        "ray": _between(started if pods else since, reported.began),
        **{
            name: timedelta(seconds=round(reported.phases[name], 3))
            for name in _REPORTED_PHASES
            if name in reported.phases
        },
        "total": _between(since, now),
    }
    return {name: span for name, span in spans.items() if span is not None}


def find_reported_start(service: str, application: str, reports: Iterable[EdgeReport]) -> ReplicaStart | None:
    """Return the first start of an application with phases that edges report; None where no edge has queried a replica yet.

    The reports come from pods of a tenant's namespace: a start of another shape counts as one without phases.
    """
    found = [_parse_start(each) for report in reports for each in _find_starts(service, application, report)]
    return next((each for each in found if each.phases), found[0] if found else None)


def _find_starts(service: str, application: str, report: EdgeReport) -> Iterator[Any]:
    services = (report.evidence or {}).get("services")
    entry = services.get(service) if isinstance(services, Mapping) else None
    arms = entry.get("arms") if isinstance(entry, Mapping) else None
    for arm in arms.values() if isinstance(arms, Mapping) else ():
        if isinstance(arm, Mapping) and arm.get("application") == application and "startup" in arm:
            yield arm["startup"]


def _parse_start(startup: Any) -> ReplicaStart:
    try:
        phases = {name: float(startup["phases"][name]) for name in _REPORTED_PHASES if name in startup["phases"]}
        times = {name: _parse_unix_time(startup.get(name)) for name in ("beganAt", "wokenAt", "answersAt")}
        if not all(math.isfinite(seconds) and 0 <= seconds <= _MAX_S for seconds in phases.values()):
            return ReplicaStart()
        return ReplicaStart(phases, times["beganAt"], times["wokenAt"], times["answersAt"])
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
        return ReplicaStart()


def _parse_unix_time(seconds: Any) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(float(seconds), UTC)


def find_new_cold_start(start: ReplicaStart | None, last: datetime | None) -> datetime | None:
    """Return when the reported cold start began; None if there is none after `last`, the one that is known already.

    Edges notice the same cold start up to a second apart, and a status has whole seconds.
    """
    woken = start.woken if start is not None and start.phases and start.answers is not None else None
    return woken if woken is not None and (last is None or woken - last > _SAME_COLD_START) else None


def cold_start_phases(woken: datetime, pods: Sequence[Pod], reported: ReplicaStart) -> dict[str, timedelta]:
    """Return the known phases of a cold start that began at `woken`, as `startup_phases` does. A pod that was left over has no phase."""
    created = [pod for pod in pods if (at := _created_at(pod)) is not None and at >= woken - _SECOND]
    return startup_phases(woken, created, reported, reported.answers or woken)


def _between(begin: datetime | None, end: datetime | None) -> timedelta | None:
    if begin is None or end is None:
        return None
    span = max(timedelta(), end - begin)
    return timedelta(milliseconds=round(span / timedelta(milliseconds=1)))


def _slowest_waits(pods: Sequence[Pod]) -> dict[str, timedelta | None]:
    waits = [dict(_waits(pod)) for pod in pods]
    known = {name: [span for each in waits if (span := each[name]) is not None] for name in ("scheduled", "image")}
    return {name: max(spans, default=None) for name, spans in known.items()}


def _waits(pod: Pod) -> Iterator[tuple[str, timedelta | None]]:
    yield "scheduled", _between(_created_at(pod), _true_since(pod, "PodScheduled"))
    yield "image", _between(_true_since(pod, "PodReadyToStartContainers"), _first_started_at(pod))


def _created_at(pod: Pod) -> datetime | None:
    return _parse_time(pod["metadata"].get("creationTimestamp"))


def _true_since(pod: Pod, type_: str) -> datetime | None:
    condition = find_condition(pod, type_)
    return _parse_time(condition.get("lastTransitionTime")) if condition.get("status") == "True" else None


def _first_started_at(pod: Pod) -> datetime | None:
    states = [state for each in container_statuses(pod) for state in (each.get("state") or {}).values()]
    return min((at for state in states if (at := _parse_time(state.get("startedAt"))) is not None), default=None)


def _parse_time(text: Any) -> datetime | None:
    try:
        return parse_timestamp(text) if isinstance(text, str) else None
    except ValueError:
        return None
