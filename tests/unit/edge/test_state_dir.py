"""The state directory."""

import pytest

from sundog_edge.errors import SettingsError
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir, read_json, write_atomically


@pytest.mark.parametrize("name", ["a b", 'a"b', "a$b", "a#b", "a;b"])
def test_a_state_directory_that_the_configuration_cannot_hold_is_refused(tmp_path, name):
    with pytest.raises(SettingsError, match="which HAProxy's configuration cannot contain"):
        StateDir.at((tmp_path / name).relative_to(tmp_path))


def test_settings_are_read_back_and_a_damaged_file_counts_as_missing(tmp_path):
    state = StateDir(tmp_path)
    assert HaproxyProcessSettings.load(state) is None
    settings = HaproxyProcessSettings(http_bind="1.2.3.4:5", threads=3)
    settings.save(state)
    assert HaproxyProcessSettings.load(state) == settings
    write_atomically(state.layout, b"{")
    assert read_json(state.layout) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout.json", "settings.json"]
