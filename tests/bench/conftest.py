"""Measurements. They print ratios of interleaved pairs and assert no time; what they print goes into docs/benchmarks.md."""

from collections.abc import Iterator

import pytest

from real_ray import RayServe, running_ray


@pytest.fixture(scope="session")
def ray_serve() -> Iterator[RayServe]:
    """A bare Ray beside the one that Sundog runs."""
    with running_ray() as ray:
        yield ray
