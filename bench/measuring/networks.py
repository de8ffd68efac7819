"""Networks to serve, as model folders, and requests for them."""

import json
import random
from pathlib import Path

FEATURES = 256
CLASSES = 10

MLP = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
            torch.nn.Linear(512, 10),
        )

    def forward(self, x):
        return self.layers(x)
"""

# A forward pass whose cost is in reading its weights (32 MB), once for a batch however large: what batching is for.
WIDE = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 2048), torch.nn.ReLU(),
            torch.nn.Linear(2048, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 10),
        )

    def forward(self, x):
        return self.layers(x)
"""

# Almost no forward pass, so that the benchmark measures the protocol.
MEANS = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, image):
        return image[:, :, ::32, ::32].mean(dim=(2, 3)) * self.scale
"""


def save(folder: Path, source: str, shape: list[int], name: str = "x") -> Path:
    """A model directory for one of the sources, with random weights; it declares its input, without the batch."""
    import torch

    namespace: dict[str, object] = {}
    exec(source, namespace)
    made = namespace["Net"]
    assert callable(made)
    torch.manual_seed(1)
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(source)
    torch.save(made().state_dict(), folder / "weights.pt")
    (folder / "model.yaml").write_text(
        json.dumps({"inputs": [{"name": name, "dtype": "float32", "shape": [-1, *shape]}]})
    )
    return folder


def features(count: int = FEATURES) -> list[float]:
    """Numbers as short as people send them: 256 of them are some 2 kB of JSON."""
    made = random.Random(1)
    return [round(made.uniform(-1, 1), 4) for _ in range(count)]


def body_of(key: str, value: object) -> bytes:
    """A JSON object with one member."""
    return json.dumps({key: value}).encode()
