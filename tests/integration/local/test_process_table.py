"""The process table of this machine."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sundog_operator.adapters.local.process_table import (
    MARK_ENV_VAR,
    ProcessCommand,
    ProcessInfo,
    SystemProcessTable,
    last_line,
)

SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(60)")


@pytest.fixture
def table() -> SystemProcessTable:
    return SystemProcessTable()


@pytest.fixture
def started(table: SystemProcessTable, tmp_path: Path) -> Iterator[list[ProcessInfo]]:
    """What a test started; killed afterwards."""
    started: list[ProcessInfo] = []
    yield started
    for seen in started:
        if table.find(seen.pid):
            table.signal(seen, signal.SIGKILL)
            wait_ended(table, seen.pid)


def command(tmp_path: Path, argv: tuple[str, ...] = SLEEP) -> ProcessCommand:
    return ProcessCommand("x", argv, {**os.environ, MARK_ENV_VAR: "mark"}, tmp_path, tmp_path / "log")


def wait_ended(table: SystemProcessTable, pid: int) -> None:
    # psutil would reap it, and the table is to.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert table.find(pid) is None


def test_a_process_leads_a_session_of_its_own_in_its_directory(
    table: SystemProcessTable, tmp_path: Path, started: list[ProcessInfo]
) -> None:
    seen = table.spawn(command(tmp_path))
    started.append(seen)
    assert seen.session == seen.pid == os.getsid(seen.pid) != os.getsid(0)
    assert psutil.Process(seen.pid).cwd() == str(tmp_path)
    assert seen.pid in {each.pid for each in table.find_all()}
    assert os.getpid() not in {each.pid for each in table.find_all()}


def test_a_process_is_recognised_from_its_first_instant(
    table: SystemProcessTable, tmp_path: Path, started: list[ProcessInfo]
) -> None:
    """For an instant after exec the kernel shows neither arguments nor environment; the start time must be there."""
    for _ in range(40):
        seen = table.spawn(command(tmp_path))
        started.append(seen)
        looks = [table.find(seen.pid) for _ in range(5)]
        assert all(look is not None and abs(look.created - seen.created) <= 2 for look in looks)
        assert {look.mark for look in looks if look} <= {"", "mark"}


def test_an_end_is_reported_once_with_its_code_whoever_asks(table: SystemProcessTable, tmp_path: Path) -> None:
    seen = table.spawn(command(tmp_path, (sys.executable, "-S", "-c", "print('last words'); raise SystemExit(7)")))
    other = SystemProcessTable()
    wait_ended(other, seen.pid)
    assert (table.exit_code(seen.pid), other.exit_code(seen.pid)) == (7, 7)
    assert last_line(tmp_path / "log") == "last words"


def test_an_end_is_reported_to_a_caller_that_asks_for_its_code_alone(table: SystemProcessTable, tmp_path: Path) -> None:
    """A look that came an instant before the end has not reaped it, and none comes after."""
    seen = table.spawn(command(tmp_path, (sys.executable, "-S", "-c", "raise SystemExit(7)")))
    os.waitid(os.P_PID, seen.pid, os.WEXITED | os.WNOWAIT)
    assert table.exit_code(seen.pid) == 7


def test_a_signal_reaches_exactly_the_process_that_was_seen(
    table: SystemProcessTable, tmp_path: Path, started: list[ProcessInfo]
) -> None:
    seen = table.spawn(command(tmp_path))
    started.append(seen)
    table.signal(ProcessInfo(seen.pid, seen.created - 100, seen.session), signal.SIGKILL)
    assert table.find(seen.pid) is not None
    table.signal(seen, signal.SIGKILL)
    wait_ended(table, seen.pid)
    assert table.exit_code(seen.pid) == -9
    table.signal(seen, signal.SIGKILL)


def test_a_descriptor_is_handed_over(table: SystemProcessTable, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    code = f"import os; os.write({writer}, b'here')"
    given = command(tmp_path, (sys.executable, "-S", "-c", code))
    seen = table.spawn(ProcessCommand(given.name, given.argv, given.env, given.directory, given.log, (writer,)))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"here"
    wait_ended(table, seen.pid)


def test_a_log_that_grew_large_is_set_aside(table: SystemProcessTable, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (10 * 2**20 + 1))
    seen = table.spawn(command(tmp_path, (sys.executable, "-S", "-c", "")))
    wait_ended(table, seen.pid)
    assert (tmp_path / "log").stat().st_size == 0
    assert (tmp_path / "log.1").stat().st_size > 10 * 2**20


def test_a_missing_program_is_an_error(table: SystemProcessTable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        table.spawn(command(tmp_path, ("/no/such/program",)))
