"""Print a last line for each tier of tests: passed, failed, skipped with reasons, and duration."""

import time
from collections import Counter
from typing import Final

import pytest

_STARTED: Final = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--tier`."""
    parser.addoption("--tier", default="", help="Name of the tier in the last line, such as `make test`.")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the line after pytest's own summary."""
    if tier := config.getoption("--tier"):
        minutes = (time.monotonic() - _STARTED) / 60
        terminalreporter.write_line(summary(tier, terminalreporter.stats, minutes))


def summary(tier: str, stats: dict[str, list[pytest.TestReport]], minutes: float) -> str:
    """Return one line about a run, with each reason to skip once."""
    passed, skipped = len(stats.get("passed", ())), stats.get("skipped", [])
    failed = len(stats.get("failed", ())) + len(stats.get("error", ()))
    line = f"{tier}: {passed} passed, {failed} failed, {len(skipped)} skipped in {minutes:.1f} minutes"
    reasons = Counter(_reason(report) for report in skipped)
    if not reasons:
        return line
    return f"{line} (skipped: {'; '.join(f'{count} × {reason}' for reason, count in reasons.most_common())})"


def _reason(report: pytest.TestReport) -> str:
    where = report.longrepr
    return str(where[2]).removeprefix("Skipped: ") if isinstance(where, tuple) else str(where)
