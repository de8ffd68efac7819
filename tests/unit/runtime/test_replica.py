"""Start, warm-up, settings and health of one replica."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from small_models import predictor
from sundog_runtime.errors import LoadFailed
from sundog_runtime.replica import Replica
from sundog_runtime.scheduling.execution_mode import PassDurations
from sundog_runtime.scheduling.model_thread import STUCK_AFTER_SECONDS
from sundog_runtime.scheduling.scheduler import Scheduler

COUNTING = """
class Predictor:
    calls = 0

    def load(self, path, config):
        self.config = config
        self.factor = 1

    def predict(self, batch):
        type(self).calls += 1
        return {"factor": self.factor, "calls": type(self).calls}

    def configure(self, user_config):
        if user_config.get("factor") == 0:
            raise ValueError("factor 0 makes no sense")
        self.factor = user_config.get("factor", 1)
"""

WITH_EXAMPLE = (
    COUNTING + "\n    def example(self):\n        import numpy\n        return numpy.ones((1, 2), dtype='float32')\n"
)


async def test_an_example_declares_types_and_dimensions(serve_predictor: Any) -> None:
    client = await serve_predictor(WITH_EXAMPLE)
    metadata = (await client.get("/v2/models/digits")).json()
    assert metadata["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, -1]}]
    assert (await client.post("/", json={"inputs": [["a"]]})).status_code == 400
    assert (await client.post("/", json={"inputs": [1.0]})).status_code == 400
    assert (await client.post("/", json={"inputs": [[1.0, 2.0, 3.0]]})).status_code == 200


async def test_a_stream_has_no_bytes_to_answer_with(serve_predictor: Any) -> None:
    declared = "outputs: [{name: turned, dtype: bytes, shape: [-1]}]"
    with pytest.raises(LoadFailed, match="output 'turned' is of bytes; expected another type in a stream"):
        await serve_predictor(predictor("yield batch"), declared)


async def test_a_model_that_exits_while_it_loads(torch_model: Path, args: Any) -> None:
    (torch_model / "net.py").write_text("def Net(): raise SystemExit(3)")
    with pytest.raises(LoadFailed, match="the model raised SystemExit"):
        await Replica.start(args(torch_model))


async def test_without_user_config_the_first_health_check_ends_the_start(torch_model: Path, args: Any) -> None:
    replica = await Replica.start(args(torch_model))
    assert "warmup" not in replica.startup.phases
    await replica.check_health()
    assert "warmup" in replica.startup.phases
    replica.close()


async def test_settings_apply_in_place(serve_predictor: Any) -> None:
    client = await serve_predictor(COUNTING, user_config={"userConfig": {"factor": 2}})
    assert (await client.post("/", json={"inputs": [1]})).json()["outputs"]["factor"] == 2
    await client.replica.reconfigure({"userConfig": {"factor": 5}, "maxRequestBytes": 20})
    assert (await client.post("/", json={"inputs": [1]})).json()["outputs"]["factor"] == 5
    assert (await client.post("/", json={"inputs": [1] * 20})).status_code == 413


@pytest.mark.parametrize("wrong", [{"userConfig": {"factor": 0}}, {"maxRequestBytes": -1}, "nonsense"])
async def test_settings_that_are_wrong(serve_predictor: Any, wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    """At the start they fail it. Later the previous settings stay in force, because raising would end a working replica."""
    with pytest.raises(LoadFailed):
        await serve_predictor(COUNTING, user_config=wrong)
    client = await serve_predictor(COUNTING, user_config={"userConfig": {"factor": 2}})
    await client.replica.reconfigure(wrong)
    assert "the previous one stays in force" in caplog.text
    assert (await client.post("/", json={"inputs": [1]})).json()["outputs"]["factor"] == 2


async def test_requests_during_a_change_of_settings_are_all_answered(serve_predictor: Any) -> None:
    client = await serve_predictor(COUNTING)

    async def ask() -> list[int]:
        return [(await client.post("/", json={"inputs": [1]})).json()["outputs"]["factor"] for _ in range(20)]

    async def change() -> list[int]:
        for factor in range(1, 11):
            await client.replica.reconfigure({"userConfig": {"factor": factor}})
        return []

    answers = await asyncio.gather(ask(), ask(), change())
    for factors in answers[:2]:
        assert factors == sorted(factors)
        assert len(factors) == 20


async def test_cores(torch_model: Path, args: Any, serve: Any) -> None:
    before = torch.get_num_threads()
    try:
        client = await serve(args(torch_model) | {"cpu": 1.2})
        assert torch.get_num_threads() == 2
        assert await client.replica._thread.run(torch.get_num_threads) == 2
    finally:
        torch.set_num_threads(before)


async def test_a_stuck_model_is_unhealthy(torch_model: Path, args: Any, serve: Any) -> None:
    client = await serve(args(torch_model))
    replica, now, release, began = client.replica, [0.0], threading.Event(), threading.Event()
    replica._thread._clock = lambda: now[0]
    await replica.check_health()
    call = asyncio.create_task(replica._thread.run(lambda: (began.set(), release.wait())))
    await asyncio.to_thread(began.wait)
    now[0] = STUCK_AFTER_SECONDS
    await replica.check_health()
    now[0] = STUCK_AFTER_SECONDS + 1
    with pytest.raises(RuntimeError, match="busy with one call"):
        await replica.check_health()
    release.set()
    await call
    await replica.check_health()


async def test_quick_passes_leave_the_thread_and_slow_ones_do_not(torch_model: Path, args: Any, serve: Any) -> None:
    source = (
        (torch_model / "net.py")
        .read_text()
        .replace("return self", "self.names.add(threading.current_thread().name); return self")
    )
    (torch_model / "net.py").write_text(
        source.replace("super().__init__()", "super().__init__(); self.names = set()").replace(
            "import torch", "import torch, threading"
        )
    )
    client: httpx.AsyncClient = await serve(args(torch_model))
    scheduler: Scheduler = client.replica._scheduler  # type: ignore[attr-defined]
    assert scheduler._durations is not None
    names = (await _module(client)).names

    async def ask() -> set[str]:
        names.clear()
        assert (await client.post("/", json={"inputs": [[1.0] * 4]})).status_code == 200
        return set(names)

    assert await ask() == {"sundog-model"}
    scheduler._durations = PassDurations()
    scheduler._durations._on_probation = 0
    assert await ask() == {"MainThread"}
    release = threading.Event()
    busy = asyncio.create_task(scheduler._thread.run(release.wait))
    await asyncio.sleep(0)
    asked = asyncio.create_task(ask())
    for _ in range(100):
        await asyncio.sleep(0)
    release.set()
    assert await asked == {"sundog-model"}, "a pass on the event loop beside one on the thread"
    await busy
    scheduler._durations._mean = 1.0
    assert await ask() == {"sundog-model"}


async def _module(client: httpx.AsyncClient) -> Any:
    predict = client.replica._model.predict  # type: ignore[attr-defined]
    return next(cell.cell_contents for cell in predict.__closure__ if isinstance(cell.cell_contents, torch.nn.Module))


async def test_a_model_that_changes_its_settings_still_gets_the_next_ones(serve_predictor: Any) -> None:
    code = COUNTING.replace('self.factor = user_config.get("factor", 1)', 'self.factor = user_config.pop("factor", 1)')
    client = await serve_predictor(code, user_config={"userConfig": {"factor": 2}})
    await client.replica.reconfigure({"userConfig": {}})
    assert (await client.post("/", json={"inputs": [1]})).json()["outputs"]["factor"] == 1


IMPORT_OF_TORCH = """
import gc
import sundog_runtime.replica as replica
found = []
gc.callbacks.append(lambda phase, info: found.append(phase))
before = gc.get_freeze_count()
replica.import_torch()
assert found == [], found
assert gc.isenabled()
frozen = gc.get_freeze_count()
assert frozen - before > 50_000, frozen
garbage = [[]]
garbage[0].append(garbage)
del garbage
replica.import_torch()
assert gc.get_freeze_count() <= frozen
assert gc.collect() >= 2
import torch
"""


def test_the_import_of_torch_pauses_and_then_excludes_garbage_collection() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORT_OF_TORCH], check=True, timeout=300)
