"""Networks on an accelerator. Torch's `meta` device stands in: like CUDA it refuses the CPU's tensors, but it computes only shapes."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sundog_runtime.arguments import ModelArguments, parse_arguments
from sundog_runtime.errors import LoadFailed
from sundog_runtime.formats.device import (
    CPU,
    Device,
    DeviceWatch,
    limit_memory,
    make_device_reader,
    read_device_use,
    select_device,
)
from sundog_runtime.formats.load import load_model
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.sentence_transformers import SentenceEncoding
from sundog_runtime.formats.transformers.generation import generate_tokens
from sundog_runtime.formats.transformers.model import TransformersModel, TransformersSettings
from sundog_runtime.sources.open_model import open_model
from sundog_runtime.telemetry.replica_metrics import DeviceUse

X = np.ones((2, 4), np.float32)
ON_DEVICE = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return x + torch.arange(4, device=x.device)
"""


class Pinned:
    """Stands in for pinned memory, and records the copies."""

    def __init__(self) -> None:
        self.copied: list[tuple[int, ...]] = []

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        self.copied.append(tuple(value.shape))
        return value


@pytest.fixture
def pinned() -> Pinned:
    return Pinned()


@pytest.fixture
def device(pinned: Pinned) -> Device:
    return Device(torch.device("meta"), "a stand-in", pinned)


def load(path: Path, device: Device, entrypoint: str = "net:Net", **model: Any) -> LoadedModel:
    spec = ModelArguments.model_validate({"uri": f"file://{path}", "entrypoint": entrypoint, **model})
    return load_model(open_model(spec.uri, ""), spec, device=lambda: device)


def test_weights_and_requests_of_a_state_dict_are_on_the_device(
    torch_model: Path, device: Device, pinned: Pinned
) -> None:
    model = load(torch_model, device)
    assert {each.device.type for each in model.module.parameters()} == {"meta"}
    output = model.predict(X)
    assert (output.device.type, output.shape) == ("meta", (2, 3))
    assert (model.device, pinned.copied) == ("a stand-in", [(2, 4)])


def test_the_stand_in_refuses_what_was_left_on_the_cpu(torch_model: Path, device: Device) -> None:
    model = load(torch_model, device)
    with pytest.raises(RuntimeError, match="device"):
        model.module(torch.from_numpy(X))


def test_a_program_moves_with_the_devices_in_its_steps(tmp_path: Path, device: Device) -> None:
    (tmp_path / "net.py").write_text(ON_DEVICE)
    namespace: dict[str, Any] = {}
    exec(ON_DEVICE, namespace)
    program = torch.export.export(namespace["Net"]().eval(), (torch.zeros(2, 4),))
    torch.export.save(program, tmp_path / "net.pt2")
    model = load(tmp_path, device, "", trustCode=True)
    assert model.predict(X).device.type == "meta"


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_on_the_device(
    torch_model: Path, network: torch.nn.Module, tmp_path: Path, device: Device
) -> None:
    archive = tmp_path / "script" / "net.pt"
    archive.parent.mkdir()
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 4)), archive)
    model = load(archive.parent, device, "", trustCode=True)
    assert model.predict(X).device.type == "meta"


def test_a_hugging_face_network_is_on_the_device(tmp_path: Path, device: Device, pinned: Pinned) -> None:
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=100, **size)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    model = load(tmp_path / "bert", device, "")
    assert {each.device.type for each in model.module.parameters()} == {"meta"}
    output = model.predict({"input_ids": np.ones((2, 3), np.int64)})
    assert (output["embeddings"].device.type, output["embeddings"].shape) == ("meta", (2, 16))
    assert pinned.copied == [(2, 3)]


def test_generated_tokens_go_where_the_first_ones_were() -> None:
    seen: list[str] = []

    class Network:
        def forward(self, input_ids: Any, cache: Any, use_cache: bool) -> None: ...

        def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
            seen.append(input_ids.device.type)
            return type("Output", (dict,), {"logits": torch.tensor([[[0.0, 1.0]]])})({"cache": None})

    settings = TransformersSettings.model_validate({"maxNewTokens": 3})
    model = TransformersModel(Network(), CPU, None, "generation", settings, SentenceEncoding(), {}, 0)
    assert list(generate_tokens(model, torch.zeros(1, 1, device="meta"), set())) == [1, 1, 1]
    assert seen == ["meta", "meta", "meta"]


