"""Train the demo's models on scikit-learn's handwritten digits, and write them as model directories.

It is a separate program (`python -m sundog_operator.shell.demo.training DIRECTORY`): its end frees torch's memory, and the
demo itself does not import torch. For the demo, `--json` prints its progress as one JSON object per line.
"""

import argparse
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

from sundog_operator.shell.demo.dataset import BROKEN_MODEL, GOOD_MODEL, HELD_OUT_FILE, TRAINED_FILE, WEAK_MODEL

SEED: Final = 7
HELD_OUT_IMAGES: Final = 540
_BATCH: Final = 64
_MODELS: Final = Path(__file__).with_name("models")

ProgressCallback = Callable[[str, int, int], None]
"""Called with a model's name, the finished epochs, and their total number."""


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """Hyperparameters of one model. `rate` is the highest learning rate."""

    name: str
    code: str
    epochs: int
    rate: float


TRAINING_RECIPES: Final = (TrainingRecipe(WEAK_MODEL, "linear", 60, 0.1), TrainingRecipe(GOOD_MODEL, "conv", 12, 0.01))


@dataclass(frozen=True, slots=True)
class DigitsDataset:
    """1 797 images, split into training and held-out ones. Images are float32 [n, 8, 8] of 0 to 16, labels int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor
    held_out_images: torch.Tensor
    held_out_labels: torch.Tensor


def read_digits() -> DigitsDataset:
    """Return scikit-learn's data, with the same share of each digit in both parts."""
    images, labels = load_digits().images, load_digits().target
    train, held_out = train_test_split(
        range(len(labels)), test_size=HELD_OUT_IMAGES, random_state=SEED, stratify=labels
    )
    tensor = torch.tensor(images, dtype=torch.float32), torch.tensor(labels)
    return DigitsDataset(tensor[0][train], tensor[1][train], tensor[0][held_out], tensor[1][held_out])


def train(recipe: TrainingRecipe, digits: DigitsDataset, progress: ProgressCallback) -> torch.nn.Module:
    """Train with Adam on the cross entropy, with a learning rate that falls to zero."""
    torch.manual_seed(SEED)
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
    """Return an untrained network from the file that is served with the weights."""
    spec = importlib.util.spec_from_file_location(f"sundog_demo_{code}", _MODELS / code / "net.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{_MODELS / code}: the demo's network is not installed")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net: torch.nn.Module = module.Net()
    return net


def measure_accuracy(net: torch.nn.Module, digits: DigitsDataset) -> float:
    """Return a network's accuracy on the held-out images."""
    with torch.inference_mode():
        correct = net(digits.held_out_images).argmax(1) == digits.held_out_labels
    return int(correct.sum()) / len(digits.held_out_labels)


def write_model(directory: Path, code: str, net: torch.nn.Module) -> None:
    """Write a model directory: the network's code, its weights, and its inputs and outputs."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("net.py", "model.yaml"):
        shutil.copyfile(_MODELS / code / name, directory / name)
    weights = directory / "model.safetensors"
    save_file(net.state_dict(), weights)
    # save_file allows only the owner to read it. Other users may serve a copy.
    weights.chmod(0o644)


def train_models(directory: Path, progress: ProgressCallback) -> dict[str, float]:
    """Train and write the models, and write the held-out images. Return the accuracy of each model on them."""
    # More threads are slower with batches of this size.
    torch.set_num_threads(1)
    digits = read_digits()
    accuracies = {}
    for recipe in TRAINING_RECIPES:
        net = train(recipe, digits, progress)
        accuracies[recipe.name] = measure_accuracy(net, digits)
        write_model(directory / recipe.name, recipe.code, net)
        if recipe.name == WEAK_MODEL:
            # A broken upload: the weights of one network with the code of another.
            write_model(directory / BROKEN_MODEL, "conv", net)
    _write_json(directory / HELD_OUT_FILE, _held_out_document(digits))
    _write_json(directory / TRAINED_FILE, {"seed": SEED, "trainingImages": len(digits.labels), "accuracy": accuracies})
    return accuracies


def _held_out_document(digits: DigitsDataset) -> dict[str, Any]:
    return {"images": digits.held_out_images.int().tolist(), "labels": digits.held_out_labels.tolist()}


def _write_json(path: Path, document: Any) -> None:
    path.write_bytes(orjson.dumps(document))


def _print_progress(name: str, done: int, of: int) -> None:
    sys.stdout.write(orjson.dumps({"model": name, "epoch": done, "of": of}).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m sundog_operator.shell.demo.training")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true", help="Print the progress as one JSON object per line.")
    options = parser.parse_args()
    if options.json:
        train_models(options.directory, _print_progress)
        return
    for name, accuracy in train_models(options.directory, lambda *_: None).items():
        sys.stdout.write(f"{name}: {accuracy * 100:.3g} % of the held-out images are right\n")


if __name__ == "__main__":
    main()
