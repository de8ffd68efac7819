"""The health check of a replica over several pods."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sundog_runtime.placement_group import PlacementGroupCheck

OWN = "node-a"


def table(*nodes: str, state: str = "CREATED") -> dict[str, Any]:
    return {"state": state, "bundles_to_node_id": dict(enumerate(nodes))}


WHOLE = table(OWN, "node-b")


class Ray:
    """Ray's answers; an exception is raised."""

    def __init__(self, *tables: dict[str, Any] | Exception, draining: tuple[str, ...] = ()) -> None:
        self._tables: Iterator[dict[str, Any] | Exception] = iter(tables)
        self.draining = draining

    def read_group(self) -> dict[str, Any]:
        found = next(self._tables)
        if isinstance(found, Exception):
            raise found
        return found

    def make_check(self) -> PlacementGroupCheck:
        return PlacementGroupCheck(self.read_group, lambda: self.draining, OWN, pause_s=0)


@pytest.mark.parametrize(
    "lost",
    [table(OWN, "node-b", state="RESCHEDULING"), table(OWN, "node-c"), {}],
    ids=["not placed again", "placed again", "removed"],
)
async def test_a_replica_that_lost_a_pod_is_unhealthy_from_then_on(lost: dict[str, Any]) -> None:
    check = Ray(WHOLE, WHOLE, lost, lost).make_check()
    await check.check()
    await check.check()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a pod of the replica is gone"):
            await check.check()


async def test_serve_moves_a_replica_only_from_its_own_draining_node() -> None:
    ray = Ray(WHOLE, WHOLE, WHOLE, draining=("node-c",))
    check = ray.make_check()
    await check.check()
    ray.draining = (OWN,)
    await check.check()
    ray.draining = (OWN, "node-b")
    with pytest.raises(RuntimeError, match="a pod of the replica ends soon"):
        await check.check()


async def test_an_error_of_ray_says_nothing_about_the_pods() -> None:
    check = Ray(OSError("no answer"), WHOLE, OSError("no answer"), table(OWN, "node-c")).make_check()
    await check.start()
    await check.check()
    with pytest.raises(RuntimeError, match="gone"):
        await check.check()


async def test_a_replica_whose_pods_are_unknown_does_not_start() -> None:
    with pytest.raises(RuntimeError, match="did not name"):
        await Ray(*[OSError("no answer")] * 10).make_check().start()


async def test_a_lost_pod_is_seen_even_if_ray_does_not_tell_what_drains() -> None:
    def fail() -> tuple[str, ...]:
        raise AttributeError("get_draining_nodes")

    check = PlacementGroupCheck(Ray(WHOLE, table(OWN, "node-c")).read_group, fail, OWN)
    await check.start()
    with pytest.raises(RuntimeError, match="gone"):
        await check.check()


async def test_a_slow_answer_holds_no_check_up_and_is_not_asked_for_again() -> None:
    answers, asked = threading.Event(), []

    def read_group() -> dict[str, Any]:
        asked.append(1)
        answers.wait()
        return table(OWN, "", state="RESCHEDULING")

    check = PlacementGroupCheck(read_group, tuple, OWN, timeout_s=0.001)
    try:
        for _ in range(3):
            await check.check()
        assert len(asked) == 1
    finally:
        answers.set()
