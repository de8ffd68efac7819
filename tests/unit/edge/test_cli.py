"""Errors at the start of the command: one line with the fix."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from sundog_edge.cli import main
from sundog_edge.haproxy import program
from sundog_edge.haproxy.names import BOOT_VARIABLE, LOG_VARIABLE


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    return result.output


def test_a_state_directory_too_deep_for_sockets_is_refused(tmp_path):
    deep = tmp_path / ("x" * 80)
    message = refused("haproxy", "--state-dir", str(deep))
    assert "expected at most 75, for Unix socket paths" in message
    assert message.count("\n") == 1
    assert not deep.exists()


def test_a_missing_haproxy_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(program.HAPROXY_VARIABLE, str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started"))
    monkeypatch.setattr("sundog_edge.state_dir.MAX_PATH", 500)
    message = refused("haproxy", "--state-dir", "s")
    assert f"{program.HAPROXY_VARIABLE}: found {tmp_path / 'none'}; expected an executable file" in message
    assert message.count("\n") == 1


def test_a_configuration_that_haproxy_refuses_is_reported_and_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr("sundog_edge.state_dir.MAX_PATH", 500)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started"))
    message = refused("haproxy", "--state-dir", str(tmp_path), "--http-bind", "nonsense")
    assert "HAProxy rejects the configuration" in message
    assert "nonsense" in message
    assert not (tmp_path / "haproxy.cfg").exists()


def test_one_thread_writes_all_lines_by_default(tmp_path, monkeypatch):
    """Two threads that write at the same time lose a line: HAProxy drops it and does not wait."""
    monkeypatch.setattr("sundog_edge.state_dir.MAX_PATH", 500)
    monkeypatch.setattr(os, "execv", lambda *_: None)
    for variable in (BOOT_VARIABLE, LOG_VARIABLE):
        monkeypatch.setenv(variable, "")
    for options, threads in (((), 1), (("--threads", "3"), 3)):
        state = tmp_path / str(threads)
        result = CliRunner().invoke(main, ["haproxy", "--state-dir", str(state), *options])
        assert result.exit_code == 0, result.output
        os.close(int(os.environ[LOG_VARIABLE]))
        assert f"    nbthread {threads}\n" in (state / "haproxy.cfg").read_text()


def test_an_invalid_listen_address_is_a_usage_error(tmp_path):
    arguments = (
        "--state-dir",
        str(tmp_path),
        "--split",
        "x",
        "--edge-name",
        "e",
        "--namespace",
        "n",
        "--listen",
        "here",
    )
    assert "found 'here'; expected HOST:PORT" in refused("agent", *arguments)


def test_draining_an_ended_process_returns():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    result = CliRunner().invoke(main, ["drain", "--pid", str(ended.pid), "--delay-seconds=0"])
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("arguments", [(), ("--split", "x", "--config-map", "y")])
def test_the_document_comes_from_one_place(tmp_path, arguments):
    message = refused("agent", "--state-dir", str(tmp_path), "--edge-name=e", "--namespace=n", *arguments)
    assert "expected exactly one of the two" in message


def test_a_config_map_is_for_pods(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("sundog_edge.state_dir.MAX_PATH", 500)
    message = refused("agent", "--state-dir=s", "--edge-name=e", "--namespace=n", "--config-map=c")
    assert message == "Error: --config-map is for a pod in a cluster: KUBERNETES_SERVICE_HOST is not set\n"
