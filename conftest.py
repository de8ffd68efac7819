"""Plugins of all tests, groups of tests that share a process, and time limits."""

import os

import pytest

from waiting import patience

pytest_plugins = ["profiles", "supervisor", "summary", "tiers", "fail_on_skip", "real_kubernetes.fixtures"]

SHARED = {"shared_up": "local up", "ray_serve": "ray", "cluster": "node", "api_server": "api server"}
"""Expensive fixtures, and the group of pytest-xdist in which all their tests run."""

LAST = "tests/integration/bad_input/"
"""Tests that start many models at once. They take both cores for a minute, so no other Ray should start beside them."""


# No test needs a public server. Every client would parse the system's certificates: 50 ms of CPU, a thousand times.
os.environ.setdefault("SSL_CERT_FILE", os.devnull)


def pytest_configure(config: pytest.Config) -> None:
    """Scale the time limit of tests that set none."""
    if config.getoption("timeout") is None:
        config.option.timeout = patience(1200)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes that are no short text by their length. Archives contain their time, but all processes must use the same test ids."""
    is_text = isinstance(val, bytes) and len(val) <= 64 and val.isascii() and val.decode().isprintable()
    return f"{len(val)} bytes" if isinstance(val, bytes) and not is_text else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests by expensive fixture, else by file. Start with tests that wait most, and end with those that only compute."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_shared(item) or _file(item)))
    items.sort(key=_turn)


def _shared(item: pytest.Item) -> str | None:
    """Return the group of a test with an expensive fixture. Unit tests have none: they may name a fixture `cluster` themselves."""
    if item.path.relative_to(item.config.rootpath).parts[:2] in (("tests", "unit"), ("bench", "tests")):
        return None
    return next((SHARED[name] for name in SHARED if name in getattr(item, "fixturenames", ())), None)


def _turn(item: pytest.Item) -> tuple[int, bool]:
    group = item.get_closest_marker("xdist_group").args[0]
    if group in SHARED.values():
        return int(group == SHARED["ray_serve"]), _file(item).startswith(LAST)
    return (2 if _file(item).startswith("tests/integration/") else 3), False


def _file(item: pytest.Item) -> str:
    return item.path.relative_to(item.config.rootpath).as_posix()
