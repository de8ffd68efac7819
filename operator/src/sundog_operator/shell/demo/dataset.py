"""The held-out images and the names of the demo's models, which the training writes and the clients read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

WEAK_MODEL: Final = "v1"
GOOD_MODEL: Final = "v2"
BROKEN_MODEL: Final = "v3"
HELD_OUT_FILE: Final = "held-out.json"
TRAINED_FILE: Final = "trained.json"


@dataclass(frozen=True, slots=True)
class HeldOutImages:
    """Images that no model was trained on.

    Attributes:
        bodies: one request body per image, `{"inputs": [image]}`; an image has 8 rows of 8 pixels of 0 to 16.
        labels: the digit of each image.
        offline: the accuracy of each model on these images after training, by model name.
    """

    bodies: tuple[bytes, ...]
    labels: tuple[int, ...]
    offline: dict[str, float]


def read_held_out(directory: Path) -> HeldOutImages:
    """Read the files that `training` wrote into a directory."""
    held_out = orjson.loads((directory / HELD_OUT_FILE).read_bytes())
    trained = orjson.loads((directory / TRAINED_FILE).read_bytes())
    bodies = tuple(orjson.dumps({"inputs": [image]}) for image in held_out["images"])
    return HeldOutImages(bodies, tuple(held_out["labels"]), trained["accuracy"])
