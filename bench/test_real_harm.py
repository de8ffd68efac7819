"""Bad revisions of real digit models on real Ray Serve and a real edge: failures that clients see until the rollback.

Then the same while SIGKILL hits the operator, the edge's agent and its HAProxy again and again; and the decisions of thresholds on the
recorded traffic.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from campaigning import threshold_comparison
from campaigning.clients import NO_NUMBERS
from campaigning.fleet import Fleet, Kills, fleet
from campaigning.request_accounting import AFTER_A_KILL_S, Unanswered, harm, miscounted, unanswered, unexplained
from campaigning.services import Release
from campaigning.threshold_comparison import GONE, Rollout
from measuring.record import Record

pytestmark = [pytest.mark.bench, pytest.mark.campaign, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(7200)]

log = logging.getLogger(__name__)

Json = dict[str, Any]

HISTORY_S: Final = 90.0
LONG_HISTORY_S: Final = 620.0
"""From ten minutes of traffic on, stable's times are those of all of it, and not of a warm-up in which candidates start."""

LONGEST_S: Final = 600.0
KILLED_LONGEST_S: Final = 1500.0
"""What a dead HAProxy takes along counts as failed at a gate, so what is good takes longer to pass."""

SLOW_LONGEST_S: Final = 900.0
BASE: Final = {"failing": 0.01, "median_ms": 3.0}
SOUND: Final = {"median_ms": 3.0}
LONG: Final = {"failing": 0.01, "median_ms": 25.0}
"""Where other work takes the CPU for some ten milliseconds now and then, only what takes longer is a model's own time."""

SHORT: Final[Json] = {"steps": [{"weight": 25, "minDuration": "2m"}, {"weight": 50, "minDuration": "2m"}]}
KINDS: Final[dict[str, tuple[float, Json, dict[str, float], dict[str, float], str]]] = {
    "errors": (20, {}, BASE, {**BASE, "failing": 0.05}, "5 % errors, 1 % before"),
    "nan": (10, {}, BASE, {**BASE, "nan": 0.25}, "a quarter of the scores is NaN"),
    "crash": (15, {}, BASE, {**BASE, "dying": 0.02}, "a request in 50 takes the process with it"),
    "crash-rarely": (15, {}, BASE, {**BASE, "dying": 0.005}, "a request in 200 does"),
    "good": (20, SHORT, SOUND, SOUND, "as good, without errors, `minDuration: 2m`"),
    "slow-a": (20, {}, LONG, {**LONG, "median_ms": 35.0}, "takes 40 % longer, at p99 as at all quantiles"),
    "slow-b": (20, {}, LONG, {**LONG, "median_ms": 35.0}, "takes 40 % longer, at p99 as at all quantiles"),
}
"""Requests a second, the rollout, what stable and the candidate do, and the row's name."""

SLOW: Final = ("slow-a", "slow-b")
QUICK: Final = tuple(name for name in KINDS if name not in SLOW)
WAVES: Final = ((QUICK, 0), (QUICK, 4), (SLOW, 0), (SLOW, 5))
"""Who is released together, and the seed by which processes are killed meanwhile; 0 for none."""

ENDS: Final = dict.fromkeys(KINDS, ("RolledBack",)) | {"good": ("Promoted",), "crash": GONE, "crash-rarely": GONE}

LEAST_S: Final = 180.0
"""A warm-up of a minute and the twelve blocks of ten seconds that any verdict takes."""

FIRST_WEIGHT: Final = 0.25
BAD: Final = {"errors": 0.05, "nan": 0.26}
"""The share of bad answers of candidates that twelve blocks are enough for. A verdict after twice as many as come by then is late."""

TOLD: Final = ("ends", "rollouts", "kills", "miscounted", "unexplained", "late")
"""What the record has of all waves."""


