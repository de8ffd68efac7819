"""A revision whose p99 is 40 % longer, on real Ray Serve and a real edge whose replicas have time to spare.

A slow model then delays its own client, and not a queue that both arms share. Twice without kills and side by side, then while SIGKILL
hits operator, agent and HAProxy. Takes up to forty minutes, and runs alone.
"""

import contextlib
from pathlib import Path
from typing import Final

import psutil
import pytest

from campaigning import threshold_comparison
from campaigning.clients import NO_NUMBERS
from campaigning.fleet import Kills, fleet
from campaigning.request_accounting import harm, latency_quantiles, miscounted
from campaigning.threshold_comparison import Rollout
from measuring.record import Record

pytestmark = [pytest.mark.bench, pytest.mark.campaign, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(7200)]

HISTORY_S: Final = 240.0
LONGEST_S: Final = 900.0
STABLE: Final = {"failing": 0.01, "median_ms": 10.0}
SLOWER: Final = {**STABLE, "median_ms": 14.5}
"""Sleeping is what grows, and not the 3 ms or so beside it: of a p99 of 32 + 3 ms 40 % more are 46 + 3."""

KINDS: Final = {
    "mid": (10, "p99 40 % longer, 10 requests a second"),
    "busy": (20, "p99 40 % longer, 20 a second"),
}
"""Requests a second, and the row's name."""

KILLS: Final = (0, 6)
"""The seed by which processes are killed; 0 for none."""

COLUMNS: Final = (
    *("candidate", "killed meanwhile", "end", "after", "at", "its requests", "slow", "its share of slow ones"),
    *("stable's p50 / p95 / p99, ms", "the candidate's", "load"),
)


def test_what_is_slower_is_taken_back(tmp_path: Path) -> None:
    record = Record("real_slow", "A slower revision on real parts, replicas a quarter busy", COLUMNS)
    thresholds = Record(
        "real_slow_thresholds",
        "The same recorded traffic by thresholds, a check a minute",
        threshold_comparison.COLUMNS,
    )
    replayed: dict[str, list[Rollout]] = {}
    ends, wrong = list[str](), list[str]()
    with fleet(tmp_path, seed=3) as made:
        for name, (rps, _) in KINDS.items():
            made.add(name, rps)
        made.begin(made.services, **dict.fromkeys(KINDS, STABLE))
        made.rest(HISTORY_S)
        for seed in KILLS:
            kills = Kills(made.up, seed) if seed else None
            releases = [each.release(**SLOWER) for each in made.services]
            with kills.going_on() if kills else contextlib.nullcontext():
                made.follow(releases, LONGEST_S, 0 if kills else 30)
            if kills:
                made.rest(30)
                made.recording.look()
            for each in releases:
                found, name = harm(each, made.recording), KINDS[each.service.name][1]
                killed = f"{len(kills.done)} processes" if kills else "none"
                share = f"{found.slow / found.requests:.1%}" if found.requests else ""
                at = f"{max(each.begun, default=0)} %"
                cells = (f"{found.seconds / 60:.1f} min", at, str(found.requests), str(found.slow), share)
                record.add(name, killed, each.how(), *cells, *latency_quantiles(each), f"{psutil.getloadavg()[1]:.1f}")
                record.raw.setdefault("statuses", []).append(each.status)
                replayed.setdefault(name, []).append(Rollout(each, made.recording))
                ends.append(each.how())
                wrong += [told for told in [miscounted(each, made.recording, kills)] if told]
            wrong += kills.problems if kills else []
            record.finish()
            threshold_comparison.compare(thresholds, replayed)
    assert ends == ["RolledBack"] * len(ends)
    assert wrong == []
    assert not any(NO_NUMBERS in each.samples.statuses for each in made.services)
