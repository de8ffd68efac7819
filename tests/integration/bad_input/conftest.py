"""One good ModelDeployment and many bad ones, applied at once."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from real_local import Clients, Rows, Up, save_network

BATCHES: list[Rows] = [[[0.5, -1.0, 2.0, float(number)]] for number in range(4)]
SIGNATURE = "inputs:\n- {name: x, dtype: float32, shape: [-1, 4]}\n"
NO_VOCABULARY = """
class Predictor:
    def load(self, path, config):
        raise RuntimeError("no such vocabulary: words.txt")

    def predict(self, batch):
        return batch
"""
NO_ROOT = """
class Predictor:
    def load(self, path, config):
        pass

    def example(self):
        return [[-1.0]]

    def predict(self, batch):
        raise ValueError("cannot take the square root of -1")
"""


@dataclass(frozen=True)
class Bad:
    """A model that cannot be served: what of it is in `spec.model`, and what is said about it."""

    model: dict[str, Any]
    reason: str
    message: str


@dataclass
class Bed:
    """The deployments of this module, in one instance."""

    up: Up
    models: Path
    answers: list[Rows]
    bad: dict[str, Bad]

    def spec(self, **model: Any) -> dict[str, Any]:
        """The good spec, or with another model."""
        return {
            "model": model or {"uri": f"file://{self.models}/good", "entrypoint": "net:Net"},
            "rollout": {"steps": [{"weight": 50, "gate": "manual"}]},
        }

    def manifest(self, name: str, spec: Any, namespace: str = "default") -> dict[str, Any]:
        return {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }

    def file(self, *manifests: dict[str, Any]) -> str:
        """The path of a file with these manifests; JSON is YAML."""
        path = self.models / "manifests.yaml"
        path.write_text("\n---\n".join(map(json.dumps, manifests)))
        return str(path)

    def apply(self, *manifests: dict[str, Any]) -> None:
        done = self.up.sundog("apply", "-f", self.file(*manifests))
        assert done.returncode == 0, done.stderr

    def clients(self) -> Clients:
        return Clients(self.up.read("good")["status"]["url"], BATCHES, {"1": [self.answers]})


def bad_models(models: Path) -> dict[str, Bad]:
    """By the names of their deployments."""
    zeros = "sha256:" + 64 * "0"
    deep = models / "deep" / "/".join("d" * 33)
    deep.mkdir(parents=True)
    sources = {"text/notes.txt": "hello", "raises/net.py": NO_VOCABULARY, "cold/net.py": NO_ROOT, "closed/net.py": ""}
    for name, text in sources.items():
        (models / name).parent.mkdir(exist_ok=True)
        (models / name).write_text(text)
    (models / "closed").chmod(0)

    def uri(name: str) -> str:
        return f"file://{models}/{name}"

    return {
        "gone": Bad({"uri": uri("late"), "entrypoint": "net:Net"}, "ModelNotFound", "/late: No such file"),
        "digest": Bad(
            {"uri": uri("good"), "entrypoint": "net:Net", "digest": zeros},
            "DigestMismatch",
            f"expected {zeros}",
        ),
        "large": Bad({"uri": uri("deep"), "digest": zeros}, "ModelTooLarge", "holds directories deeper than 32"),
        "format": Bad({"uri": uri("text")}, "FormatNotRecognised", "found notes.txt; expected safetensors"),
        "entry": Bad(
            {"uri": uri("good"), "entrypoint": "net:Missing"},
            "EntrypointMissing",
            "entrypoint 'net:Missing': module 'net' has no attribute 'Missing'",
        ),
        "load": Bad(
            {"uri": uri("raises"), "entrypoint": "net:Predictor"},
            "LoadFailed",
            "net:Predictor.load raised RuntimeError: no such vocabulary: words.txt",
        ),
        "warmup": Bad(
            {"uri": uri("cold"), "entrypoint": "net:Predictor"},
            "WarmupFailed",
            "warm-up request 1 of 4 raised ValueError: cannot take the square root of -1",
        ),
        "denied": Bad(
            {"uri": uri("closed/net.py"), "entrypoint": "net:Net"},
            "AccessDenied",
            "/closed/net.py: Permission denied",
        ),
    }


@pytest.fixture(scope="module")
def bed(shared_up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """All are applied; nothing is waited for."""
    pytest.importorskip("torch")
    models = tmp_path_factory.mktemp("models")
    answers = save_network(models / "good", 0, BATCHES)
    (models / "good" / "model.yaml").write_text(SIGNATURE)
    bad = bad_models(models)
    if shared_up.reads_everything:
        del bad["denied"]
    made = Bed(shared_up, models, answers, bad)
    specs = {"good": made.spec(), **{name: made.spec(**bad.model) for name, bad in made.bad.items()}}
    made.apply(*(made.manifest(name, spec) for name, spec in specs.items()))
    yield made
    (models / "closed").chmod(0o700)
    # The good one stays: with the last deployment Ray would go, and the next module would have to start it again.
    if left := [name for name in made.bad if shared_up.read(name)]:
        done = shared_up.sundog("delete", *left)
        assert done.returncode == 0, done.stderr
