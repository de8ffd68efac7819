"""A pytest plugin for CI: with `SUNDOG_REQUIRE=all` a skipped test fails, with its reason.

Otherwise tests without their programs are skipped, and pytest's summary lists them with the reason.
"""

import os
from collections.abc import Generator
from typing import Final, TypeVar

import pytest

REQUIRE: Final = "SUNDOG_REQUIRE"
"""`all`: a skipped test fails."""

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Check the report of one test."""
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Check the report of a module, which may skip all its tests."""
    return _required((yield))


def _required(report: Report) -> Report:
    if report.skipped and os.environ.get(REQUIRE) == "all":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}: skipped tests fail with {REQUIRE}=all"
    return report