def test_what_is_worse_is_taken_back_also_while_everything_is_killed(tmp_path: Path) -> None:
    columns = ("candidate", "requests a second", "killed meanwhile", "end", "after", "its requests", "bad")
    further = ("bad as callers saw them", "beyond stable's share", "slow", "stable's bad", "load")
    record = Record("real_harm", "Bad revisions on real parts", (*columns, *further), raw={key: [] for key in TOLD})
    title = "The same recorded traffic by thresholds, a check a minute"
    thresholds = Record("real_harm_thresholds", title, threshold_comparison.COLUMNS)
    replayed: dict[str, list[Rollout]] = {}
    with fleet(tmp_path, seed=2) as made:
        for name, (rps, rollout, *_) in KINDS.items():
            made.add(name, rps, rollout)
        made.begin(made.services, **{name: stable for name, (_, _, stable, _, _) in KINDS.items()})
        began = time.monotonic()
        made.rest(HISTORY_S)
        for names, kills in WAVES:
            if set(names) & set(SLOW):
                made.rest(began + LONG_HISTORY_S - time.monotonic())
            killing = Kills(made.up, kills) if kills else None
            releases = [each.release(**KINDS[each.name][3]) for each in made.services if each.name in names]
            with killing.going_on() if killing else contextlib.nullcontext():
                longest = SLOW_LONGEST_S if set(names) & set(SLOW) else KILLED_LONGEST_S if killing else LONGEST_S
                made.follow(releases, longest, 0 if killing else 30)
            if killing:
                made.rest(30)
                made.recording.look()
            note(record, made, releases, killing)
            for each in releases:
                replayed.setdefault(KINDS[each.service.name][4], []).append(Rollout(each, made.recording))
            threshold_comparison.compare(thresholds, replayed)
    ends: list[tuple[str, str]] = record.raw["ends"]
    assert all(how in ENDS[name] for name, how in ends), ends
    outcomes = {(name, outcome(how)) for name, how in ends}
    assert len(outcomes) == len(KINDS), f"an end differs where processes are killed: {ends}"
    assert [kills["problems"] for kills in record.raw["kills"]] == [[]] * len(WAVES)
    assert not any(NO_NUMBERS in each.samples.statuses for each in made.services)
    assert (record.raw["miscounted"], record.raw["unexplained"], record.raw["late"]) == ([], [], [])


def outcome(how: str) -> str:
    """Return the reason of the rollback, or another end."""
    return "taken back" if how in GONE else how


def note(record: Record, made: Fleet, releases: Sequence[Release], kills: Kills | None) -> None:
    """Add a row for each."""
    killed = f"{len(kills.done)} processes" if kills else "none"
    for each in releases:
        found, (rps, *_, name) = harm(each, made.recording), KINDS[each.service.name]
        bad = (str(found.failed), str(found.seen), str(round(found.above)), str(found.slow))
        cells = (f"{found.seconds / 60:.1f} min", str(found.requests), *bad, f"{found.stable_failed:.2%}")
        record.add(name, f"{rps:g}", killed, each.how(), *cells, f"{psutil.getloadavg()[1]:.1f}")
        own = each.service.name
        record.raw["ends"].append((own, each.how()))
        if found.failed > 2 * BAD.get(own, 1.0) * rps * FIRST_WEIGHT * LEAST_S:
            record.raw["late"].append((own, killed, found.failed))
        if each.how() in GONE and (told := miscounted(each, made.recording, kills)):
            record.raw["miscounted"].append(told)
        if own == "good":
            record.raw["unexplained"] += unexplained(each.service.samples, kills, each.released)
        record.raw["rollouts"].append({"name": own, "killed": killed, **asdict(found), "status": each.status})
    since = min(each.released for each in releases)
    crashing, others = (
        unanswered([each.samples for each in made.services if each.name.startswith("crash") == own], kills, since)
        for own in (True, False)
    )
    record.raw["kills"].append(
        {
            "done": kills.done if kills else [],
            "problems": kills.problems if kills else [],
            "unanswered": asdict(others),
            "crashing": asdict(crashing),
        }
    )
    problems = {each.name: each.samples.problems for each in made.services}
    record.raw["problems"], record.raw["skipped"] = (
        problems,
        {each.name: each.samples.skipped for each in made.services},
    )
    record.notes.append(describe_kills(kills, others, crashing))
    record.finish()


def describe_kills(kills: Kills | None, others: Unanswered, crashing: Unanswered) -> str:
    """Describe the results of requests while processes were killed."""
    by_kind = Counter(which for _, which in kills.done) if kills else Counter[str]()
    killed = ", ".join(f"{by_kind[which]} times the {which}" for which in ("operator", "agent", "edge"))
    begin = f"SIGKILL to {killed}" if kills else "Nothing killed"
    without = (
        f"{others.after_edge} got no answer within {AFTER_A_KILL_S:.0f} s of a death of the edge,"
        f" {others.after_others} of another, {others.elsewhere} later"
    )
    own = sum(asdict(crashing).values()) - crashing.sent
    asked = f"of {others.sent} requests to services that do not crash by themselves"
    return f"{begin}: {asked} {without}; of {crashing.sent} to the others {own}."
