"""Revisions as good as stable, on real Ray Serve and a real edge, while replicas of both arms stall.

One more fails five times as often, to prove that evidence finds harm under such stalls, and one gets no requests. Takes up to an hour
and a half.
"""

import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from campaigning import threshold_comparison
from campaigning.fleet import Fleet, Stalls, fleet
from campaigning.request_accounting import harm
from campaigning.services import Release
from campaigning.threshold_comparison import Rollout
from measuring.record import Record

pytestmark = [pytest.mark.bench, pytest.mark.campaign, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(7200)]

log = logging.getLogger(__name__)

Json = dict[str, Any]

SERVICES: Final = 10
WAVES: Final = 2
RPS: Final = 10.0
HISTORY_S: Final = 75.0
LONGEST_S: Final = 2400.0
"""Simulations of so many stalls take half an hour (the median)."""

MOST_ROLLED_BACK: Final = 3
"""Of twenty: as many are by chance where one in twenty is, in 98 of 100 such campaigns."""

PER_HOUR: Final = 6.0
"""Stalls of each replica, of either kind: stopped, and failing. As many as simulations have."""

BASE: Final = {"failing": 0.002, "median_ms": 3.0, "stalls": PER_HOUR}
WORSE: Final = {**BASE, "failing": 0.015}
"""With what fails in stalls, a tenth of a percent, five times as much as all that fails in stable."""

SHORT: Final[Json] = {"steps": [{"weight": 25, "minDuration": "2m"}, {"weight": 50, "minDuration": "2m"}]}
STALL_S: Final = (1.0, 3.0)


def test_what_is_alike_is_not_rolled_back_for_stalls_and_nothing_is_promoted_without_requests(tmp_path: Path) -> None:
    title = f"{SERVICES * WAVES} rollouts of what is as good, replicas of both arms stall: {RPS:g} requests a second each, 0.2 % errors"
    columns = (
        "wave",
        "promoted",
        "rolled back",
        "paused",
        "go on",
        "after, median",
        "stalls",
        "bad, stable's",
        "bad, the candidates'",
    )
    record = Record("real_alike", title, (*columns, "load"))
    compared = "The same recorded traffic by thresholds, a check a minute"
    thresholds = Record("real_alike_thresholds", compared, threshold_comparison.COLUMNS)
    with fleet(tmp_path, seed=3) as made:
        asked = [made.add(f"alike-{number}", RPS, SHORT) for number in range(SERVICES)]
        bad = made.add("worse", RPS, SHORT)
        silent = made.add("silent", 0.0, {**SHORT, "onNoData": "hold"})
        made.begin(made.services, **{each.name: BASE for each in made.services})
        made.rest(HISTORY_S)
        nobody, every, controls = silent.release(**BASE), list[Release](), list[Release]()
        stalls = Stalls(made, seed=6, per_hour=PER_HOUR, seconds=STALL_S)
        with stalls.going_on():
            for wave in range(WAVES):
                before = len(stalls.done)
                releases = [each.release(**BASE) for each in asked]
                controls.append(bad.release(**WORSE))
                made.follow([*releases, controls[-1]], LONGEST_S, 5)
                every += releases
                kinds = {"as good": every, "five times the errors": controls}
                compared_ones = {
                    kind: [Rollout(each, made.recording) for each in found] for kind, found in kinds.items()
                }
                threshold_comparison.compare(thresholds, compared_ones)
                note(record, made, f"{wave + 1}", releases, len(stalls.done) - before)
        nobody.attempt()
        reason = str((nobody.status.get("step") or {}).get("reason", ""))
        minutes = (time.time() - nobody.released) / 60
        record.notes.append(
            f"Beside them one that nobody asks: {nobody.how()} after {minutes:.0f} minutes, {reached(nobody)}, and it waits: {reason}."
        )
        ends = [f"{each.how()} after {(each.until - each.released) / 60:.0f} minutes" for each in controls]
        record.notes.append(f"One with five times the errors: {', '.join(ends)}.")
        record.raw["silent"], record.raw["controls"] = nobody.status, [each.status for each in controls]
        record.raw["stalls"] = stalls.done
        record.finish()
    hows = Counter(each.how() for each in every)
    assert hows["RolledBack"] <= MOST_ROLLED_BACK, hows
    assert nobody.how() not in ("Promoted", "RolledBack"), nobody.status
    assert hows["Promoted"] > 0, hows
    assert all(harm(each, made.recording).requests > 500 for each in every if each.how() == "Promoted")
    assert [each.how() for each in controls] == ["RolledBack"] * WAVES


def reached(nobody: Release) -> str:
    """Return the weight that it has reached."""
    return f"at {nobody.status['arms'][1]['weight']} %"


def note(record: Record, made: Fleet, wave: str, releases: list[Release], stalls: int) -> None:
    """Add a row for one wave."""
    hows = Counter(each.how() for each in releases)
    rest = len(releases) - hows["Promoted"] - hows["RolledBack"] - hows["Paused"]
    over = sorted((each.over_at - each.released) / 60 for each in releases if each.over_at)
    median = f"{over[len(over) // 2]:.1f} min" if over else "–"
    sums = {arm: [made.recording.sums(each.uid, arm) for each in releases] for arm in ("stable", "canary")}
    shares = [
        f"{sum(own.get('server5xx', 0) + own.get('edge5xx', 0) + own.get('timeout', 0) for own in found)}"
        f" of {sum(own.get('assigned', 0) for own in found)}"
        for found in sums.values()
    ]
    counts = (str(hows["Promoted"]), str(hows["RolledBack"]), str(hows["Paused"]), str(rest))
    record.add(wave, *counts, median, str(stalls), *shares, f"{psutil.getloadavg()[1]:.1f}")
    record.raw[f"wave {wave}"] = [
        {"name": each.service.name, "how": each.how(), "status": each.status} for each in releases
    ]
    record.finish()
