"""A spam filter by words, with a configurable threshold."""

from pathlib import Path
from typing import Any


class Predictor:
    """Classify a text as spam if its score reaches the threshold."""

    def load(self, path: Path, config: dict[str, Any]) -> None:  # noqa: ARG002
        """Read words and their weights."""
        lines = (path / "words.txt").read_text("utf-8").splitlines()
        self.weights = {word: float(weight) for word, weight in map(str.split, lines)}

    def configure(self, user_config: dict[str, Any]) -> None:
        """Take the threshold from `spec.runtime.userConfig` of the ModelDeployment or of the arm."""
        self.threshold = float(user_config.get("threshold", 1.0))

    def example(self) -> list[str]:
        """Return an input for the warm-up."""
        return ["hello"]

    def predict(self, batch: list[str]) -> list[str]:
        """Return `spam` or `ham` for each text."""
        return ["spam" if self._score(text) >= self.threshold else "ham" for text in batch]

    def _score(self, text: str) -> float:
        return sum(self.weights.get(word, 0.0) for word in text.lower().split())
