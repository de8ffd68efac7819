"""Apply thresholds to recorded rollouts, and compare with the decisions on evidence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from campaigning.edge_recording import Recording
from campaigning.request_accounting import Harm, harm, recorded
from campaigning.services import Release
from measuring.record import Record
from measuring.thresholds import BLOCKS_A_MINUTE, Argo, Block, Flagger, Policy, replay

GONE: Final = ("RolledBack", "CandidateUnavailable")
"""Reasons of a rollback: evidence, or no replica."""

COLUMNS: Final = (
    *("candidate", "decided by", "runs", "promoted", "taken back", "minutes"),
    *("bad answers let through", "slow ones", "bad beyond stable's share", "bad a minute once promoted"),
)
TOOLS: Final[dict[str, Callable[[], Policy]]] = {
    "Argo Rollouts, error rate ≤ 2 %": lambda: Argo(0.02),
    "Argo Rollouts, error rate ≤ 5 %": lambda: Argo(0.05),
    "Argo Rollouts, p95 ≤ 1.25 × stable's": lambda: Argo(slower=1.25),
    "Argo Rollouts, 2 % and p95": lambda: Argo(0.02, slower=1.25),
    "Flagger, success rate ≥ 99 %": lambda: Flagger(0.01),
    "Flagger, success rate ≥ 95 %": lambda: Flagger(0.05),
    "Flagger, 99 % and p95": lambda: Flagger(0.01, slower=1.25),
}
SHORT: Final = "Sundog, too short to compare"
"""Whose recording has no whole minute: no tool has checked anything by then."""


@dataclass(frozen=True)
class Rollout:
    """A recorded rollout."""

    release: Release
    recording: Recording


class Cost(NamedTuple):
    """Return the end of a rollout, its minutes, and the canary's bad and slow answers: see `COLUMNS`."""

    how: str
    minutes: float
    failed: float
    slow: float
    above: float
    after: float


def compare(record: Record, rollouts: Mapping[str, Sequence[Rollout]]) -> None:
    """A row for each kind of candidate and way to decide; means over the runs, which are the same for all ways. Keeps it."""
    record.rows.clear()
    for kind, runs in rollouts.items():
        known = [
            _Known(each.release.how(), recorded(each.release, each.recording), harm(each.release, each.recording))
            for each in runs
        ]
        record.raw[kind] = [each.blocks for each in known]
        long_enough = [each for each in known if len(each.blocks) >= BLOCKS_A_MINUTE]
        for tool, policy in TOOLS.items() if long_enough else ():
            record.add(kind, tool, *_told([_by_tool(policy(), each) for each in long_enough]))
        for name, own in (("Sundog", long_enough), (SHORT, [each for each in known if each not in long_enough])):
            if own:
                record.add(kind, name, *_told([_by_evidence(each) for each in own]))
    record.finish()


class _Known(NamedTuple):
    """A rollout's end, what was counted of it, and what it cost."""

    how: str
    blocks: list[Block]
    harm: Harm


def _by_tool(policy: Policy, each: _Known) -> Cost:
    played = replay(policy, each.blocks)
    above = played.failed - played.exposed * each.harm.stable_failed
    return Cost(played.how, played.minutes, played.failed, played.slow, above, _afterwards(played.how, each.blocks))


def _by_evidence(each: _Known) -> Cost:
    cost = each.harm
    return Cost(each.how, cost.seconds / 60, cost.failed, cost.slow, cost.above, _afterwards(each.how, each.blocks))


def _afterwards(how: str, blocks: Sequence[Block]) -> float:
    """Bad answers a minute of one that has all requests; 0 where it was not promoted."""
    ended = sum(block.ended for block in blocks)
    if how != "Promoted" or not ended:
        return 0.0
    requests = sum(block.requests for block in blocks) / len(blocks) * BLOCKS_A_MINUTE
    return requests * sum(block.failed for block in blocks) / ended


def _told(costs: Sequence[Cost]) -> list[str]:
    hows, *columns = zip(*costs, strict=True)
    counts = (len(hows), hows.count("Promoted"), sum(how in GONE for how in hows))
    return [*map(str, counts), *(str(round(sum(column) / len(column))) for column in columns)]
