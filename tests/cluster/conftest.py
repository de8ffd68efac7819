"""Sundog as it is installed: once for all tests that serve with real Ray, and by itself where pods are stood in for."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from charting.lifecycle import Life, beginning
from real_kubernetes.binaries import HELM
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.helm import Helm
from real_serving import Serving, Team


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for `serving` comes last: its operator acts on every namespace, also on those in which others install one."""
    late = {item.path for item in items if "serving" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path in late)


@pytest.fixture(scope="session")
def serving(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The chart installed, for every namespace; `serving.team(NAME)` is one with models."""
    BINARIES.build((HELM,))
    folder = tmp_path_factory.mktemp("serving")
    made = Serving(cluster, Helm(cluster.kubeconfig, BINARIES.path("helm"), folder / "helm"), folder)
    made.install()
    yield made
    made.uninstall()


@pytest.fixture(scope="session")
def vision(serving: Serving) -> Iterator[Team]:
    """The namespace `vision`. What the tests serve in it stays from one to the next."""
    with serving.team("vision") as team:
        yield team


@pytest.fixture(scope="module")
def served(vision: Team) -> Team:
    """`digits` serves, whatever model."""
    if not vision.list("mdep"):
        vision.apply(vision.digits())
    vision.until(lambda: vision.condition_state("Ready")[0] == "True", "digits is Ready")
    return vision


@pytest.fixture(scope="module")
def life(api_server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """The operator at work on the real API server, without pods."""
    if api_server.instance is None:
        pytest.skip("what runs in pods is stood in for, and the cluster given has pods")
    with beginning(api_server, tmp_path_factory.mktemp("life")) as begun:
        yield begun


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the package's commands, on the PATH of a user without a local instance."""
    folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder
