"""Writes events. Telling one again is no error and writes nothing, and one that cannot be written holds nothing up."""

import logging
from collections.abc import Iterable

from sundog_operator.api import format_micro_time
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core.events import KubernetesEvent, make_event_object
from sundog_operator.errors import AlreadyExists, DependencyError, Invalid
from sundog_operator.ports import Object

log = logging.getLogger("sundog.operator")


async def record_events(world: Dependencies, regarding: Object, told: Iterable[KubernetesEvent]) -> None:
    """Store events about an object."""
    at = format_micro_time(world.clock.now())
    for event in told:
        made = make_event_object(event, regarding, world.settings.identity, at)
        key = f"{made['metadata']['namespace']}/{made['metadata']['name']}"
        if world.told.lately(key, world.clock.monotonic()):
            continue
        try:
            await world.kube.create(made)
            world.told.heard(event)
        except AlreadyExists:
            pass
        except (DependencyError, Invalid) as err:
            log.warning("event %s of %s is lost: %s", event.reason, key, err)
            continue
        world.told.note(key, world.clock.monotonic())
