"""Limits of a download."""

import pytest

from sundog_runtime.errors import LoadFailed
from sundog_runtime.sources.download_limits import GIB, read_limits


def test_limits_come_from_the_environment() -> None:
    limits = read_limits({"SUNDOG_MODEL_MAX_BYTES": "5", "SUNDOG_SOURCE_MAX_SECONDS": "7"})
    assert (limits.model_bytes, limits.total_s, limits.cache_bytes) == (5, 7, 200 * GIB)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1Gi", "²", " 1"])
def test_limits_are_positive_whole_numbers(text: str) -> None:
    with pytest.raises(LoadFailed, match="SUNDOG_CACHE_MAX_BYTES"):
        read_limits({"SUNDOG_CACHE_MAX_BYTES": text})
