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
numbers or booleans (strings, records) arrives as the JSON it was, and an input that model.yaml declares as `bytes` as nested
lists of `bytes` objects. Outputs are arrays, tensors, dicts of name to array, anything JSON can hold, or, where they are
declared so, `bytes` objects in lists or in arrays of objects. All methods run without gradients and on one thread, never
two at a time.

A `predict` that is a generator function, synchronous or asynchronous, **streams**: each item it yields is an answer of its
own. So does one of a class with `streams = True` that returns a generator. An asynchronous generator runs on the replica's
event loop and must not block it; a synchronous one runs on the model's thread, where other calls may come between two
items. An `async` function is run to its end on the model's thread.

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

    `streams`: `predict` returns a generator, whose items are answers.
    `batches`: arrays of several requests may be joined along their first dimension, and the answer split there.
    `compiles`: a request may be the first of its sizes, and wait for the compiler.
    `module` is the network where there is one, for those who count its parameters.
    `device` is where it computes, as people are told. `lost` says why it can compute no more; empty while it can.
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
    streams: bool = False
    batches: bool = True
    needs_model_thread: bool = False
    module: Any = None
    device: str = "cpu"
    lost: Callable[[], str] = lambda: ""
