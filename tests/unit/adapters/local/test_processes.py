"""Own processes: adoption after a restart, and their end with all descendants."""

import asyncio
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from sundog_operator.adapters.local.process_table import ProcessCommand
from sundog_operator.adapters.local.processes import Processes, find_marked_processes
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.errors import DependencyError
from waiting import PATIENCE_S


def command(state: StateDirectory, name: str = "ray-0", argv: tuple[str, ...] = ("ray", "start")) -> ProcessCommand:
    return ProcessCommand(name, argv, {"PATH": "/bin"}, state.path, state.logs / f"{name}.log")


@pytest.fixture
async def record(processes: Processes, state: StateDirectory) -> Any:
    """The record of the started process `ray-0`."""
    return await processes.start(command(state))


@pytest.fixture
def log(state: StateDirectory) -> Path:
    log = state.logs / "ray-0.log"
    log.write_text("started\nno room\tleft\n\n")
    return log


@pytest.fixture
def again(state: StateDirectory, table: Any, clock: Any) -> Processes:
    """The processes for a second run of the same state directory."""
    return Processes(state, table, clock)


async def test_the_next_run_adopts_a_process(again: Processes, record: Any) -> None:
    assert await again.running("ray-0") == record
    assert again.recorded() == ["ray-0"]


async def test_a_reused_pid_is_not_adopted(again: Processes, record: Any, state: StateDirectory, table: Any) -> None:
    other = f"{state.path}|ray-0|another"
    table.replace(record.pid, mark=other)
    assert await again.running("ray-0") is None


@pytest.mark.parametrize(
    ("story", "changes", "adopted"),
    [
        ("nothing but the environment is hidden", {}, True),
        ("the clock was set by a second", {"shift": 1.0}, True),
        ("it is about to become another program", {"argv": ()}, True),
        ("another start time of a process that tells nothing", {"argv": (), "shift": 5.0}, False),
        ("another start time", {"shift": 5.0}, False),
        ("other arguments", {"argv": ("vim",)}, False),
    ],
)
async def test_without_a_readable_mark_start_time_and_arguments_decide(
    story: str,
    changes: dict[str, Any],
    adopted: bool,
    again: Processes,
    record: Any,
    table: Any,
) -> None:
    shift = changes.pop("shift", 0.0)
    table.replace(record.pid, mark="", created=record.created + shift, **changes)
    assert (await again.running("ray-0") is not None) == adopted, story


async def test_a_process_that_was_recognised_may_become_another_program_and_hide_its_mark(
    processes: Processes, again: Processes, record: Any, table: Any
) -> None:
    """A process that seems dead would be killed, so values that are only sometimes readable must not decide."""
    assert await again.running("ray-0") == record
    table.replace(record.pid, argv=("haproxy", "-W"), mark="")
    assert await processes.running("ray-0") == record
    assert await again.running("ray-0") == record
    table.replace(record.pid, created=record.created + 60)
    assert await processes.running("ray-0") is None


async def test_a_clock_that_was_set_does_not_lose_a_marked_process(again: Processes, record: Any, table: Any) -> None:
    table.replace(record.pid, created=record.created - 3600)
    assert await again.running("ray-0") is not None


async def test_records_from_before_a_reboot_are_dropped_and_no_process_is_signalled(
    again: Processes, record: Any, table: Any
) -> None:
    table.processes.clear()
    table.next_pid = record.pid
    stranger = table.add(argv=("postgres",), age=-60.0)
    strangers_child = table.add(parent=stranger.pid, age=-61.0)
    assert await again.running("ray-0") is None
    await again.clear("ray-0")
    assert again.recorded() == []
    assert set(table.processes) == {stranger.pid, strangers_child.pid}
    assert table.signals == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pid": "x"}', b'{"name": "ray-0", "pid": 1}'])
async def test_a_damaged_record_is_no_process(processes: Processes, state: StateDirectory, content: bytes) -> None:
    (state.processes / "ray-0.json").write_bytes(content)
    assert await processes.running("ray-0") is None
    await processes.clear("ray-0")
    assert processes.recorded() == []


async def test_stop_sends_sigterm_first_and_then_sigkill(
    processes: Processes, record: Any, table: Any, clock: Any
) -> None:
    table.stubborn.add(record.pid)
    before = clock.now()
    await processes.stop("ray-0", grace_s=6.0)
    assert table.signals == [(record.pid, signal.SIGTERM), (record.pid, signal.SIGKILL)]
    assert 6.0 <= (clock.now() - before).total_seconds() < 7.0
    assert processes.recorded() == []


