"""Writes events. Telling one again is no error and writes nothing, and one that cannot be written holds nothing up."""

import logging
from collections.abc import Iterable

from sundog_operator.api import format_micro_instant
from sundog_operator.app.dependencies import World
from sundog_operator.core.events import Event, make_event
from sundog_operator.errors import AlreadyExists, DependencyError, Invalid
from sundog_operator.ports import Object

log = logging.getLogger("sundog.operator")


async def record(world: World, regarding: Object, told: Iterable[Event]) -> None:
    """Store events about an object."""
    at = format_micro_instant(world.clock.now())
    for event in told:
        made = make_event(event, regarding, world.settings.identity, at)
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
