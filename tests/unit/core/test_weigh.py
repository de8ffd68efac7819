"""What was counted, as it is stored."""

from typing import Any

import pytest

from sundog_operator.core import names, weigh


@pytest.mark.parametrize(
    "data", [None, {}, {names.EVIDENCE_KEY: ""}, {names.EVIDENCE_KEY: "{"}, {names.EVIDENCE_KEY: "[1]"}]
)
def test_what_cannot_be_read_is_as_if_nothing_were_stored(data: Any) -> None:
    assert weigh.read({"data": data}) is None


def test_what_is_stored_is_read() -> None:
    assert weigh.read(None) is None
    assert weigh.read({"data": {names.EVIDENCE_KEY: '{"version": 1}'}}) == {"version": 1}
