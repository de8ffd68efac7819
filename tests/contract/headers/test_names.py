"""The edge and the model server share no code, but the names of the headers between them."""

import pytest

from sundog_edge import headers
from sundog_runtime import context, errors, fast_path
from sundog_runtime.protocol import oip


@pytest.mark.parametrize(
    ("edge", "runtime"),
    [
        (headers.TIMEOUT, context.TIMEOUT_HEADER),
        (headers.SERVE_TIMEOUT, context.SERVE_TIMEOUT_HEADER),
        (headers.REQUEST_ID, fast_path.REQUEST_ID_HEADER),
        (headers.OUTCOME, errors.INVALID_OUTCOME[0][0]),
        (headers.JSON_LENGTH, oip.JSON_LENGTH_HEADER),
    ],
)
def test_edge_and_runtime_call_a_header_by_one_name(edge: str, runtime: bytes) -> None:
    assert edge == runtime.decode()
