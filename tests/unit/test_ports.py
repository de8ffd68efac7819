"""Ports that tests are given are theirs alone, also among the processes of one run."""

import subprocess
import sys
from pathlib import Path

import pytest

import ports
from sundog_operator.adapters.local import ports_allocation

ASKED = "import ports; ports._RANGE = range({0}, {0} + 2); print(ports.free_port())"


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> range:
    """Two ports that no test asks for."""
    first = next(
        port
        for port in range(3_000, 4_000)
        if ports_allocation.is_port_free(port) and ports_allocation.is_port_free(port + 1)
    )
    monkeypatch.setattr(ports, "_RANGE", range(first, first + 2))
    return ports._RANGE


def asked_beside(first: int) -> subprocess.CompletedProcess[str]:
    """What another process is given of two ports, of which it waits for none to be used."""
    return subprocess.run(
        [sys.executable, "-c", ASKED.format(first)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(ports.__file__).parent)},
    )


def test_a_port_that_is_not_in_use_yet_is_given_to_nobody_beside(two: range) -> None:
    own = ports.free_port()
    other = asked_beside(two.start)
    assert {own, int(other.stdout)} == set(two), other.stderr
    # The other process has ended, and its claim with it; but this one was given the first.
    assert int(asked_beside(two.start).stdout) != own
