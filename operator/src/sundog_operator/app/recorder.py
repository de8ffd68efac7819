"""Writes events. Telling one again is no error and writes nothing."""

import contextlib
from collections.abc import Iterable

from sundog_operator.api import format_micro_instant
from sundog_operator.app.world import World
from sundog_operator.core.events import Event, make_event
from sundog_operator.errors import AlreadyExists
from sundog_operator.ports import Object


async def record(world: World, regarding: Object, told: Iterable[Event]) -> None:
    """Store events about an object."""
    at = format_micro_instant(world.clock.now())
    for event in told:
        made = make_event(event, regarding, world.settings.identity, at)
        key = f"{made['metadata']['namespace']}/{made['metadata']['name']}"
        if world.told.lately(key, world.clock.monotonic()):
            continue
        with contextlib.suppress(AlreadyExists):
            await world.kube.create(made)
            world.told.heard(event)
        world.told.note(key, world.clock.monotonic())
