"""Write Kubernetes events. A repeated event writes nothing, and an event that cannot be written blocks nothing."""

import logging
from collections.abc import Iterable

from sundog_operator.api import format_micro_time
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core.events import KubernetesEvent, make_event_object
from sundog_operator.errors import AlreadyExists, DependencyError, Invalid
from sundog_operator.ports import Object

log = logging.getLogger("sundog.operator")


async def record_events(deps: Dependencies, regarding: Object, recorded: Iterable[KubernetesEvent]) -> None:
    """Store events about an object. Never raises DependencyError."""
    at = format_micro_time(deps.clock.now())
    for event in recorded:
        made = make_event_object(event, regarding, deps.settings.identity, at)
        key = f"{made['metadata']['namespace']}/{made['metadata']['name']}"
        if deps.recent_events.has(key, deps.clock.monotonic()):
            continue
        try:
            await deps.kube.create(made)
            deps.recent_events.on_new(event)
        except AlreadyExists:
            pass
        except (DependencyError, Invalid) as err:
            log.warning("event %s of %s could not be written: %s", event.reason, key, err)
            continue
        deps.recent_events.add(key, deps.clock.monotonic())
