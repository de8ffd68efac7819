"""The state directory: short, private, and locked by one instance."""

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sundog_operator.adapters.local import state_directory
from sundog_operator.adapters.local.state_directory import (
    MAX_PATH_BYTES,
    AnotherInstance,
    StateDirectory,
    StateDirectoryError,
    read_json,
    write_atomically,
)
from waiting import PATIENCE_S


def test_a_path_is_refused_from_one_byte_too_many() -> None:
    longest = Path("/" + "a" * (MAX_PATH_BYTES - 1))
    assert StateDirectory.at(longest).problem() is None
    too_long = StateDirectory.at(Path(f"{longest}a"))
    limit = f"is {MAX_PATH_BYTES + 1} bytes long; expected at most {MAX_PATH_BYTES}"
    assert limit in str(too_long.problem())
    with pytest.raises(StateDirectoryError, match=f"{limit}, .*: choose a shorter path"):
        too_long.prepare()


def test_length_is_counted_in_bytes() -> None:
    path = Path("/" + "ä" * (MAX_PATH_BYTES // 2 + 1))
    assert "bytes long" in str(StateDirectory.at(path).problem())


def test_the_longest_path_leaves_room_for_rays_sockets() -> None:
    longest = "/" + "a" * (MAX_PATH_BYTES - 1)
    socket = f"{longest}/ray/99/session_2026-11-25_01-49-08_925409_4194304/sockets/dash_MetricsHead"
    assert len(socket) == (103 if sys.platform == "darwin" else 107)


@pytest.mark.parametrize("name", ["a b", "a'b", "a$b", "a#b"])
def test_characters_that_haproxy_cannot_quote_are_refused(name: str) -> None:
    assert "HAProxy" in str(StateDirectory.at(Path("/", name)).problem())


def test_a_file_is_no_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_directory, "MAX_PATH_BYTES", 4096)
    (tmp_path / "file").touch()
    problem = StateDirectory.at(tmp_path / "file").problem()
    assert str(problem).endswith("is not a directory: choose another path")


@pytest.mark.parametrize("name", ["ray_token", "signing_key"])
def test_all_files_are_private_and_random_keys_stay(state: StateDirectory, name: str) -> None:
    path: Path = getattr(state, name)
    made = path.read_text()
    assert len(bytes.fromhex(made)) == 32
    state.path.chmod(0o755)
    path.chmod(0o644)
    state.prepare()
    assert path.read_text() == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


def test_a_key_is_no_token(state: StateDirectory) -> None:
    assert state.signing_key.read_text() != state.ray_token.read_text()


def test_links_are_kept_because_they_shorten_a_path(tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "long")
    assert StateDirectory.at(tmp_path / "s").path == tmp_path / "s"


def test_one_instance_at_a_time_and_the_other_is_named(state: StateDirectory) -> None:
    assert not state.is_held()
    with state.hold():
        assert state.is_held()
        with pytest.raises(AnotherInstance, match=f"in use by pid {os.getpid()}") as refused, state.hold():
            pass
        assert refused.value.pid == os.getpid()
        assert state.holder() == os.getpid()
    assert not state.is_held()
    assert state.holder() is None


@pytest.fixture
def onlooker(state: StateDirectory) -> Iterator[int]:
    """The descriptor of another process that tests whether an instance runs."""
    descriptor = os.open(state.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    yield descriptor
    os.close(descriptor)


@pytest.mark.usefixtures("onlooker")
def test_two_observers_do_not_take_each_other_for_an_instance(state: StateDirectory) -> None:
    assert not state.is_held()


def test_an_observer_prevents_no_start(state: StateDirectory, onlooker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def lock(descriptor: int, operation: int) -> None:
        try:
            real(descriptor, operation)
        except BlockingIOError:
            refused.append(operation)
            real(onlooker, fcntl.LOCK_UN)
            raise

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lock)
    with state.hold():
        assert state.holder() == os.getpid()
    assert refused == [fcntl.LOCK_EX | fcntl.LOCK_NB]


def test_a_killed_instance_holds_nothing(state: StateDirectory) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from sundog_operator.adapters.local.state_directory import StateDirectory\n"
        "with StateDirectory.at(Path(sys.argv[1])).hold():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(state.path)], timeout=PATIENCE_S)
    assert done.returncode == -9
    assert state.holder() is not None
    with state.hold():
        assert state.holder() == os.getpid()


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, b'{"a": 1}')
    write_atomically(path, b'{"a": 2}')
    assert read_json(path) == {"a": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["file.json"]
    assert read_json(tmp_path / "none") is None
