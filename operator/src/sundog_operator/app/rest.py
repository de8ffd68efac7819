"""Passes at rest: one that would see what the last one saw would decide the same, and is left out.

Watches report what the API server keeps, and nothing reports what Serve and the edges say. So a key with nothing to do looks at these as
often as before, and is worked on only where one of the three has changed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from sundog_operator.api import ModelDeployment, ModelDeploymentStatus
from sundog_operator.app.keys import Key
from sundog_operator.core import live, names, secrets
from sundog_operator.core.observed import ApplicationState, EdgeReport, ServeState
from sundog_operator.errors import SpecError
from sundog_operator.ports import Object

LONGEST_S: Final = 300.0
"""A pass is made after so long whatever was seen: for what depends on time alone, and for objects that are not ours."""

_CHANGING: Final = frozenset({"inFlight", "refused", "feedback"})
"""What an edge reports of a service and no decision at rest depends on."""

_AT_REST: Final = dict.fromkeys(
    ("Ready", "SpecAccepted", "RevisionReady", "TrafficSynced", "CapacityAvailable"), "True"
)


@dataclass(frozen=True, slots=True)
class Resting:
    """Where the only revision of a ModelDeployment runs that has nothing under way, and the Secrets that its endpoint names.

    What else a spec names is needed by pods that start, and no pass looks for it once they run.
    """

    cluster: str
    application: str
    secrets: tuple[str, ...] = ()


def resting(deployment: Object) -> Resting | None:
    """The revision of a stored ModelDeployment that may rest; None for one that may not."""
    meta, status = deployment["metadata"], ModelDeploymentStatus.parse(deployment.get("status"))
    under_way = (status.candidate, status.queued, status.arms, status.experiment, status.retiring, status.kept)
    truths = {each.type: each.status for each in status.conditions}
    if status.stable is None or any(under_way) or not _AT_REST.items() <= truths.items():
        return None
    if status.observed_generation != meta.get("generation") or "deletionTimestamp" in meta:
        return None
    try:
        endpoint = ModelDeployment.parse(deployment).spec.endpoint
    except SpecError:
        # Accepted by an earlier release.
        return None
    number = status.stable.revision
    return Resting(live.places(status)[number], names.application(meta["name"], number), secrets.names_of(endpoint))


def state_of(application: ApplicationState | None) -> object:
    """What Serve says of an application, small enough to be kept."""
    if application is None:
        return None
    config = hashlib.sha256(orjson.dumps(application.config)).digest()
    return application.status, application.message, application.deployments, config


def states_of(serve: ServeState) -> object:
    """The same of all applications."""
    return {name: state_of(application) for name, application in serve.applications.items()}


def reports_of(service: str, reports: Sequence[EdgeReport]) -> object:
    """What edges say of a service at rest."""
    return tuple(
        (each.uid, each.ready, each.terminating, each.error, each.unready, _entry(service, each)) for each in reports
    )


def _entry(service: str, report: EdgeReport) -> dict[str, Any] | None:
    services = (report.evidence or {}).get("services")
    entry = services.get(service) if isinstance(services, Mapping) else None
    return {key: value for key, value in entry.items() if key not in _CHANGING} if isinstance(entry, Mapping) else None


class Rests:
    """What the last pass of each key saw that left nothing to do."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[object, float]] = {}

    def may_rest(self, key: Key, seen: object, now: float) -> bool:
        """Whether the last pass saw just that, less than `LONGEST_S` ago. `seen` is None where a pass is needed anyway."""
        known, at = self._known.get(key, (None, 0.0))
        return seen is not None and seen == known and now - at < LONGEST_S

    def note(self, key: Key, seen: object, now: float) -> None:
        """A pass that began with `seen` left nothing to do; None: it did leave some, or the key is gone."""
        if seen is None:
            self._known.pop(key, None)
        else:
            self._known[key] = (seen, now)
