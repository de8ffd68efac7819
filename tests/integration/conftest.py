"""One real Ray with Serve for the whole test session."""

from collections.abc import Iterator

import pytest

from real_ray import RayServe, running_ray


@pytest.fixture(scope="session")
def ray_serve() -> Iterator[RayServe]:
    """A Ray head that all tests of the session share, and put their applications on."""
    with running_ray() as ray:
        yield ray
