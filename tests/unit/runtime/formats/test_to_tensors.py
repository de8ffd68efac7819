"""Arrays of a request as tensors, without a copy."""

import numpy as np
import pytest

from sundog_runtime.formats.to_tensors import to_tensor


@pytest.mark.parametrize("values", [64, 100_000])
def test_a_request_s_bytes_become_a_tensor_without_a_warning(values: int) -> None:
    body = np.arange(values, dtype=np.float32).tobytes()
    array = np.frombuffer(body, np.float32)
    assert not array.flags.writeable
    assert to_tensor(array).tolist() == array.tolist()


def test_a_large_array_is_not_copied() -> None:
    array = np.frombuffer(bytes(40_000), np.float32).reshape(100, 100)
    assert to_tensor(array).data_ptr() == array.__array_interface__["data"][0]


def test_byte_strings_that_the_interpreter_shares_are_not_written_to() -> None:
    shared = bytes([7])
    to_tensor(np.frombuffer(shared, np.uint8)).fill_(9)
    assert bytes([7])[0] == 7


def test_values_that_are_not_numeric_arrays_are_unchanged() -> None:
    assert to_tensor(["a"]) == ["a"]
    texts = np.array(["a"], dtype=object)
    assert to_tensor(texts) is texts
