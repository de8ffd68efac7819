"""torch.compile: compiled before Ready, with cached code; a failing compiler is no reason to fail."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import setuptools  # noqa: F401 the compiler imports it, which changes sys.path
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.runtime.cache_dir_utils import cache_dir

from sundog_runtime.arguments import ModelArguments
from sundog_runtime.errors import LoadFailed
from sundog_runtime.formats.load import load_model
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.torch_compile import make_compile_batches, persist_compiled_code
from sundog_runtime.signature import Signature
from sundog_runtime.sources.open_model import open_model
from sundog_runtime.tensors import TensorSpec

DIRECTORY = "TORCHINDUCTOR_CACHE_DIR"
X = np.ones((3, 4), np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SUNDOG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(DIRECTORY, raising=False)
    yield tmp_path / "cache" / "compile"
    os.environ.pop(DIRECTORY, None)
    torch.compiler.reset()


@pytest.fixture
def compiled_model(torch_model: Path) -> Path:
    with (torch_model / "model.yaml").open("a") as file:
        file.write("compile: {enabled: true}\n")
    return torch_model


def load(root: Path, namespace: str = "vision", **model: Any) -> LoadedModel:
    spec = ModelArguments.model_validate({"uri": f"file://{root}", "entrypoint": "net:Net", **model})
    return load_model(open_model(spec.uri, ""), spec, namespace)


class Compiler:
    """Stands in for torch.compile. `sizes` are the numbers of rows of its calls."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.sizes: list[int] = []
        self.modes: list[Any] = []

    def __call__(self, module: torch.nn.Module, mode: Any = None) -> Callable[..., Any]:
        self.modes.append(mode)

        def call(batch: torch.Tensor) -> torch.Tensor:
            self.sizes.append(len(batch))
            if self.fails:
                raise self.fails
            return module(batch)

        return call


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler()
    monkeypatch.setattr("torch.compile", found)
    return found


