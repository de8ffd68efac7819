"""Trains the demo's models on scikit-learn's handwritten digits, and writes them as model directories.

A program of its own (`python -m sundog_operator.shell.demo.training DIRECTORY`), so that torch's memory is given back before
anything is served, and the demo itself needs no torch. It prints one JSON object per line: how far it is.
"""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sundog_operator.shell.demo.dataset import BROKEN, GOOD, HELD_OUT, TRAINED, WEAK

SEED: Final = 7
HELD_OUT_IMAGES: Final = 540
_BATCH: Final = 64
_MODELS: Final = Path(__file__).with_name("models")

ProgressCallback = Callable[[str, int, int], None]
"""Called with a model's name, the passes over the data that are done, and how many there will be."""


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """How one model is trained. `epochs` are passes over the training images, `rate` is the highest learning rate."""

    name: str
    code: str
    epochs: int
    rate: float


TRAINING_RECIPES: Final = (TrainingRecipe(WEAK, "linear", 60, 0.1), TrainingRecipe(GOOD, "conv", 12, 0.01))


@dataclass(frozen=True, slots=True)
class DigitsDataset:
    """1 797 images, split once. Images are float32 [n, 8, 8] of 0 to 16, labels int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor
    held_out_images: torch.Tensor
    held_out_labels: torch.Tensor


def read_digits(seed: int = SEED) -> DigitsDataset:
    """The data that scikit-learn ships, with the same share of every digit in both parts."""
    images, labels = load_digits().images, load_digits().target
    train, held_out = train_test_split(
        range(len(labels)), test_size=HELD_OUT_IMAGES, random_state=seed, stratify=labels
    )
    tensor = torch.tensor(images, dtype=torch.float32), torch.tensor(labels)
    return DigitsDataset(tensor[0][train], tensor[1][train], tensor[0][held_out], tensor[1][held_out])


def train(
    recipe: TrainingRecipe, digits: DigitsDataset, progress: ProgressCallback, seed: int = SEED
) -> torch.nn.Module:
    """Adam on the cross entropy, with a learning rate that falls to zero."""
    torch.manual_seed(seed)
    net = make_network(recipe.code)
    optimizer = torch.optim.Adam(net.parameters(), recipe.rate)
    batches = -(-len(digits.labels) // _BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, recipe.epochs * batches)
    for epoch in range(recipe.epochs):
        for batch in torch.randperm(len(digits.labels)).split(_BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(digits.images[batch]), digits.labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
        progress(recipe.name, epoch + 1, recipe.epochs)
    return net.eval()


def make_network(code: str) -> torch.nn.Module:
    """An untrained network, of the very file that is served with the weights."""
    spec = importlib.util.spec_from_file_location(f"sundog_demo_{code}", _MODELS / code / "net.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"the demo's network {code} is not installed at {_MODELS / code}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net: torch.nn.Module = module.Net()
    return net


def measure_accuracy(net: torch.nn.Module, digits: DigitsDataset) -> float:
    """The share of held-out images that a network reads right."""
    with torch.inference_mode():
        right = net(digits.held_out_images).argmax(1) == digits.held_out_labels
    return int(right.sum()) / len(digits.held_out_labels)


def write_model(directory: Path, code: str, net: torch.nn.Module) -> None:
    """A model directory: the network's code, its weights, and what it takes and gives."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("net.py", "model.yaml"):
        shutil.copyfile(_MODELS / code / name, directory / name)
    weights = directory / "model.safetensors"
    save_file(net.state_dict(), weights)
    # It is written for its owner alone, and copied to where others serve it.
    weights.chmod(0o644)


def train_models(directory: Path, progress: ProgressCallback) -> dict[str, float]:
    """Train and write everything that the demo serves and sends. Gives the accuracy of each model on the held-out images."""
    # A second thread makes steps of this size slower, and on a busy machine many times slower.
    torch.set_num_threads(1)
    digits = read_digits()
    reached = {}
    for recipe in TRAINING_RECIPES:
        net = train(recipe, digits, progress)
        reached[recipe.name] = measure_accuracy(net, digits)
        write_model(directory / recipe.name, recipe.code, net)
        if recipe.name == WEAK:
            # An upload that went wrong: the weights of one network beside the code of another.
            write_model(directory / BROKEN, "conv", net)
    _write_json(directory / HELD_OUT, _held_out(digits))
    _write_json(directory / TRAINED, {"seed": SEED, "trainingImages": len(digits.labels), "accuracy": reached})
    return reached


def _held_out(digits: DigitsDataset) -> dict[str, Any]:
    return {"images": digits.held_out_images.int().tolist(), "labels": digits.held_out_labels.tolist()}


def _write_json(path: Path, document: Any) -> None:
    path.write_bytes(orjson.dumps(document))


def _print_line(document: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(document).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    """The program."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sundog_operator.shell.demo.training DIRECTORY")
    train_models(Path(sys.argv[1]), lambda name, done, of: _print_line({"model": name, "epoch": done, "of": of}))


if __name__ == "__main__":
    main()
