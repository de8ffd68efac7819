"""Each test gets ports of its own, also among the processes of one run."""

import subprocess
import sys
from pathlib import Path

import pytest

import ports
from sundog_operator.adapters.local import ports_allocation

ASKED = "import ports; ports._RANGE = range({0}, {0} + 2); print(ports.free_port())"


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> range:
    """Two ports that no test uses."""
    first = next(
        port
        for port in range(3_000, 4_000)
        if ports_allocation.is_port_free(port) and ports_allocation.is_port_free(port + 1)
    )
    monkeypatch.setattr(ports, "_RANGE", range(first, first + 2))
    return ports._RANGE


def asked_beside(first: int) -> subprocess.CompletedProcess[str]:
    """Run a process that prints the port it gets out of two, and does not wait for its use."""
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
    # The other process has ended and released its port, but this process got the first one.
    assert int(asked_beside(two.start).stdout) != own
