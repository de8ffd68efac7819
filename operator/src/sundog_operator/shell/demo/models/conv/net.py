# mypy: disable-error-code="misc"
"""A small convolutional network for 8×8 images at full resolution."""

import torch


class Net(torch.nn.Module):
    """Map pixels of 0 to 16, float32 [n, 8, 8], to scores of the ten digits, [n, 10]."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.see = torch.nn.Sequential(
            torch.nn.Conv2d(1, channels, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(channels, 2 * channels, 3, padding=1),
            torch.nn.ReLU(),
        )
        self.read = torch.nn.Linear(2 * channels * 16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores; the largest one is the predicted digit."""
        scores: torch.Tensor = self.read(self.see(images.unsqueeze(1) / 16).flatten(1))
        return scores
