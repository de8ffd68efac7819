"""The share of cores that libraries get."""

import pytest

from sundog_runtime.scheduling.cpu_affinity import limit_library_threads


@pytest.mark.parametrize(
    ("before", "cpu", "threads"),
    [({}, 2.0, "2"), ({"OMP_NUM_THREADS": "1"}, 1.2, "2"), ({"OMP_NUM_THREADS": "1"}, 0.5, "1")],
)
def test_libraries_get_their_share_of_threads(before: dict[str, str], cpu: float, threads: str) -> None:
    limit_library_threads(cpu, before)
    assert set(before.values()) == {threads}


def test_values_that_the_user_set_stay() -> None:
    environment = {"OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "3"}
    limit_library_threads(2.0, environment)
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == ("7", "3")
