"""Predictions before a replica is ready: on which inputs, and when they fail the start."""

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from small_models import predictor
from sundog_runtime.errors import WarmupFailed, WarmupTimeout
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.replica import Replica
from sundog_runtime.scheduling.batch_assembly import NOT_ROWS
from sundog_runtime.signature import Signature
from sundog_runtime.tensors import TensorSpec
from sundog_runtime.warmup import warm_up

COUNTING = """
class Predictor:
    calls = 0

    def load(self, path, config):
        pass

    def predict(self, batch):
        type(self).calls += 1
        return type(self).calls
"""
OF_BYTES = (
    "inputs: [{name: picture, dtype: bytes, shape: [-1]}]\noutputs: [{name: turned, dtype: bytes, shape: [-1]}]\n"
)
EVENT = "import threading\nRELEASE = threading.Event()"
PICTURES = "assert batch == [b'a picture'], batch\nreturn batch"


async def started(args: Any) -> Replica:
    """Return a replica after its whole start."""
    replica = await Replica.start(args)
    try:
        await replica.reconfigure({})
    finally:
        replica.close()
    return replica


async def test_warm_up_uses_the_example(serve_predictor: Any) -> None:
    code = COUNTING + "\n    def example(self):\n        return 'x'\n"
    client = await serve_predictor(code, warmup={"requests": 7})
    assert (await client.post("/", json={"inputs": "x"})).json() == {"outputs": 8}


async def test_warm_up_uses_declared_shapes(
    torch_model: Path, args: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.sundog"):
        await serve(args(torch_model, warmup={"requests": 3}))
    assert "warm-up: 3 requests in" in caplog.text


@pytest.mark.parametrize(
    ("code", "declared", "message"),
    [
        (COUNTING, "", "warm-up skipped: the model has no example() and no inputs in model.yaml"),
        (predictor(PICTURES), OF_BYTES, "warm-up skipped: the model has no example(), and its inputs hold bytes"),
        (predictor(PICTURES, example="[b'a picture']"), OF_BYTES, "warm-up: 4 requests in"),
    ],
    ids=["nothing known", "bytes are not guessed", "bytes of an example"],
)
async def test_the_log_says_whether_the_model_was_warmed_up(
    serve_predictor: Any, caplog: pytest.LogCaptureFixture, code: str, declared: str, message: str
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.sundog"):
        client = await serve_predictor(code, declared)
    assert message in caplog.text
    if not declared:
        assert (await client.post("/", json={"inputs": [1]})).json() == {"outputs": 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('cold')", "warm-up request 1 of 4 raised ValueError: cold"),
        ("return float('nan')", "warm-up request 1 of 4: the model's output holds NaN or infinity"),
        ("return object()", "warm-up request 1 of 4: the model's output holds an object of type object"),
    ],
)
async def test_warm_up_fails(python_model: Callable[[str], Path], args: Any, body: str, message: str) -> None:
    code = predictor(body, example="'x'")
    with pytest.raises(WarmupFailed) as caught:
        await started(args(python_model(code), "predictor:Predictor"))
    assert caught.value.message == message


@pytest.mark.parametrize("allowed", [False, True])
async def test_nan_for_all_inputs_fails_the_start_unless_it_is_declared(
    torch_model: Path, args: Any, network: torch.nn.Module, allowed: bool
) -> None:
    with torch.no_grad():
        network.second.bias[:] = float("nan")
    safetensors.torch.save_file(network.state_dict(), torch_model / "model.safetensors")
    if allowed:
        text = (torch_model / "model.yaml").read_text().replace("[-1, 3]", "[-1, 3], allowNaN: true")
        (torch_model / "model.yaml").write_text(text)
        await started(args(torch_model))
        return
    with pytest.raises(WarmupFailed, match="NaN or infinity, for zeros and for other numbers"):
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
    code = predictor("RELEASE.wait()", load="config['give'].append(RELEASE)", example="'x'", imports=EVENT)
    given: list[threading.Event] = []
    model = {"warmup": {"timeoutSeconds": 0.05}, "config": {"give": given}}
    with pytest.raises(WarmupTimeout, match=r"4 warm-up requests did not end within 0\.05 s"):
        await started(args(python_model(code), "predictor:Predictor", **model))
    given[0].set()


@pytest.mark.parametrize(
    ("declared", "joins", "message"),
    [
        ("[-1, 4]", True, ""),
        ("[1, 4]", False, "input 'x' has the shape [1, 4]; expected a first size of -1, the batch axis"),
    ],
)
async def test_the_warm_up_tries_the_largest_batch(
    torch_model: Path, args: Any, serve: Any, caplog: pytest.LogCaptureFixture, declared: str, joins: bool, message: str
) -> None:
    text = (torch_model / "model.yaml").read_text()
    (torch_model / "model.yaml").write_text(text.split("outputs:")[0].replace("[-1, 4]", declared))
    source = (torch_model / "net.py").read_text()
    (torch_model / "net.py").write_text(
        source.replace("return self", "self.seen.append(len(x)); return self").replace(
            "super().__init__()", "super().__init__(); self.seen = []"
        )
    )
    client = await serve(args(torch_model) | {"batching": {"maxSize": 8, "maxDelaySeconds": 0.001}})
    predict = client.replica._model.module
    assert predict.seen == [1, 1, 1, 1, *([8, 8] if joins else [])]
    assert client.replica._scheduler.is_batching is joins
    assert message in caplog.text


async def test_a_model_that_fails_on_many_rows_serves_one_at_a_time(
    torch_model: Path, args: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source = (torch_model / "net.py").read_text().replace("return self", "assert len(x) == 1; return self")
    (torch_model / "net.py").write_text(source)
    client = await serve(args(torch_model) | {"batching": {"maxSize": 8, "maxDelaySeconds": 0.001}})
    assert "requests are not batched: the model cannot take several at once: 8 rows at once raised" in caplog.text
    assert (await client.post("/", json={"inputs": [[1.0] * 4]})).status_code == 200


@pytest.mark.parametrize(("constant", "reasons"), [(8, [NOT_ROWS]), (0, [])])
async def test_the_warm_up_detects_an_output_of_constant_length(constant: int, reasons: list[str]) -> None:
    def predict(batch: Any) -> Any:
        return {"scores": batch, "classes": ["a"] * (constant or len(batch))}

    model = LoadedModel("python", "", predict, Signature((TensorSpec("x", "float32", (-1, 4)),)))
    found: list[str] = []
    warm_up(model, 1, asyncio.get_running_loop(), 8, found.append)
    assert found == reasons