def test_a_compiled_network_stays_on_one_thread(torch_model: Path, device: Device) -> None:
    (torch_model / "model.yaml").write_text(
        "inputs: [{name: x, dtype: float32, shape: [-1, 4]}]\ncompile: {enabled: true}\n"
    )
    assert load(torch_model, device).needs_model_thread


def test_predictors_place_themselves(python_model: Callable[[str], Path]) -> None:
    path = python_model("class Predictor:\n    def load(self, path, config): ...\n    def predict(self, x): return x\n")

    def never() -> Device:
        raise AssertionError("asked for a device")

    spec = ModelArguments.model_validate({"uri": f"file://{path}", "entrypoint": "predictor:Predictor"})
    assert load_model(open_model(spec.uri, ""), spec, device=never).platform == "python"


class Cuda:
    """The part of torch.cuda that is used."""

    def __init__(self, available: bool) -> None:
        self._available = available
        self.limits: list[tuple[float, int]] = []

    def is_available(self) -> bool:
        return self._available

    def get_device_name(self, index: int) -> str:
        return f"GPU {index}"

    def set_per_process_memory_fraction(self, fraction: float, device: int) -> None:
        self.limits.append((fraction, device))


@pytest.mark.parametrize("vendor", ["nvidia", "amd"])
def test_the_first_of_the_replica_s_own_devices_is_taken(vendor: str) -> None:
    device = select_device(2, vendor, Cuda(available=True))
    assert (device.where, device.name) == (torch.device("cuda:0"), "cuda:0, GPU 0")


@pytest.mark.parametrize(("count", "vendor"), [(0, "nvidia"), (1, "gaudi"), (1, "neuron"), (1, "intel")])
def test_without_devices_of_cuda_the_cpu_computes(count: int, vendor: str) -> None:
    assert select_device(count, vendor, Cuda(available=True)).is_cpu


def test_a_device_that_torch_does_not_see_is_an_error() -> None:
    with pytest.raises(
        LoadFailed, match=r"resources\.gpu\.count is 1 \(nvidia\), and torch .* sees no device\. Use an image"
    ):
        select_device(1, "nvidia", Cuda(available=False))


@pytest.mark.parametrize(
    ("fraction", "available", "limits"), [(0.25, True, [(0.25, 0)]), (0.25, False, []), (None, True, [])]
)
def test_a_fraction_limits_the_memory_that_torch_allocates(
    fraction: float | None, available: bool, limits: list[tuple[float, int]]
) -> None:
    cuda = Cuda(available)
    limit_memory(fraction, cuda)
    assert cuda.limits == limits


