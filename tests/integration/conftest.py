"""One real Ray with Serve, and one `sundog local up`, for the whole test session; each starts when a test first asks for it."""

import signal
from collections.abc import Iterator

import pytest

from real_local import Up, instance, processes_of, without_privilege
from real_ray import RayServe, running_ray
from waiting import eventually


@pytest.fixture(scope="session")
def ray_serve() -> Iterator[RayServe]:
    """A Ray head that all tests of the session share, and put their applications on."""
    with running_ray() as ray:
        yield ray


@pytest.fixture(scope="session")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A `sundog local up` on a folder without manifests. Whatever happened in it, it ends in order and leaves no process."""
    with instance(tmp_path_factory.mktemp("up")) as up:
        up.prefix = without_privilege()
        up.start()
        eventually(lambda: (up.state / "kubeconfig").exists(), "the API server of local mode")
        yield up
        assert up.end(signal.SIGINT) == 0, up.output()[-2000:]
        assert processes_of(up.state) == []
