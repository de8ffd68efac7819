"""What every format loads into: one thing that predicts.

A **torch** model is a state dict and an entrypoint: a `torch.nn.Module` class, or a function that returns a module. It is
called with `model.config` as keyword arguments, given the weights, put into evaluation mode and called with tensors: one
positional tensor for one input, keyword arguments for several. `example()` and `configure()`, as below, are optional.

A **python** model is a class, made without arguments, with

    def load(self, path: pathlib.Path, config: dict) -> None   # path: the model's directory or file
    def predict(self, batch)                                   # returns the outputs
    def example(self)                                          # optional: a batch that predict accepts
    def configure(self, user_config: dict) -> None             # optional: before the first request and on changes

`batch` is a numpy array where one array was sent, a dict of name to array where names were sent; what is no array of
numbers or booleans (strings, records) arrives as the JSON it was. Outputs are arrays, tensors, dicts of name to array, or
anything JSON can hold. All methods run without gradients and on one thread, never two at a time.

A torch module is not called twice at a time either, but not always on the same thread.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sundog_runtime.signature import Signature


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory. `found` says what it was loaded from, for the log.

    `parameters` are those of a module's forward. `whole_numbers` is the type that JSON integers get where no input is
    declared, `numbers` the same for numbers with a fraction.
    """

    platform: str
    found: str
    predict: Callable[[Any], Any]
    signature: Signature
    example: Callable[[], Any] | None = None
    configure: Callable[[dict[str, Any]], None] | None = None
    parameters: inspect.Signature | None = None
    numbers: str = "float64"
    whole_numbers: str = "int64"
