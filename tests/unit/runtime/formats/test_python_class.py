"""All kinds of a predictor's `predict`, and the facts that the batcher and the streamer get."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from small_models import predictor
from sundog_runtime.arguments import ModelArguments
from sundog_runtime.formats.load import load_model
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.signature import Signature, is_batchable
from sundog_runtime.sources.open_model import open_model
from sundog_runtime.tensors import TensorSpec

STREAM = """
import torch

class Predictor:
    def load(self, path, config):
        self.closed = []

    {kind} predict(self, batch):
        try:
            for word in batch:
                assert torch.is_inference_mode_enabled()
                yield word
        finally:
            self.closed.append(True)
"""


def load(root: Path) -> LoadedModel:
    spec = ModelArguments.model_validate({"uri": f"file://{root}", "entrypoint": "predictor:Predictor"})
    return load_model(open_model(spec.uri, ""), spec)


RETURNS = """
class Predictor:
    streams = True

    def load(self, path, config): pass

    def predict(self, batch):
        return (word for word in batch)
"""


@pytest.fixture(params=["yields", "returns"])
def streaming(request: pytest.FixtureRequest, python_model: Callable[[str], Path]) -> LoadedModel:
    return load(python_model(STREAM.format(kind="def") if request.param == "yields" else RETURNS))


def test_a_predictor_that_yields_streams(streaming: LoadedModel) -> None:
    assert streaming.is_streaming
    assert not streaming.is_batchable
    assert list(streaming.predict(["a", "b"])) == ["a", "b"]


def test_between_two_parts_the_model_s_thread_is_as_it_was(streaming: LoadedModel) -> None:
    steps = streaming.predict(["a", "b"])
    assert next(steps) == "a"
    assert not torch.is_inference_mode_enabled()


def test_a_stream_that_is_left_lets_the_model_clean_up(python_model: Callable[[str], Path]) -> None:
    model = load(python_model(STREAM.format(kind="def") + "\n    def example(self):\n        return self.closed\n"))
    steps: Iterator[Any] = model.predict(["a", "b"])
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert model.example is not None
    assert model.example() == [True]


async def test_an_async_generator_is_left_to_the_event_loop(python_model: Callable[[str], Path]) -> None:
    model = load(python_model(predictor("for word in batch:\n    yield word", kind="async def")))
    assert model.is_streaming
    assert [item async for item in model.predict(["a", "b"])] == ["a", "b"]


def test_an_async_predict_is_run_to_its_end(python_model: Callable[[str], Path]) -> None:
    code = predictor("await asyncio.sleep(0)\nreturn batch * 2", kind="async def", imports="import asyncio")
    model = load(python_model(code))
    assert not model.is_streaming
    assert model.predict(np.array([1, 2])).tolist() == [2, 4]
    assert model.predict(np.array([3])).tolist() == [6]


def spec(*shape: int) -> TensorSpec:
    return TensorSpec("x", "float32", shape)


@pytest.mark.parametrize(
    ("batchable", "signature", "batches"),
    [
        (None, Signature(), True),
        (None, Signature((spec(-1, 4),), (spec(-1, 3),)), True),
        (None, Signature((spec(1, 4),)), False),
        (None, Signature((spec(-1, 4),), (spec(3),)), False),
        (False, Signature((spec(-1, 4),)), False),
        (True, Signature((spec(8, 4),)), True),
    ],
)
def test_rows_may_be_joined_where_any_number_of_them_is_declared(
    batchable: bool | None, signature: Signature, batches: bool
) -> None:
    assert is_batchable(batchable, signature) is batches


def test_batchable_in_model_yaml(torch_model: Path) -> None:
    model = ModelArguments.model_validate({"uri": f"file://{torch_model}", "entrypoint": "net:Net"})
    assert load_model(open_model(model.uri, ""), model).is_batchable
    (torch_model / "model.yaml").write_text("batchable: false\n")
    assert not load_model(open_model(model.uri, ""), model).is_batchable
