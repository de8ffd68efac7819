"""Users read the settings of the release that watches their namespace, and of no other."""

import pytest

from charting import Object, installed
from doubles.clock import FakeClock
from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.errors import Forbidden
from sundog_operator.shell.installation import find_installation

A, B = ["s3://logs/a"], ["s3://logs/b"]


@pytest.mark.parametrize(
    ("config_maps", "places"),
    [
        ([installed("sundog", A)], A),
        ([installed("sundog", A, "others", "vision")], A),
        ([installed("sundog", A, "others"), installed("blue", B, "vision")], B),
        ([], None),
        ([installed("sundog", A, "others")], None),
        ([installed("sundog", A), installed("blue", B, "vision")], None),
        ([installed("sundog", A) | {"data": {"installation.yaml": "ofAnotherVersion: 1"}}], None),
    ],
    ids=["of all", "of some", "of two", "none", "of others", "of both", "of another version"],
)
async def test_the_one_that_looks_after_a_namespace(config_maps: list[Object], places: list[str] | None) -> None:
    kube = HookedKubernetes(FakeClock())
    for config_map in config_maps:
        await kube.create(config_map)
    found = await find_installation(kube, "vision")
    assert (None if found is None else list(found.exposure_logs.places)) == places


async def test_nothing_is_known_to_who_may_not_read_it() -> None:
    kube = HookedKubernetes(FakeClock())
    await kube.create(installed("sundog", A))
    kube.faults = lambda *_: Forbidden("configmaps is forbidden")
    assert await find_installation(kube, "vision") is None
