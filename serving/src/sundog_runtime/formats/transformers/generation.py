"""Generation: the most likely continuation of a text, as a stream of text or tokens."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from sundog_runtime.formats.transformers.model import TransformersModel
from sundog_runtime.formats.transformers.tasks import prepare_arguments


def make_generator(model: TransformersModel) -> Callable[[Any], Iterator[Any]]:
    """Return `predict` as a greedy search: at each step the most likely token, until the end token or `maxNewTokens`."""
    ends = model.network.generation_config.eos_token_id
    stop = set(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def generate(batch: Any) -> Iterator[Any]:
        arguments = prepare_arguments(model, batch, ["text" if model.tokenizer is not None else "input_ids"])
        decoder = _StreamDecoder(model.tokenizer) if model.tokenizer is not None else None
        for token in generate_tokens(model, arguments["input_ids"], stop):
            if decoder is None:
                yield {"token": np.array([token])}
            elif piece := decoder.add(token):
                yield {"text": [piece]}

    return generate


def generate_tokens(model: TransformersModel, ids: torch.Tensor, stop: set[int]) -> Iterator[int]:
    """Yield the continuation of `ids` [1, length] until a token in `stop`, or the limit of tokens."""
    # The library renames it: `past_key_values` is deprecated if `cache` exists.
    cache = "cache" if "cache" in inspect.signature(model.network.forward).parameters else "past_key_values"
    past = None
    limit = model.max_length - ids.shape[-1] if model.max_length else model.settings.max_new_tokens
    for _ in range(min(model.settings.max_new_tokens, max(limit, 1))):
        output = model.network(input_ids=ids, use_cache=True, **{cache: past})
        token = int(output.logits[0, -1].argmax())
        if token in stop:
            return
        yield token
        past, ids = output[cache], torch.tensor([[token]], device=ids.device)


class _StreamDecoder:
    """A decoder of tokens as they arrive: a token may be half a character, and its text depends on the tokens before it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._sent = 0

    def add(self, token: int) -> str:
        """Return the text that this token completes; may be empty."""
        self._tokens.append(token)
        text: str = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        piece, self._sent = text[self._sent :], len(text)
        return piece
