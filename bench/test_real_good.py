"""`rollout: {}` of a revision as good as stable, on real Ray Serve and a real edge, at 1, 20 and 200 requests a second.

Takes an hour and ten minutes, and at most an hour more for the last, which runs alone. A rollout without a verdict by then is reported as
it is.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from campaigning.fleet import Fleet, fleet
from campaigning.request_accounting import quantiles
from campaigning.services import Release
from measuring.record import Record

pytestmark = [pytest.mark.bench, pytest.mark.campaign, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(7200)]

log = logging.getLogger(__name__)

Json = dict[str, Any]
Rows = dict[str, tuple[float, Json, str]]

LONGEST_S = 4200.0
BUSY_LONGEST_S = 3600.0
HISTORY_S = 75.0
BUSY_HISTORY_S = 600.0
"""Of traffic before the release: from it comes how long an answer is that counts as a long one."""

ERRORS_ALONE: Json = {"guardrails": [{"metric": "errorRate", "margin": "25%", "floor": "1%"}]}
SERVICES: Rows = {
    "twenty-a": (20, {}, "20 requests a second, `rollout: {}`"),
    "twenty-b": (20, {}, "20 requests a second, `rollout: {}`"),
    "one-errors-a": (1, ERRORS_ALONE, "1, its error rate alone"),
    "one-errors-b": (1, ERRORS_ALONE, "1, its error rate alone"),
    "one-default": (1, {}, "1, `rollout: {}`"),
}
BUSY: Rows = {"hundreds": (200, {}, "200 requests a second, `rollout: {}`")}
"""Requests a second, the rollout, and the row's name."""

COLUMNS = ("traffic and plan", "end", "after", "each step", "requests of stable, the candidate", "lost", "waits for")


def test_what_is_as_good(tmp_path: Path) -> None:
    title = "A revision as good as stable on real parts, no errors of their own"
    found = play(tmp_path, SERVICES, HISTORY_S, LONGEST_S, lambda: Record("real_good", title, COLUMNS))
    often = {each.service.name: (each.how(), list(each.begun)) for each in found if each.service.rps >= 20}
    assert often == dict.fromkeys(("twenty-a", "twenty-b"), ("Promoted", [25, 50]))


def test_two_hundred_a_second(tmp_path: Path) -> None:
    title = "The same at 200 requests a second, with ten minutes of them before"
    play(tmp_path, BUSY, BUSY_HISTORY_S, BUSY_LONGEST_S, lambda: Record("real_busy", title, COLUMNS))


def play(
    folder: Path, services: Rows, history_s: float, longest_s: float, empty: Callable[[], Record]
) -> list[Release]:
    """After some seconds of traffic release a revision like stable for each, and follow them. None may be rolled back."""
    with fleet(folder, seed=1) as made:
        for name, (rps, rollout, _) in services.items():
            made.add(name, rps, rollout)
        made.begin(made.services)
        made.rest(history_s)
        releases = [each.release() for each in made.services]

        def told() -> None:
            tell(made, releases, empty(), {name: row for name, (*_, row) in services.items()})

        made.follow(releases, longest_s, then=told)
        told()
    for each in releases:
        assert each.how() in ("Promoted", "Running"), each.status.get("verdict")
    return releases


def tell(made: Fleet, releases: Sequence[Release], record: Record, rows: Mapping[str, str]) -> None:
    """Add all rows as they are now."""
    made.recording.look()
    for each in releases:
        stable, canary = (made.recording.sums(each.uid, arm) for arm in ("stable", "canary"))
        spent = each.until - each.released
        how = each.how() if each.over_at else f"{each.how()}, not awaited"
        counts = f"{stable.get('assigned', 0)}, {canary.get('assigned', 0)}"
        lost = stable.get("lost", 0) + canary.get("lost", 0)
        waits = "" if each.over_at else str((each.status.get("step") or {}).get("reason", ""))
        record.add(rows[each.service.name], how, f"{spent / 60:.1f} min", steps(each), counts, str(lost), waits)
        statuses = {
            str(status): each.service.samples.statuses.count(status) for status in set(each.service.samples.statuses)
        }
        record.raw[each.service.name] = {
            "status": each.status,
            "released": each.released,
            "over": each.over_at,
            "statuses": statuses,
            "skipped": each.service.samples.skipped,
            "problems": each.service.samples.problems,
            "stable": stable,
            "canary": canary,
            "load": psutil.getloadavg(),
            "latencies": quantiles(each),
        }
    record.finish()


def steps(each: Release) -> str:
    """Return the duration of each weight with its warm-up; for the present weight, until now."""
    ends = [*list(each.begun.values())[1:], each.until]
    lasted = zip(each.begun.items(), ends, strict=True)
    return ", ".join(f"{weight} %: {(end - begin) / 60:.1f} min" for (weight, begin), end in lasted)