async def test_a_replica_with_a_fraction_limits_memory_before_its_model_loads(
    python_model: Callable[[str], Path], args: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(available=True)
    monkeypatch.setattr(torch.cuda, "is_available", cuda.is_available)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", cuda.set_per_process_memory_fraction)
    path = python_model(
        "import torch\n"
        "class Predictor:\n"
        "    def load(self, path, config):\n"
        "        torch.cuda.set_per_process_memory_fraction(1.0, 1)\n"
        "    def predict(self, x): return x\n"
    )
    model = {"entrypoint": "predictor:Predictor"}
    gpu = {"count": 1, "vendor": "nvidia", "memoryFraction": 0.5}
    await serve({**args(path, **model), "gpu": gpu})
    assert cuda.limits == [(0.5, 0), (1.0, 1)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device here")
async def test_a_replica_that_was_promised_a_device_does_not_start_without(
    torch_model: Path, args: Any, serve: Any
) -> None:
    with pytest.raises(LoadFailed, match="sees no device"):
        await serve({**args(torch_model), "gpu": {"count": 1, "vendor": "nvidia"}})


def test_values_that_are_not_tensors_are_not_moved(device: Device, pinned: Pinned) -> None:
    given = device.to_device({"x": torch.zeros(2), "texts": ["a"], "there": torch.zeros(3, device="meta")})
    assert given["texts"] == ["a"]
    assert (given["x"].device.type, given["there"].shape) == ("meta", (3,))
    assert pinned.copied == [(2,)]


def test_a_device_is_lost_when_it_refuses_everything_after_an_error() -> None:
    def fails(_: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nmore")

    def refuses() -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    once, lost = DeviceWatch(lambda: None), DeviceWatch(refuses)
    for watch in (once, lost):
        with pytest.raises(torch.AcceleratorError):
            watch.wrap(fails)(None)
    assert once.lost_reason == ""
    assert lost.lost_reason.startswith("CUDA error: device-side assert triggered")
    assert DeviceWatch(refuses).wrap(lambda batch: batch)(1) == 1


class LosingStreams:
    """Models whose second item costs the device, as both kinds of generators."""

    def __init__(self) -> None:
        self.closed = 0
        self.watch = DeviceWatch(self.refuse)

    def refuse(self) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    def steps(self, _: Any) -> Iterator[int]:
        try:
            yield 1
            self.refuse()
        finally:
            self.closed += 1

    async def items(self, _: Any) -> AsyncIterator[int]:
        for step in self.steps(None):
            yield step


@pytest.mark.parametrize("kind", ["steps", "items"], ids=["sync", "async"])
async def test_a_device_that_is_lost_in_a_stream_is_noticed(kind: str) -> None:
    model = LosingStreams()
    predict = model.watch.wrap(getattr(model, kind))
    abandoned = predict(None)
    if kind == "steps":
        assert next(abandoned) == 1
        abandoned.close()
    else:
        assert await anext(abandoned) == 1
        await abandoned.aclose()
    assert (model.closed, model.watch.lost_reason) == (1, "")
    with pytest.raises(torch.AcceleratorError):
        list(predict(None)) if kind == "steps" else [item async for item in predict(None)]
    assert model.watch.lost_reason.startswith("CUDA error")


async def test_a_replica_whose_device_is_lost_is_unhealthy(torch_model: Path, args: Any, serve: Any) -> None:
    replica = (await serve(args(torch_model))).replica
    await replica.check_health()
    object.__setattr__(replica._model, "lost_reason", lambda: "device-side assert")
    with pytest.raises(RuntimeError, match="the device is lost: device-side assert"):
        await replica.check_health()


def test_arguments_without_devices_mean_none(args: Any) -> None:
    assert parse_arguments(args(Path("/x"))).gpu.count == 0


class FakeCuda:
    """Stands in for `torch.cuda` with two devices. `faults` are raised by the functions of these names."""

    def __init__(self, initialized: bool = True, **faults: Exception) -> None:
        self.faults = faults
        self.is_initialized = lambda: initialized
        self.device_count = lambda: 2
        self.memory_allocated = self._answer("memory_allocated", (10, 20))
        self.memory_reserved = self._answer("memory_reserved", (15, 25))
        self.mem_get_info = self._answer("mem_get_info", ((60, 100), (50, 100)))
        self.utilization = self._answer("utilization", (20, 40))

    def _answer(self, name: str, answers: tuple[Any, Any]) -> Callable[[int], Any]:
        def answer(device: int) -> Any:
            if name in self.faults:
                raise self.faults[name]
            return answers[device]

        return answer


def test_the_use_of_all_devices_is_added_up() -> None:
    assert read_device_use(FakeCuda()) == DeviceUse(30, 40, 90, 200, 0.3)


class NVMLError(Exception):
    """The base of errors of NVIDIA's library, of which torch translates one."""


@pytest.mark.parametrize(
    "fault", [ModuleNotFoundError("amdsmi"), RuntimeError("no driver"), NVMLError("Not Supported")]
)
def test_memory_is_read_without_the_library_that_knows_the_load(fault: Exception) -> None:
    assert read_device_use(FakeCuda(utilization=fault)) == DeviceUse(30, 40, 90, 200, None)


def test_a_device_that_is_unused_or_lost_has_no_use() -> None:
    assert read_device_use(FakeCuda(initialized=False)) is None
    assert read_device_use(FakeCuda(mem_get_info=torch.AcceleratorError("device-side assert"))) is None


@pytest.mark.parametrize(("count", "vendor"), [(0, "nvidia"), (1, "gaudi")])
def test_without_a_device_of_torch_there_is_nothing_to_read(count: int, vendor: str) -> None:
    assert make_device_reader(count, vendor)() is None
    assert make_device_reader(1, "nvidia") is read_device_use