@pytest.mark.extended
def test_a_compiled_network_gives_its_answers_and_its_code_is_kept(
    compiled_model: Path, network: torch.nn.Module, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.sundog"):
        model = load(compiled_model)
    torch.testing.assert_close(model.predict(X), network(torch.from_numpy(X)).detach(), atol=1e-5, rtol=1e-4)
    assert f"the code is in {cache / 'vision'}" in caplog.text
    assert (cache / "vision").stat().st_mode & 0o077 == 0
    assert [path for path in (cache / "vision").rglob("*") if path.is_file()]


def test_it_is_compiled_while_it_loads_for_any_number_of_rows(compiled_model: Path, compiler: Compiler) -> None:
    load(compiled_model)
    assert compiler.sizes == [1, 2]
    assert compiler.modes == [None]


def test_the_mode(torch_model: Path, compiler: Compiler) -> None:
    (torch_model / "model.yaml").write_text("compile: {enabled: true, mode: max-autotune}\n")
    load(torch_model)
    assert compiler.modes == ["max-autotune"]


@pytest.mark.parametrize(
    ("shape", "batchable", "later"),
    [("[-1, 4]", "true", False), ("[-1, 4]", "false", True), ("[-1, -1]", "true", True)],
)
def test_whether_a_request_may_wait_for_the_compiler(
    compiled_model: Path, compiler: Compiler, shape: str, batchable: str, later: bool
) -> None:
    description = compiled_model / "model.yaml"
    text = description.read_text().replace("shape: [-1, 4]", f"shape: {shape}")
    description.write_text(f"{text}\nbatchable: {batchable}\n")
    assert load(compiled_model).needs_model_thread is later


def test_without_compile_nothing_is_compiled(torch_model: Path, compiler: Compiler) -> None:
    load(torch_model)
    assert compiler.modes == []


def test_a_failing_compiler_is_logged_once_and_the_network_runs(
    compiled_model: Path, network: torch.nn.Module, compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.fails = TorchDynamoException("no C++ compiler\nhere")
    model = load(compiled_model)
    torch.testing.assert_close(model.predict(X), network(torch.from_numpy(X)).detach())
    assert caplog.text.count("torch.compile failed, the network runs uncompiled: no C++ compiler here") == 1
    assert len(compiler.sizes) == 1


def test_a_compiler_that_fails_later_costs_no_request(
    compiled_model: Path, network: torch.nn.Module, compiler: Compiler
) -> None:
    model = load(compiled_model)
    compiler.fails = TorchDynamoException("another shape")
    torch.testing.assert_close(model.predict(X), network(torch.from_numpy(X)).detach())


def test_errors_of_the_network_pass_through(compiled_model: Path, compiler: Compiler) -> None:
    model = load(compiled_model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model.predict(np.ones((1, 5), np.float32))
    compiler.fails = ValueError("mine")
    with pytest.raises(ValueError, match="mine"):
        model.predict(X)


def test_without_a_c_compiler_the_network_runs(
    compiled_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    assert load(compiled_model).predict(X).shape == (3, 3)
    assert "torch.compile failed, the network runs uncompiled: " in caplog.text


@pytest.mark.parametrize("kind", ["python", "torchscript"])
def test_formats_that_cannot_be_compiled_are_refused(
    tmp_path: Path, python_model: Callable[[str], Path], kind: str
) -> None:
    if kind == "python":
        code = "class Net:\n    def load(self, path, config): pass\n    def predict(self, batch): return batch\n"
        root, entrypoint = python_model(code), "predictor:Net"
    else:
        root, entrypoint = tmp_path / "script", ""
        root.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), root / "net.pt")
    (root / "model.yaml").write_text("compile: {enabled: true}\n")
    with pytest.raises(LoadFailed, match=r"model\.yaml: compile is "):
        load(root, entrypoint=entrypoint, trustCode=True)


def test_a_directory_that_cannot_be_created_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SUNDOG_CACHE_DIR", str(tmp_path / "file"))
    persist_compiled_code("vision")
    assert DIRECTORY not in os.environ
    assert "compiled code is not cached: " in caplog.text


@pytest.mark.parametrize("namespace", ["", "..", "a/b", "-a"])
def test_only_a_namespace_has_a_directory(cache: Path, namespace: str) -> None:
    persist_compiled_code(namespace)
    assert DIRECTORY not in os.environ
    assert not cache.exists()


def test_a_directory_that_the_environment_names_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY, "/mine")
    persist_compiled_code("vision")
    assert os.environ[DIRECTORY] == "/mine"


def test_the_directory_that_torch_sets_when_it_is_imported_is_replaced(cache: Path) -> None:
    assert cache_dir() == os.environ[DIRECTORY]
    persist_compiled_code("vision")
    assert os.environ[DIRECTORY] == str(cache / "vision")


def test_shapes_come_from_the_example_or_from_what_is_declared() -> None:
    signature = Signature((TensorSpec("x", "float32", (-1, 4)), TensorSpec("y", "int64", (-1,))))
    assert [batch["x"].shape for batch in make_compile_batches(None, signature, batchable=True)] == [(1, 4), (2, 4)]
    assert [batch.shape for batch in make_compile_batches(lambda: torch.zeros(3, 2), signature, batchable=True)] == [
        (3, 2),
        (6, 2),
    ]
    assert [batch.shape for batch in make_compile_batches(lambda: np.zeros((3, 2)), signature, batchable=False)] == [
        (3, 2)
    ]
    assert list(make_compile_batches(None, Signature(), batchable=True)) == []


CONVOLUTION = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 3)

    def forward(self, image):
        self.seen = image.is_contiguous(memory_format=torch.channels_last)
        return self.layer(image)
"""


@pytest.mark.parametrize(
    ("description", "used"),
    [
        ("inputs: [{name: image, dtype: float32, shape: [-1, 3, 8, 8]}]", True),
        ("inputs: [{name: image, dtype: float32, shape: [-1, 3, 8, 8]}]\nchannelsLast: false", False),
        ("channelsLast: true", True),
        ("", False),
    ],
)
def test_images_are_kept_in_channels_last_order(tmp_path: Path, description: str, used: bool) -> None:
    network = torch.nn.Conv2d(3, 2, 3)
    torch.save({f"layer.{name}": value for name, value in network.state_dict().items()}, tmp_path / "w.pt")
    (tmp_path / "net.py").write_text(CONVOLUTION)
    (tmp_path / "model.yaml").write_text(description)
    model = load(tmp_path)
    image = np.random.default_rng(1).random((2, 3, 8, 8), np.float32)
    torch.testing.assert_close(model.predict(image), network(torch.from_numpy(image)).detach(), atol=1e-5, rtol=1e-4)
    assert model.module.seen is used
