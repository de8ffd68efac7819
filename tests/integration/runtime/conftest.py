"""A small trained-by-chance network on disk, and the Serve document that serves it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from small_models import NET
from waiting import eventually


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with code, weights and a description."""
    torch.manual_seed(3)
    root = tmp_path / "model"
    root.mkdir()
    (root / "net.py").write_text(NET)
    (root / "model.yaml").write_text("inputs:\n- {name: x, dtype: float32, shape: [-1, 4]}\n")
    network = torch.nn.ModuleDict({"first": torch.nn.Linear(4, 8), "second": torch.nn.Linear(8, 3)})
    safetensors.torch.save_file(network.state_dict(), root / "model.safetensors")
    return root


@pytest.fixture
def application() -> Callable[..., dict[str, Any]]:
    """Makes one application as the operator writes it."""

    def make(
        name: str, path: Path, entrypoint: str = "net:Net", user_config: Any = None, **model: Any
    ) -> dict[str, Any]:
        return {
            "name": name,
            "route_prefix": f"/{name}.app",
            "import_path": "sundog_runtime.serve:build",
            "args": {
                "version": 1,
                "namespace": "vision",
                "service": "digits",
                "revision": 8,
                "revisionHash": "5f0c",
                "model": {"uri": f"file://{path}", "format": "auto", "entrypoint": entrypoint, "config": {}, **model},
                "batching": {"maxSize": 1, "maxDelaySeconds": 0.002},
                "warmup": {"requests": 4, "timeoutSeconds": 60.0},
                "cpu": 1.0,
            },
            "logging_config": {"enable_access_log": False},
            "deployments": [
                {
                    "name": "Model",
                    "num_replicas": 1,
                    "max_ongoing_requests": 64,
                    "max_surge_percent": 100,
                    "user_config": {"userConfig": {}, "maxRequestBytes": 10_485_760}
                    if user_config is None
                    else user_config,
                    "ray_actor_options": {"num_cpus": 0.2},
                }
            ],
        }

    return make


@pytest.fixture
def empty_serve(ray_serve: Any) -> Iterator[None]:
    """Leave an empty list of applications to the next test."""
    yield
    ray_serve.put({"applications": []})
    eventually(lambda: not ray_serve.get()["applications"], "no applications")
