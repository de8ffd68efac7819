"""Small models on disk, and replicas that serve them without Ray."""

import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from small_models import NET
from sundog_runtime.replica import Replica

DECLARED = """
inputs:
- {name: x, dtype: float32, shape: [-1, 4]}
outputs:
- {name: scores, dtype: float32, shape: [-1, 3]}
"""


@pytest.fixture(autouse=True)
def interpreter_is_left_as_it_was():
    """Check that a model's modules stay private: no other code of the process can import them by name."""
    path = list(sys.path)
    yield
    assert sys.path == path
    assert not {"net", "predictor", "helper"} & set(sys.modules)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep everything that a test leaves on the node away from other tests."""
    monkeypatch.setenv("SUNDOG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


class Net(torch.nn.Module):
    """The same network as NET, to create weights."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, hidden)
        self.second = torch.nn.Linear(hidden, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.fixture
def network() -> torch.nn.Module:
    """Return the network whose weights `torch_model` holds."""
    torch.manual_seed(3)
    return Net()


@pytest.fixture
def torch_model(tmp_path: Path, network: torch.nn.Module) -> Path:
    """Return a directory with code, safetensors weights and a description."""
    root = tmp_path / "model"
    root.mkdir()
    (root / "net.py").write_text(NET)
    (root / "model.yaml").write_text(DECLARED)
    safetensors.torch.save_file(network.state_dict(), root / "model.safetensors")
    return root


@pytest.fixture
def python_model(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that creates a directory with `predictor.py`."""

    def make(code: str) -> Path:
        root = tmp_path / "python"
        root.mkdir(exist_ok=True)
        (root / "predictor.py").write_text(code)
        return root

    return make


def arguments(
    path: Path, entrypoint: str = "net:Net", warmup: dict[str, Any] | None = None, **model: Any
) -> dict[str, Any]:
    """Return `args` in the operator's format."""
    return {
        "version": 1,
        "namespace": "vision",
        "service": "digits",
        "revision": 8,
        "revisionHash": "5f0c",
        "model": {
            "uri": f"file://{path}",
            "digest": "",
            "format": "auto",
            "entrypoint": entrypoint,
            "config": {},
            **model,
        },
        "batching": {"maxSize": 1, "maxDelaySeconds": 0.002},
        "warmup": {"requests": 4, "timeoutSeconds": 60.0} | (warmup or {}),
        "cpu": 1.0,
    }


@pytest.fixture
def args() -> Callable[..., dict[str, Any]]:
    """Return a function: see `arguments`."""
    return arguments


PREFIX = "/digits-r8.app"


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Start a replica for `args`, and return a client below its prefix. Errors of the application reach the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(args: dict[str, Any], user_config: Any = None) -> httpx.AsyncClient:
            replica = await Replica.start(args)
            stack.callback(replica.close)
            await replica.reconfigure(user_config)
            transport = httpx.ASGITransport(replica.app, root_path=PREFIX)
            client = await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url=f"http://replica{PREFIX}")
            )
            client.replica = replica  # type: ignore[attr-defined]
            return client

        yield start


@pytest.fixture
def serve_predictor(python_model: Callable[[str], Path], serve: Callable[..., Any]) -> Callable[..., Any]:
    """Start a replica of a predictor class, by its code and the content of its `model.yaml`; see `serve`."""

    async def start(code: str, declared: str = "", user_config: Any = None, **model: Any) -> httpx.AsyncClient:
        root = python_model(code)
        (root / "model.yaml").write_text(declared)
        client: httpx.AsyncClient = await serve(arguments(root, "predictor:Predictor", **model), user_config)
        return client

    return start
