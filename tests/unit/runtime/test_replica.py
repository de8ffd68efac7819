"""Start, warm-up, settings and health of one replica."""

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from sundog_runtime.errors import LoadFailed, WarmupFailed, WarmupTimeout
from sundog_runtime.replica import Replica
from sundog_runtime.scheduling.execution_mode import PassDurations
from sundog_runtime.scheduling.model_thread import STUCK_AFTER_SECONDS, ModelThread
from sundog_runtime.scheduling.scheduler import Scheduler
from waiting import eventually

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


async def started(args: Any) -> Replica:
    """Return a replica after its whole start."""
    replica = await Replica.start(args)
    try:
        await replica.reconfigure({})
    finally:
        replica.close()
    return replica


async def test_warm_up_uses_the_example(python_model: Callable[[str], Path], args: Any, serve: Any) -> None:
    client = await serve(args(python_model(WITH_EXAMPLE), "predictor:Predictor", warmup={"requests": 7}))
    answer = await client.post("/", json={"inputs": [[1.0, 2.0]]})
    assert answer.json()["outputs"]["calls"] == 8


async def test_an_example_declares_types_and_dimensions(
    python_model: Callable[[str], Path], args: Any, serve: Any
) -> None:
    client = await serve(args(python_model(WITH_EXAMPLE), "predictor:Predictor"))
    metadata = (await client.get("/v2/models/digits")).json()
    assert metadata["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, -1]}]
    assert (await client.post("/", json={"inputs": [["a"]]})).status_code == 400
    assert (await client.post("/", json={"inputs": [1.0]})).status_code == 400
    assert (await client.post("/", json={"inputs": [[1.0, 2.0, 3.0]]})).status_code == 200


async def test_warm_up_uses_declared_shapes(
    torch_model: Path, args: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.sundog"):
        await serve(args(torch_model, warmup={"requests": 3}))
    assert "warm-up: 3 requests in" in caplog.text


async def test_a_skipped_warm_up_is_logged(
    python_model: Callable[[str], Path], args: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.sundog"):
        client = await serve(args(python_model(COUNTING), "predictor:Predictor"))
    assert "warm-up skipped: the model has no example() and no inputs in model.yaml" in caplog.text
    assert (await client.post("/", json={"inputs": [1]})).json()["outputs"]["calls"] == 1


FILES = """
class Predictor:
    def load(self, path, config):
        pass
    def predict(self, batch):
        assert batch == [b"a picture"], batch
        return batch
"""
OF_BYTES = """
inputs: [{name: picture, dtype: bytes, shape: [-1]}]
outputs: [{name: turned, dtype: bytes, shape: [-1]}]
"""


async def test_an_idle_thread_keeps_no_reference_to_its_last_call() -> None:
    """The body of the last large request would otherwise stay in memory until the next one."""

    class Body:
        """Stands in for a request object, which has no weak references."""

    thread, body = ModelThread(), Body()
    gone = weakref.ref(body)
    await thread.run(partial(id, body))
    del body
    await asyncio.to_thread(eventually, lambda: gone() is None, "the body is put down", 30)
    thread.close()


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("", "warm-up skipped: the model has no example(), and its inputs hold bytes"),
        ("    def example(self): return [b'a picture']\n", "warm-up: 4 requests in"),
    ],
)
async def test_no_file_is_guessed_for_the_warm_up(
    python_model: Callable[[str], Path],
    args: Any,
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    example: str,
    message: str,
) -> None:
    root = python_model(FILES + example)
    (root / "model.yaml").write_text(OF_BYTES)
    with caplog.at_level(logging.INFO, "ray.serve.sundog"):
        await serve(args(root, "predictor:Predictor"))
    assert message in caplog.text


async def test_a_stream_has_no_bytes_to_answer_with(python_model: Callable[[str], Path], args: Any, serve: Any) -> None:
    root = python_model(FILES.replace("return batch", "yield batch"))
    (root / "model.yaml").write_text(OF_BYTES)
    with pytest.raises(LoadFailed, match="output 'turned' is of bytes; expected another type in a stream"):
        await serve(args(root, "predictor:Predictor"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('cold')", "warm-up request 1 of 4 raised ValueError: cold"),
        ("return float('nan')", "warm-up request 1 of 4: the model's output holds NaN or infinity"),
        ("return object()", "warm-up request 1 of 4: the model's output holds an object of type object"),
    ],
)
async def test_warm_up_fails(python_model: Callable[[str], Path], args: Any, body: str, message: str) -> None:
    code = (
        "class Predictor:\n    def load(self, path, config): pass\n    def example(self): return 'x'\n"
        f"    def predict(self, batch):\n        {body}\n"
    )
    with pytest.raises(WarmupFailed) as caught:
        await started(args(python_model(code), "predictor:Predictor"))
    assert caught.value.message == message


async def test_a_model_that_answers_nan_to_everything_does_not_start(
    torch_model: Path, args: Any, network: torch.nn.Module
) -> None:
    with torch.no_grad():
        network.second.bias[:] = float("nan")
    safetensors.torch.save_file(network.state_dict(), torch_model / "model.safetensors")
    with pytest.raises(WarmupFailed) as caught:
        await started(args(torch_model))
    assert "NaN or infinity, for zeros and for other numbers" in caught.value.message


async def test_nan_that_is_declared_is_an_answer(torch_model: Path, args: Any, network: torch.nn.Module) -> None:
    with torch.no_grad():
        network.second.bias[:] = float("nan")
    safetensors.torch.save_file(network.state_dict(), torch_model / "model.safetensors")
    (torch_model / "model.yaml").write_text(
        "inputs: [{name: x, dtype: float32, shape: [-1, 4]}]\n"
        "outputs: [{name: scores, dtype: float32, shape: [-1, 3], allowNaN: true}]\n"
    )
    await started(args(torch_model))


async def test_zeros_may_give_nan(torch_model: Path, args: Any, serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    source = (torch_model / "net.py").read_text().replace("return self", "return 0 / x.sum() + self")
    (torch_model / "net.py").write_text(source)
    with caplog.at_level(logging.WARNING, "ray.serve.sundog"):
        client = await serve(args(torch_model))
    assert "request 1 of 4, not with its example: the model's output holds NaN" in caplog.text
    assert (await client.post("/", json={"inputs": [[1.0] * 4]})).status_code == 200
    assert (await client.post("/", json={"inputs": [[0.0] * 4]})).json()["code"] == "OutputNotFinite"


async def test_warm_up_times_out(python_model: Callable[[str], Path], args: Any) -> None:
    code = (
        "import threading\nRELEASE = threading.Event()\n"
        "class Predictor:\n    def load(self, path, config): config['give'].append(RELEASE)\n"
        "    def example(self): return 'x'\n    def predict(self, batch): RELEASE.wait()\n"
    )
    given: list[threading.Event] = []
    with pytest.raises(WarmupTimeout, match=r"4 warm-up requests did not end within 0\.05 s"):
        await started(
            args(python_model(code), "predictor:Predictor", warmup={"timeoutSeconds": 0.05}, config={"give": given})
        )
    given[0].set()


async def test_a_model_that_exits_while_it_loads(torch_model: Path, args: Any) -> None:
    (torch_model / "net.py").write_text("def Net(): raise SystemExit(3)")
    with pytest.raises(LoadFailed, match="the model raised SystemExit"):
        await Replica.start(args(torch_model))


async def test_settings_apply_in_place(python_model: Callable[[str], Path], args: Any, serve: Any) -> None:
    client = await serve(args(python_model(COUNTING), "predictor:Predictor"), {"userConfig": {"factor": 2}})
    assert (await client.post("/", json={"inputs": [1]})).json()["outputs"]["factor"] == 2
    await client.replica.reconfigure({"userConfig": {"factor": 5}, "maxRequestBytes": 20})
    assert (await client.post("/", json={"inputs": [1]})).json()["outputs"]["factor"] == 5
    assert (await client.post("/", json={"inputs": [1] * 20})).status_code == 413


@pytest.mark.parametrize("wrong", [{"userConfig": {"factor": 0}}, {"maxRequestBytes": -1}, "nonsense"])
async def test_settings_that_are_wrong(
    python_model: Callable[[str], Path], args: Any, serve: Any, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start they fail it. Later the previous settings stay in force, because raising would end a working replica."""
    with pytest.raises(LoadFailed):
        await serve(args(python_model(COUNTING), "predictor:Predictor"), wrong)
    client = await serve(args(python_model(COUNTING), "predictor:Predictor"), {"userConfig": {"factor": 2}})
    await client.replica.reconfigure(wrong)
    assert "the previous one stays in force" in caplog.text
    assert (await client.post("/", json={"inputs": [1]})).json()["outputs"]["factor"] == 2


async def test_requests_during_a_change_of_settings_are_all_answered(
    python_model: Callable[[str], Path], args: Any, serve: Any
) -> None:
    client = await serve(args(python_model(COUNTING), "predictor:Predictor"))

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


async def test_one_call_at_a_time_in_order() -> None:
    thread = ModelThread()
    running, order = [0], []

    def call(number: int) -> int:
        running[0] += 1
        assert running[0] == 1
        order.append(number)
        running[0] -= 1
        return number

    assert await asyncio.gather(*(thread.run(lambda number=number: call(number)) for number in range(50))) == list(
        range(50)
    )
    assert order == list(range(50))
    assert thread.is_idle
    thread.close()


async def test_a_cancelled_call_is_skipped() -> None:
    thread, release, made = ModelThread(), threading.Event(), []
    first = asyncio.create_task(thread.run(release.wait))
    second = asyncio.create_task(thread.run(lambda: made.append(1)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    assert not thread.is_idle
    release.set()
    await first
    await thread.run(lambda: None)
    assert made == []
    assert thread.is_idle
    thread.close()


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


async def test_the_thread_is_free_when_a_result_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, looked_at = asyncio.get_running_loop(), threading.Event()
    call = loop.call_soon_threadsafe

    def call_slowly(*args: Any) -> Any:
        handle = call(*args)
        looked_at.wait()
        return handle

    monkeypatch.setattr(loop, "call_soon_threadsafe", call_slowly)
    thread = ModelThread()
    await thread.run(lambda: None)
    assert thread.busy_seconds == 0.0
    looked_at.set()
    thread.close()


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


async def test_a_model_that_changes_its_settings_still_gets_the_next_ones(
    python_model: Callable[[str], Path], args: Any, serve: Any
) -> None:
    code = COUNTING.replace('self.factor = user_config.get("factor", 1)', 'self.factor = user_config.pop("factor", 1)')
    client = await serve(args(python_model(code), "predictor:Predictor"), {"userConfig": {"factor": 2}})
    await client.replica.reconfigure({"userConfig": {}})
    assert (await client.post("/", json={"inputs": [1]})).json()["outputs"]["factor"] == 1
