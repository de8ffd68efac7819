"""Whole rollouts through the planner on a fake clock: decisions of `rollout: {}` on good and on worse revisions.

Tools that compare an error rate with a threshold decide on the same services. Seeds are fixed, and the machine's speed does not matter.
A minute of a rollout takes some 0.2 s of a core: all of them some 40 minutes, on all cores.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from doubles.cluster import NAME
from doubles.traffic import Answers, Stalls
from measuring.parallel_simulations import in_processes
from measuring.record import Record
from measuring.thresholds import Argo, Fixed, Flagger, Played, Policy, play
from planner_simulation import ANY, APPLICATIONS, Ended, Service, play_out, service

pytestmark = [pytest.mark.bench, pytest.mark.timeout(21600)]

GOOD = 200
WORSE = 20
LEAST_FOUND = 0.9
"""Of the worse ones, the share that is rolled back within the hour; then no more of them can have been promoted than `ALPHA` allows."""

ALPHA = 0.05
STALLS = (None, Stalls(2.0, 0.3), Stalls(3.0, 0.5), Stalls(20.0, 0.2))
WITHIN_FLOOR = "twice the errors, 0.1 to 0.4 % before: within the floor"
HOWS = ("Promoted", "RolledBack", "Paused", "Collecting")
TOOLS: dict[str, Callable[[], Policy]] = {
    "Argo Rollouts, error rate ≤ 5 %": lambda: Argo(0.05),
    "Argo Rollouts, error rate ≤ 1 %": lambda: Argo(0.01),
    "Flagger, success rate ≥ 99 %": lambda: Flagger(0.01),
}

_ENDED: dict[tuple[Service, int], Ended] = {}
"""What each rollout came to, played once for all tables."""


def ended(services: Sequence[tuple[int, Service]], name: str) -> list[Ended]:
    """Run rollouts and return their ends; `name` labels their progress."""
    missing = [(asked, seed) for seed, asked in services if (asked, seed) not in _ENDED]
    _ENDED.update(zip(missing, in_processes(name, [partial(play_out, *each) for each in missing]), strict=True))
    return [_ENDED[asked, seed] for seed, asked in services]


def rolled_out(services: Sequence[tuple[int, Service]], record: Record, key: str) -> list[Ended]:
    found = ended(services, f"{record.part}, {key}")
    record.raw[key] = [asdict(each) for each in found]
    return found


def named(stalls: Stalls | None) -> str:
    return f"{stalls.seconds:g} s of {stalls.failing:.0%} failures" if stalls else "none"


def good_ones() -> dict[str, list[tuple[int, Service]]]:
    return {
        named(stalls): [(seed, service(seed, stalls)) for seed in range(kind, GOOD, len(STALLS))]
        for kind, stalls in enumerate(STALLS)
    }


def worse_ones() -> dict[str, list[tuple[int, Service]]]:
    """Half of each kind have replicas of both arms that stall for 2 s."""

    def kind(usual: tuple[float, float], worse: Callable[[Answers], Answers]) -> list[tuple[int, Service]]:
        return [(seed, service(seed, STALLS[seed % 2], worse, usual)) for seed in range(WORSE)]

    return {
        "twice the errors, 1 to 2 % before": kind((0.01, 0.02), lambda fine: replace(fine, errors=2 * fine.errors)),
        WITHIN_FLOOR: kind((0.001, 0.004), lambda fine: replace(fine, errors=2 * fine.errors)),
        "5 % errors, 1 % before": kind((0.01, 0.01), lambda fine: replace(fine, errors=0.05)),
        "every answer takes 40 % longer": kind(ANY, lambda fine: replace(fine, median_ms=1.4 * fine.median_ms)),
        "dead": kind(ANY, lambda fine: replace(fine, errors=1.0)),
    }


def test_rollouts_of_what_is_as_good() -> None:
    title = (
        "`rollout: {}` of a revision as good as stable: 10 to 100 requests a second, 0.1 to 2 % errors, an hour at most"
    )
    columns = ("stalls of replicas, six an hour", "runs", "promoted", "rolled back", "paused", "goes on")
    record, all_ = Record("rollouts", title, (*columns, "median", "80 %")), []
    for name, services in good_ones().items():
        found = rolled_out(services, record, name)
        record.add(name, str(len(found)), *counts(found), *times(found, "Promoted"))
        all_ += found
    record.add("all", str(len(all_)), *counts(all_), *times(all_, "Promoted"))
    rolled_back = Counter(each.how for each in all_)["RolledBack"]
    most = binomtest(rolled_back, len(all_), alternative="less").proportion_ci(0.95).high
    promoted = [each.requests for each in all_ if each.how == "Promoted"]
    record.notes.append(
        f"Rolled back: {rolled_back} of {len(all_)}, so at most {most:.1%} of such rollouts (95 %, Clopper and Pearson), where"
        f" {ALPHA:.0%} is promised. None was promoted before the candidate had answered {min(promoted)} requests."
    )
    record.finish()
    assert rolled_back <= binom.ppf(0.975, len(all_), ALPHA)
    assert min(promoted) > 1000
    assert {each.how for each in all_} <= set(HOWS)


def test_rollouts_of_what_is_worse() -> None:
    title = "`rollout: {}` of a worse revision, of the same services; every second with stalls of 2 s"
    columns = ("candidate", "runs", "promoted", "rolled back", "paused", "goes on", "median", "80 %")
    record = Record("rollouts_worse", title, (*columns, "failed answers of the candidate until then, median"))
    hows: dict[str, Counter[str]] = {}
    for name, services in worse_ones().items():
        found = rolled_out(services, record, name)
        failed = int(np.median([each.failed for each in found]))
        record.add(name, str(len(found)), *counts(found), *times(found, "RolledBack"), str(failed))
        hows[name] = Counter(each.how for each in found)
    record.finish()
    for name in hows.keys() - {WITHIN_FLOOR}:
        assert hows[name]["RolledBack"] >= LEAST_FOUND * WORSE, (name, hows[name])


def test_thresholds_on_the_same_services() -> None:
    title = "The same services by a threshold of the error rate, a check a minute, beside `rollout: {}`"
    columns = ("candidate", "decided by", "runs", "promoted", "rolled back")
    record = Record("rollouts_thresholds", title, (*columns, "failed answers of the candidate until then, median"))
    steady, *stalling = good_ones().values()
    kinds = {"as good": steady, "as good, replicas stall": [each for own in stalling for each in own], **worse_ones()}
    for kind, services in kinds.items():
        ends: dict[str, Sequence[Ended | Played]] = {
            tool: [
                play(policy(), each.traffic(seed), NAME, APPLICATIONS, Fixed(each.replicas)) for seed, each in services
            ]
            for tool, policy in TOOLS.items()
        }
        ends["Sundog, `rollout: {}`"] = ended(services, f"{record.part}, {kind}")
        for tool, found in ends.items():
            record.raw[f"{kind}, {tool}"] = [asdict(each) for each in found]
            failed = int(np.median([each.failed for each in found]))
            record.add(kind, tool, str(len(found)), *counts(found, HOWS[:2]), str(failed))
    record.finish()


def counts(found: Sequence[Ended | Played], hows: Sequence[str] = HOWS) -> list[str]:
    by_how = Counter(each.how for each in found)
    return [str(by_how[how]) for how in hows]


def times(found: Sequence[Ended], how: str) -> list[str]:
    """Return the times by which half and four fifths of all rollouts had this end."""
    minutes = np.array([each.minutes if each.how == how else np.inf for each in found])
    ends = (np.quantile(minutes, share, method="higher") for share in (0.5, 0.8))
    return [f"{end:.0f} min" if np.isfinite(end) else "–" for end in ends]
