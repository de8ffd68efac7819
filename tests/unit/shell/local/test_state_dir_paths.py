import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sundog_operator.adapters.local.state_directory import MAX_PATH_BYTES, StateDirectoryError
from sundog_operator.shell.local import state_dir_paths


def test_the_option_comes_before_the_variable_before_the_instance(tmp_path: Path) -> None:
    environment = {"SUNDOG_STATE_DIR": "/var/s", "XDG_STATE_HOME": "/x"}
    assert state_dir_paths.choose_state_dir(tmp_path, "two", environment) == tmp_path
    assert state_dir_paths.choose_state_dir(None, None, environment) == Path("/var/s")
    assert state_dir_paths.choose_state_dir(None, "two", environment) == Path("/x/sundog/two")
    assert state_dir_paths.choose_state_dir(None, None, {}) == Path.home() / ".local/state/sundog/default"


def test_a_short_path_is_used_as_it_is() -> None:
    assert state_dir_paths.shorten_path(Path("/tmp/s")) == Path("/tmp/s")


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a separate folder for links, with a path as short as the real one."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        monkeypatch.setattr(state_dir_paths, "_LINKS", Path(folder))
        yield Path(folder)


def test_a_long_path_is_reached_by_a_private_link(tmp_path: Path, links: Path) -> None:
    path = tmp_path / ("long" * 20) / "default"
    assert state_dir_paths.shorten_path(path).is_relative_to(links)
    state = state_dir_paths.prepare_state_dir(path)
    assert state.path.readlink() == path
    assert stat.S_IMODE(state.path.parent.stat().st_mode) == 0o700
    assert (path / "ray-token").exists()
    assert state_dir_paths.find_state_dir(path) == state
    assert state_dir_paths.prepare_state_dir(path) == state
    # A directory whose link a clean-up removed gets it back.
    state.path.unlink()
    assert state_dir_paths.prepare_state_dir(path).path.readlink() == path


def test_the_link_goes_with_the_instance_and_the_folder_with_the_last_link(tmp_path: Path, links: Path) -> None:
    one, two = (tmp_path / ("long" * 20) / name for name in ("one", "two"))
    state_dir_paths.prepare_state_dir(one)
    state_dir_paths.prepare_state_dir(two)
    state_dir_paths.remove_short_link(one)
    assert [path.readlink() for path in (links / f"sundog-{os.geteuid()}").iterdir()] == [two]
    state_dir_paths.remove_short_link(two)
    assert list(links.iterdir()) == []
    assert (two / "ray-token").exists()
    state_dir_paths.remove_short_link(two)
    state_dir_paths.remove_short_link(links)


def test_the_longest_link_leaves_room_for_sockets() -> None:
    assert len("/tmp/sundog-4294967294/01234567") <= MAX_PATH_BYTES
    assert str(state_dir_paths.shorten_path(Path("/long" * 20))).startswith(f"/tmp/sundog-{os.geteuid()}/")


def test_a_folder_of_links_that_others_can_write_is_refused(tmp_path: Path, links: Path) -> None:
    (links / f"sundog-{os.geteuid()}").mkdir()
    (links / f"sundog-{os.geteuid()}").chmod(0o777)
    with pytest.raises(StateDirectoryError, match="is not a private folder of yours"):
        state_dir_paths.prepare_state_dir(tmp_path / ("long" * 20))
