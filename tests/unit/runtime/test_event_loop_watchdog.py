"""A model that hangs on the event loop ends its process, and nothing else does."""

import asyncio
import contextlib
import faulthandler
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sundog_runtime import event_loop_watchdog
from sundog_runtime.scheduling.execution_mode import PROBATION_CALLS
from waiting import PATIENCE_S, comes_true

HANGS = """
import ctypes
import time
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 8)
        self.second = torch.nn.Linear(8, 3)
        self.left = {quick}

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            {hang}
        return self.second(torch.relu(self.first(x)))
"""

SERVE = """
import asyncio, json, sys
from sundog_runtime import event_loop_watchdog
from sundog_runtime.context import RequestContext
from sundog_runtime.replica import Replica

event_loop_watchdog.STALL_S, event_loop_watchdog.HEARTBEAT_S = 1.0, 0.1


async def serve():
    replica = await Replica.start(json.loads(sys.argv[1]))
    await replica.reconfigure(None)
    watching = asyncio.create_task(event_loop_watchdog.watch_event_loop())
    await asyncio.sleep(0)
    for _ in range(1000):
        await replica._scheduler.infer([[1.0, 2.0, 3.0, 4.0]], RequestContext())
    print("it did not hang")


asyncio.run(serve())
"""


@pytest.mark.parametrize("hang", ["time.sleep(600)", "ctypes.PyDLL(None).pause()"], ids=["waits", "holds the lock"])
def test_a_network_that_hangs_on_the_event_loop_ends_the_process_with_its_stack(
    torch_model: Path, args: Any, hang: str
) -> None:
    (torch_model / "net.py").write_text(HANGS.format(hang=hang, quick=4 * PROBATION_CALLS))
    command = [sys.executable, "-c", SERVE, json.dumps(args(torch_model))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "in forward" in done.stderr


async def test_a_running_event_loop_postpones_the_end_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[float, bool]] = []
    cancelled: list[bool] = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, **how: calls.append((seconds, how["exit"]))
    )
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: cancelled.append(True))
    monkeypatch.setattr(event_loop_watchdog, "HEARTBEAT_S", 0.0)
    watching = asyncio.create_task(event_loop_watchdog.watch_event_loop())

    async def beaten() -> bool:
        return len(calls) > 10

    await comes_true(beaten, "ten beats")
    assert {*calls} == {(60.0, True)}
    assert not cancelled
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert cancelled == [True]
