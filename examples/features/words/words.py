"""Answers word by word."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Words:
    """Yields each word of a text with its place."""

    def load(self, path: Path, config: dict[str, Any]) -> None:
        """Nothing to load."""

    def example(self) -> str:
        """What the warm-up asks."""
        return "a sundog"

    def predict(self, batch: Any) -> Iterator[dict[str, Any]]:
        """`batch` is the text, or a list of texts, of `inputs`."""
        text = batch if isinstance(batch, str) else " ".join(map(str, batch))
        for place, word in enumerate(text.split()):
            yield {"place": place, "word": word}
