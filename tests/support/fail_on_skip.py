"""What CI says for: a test that is skipped is one that did not pass, whatever its reason.

Elsewhere what a machine does not have is skipped, and pytest's summary says what and why.
"""

import os
from collections.abc import Generator
from typing import Final, TypeVar

import pytest

REQUIRE: Final = "SUNDOG_REQUIRE"
"""`all` where nothing may be skipped."""

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of one test."""
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Of a module, which may skip all of its tests."""
    return _required((yield))


def _required(report: Report) -> Report:
    if report.skipped and os.environ.get(REQUIRE) == "all":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}: nothing may be skipped, for {REQUIRE}=all"
    return report
