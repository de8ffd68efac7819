"""Writes events. Telling one again is no error and writes nothing."""

from collections.abc import Iterable

from sundog_operator.api import format_instant
from sundog_operator.app.world import World
from sundog_operator.core.events import Event, make_event
from sundog_operator.errors import AlreadyExists
from sundog_operator.ports import Object


async def record(world: World, regarding: Object, told: Iterable[Event]) -> None:
    """Store events about an object."""
    at = format_instant(world.clock.now())
    for event in told:
        try:
            await world.kube.create(make_event(event, regarding, world.settings.identity, at))
        except AlreadyExists:
            continue
