"""Fixtures of the benchmarks. They print ratios of interleaved rounds, assert no time, and write results below `out/bench`.

`--only edge,peers` runs those parts. A part is the text after `test_` in a file's name.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from measuring import load
from measuring.record import IMPORT_PATH
from real_edge import Edge, running_edge
from real_ray import RayServe, running_ray


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only", default="", help="parts of the benchmarks to run, with commas between them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    parts = {part for part in config.getoption("--only").split(",") if part}
    known = {_part(item) for item in items}
    if unknown := parts - known:
        raise pytest.UsageError(f"--only: no part {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    if parts:
        config.hook.pytest_deselected(items=[item for item in items if _part(item) not in parts])
        items[:] = [item for item in items if _part(item) in parts]


def _part(item: pytest.Item) -> str:
    return Path(item.path).stem.removeprefix("test_")


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Set the import path of Ray's workers, so that they find the applications of benchmarks."""
    import os

    paths = [IMPORT_PATH, os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


@pytest.fixture(scope="session")
def ray_serve(environment: dict[str, str]) -> Iterator[RayServe]:
    """Start a Ray with direct ingress, for the applications under test."""
    with running_ray(environment) as ray:
        yield ray


@pytest.fixture(scope="session")
def edge(ray_serve: RayServe) -> Iterator[Edge]:
    """Start an edge in front of that Ray."""
    with running_edge(ray_serve.dashboard, ray_serve.fallback) as made:
        yield made


@pytest.fixture(scope="session")
def wrk() -> None:
    """Skip if there is no load generator."""
    if not load.available():
        pytest.skip(load.MISSING)
