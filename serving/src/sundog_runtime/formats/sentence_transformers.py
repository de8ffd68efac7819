"""Settings of a sentence-transformers directory: how the vectors of tokens become the vector of a text.

`modules.json` lists the steps. Supported are a Transformer at the top of the directory, then one Pooling, then optionally a Normalize.
Other steps would change the embeddings, so they are refused. https://sbert.net/docs/package_reference/sentence_transformer
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sundog_runtime.errors import LoadFailed

MODULES_FILE = "modules.json"
_TRANSFORMER_FILES = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")
_MAIN_FILE = "config_sentence_transformers.json"
_STEPS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_MAX_BYTES = 1024 * 1024
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Flags of the library before it had `pooling_mode`, in the order in which several modes are concatenated."""


@dataclass(frozen=True, slots=True)
class SentenceEncoding:
    """How a text becomes a vector. `max_length` is in tokens, 0 if not set; `prompt` precedes each text."""

    pooling: tuple[str, ...] = ("mean",)
    normalize: bool = False
    max_length: int = 0
    lower_case: bool = False
    prompt: str = ""

    def prepare_texts(self, texts: Sequence[str]) -> list[str]:
        """Return the texts as the tokenizer gets them."""
        whole = [self.prompt + text for text in texts]
        return [text.lower() for text in whole] if self.lower_case else whole

    def pool(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return one vector for each text: `tokens` [texts, length, size], `mask` [texts, length] (0: padding) → [texts, size × modes]."""
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.int64, device=tokens.device)
        vectors = torch.cat([_POOLING[mode](tokens, mask) for mode in self.pooling], dim=-1)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def read_sentence_encoding(root: Path) -> SentenceEncoding | None:
    """Read the settings; None without `modules.json`. Raises LoadFailed for unsupported steps and settings."""
    if not (root / MODULES_FILE).is_file():
        return None
    modules = _read(root / MODULES_FILE, list)
    kinds = [str(_member(module, "type", str, MODULES_FILE)).rpartition(".")[2] for module in modules]
    if kinds not in _STEPS:
        raise LoadFailed(
            f"{MODULES_FILE}: the steps are {', '.join(kinds) or 'none'}; expected Transformer, Pooling and optionally "
            "Normalize. Bring others as a predictor class (format python)."
        )
    folders = [_member(module, "path", str, MODULES_FILE) for module in modules]
    if folders[0] or Path(folders[1]).name != folders[1]:
        raise LoadFailed(
            f"{MODULES_FILE}: the paths are {folders}; expected the Transformer at '' and the Pooling in a folder"
        )
    main = _read(root / _MAIN_FILE, dict) if (root / _MAIN_FILE).is_file() else {}
    transformer: dict[str, Any] = next(
        (_read(root / name, dict) for name in _TRANSFORMER_FILES if (root / name).is_file()), {}
    )
    prompt = _prompt(main)
    return SentenceEncoding(
        pooling=_modes(
            _read(root / folders[1] / "config.json", dict), f"{folders[1]}/config.json", prompted=bool(prompt)
        ),
        normalize="Normalize" in kinds,
        max_length=transformer.get("max_seq_length") or 0,
        lower_case=transformer.get("do_lower_case") is True,
        prompt=prompt,
    )


def _modes(config: Mapping[str, Any], file: str, *, prompted: bool) -> tuple[str, ...]:
    found = config.get("pooling_mode", [mode for flag, mode in _FLAGS.items() if config.get(flag)])
    modes = (found,) if isinstance(found, str) else tuple(found)
    if unknown := [mode for mode in modes if mode not in _POOLING]:
        raise LoadFailed(f"{file}: pooling_mode is {unknown[0]!r}; expected one of {', '.join(_POOLING)}")
    if not modes:
        raise LoadFailed(f"{file}: found no pooling mode; expected pooling_mode or one of {', '.join(_FLAGS)}")
    if prompted and config.get("include_prompt") is False:
        raise LoadFailed(
            f"{file}: include_prompt is false; expected true with a default prompt, whose tokens are always pooled"
        )
    return modes


def _prompt(config: Mapping[str, Any]) -> str:
    """Return the prompt that precedes every text by default."""
    name, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    if not isinstance(prompt, str):
        raise LoadFailed(f"{_MAIN_FILE}: default_prompt_name is {name!r}; expected the name of one of its prompts")
    return prompt


def _read(path: Path, kind: type) -> Any:
    """Read a file of JSON. Raises LoadFailed."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadFailed(f"{path.name} of a sentence-transformers directory cannot be read: {path}: {error}") from error
    if not isinstance(document, kind):
        raise LoadFailed(f"{path}: found a {type(document).__name__}; expected a {kind.__name__}")
    return document


def _member(holder: Any, name: str, kind: type, file: str) -> Any:
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        raise LoadFailed(f"{file}: a step has no {name}; expected type and path of each step")
    return value


def _sum(tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (tokens * weights.to(tokens.dtype).unsqueeze(-1)).sum(dim=1)


def _count(weights: torch.Tensor) -> torch.Tensor:
    return weights.sum(dim=1, keepdim=True).clamp(min=1)


def _first(mask: torch.Tensor) -> torch.Tensor:
    """Return the position of each text's first token: padding may be on its left."""
    return mask.int().argmax(dim=1)


def _at(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return tokens[torch.arange(len(tokens), device=tokens.device), positions]


def _weighted_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean, in which later tokens count more: the first 1, the second 2, and so on."""
    weights = mask.cumsum(dim=1) * mask
    return _sum(tokens, weights) / _count(weights)


_POOLING: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": lambda tokens, mask: _at(tokens, _first(mask)),
    "max": lambda tokens, mask: tokens.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1),
    "mean": lambda tokens, mask: _sum(tokens, mask) / _count(mask),
    "mean_sqrt_len_tokens": lambda tokens, mask: _sum(tokens, mask) / _count(mask).sqrt(),
    "weightedmean": _weighted_mean,
    "lasttoken": lambda tokens, mask: _at(tokens, mask.shape[1] - 1 - _first(mask.flip(1))),
}
