"""Facts about a network, and its errors."""

import torch

from sundog_runtime.errors import (
    LoadFailed,
    ModelTooLarge,
)
from sundog_runtime.formats.torch_module import default_dtypes, make_load_error


def test_out_of_memory_has_its_own_reason() -> None:
    assert type(make_load_error("x", MemoryError())) is ModelTooLarge
    assert (
        type(make_load_error("x", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")))
        is ModelTooLarge
    )
    assert type(make_load_error("x", RuntimeError("y"))) is LoadFailed


def test_types_of_undeclared_numbers() -> None:
    assert default_dtypes(torch.nn.Linear(2, 2)) == ("float32", "float32")
    assert default_dtypes(torch.nn.Linear(2, 2).double()) == ("float64", "float64")
    embedding = torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.Linear(2, 2))
    assert default_dtypes(embedding) == ("float32", "int64")
    assert default_dtypes(torch.nn.ReLU()) == ("float32", "float32")
