"""The result of loading any format: one object that predicts.

A **torch** model is a state dict and an entrypoint: a `torch.nn.Module` class, or a function that returns a module. The
server calls it with `model.config` as keyword arguments, loads the weights, and sets evaluation mode. Requests call it with
tensors: one positional tensor for one input, keyword arguments for several. `example()` and `configure()`, as below, are
optional.

A **python** model is a class without constructor arguments, with

    def load(self, path: pathlib.Path, config: dict) -> None   # path: the model's directory or file
    def predict(self, batch)                                   # returns the outputs
    def example(self)                                          # optional: a batch that predict accepts
    def configure(self, user_config: dict) -> None             # optional: before the first request and on changes

`batch` is a numpy array if the client sent one array, and a dict of name to array if it sent names. Inputs that are not
arrays of numbers or booleans (strings, records) stay JSON. An input that model.yaml declares as `bytes` is nested lists of
`bytes` objects. Outputs are arrays, tensors, dicts of name to array, or any JSON. Outputs that are declared as `bytes` are
`bytes` objects in lists or in arrays of objects. All methods run without gradients and on one thread, never two at a time.

A `predict` that is a generator function, synchronous or asynchronous, **streams**: each yielded item is an answer of its
own. So does the `predict` of a class with `streams = True` that returns a generator. An asynchronous generator runs on the
replica's event loop and must not block it. A synchronous one runs on the model's thread, where other calls may come between
two items. An `async` function runs to its end on the model's thread.

A torch module is not called twice at a time either, but not always on the same thread.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sundog_runtime.signature import Signature


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory. `found` describes its source, for the log.

    `parameters` are those of a module's forward. If no input is declared, JSON integers get the type `integer_dtype`, and
    other numbers the type `float_dtype`.

    `is_streaming`: `predict` returns a generator, whose items are answers.
    `is_batchable`: arrays of several requests may be joined along their first dimension, and the answer split there.
    `needs_model_thread`: a request may call the compiler, or code that only one thread may run.
    `module` is the network, if there is one, to count its parameters.
    `device` is the name of its device for people. `lost_reason` returns why the device is unusable; empty while it works.
    """

    platform: str
    found: str
    predict: Callable[[Any], Any]
    signature: Signature
    example: Callable[[], Any] | None = None
    configure: Callable[[dict[str, Any]], None] | None = None
    parameters: inspect.Signature | None = None
    float_dtype: str = "float64"
    integer_dtype: str = "int64"
    is_streaming: bool = False
    is_batchable: bool = True
    needs_model_thread: bool = False
    module: Any = None
    device: str = "cpu"
    lost_reason: Callable[[], str] = lambda: ""
