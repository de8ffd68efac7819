"""Two rollouts at once whose weights rise, on a real operator and a real edge: of users who never stop coming, who got one keeps it."""

import asyncio
import contextlib
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from real_local import condition, stable, weight
from waiting import comes_true

pytestmark = pytest.mark.haproxy

Json = dict[str, Any]
RAMPS = {"digits": (25, 50, 75), "letters": (10, 50, 90)}
USERS = [f"user-{number}" for number in range(300)]


def ramp(service: str) -> Json:
    """A rollout whose steps are an hour long, as the operator has it."""
    steps = [{"weight": share, "gate": "time", "minDuration": "1h"} for share in RAMPS[service]]
    return {"steps": steps, "unit": {"header": "x-user-id"}}


class Coming:
    """All users ask both services, one round after the other."""

    def __init__(self, site: Any) -> None:
        self._site = site
        self.rounds = 0

    async def go_on(self) -> None:
        while True:
            await asyncio.gather(*(self._site.visit(service, USERS) for service in RAMPS))
            self.rounds += 1

    async def one_round(self) -> None:
        """Wait until everybody was answered by whatever is in force now."""
        begun = self.rounds

        async def over() -> bool:
            return self.rounds > begun + 1

        await comes_true(over, "a round of all users")


async def in_force(site: Any, step: int) -> bool:
    """Whether both services have the weight of a step, or the candidate as stable after the last one."""
    for service, weights in RAMPS.items():
        obj = await site.read_deployment(service)
        there = weight(obj) == weights[step] if step < len(weights) else stable(obj) == 2
        if not there or condition(obj, "TrafficSynced").get("reason") != "InForce":
            return False
    return True


async def test_who_got_the_candidate_keeps_it_while_the_weights_of_two_rollouts_rise(site: Any) -> None:
    await site.deploy(*RAMPS)
    coming = Coming(site)
    running = asyncio.create_task(coming.go_on())
    moved: dict[str, list[set[str]]] = {service: [] for service in RAMPS}
    try:
        await coming.one_round()
        for service in RAMPS:
            site.release(service, 2, ramp(service))
        for step in range(4):
            await comes_true(lambda step=step: in_force(site, step), f"step {step} of both")
            await coming.one_round()
            for service, own in moved.items():
                last = {user: site.visits[service, user][-1].application for user in USERS}
                own.append({user for user, application in last.items() if application == f"{service}-r2"})
            if step == 0:
                # The next one writes anew what HAProxy assigns by.
                site.kill("edge-0-agent")
            site.beside.advance(timedelta(hours=1))
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    for own in moved.values():
        assert all(before < after for before, after in pairwise(own)), [len(users) for users in own]
        assert own[0]
        assert own[-1] == set(USERS)
    for (service, user), visits in site.visits.items():
        answered = [visit.application for visit in visits]
        assert answered == sorted(answered), (service, user)
        assert set(answered) == {f"{service}-r1", f"{service}-r2"}
