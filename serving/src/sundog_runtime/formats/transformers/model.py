"""A loaded transformers model with its settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sundog_runtime.formats.device import Device
from sundog_runtime.formats.sentence_transformers import SentenceEncoding

MAX_TOKENS = 32_768

TransformersTask = Literal["classification", "embeddings", "generation", "tensors"]


class TransformersSettings(BaseModel):
    """`config` of a transformers model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: TransformersTask | None = None
    max_length: Annotated[int | None, Field(alias="maxLength", ge=1, le=MAX_TOKENS)] = None
    pooling: Literal["mean", "first"] | None = None
    max_new_tokens: Annotated[int, Field(alias="maxNewTokens", ge=1, le=4096)] = 64


@dataclass(frozen=True, slots=True)
class TransformersModel:
    """A network of the library with everything that a call needs.

    `index_limits` are sizes of the network's tables, by the input whose values are indexes into it. `max_length` is in
    tokens, 0 without a limit.
    """

    network: Any
    device: Device
    tokenizer: Any
    task: TransformersTask
    settings: TransformersSettings
    sentences: SentenceEncoding
    index_limits: Mapping[str, int]
    max_length: int
