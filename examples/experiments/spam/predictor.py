"""Sorts texts by their words, with a threshold that is configured."""

from pathlib import Path
from typing import Any


class Predictor:
    """Spam from a score on."""

    def load(self, path: Path, config: dict[str, Any]) -> None:  # noqa: ARG002
        """Words with their weights."""
        lines = (path / "words.txt").read_text("utf-8").splitlines()
        self.weights = {word: float(weight) for word, weight in map(str.split, lines)}

    def configure(self, user_config: dict[str, Any]) -> None:
        """`spec.runtime.userConfig`, or that of an arm."""
        self.threshold = float(user_config.get("threshold", 1.0))

    def example(self) -> list[str]:
        """What the warm-up asks."""
        return ["hello"]

    def predict(self, batch: list[str]) -> list[str]:
        """A word for each text."""
        return ["spam" if self._score(text) >= self.threshold else "ham" for text in batch]

    def _score(self, text: str) -> float:
        return sum(self.weights.get(word, 0.0) for word in text.lower().split())
