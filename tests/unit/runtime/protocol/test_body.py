"""A large binary tensor is in memory only once on its way in, and once on its way out."""

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.body import read_body
from sundog_runtime.protocol.oip import decode_oip
from sundog_runtime.signature import Signature, check_outputs
from sundog_runtime.tensors import TensorSpec, to_plain

SHAPE = (8, 3, 224, 224)
PAYLOAD = int(np.prod(SHAPE)) * 4
PIECE = 65_536
SPEC = TensorSpec("x", "float32", (-1, 3, 224, 224))


def document(**more: Any) -> tuple[bytes, dict[bytes, bytes]]:
    sent = {"name": "x", "datatype": "FP32", "shape": list(SHAPE), "parameters": {"binary_data_size": PAYLOAD}}
    text = orjson.dumps({"inputs": [sent], "parameters": {"binary_data_output": True}, **more})
    return text, {b"inference-header-content-length": str(len(text)).encode()}


def receiving(text: bytes, size: int) -> Any:
    """Return a server's `receive` for a body in pieces, without a copy of its own."""

    def messages() -> Iterator[Any]:
        yield {"type": "http.request", "body": text, "more_body": True}
        for start in range(0, size, PIECE):
            yield {"type": "http.request", "body": bytes(min(PIECE, size - start)), "more_body": start + PIECE < size}

    pieces = messages()

    async def receive() -> Any:
        return next(pieces)

    return receive


async def test_less_than_two_copies_in_and_out() -> None:
    model = LoadedModel("python", "", lambda batch: batch, Signature((SPEC,), (SPEC,)))
    text, headers = document()
    tracemalloc.start()
    try:
        body = await read_body(headers, receiving(text, PAYLOAD), 2 * PAYLOAD)
        query = decode_oip("m", model, headers, body)
        _, read = tracemalloc.get_traced_memory()
        answer = query.encode(check_outputs(model.signature.outputs, to_plain(model.predict(query.batch))))
        _, both = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(answer.body) > PAYLOAD
    # The array is the body's memory, which grows in steps of an eighth. The answer is a second payload.
    assert read < 1.2 * PAYLOAD
    assert both < 2.3 * PAYLOAD


@pytest.mark.parametrize("filling", range(20))
async def test_a_body_in_pieces_is_aligned_without_a_copy(filling: int) -> None:
    text, headers = document(id="x" * filling)
    body = await read_body(headers, receiving(text, PAYLOAD), 2 * PAYLOAD)
    model = LoadedModel("python", "", lambda batch: batch, Signature((SPEC,), (SPEC,)))
    batch = decode_oip("m", model, headers, body).batch
    assert np.shares_memory(batch, np.frombuffer(body, np.uint8))
    assert batch.flags.writeable
    assert batch.flags.aligned


@pytest.mark.parametrize("headers", [{}, {b"inference-header-content-length": b"7"}], ids=["plain", "padded"])
async def test_the_limit_counts_only_the_body(headers: dict[bytes, bytes]) -> None:
    body = await read_body(headers, receiving(b"1234567", 93), 100)
    assert bytes(body) == b"1234567" + bytes(93)
    with pytest.raises(Problem) as caught:
        await read_body(headers, receiving(b"1234567", 94), 100)
    assert caught.value.status == 413
