"""One network for handwritten digits, with low-rank adapters (LoRA) of which `userConfig` selects one."""

from pathlib import Path
from typing import Any

import numpy as np


class Predictor:
    """Add `B @ A` of the selected adapter to each layer's weights `W`. The base itself never changes."""

    def load(self, path: Path, config: dict[str, Any]) -> None:  # noqa: ARG002
        """Read the base. Adapters are small: `configure` reads the one that it needs."""
        self._folder = path / "adapters"
        with np.load(path / "base.npz") as base:
            self._layers = [(base[f"W{layer}"], base[f"b{layer}"]) for layer in (0, 1)]

    def configure(self, user_config: dict[str, Any]) -> None:
        """Take the adapter that `userConfig` names; without a name, the base alone."""
        name = user_config.get("adapter", "")
        known = sorted(file.stem for file in self._folder.glob("*.npz"))
        if name and name not in known:
            raise ValueError(f"userConfig.adapter: {name!r}; expected one of {', '.join(known)}, or none")
        adapter = None
        if name:
            with np.load(self._folder / f"{name}.npz") as file:
                adapter = [(file[f"A{layer}"], file[f"B{layer}"]) for layer in (0, 1)]
        self._adapter = adapter

    def example(self) -> np.ndarray:
        """Return an input for the warm-up."""
        return np.zeros((1, 8, 8), np.float32)

    def predict(self, batch: np.ndarray) -> np.ndarray:
        """Return ten scores for each image of 8 x 8 pixels from 0 to 16."""
        hidden = np.maximum(self._apply(0, batch.reshape(len(batch), 64) / 16), 0)
        return self._apply(1, hidden)

    def _apply(self, layer: int, values: np.ndarray) -> np.ndarray:
        weights, bias = self._layers[layer]
        result = values @ weights.T + bias
        if self._adapter is None:
            return result
        down, up = self._adapter[layer]
        return result + (values @ down.T) @ up.T
