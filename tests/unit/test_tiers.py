"""What gates is there, and the last line of a tier says what happened."""

from types import SimpleNamespace
from typing import Any

from summary import summary
from tiers import GATE, unknown_tests


def test_the_gate_names_tests_that_exist() -> None:
    assert unknown_tests(GATE) == []


def test_a_renamed_test_is_found() -> None:
    gate = {"unit/test_tiers.py": ("test_a_renamed_test_is_found", "test_its_old_name"), "unit/test_gone.py": ()}
    assert unknown_tests(gate) == ["unit/test_gone.py", "unit/test_tiers.py::test_its_old_name"]


def report(reason: str) -> Any:
    return SimpleNamespace(longrepr=("test_it.py", 1, f"Skipped: {reason}"))


def test_the_summary_counts_errors_as_failures_and_each_reason_once() -> None:
    stats = {
        "passed": [report("")] * 3,
        "failed": [report("")],
        "error": [report("")],
        "skipped": [report("no GPU"), report("no browser"), report("no GPU")],
        "deselected": [report("")] * 9,
    }
    text = summary("make test", stats, 12.345)
    assert text == ("make test: 3 passed, 2 failed, 3 skipped in 12.3 minutes (skipped: 2 × no GPU; 1 × no browser)")


def test_the_summary_of_a_green_run_is_short() -> None:
    assert (
        summary("make e2e", {"passed": [report("")]}, 1.0) == "make e2e: 1 passed, 0 failed, 0 skipped in 1.0 minutes"
    )
