"""Train the base and its adapters, and write them beside the predictor: python examples/experiments/adapters/train.py.

The base reads upright digits. The adapters learn to read digits that lie on their side, and change none of the base's weights.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from sundog_operator.shell.demo.training import read_digits

HIDDEN = 32
RANKS = {"narrow": 1, "wide": 4}
Layers = list[tuple[torch.Tensor, torch.Tensor]]


def on_their_side(images: torch.Tensor) -> torch.Tensor:
    return images.rot90(1, (1, 2))


def forward(base: Layers, images: torch.Tensor, adapter: Layers | None = None) -> torch.Tensor:
    values = images.flatten(1) / 16
    for layer, (weights, bias) in enumerate(base):
        result = values @ weights.T + bias
        if adapter is not None:
            down, up = adapter[layer]
            result = result + (values @ down.T) @ up.T
        values = result if layer else result.relu()
    return values


def fit(layers: Layers, scores: Callable[[torch.Tensor], torch.Tensor], labels: torch.Tensor) -> None:
    """Train these tensors. `scores` returns the scores of the images with the given numbers."""
    tensors = [each.requires_grad_() for layer in layers for each in layer]
    optimizer = torch.optim.Adam(tensors, 0.02)
    for _ in range(40):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(scores(batch), labels[batch]).backward()
            optimizer.step()
    for each in tensors:
        each.requires_grad_(requires_grad=False)


def write(file: Path, names: str, layers: Layers) -> None:
    file.parent.mkdir(exist_ok=True)
    np.savez(
        file,
        **{
            f"{name}{at}": layer[column].numpy() for at, layer in enumerate(layers) for column, name in enumerate(names)
        },
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(7)
    digits = read_digits()
    base = [
        (torch.randn(rows, columns) / columns**0.5, torch.zeros(rows)) for rows, columns in ((HIDDEN, 64), (10, HIDDEN))
    ]
    fit(base, lambda batch: forward(base, digits.images[batch]), digits.labels)
    write(folder / "base.npz", "Wb", base)
    sideways, held_out = on_their_side(digits.images), on_their_side(digits.held_out_images)
    adapters: dict[str, Layers | None] = {"no adapter": None}
    for name, rank in RANKS.items():
        # B is 0 at first, so that training begins at the base.
        made = [(torch.randn(rank, weights.shape[1]) / 10, torch.zeros(len(weights), rank)) for weights, _ in base]
        fit(made, lambda batch, made=made: forward(base, sideways[batch], made), digits.labels)
        write(folder / "adapters" / f"{name}.npz", "AB", made)
        adapters[name] = made
    for name, adapter in adapters.items():
        right = forward(base, held_out, adapter).argmax(1) == digits.held_out_labels
        print(f"{name}: {right.float().mean() * 100:.0f} % of the held-out images are right")
    images = held_out.int().tolist()
    (folder.parent / "held-out.json").write_text(
        json.dumps({"images": images, "labels": digits.held_out_labels.tolist()})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "model")
