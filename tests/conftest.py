"""What all tests share: profiles of hypothesis, and which tests share a process."""

import os

import pytest
from hypothesis import settings

# The gate looks at the same few examples every time, so that it fails because of a change and not by chance.
# `make test-all` looks at many, and at others in each run. The time that an example takes fails nothing.
settings.register_profile("any", deadline=None)
settings.register_profile("gate", derandomize=True, deadline=None, max_examples=25)
settings.register_profile("many", deadline=None, max_examples=500)
settings.load_profile("gate" if os.environ.get("CI") else "any")

pytest_plugins = ["supervisor", "summary", "tiers", "requiring", "real_kubernetes.fixtures"]

SHARED = {"shared_up": "local up", "ray_serve": "ray", "cluster": "node", "api_server": "api server"}
"""Fixtures that are expensive to start, and the process of pytest-xdist in which all their tests run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests that share what is slow to start, else by file; begin with the groups that take longest."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        group = next((SHARED[name] for name in SHARED if name in names), str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))
    order = list(SHARED.values())
    items.sort(key=lambda item: order.index(group) if (group := _group(item)) in order else len(order))


def _group(item: pytest.Item) -> str:
    return str(item.get_closest_marker("xdist_group").args[0])