async def test_stop_is_over_once_sigterm_ended_it(processes: Processes, record: Any, table: Any, clock: Any) -> None:
    before = clock.now()
    await processes.stop("ray-0", grace_s=6.0)
    assert table.signals == [(record.pid, signal.SIGTERM)]
    assert clock.now() == before


async def test_everything_below_a_process_ends_with_it(
    again: Processes, record: Any, state: StateDirectory, table: Any
) -> None:
    mark = table.processes[record.pid].mark
    child = table.add(parent=record.pid)
    daemon = table.add(mark=mark)  # left its session, kept the environment
    orphan = table.add(session=record.pid)  # lost its parent, rewrote the environment
    grandchild = table.add(parent=child.pid, session=4242)  # left its session, rewrote the environment
    bystander = table.add(argv=("tail", str(state.path)))
    table.stubborn |= {child.pid}
    await again.stop("ray-0", grace_s=1.0)
    assert set(table.processes) == {bystander.pid}
    assert {daemon.pid, orphan.pid, grandchild.pid} <= {pid for pid, _ in table.signals}


async def test_orphans_of_a_dead_process_are_cleared(processes: Processes, record: Any, table: Any) -> None:
    mark = table.processes[record.pid].mark
    table.add(mark=mark)
    table.add(session=record.pid)
    table.end(record.pid, -9)
    assert await processes.running("ray-0") is None
    await processes.clear("ray-0")
    assert table.processes == {}


async def test_a_process_without_a_record_is_cleared(processes: Processes, state: StateDirectory, table: Any) -> None:
    """The run was killed between the start of a process and its record."""
    await processes.start(command(state))
    (state.processes / "ray-0.json").unlink()
    await processes.clear("ray-0")
    assert table.processes == {}


async def test_other_names_and_directories_are_left_alone(
    processes: Processes, state: StateDirectory, table: Any
) -> None:
    await processes.start(command(state, "ray-1"))
    neighbour = await processes.start(command(state, "ray-10"))
    elsewhere = table.add(mark=f"{state.path}2|ray-1|x")
    await processes.stop("ray-1", grace_s=1.0)
    assert set(table.processes) == {neighbour.pid, elsewhere.pid}
    assert [seen.pid for seen in find_marked_processes(state, table)] == [neighbour.pid]


async def test_a_process_that_survives_a_kill_is_named(processes: Processes, record: Any, table: Any) -> None:
    table.immortal.add(record.pid)
    with pytest.raises(DependencyError, match=f"ray-0: pid {record.pid} did not end on SIGKILL"):
        await processes.stop("ray-0", grace_s=1.0)


async def test_a_start_that_is_cancelled_is_still_found_and_ended(
    processes: Processes, state: StateDirectory, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Event(), threading.Event()
    spawn = table.spawn

    def slow(command: ProcessCommand) -> Any:
        entered.set()
        assert go.wait(PATIENCE_S)
        return spawn(command)

    monkeypatch.setattr(table, "spawn", slow)
    start = asyncio.create_task(processes.start(command(state)))
    await asyncio.to_thread(entered.wait, PATIENCE_S)
    start.cancel()
    asyncio.get_running_loop().call_later(0.01, go.set)
    with pytest.raises(asyncio.CancelledError):
        await start
    assert len(table.processes) == 1
    await processes.stop("ray-0", grace_s=1.0)
    assert table.processes == {}


async def test_a_program_that_is_missing_is_named(processes: Processes, state: StateDirectory) -> None:
    with pytest.raises(DependencyError, match="ray-0: cannot start missing: No such file or directory"):
        await processes.start(command(state, argv=("missing",)))
    assert processes.recorded() == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-9, "ended with signal 9"),
        (1, "ended with status 1; {log} ends with: no room left"),
        (None, "ended; {log} ends with: no room left"),
    ],
)
async def test_an_exit_is_described_with_the_last_line_of_the_log(
    code: int | None, text: str, processes: Processes, record: Any, table: Any, log: Path
) -> None:
    table.end(record.pid, 0)
    table.codes[record.pid] = code
    await processes.running("ray-0")
    assert await processes.describe_end("ray-0", log) == text.format(log=log)


async def test_the_exit_code_of_an_earlier_runs_process_is_not_awaited(
    again: Processes, record: Any, table: Any, log: Path, clock: Any
) -> None:
    assert await again.running("ray-0") == record
    table.end(record.pid, 0)
    table.codes[record.pid] = None
    assert await again.running("ray-0") is None
    before = clock.monotonic()
    assert await again.describe_end("ray-0", log) == f"ended; {log} ends with: no room left"
    assert clock.monotonic() == before
