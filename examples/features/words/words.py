"""A predictor that streams word by word."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Words:
    """Stream each word of a text with its position."""

    def load(self, path: Path, config: dict[str, Any]) -> None:
        """Nothing to load."""

    def example(self) -> str:
        """Return an input for the warm-up."""
        return "a sundog"

    def predict(self, batch: Any) -> Iterator[dict[str, Any]]:
        """Yield the words of `batch`: the text of `inputs`, or a list of texts."""
        text = batch if isinstance(batch, str) else " ".join(map(str, batch))
        for place, word in enumerate(text.split()):
            yield {"place": place, "word": word}
