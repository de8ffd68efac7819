"""A `sundog local up` for each test, and a network in two versions."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from real_local import Clients, Up, instance, save_network
from waiting import eventually


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Nothing of it is left afterwards, whatever the test did."""
    with instance(tmp_path) as made:
        yield made


@dataclass
class Model:
    """A network on disk in two versions, and what each answers to one input."""

    folder: Path
    inputs: list[list[float]]
    expected: dict[str, list[list[float]]] = field(default_factory=dict)

    def manifest(self, version: str, weight: int = 25) -> str:
        # JSON is YAML.
        return json.dumps(
            {
                "apiVersion": "serving.sundog.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": "mlp"},
                "spec": {
                    "model": {"uri": f"file://${{MANIFEST_DIR}}/../models/{version}", "entrypoint": "net:Net"},
                    "rollout": {"steps": [{"weight": weight, "gate": "manual"}, {"weight": 50, "gate": "manual"}]},
                },
            }
        )


@pytest.fixture
def model(tmp_path: Path) -> Model:
    pytest.importorskip("torch")
    made = Model(tmp_path / "models", [[0.5, -1.0, 2.0, 0.25]])
    for seed, version in enumerate(("v1", "v2")):
        (made.expected[version],) = save_network(made.folder / version, seed, [made.inputs])
    return made


@pytest.fixture
def clients(model: Model) -> Iterator[Callable[[str], Clients]]:
    made: list[Clients] = []

    def make(url: str) -> Clients:
        expected = {version.removeprefix("v"): [[answer]] for version, answer in model.expected.items()}
        made.append(Clients(url, [model.inputs], expected))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def wait() -> Callable[..., Any]:
    """See `eventually`."""
    return eventually
