# mypy: disable-error-code="misc"
"""A linear classifier for 8×8 images at half their resolution."""

import torch


class Net(torch.nn.Module):
    """Map pixels of 0 to 16, float32 [n, 8, 8], to scores of the ten digits, [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.read = torch.nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores; the largest one is the predicted digit."""
        coarse = torch.nn.functional.avg_pool2d(images.unsqueeze(1) / 16, 2)
        scores: torch.Tensor = self.read(coarse.flatten(1))
        return scores
