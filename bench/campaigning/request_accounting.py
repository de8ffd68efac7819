"""Cost of a rollout to its clients, and checks that every request is accounted for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from campaigning.clients import NO_NUMBERS, UNANSWERED, Samples
from campaigning.edge_recording import BLOCK_S, Counted, Recording
from campaigning.fleet import LOOK_S, Kills
from campaigning.services import Release
from measuring.thresholds import Block

AFTER_A_KILL_S: Final = 15.0
"""For so long after its end a process's place may be empty on a busy machine."""

QUANTILES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Harm:
    """Failures and slow answers of a canary until its verdict, or until the recording ended.

    Attributes:
        seconds: from its first request on.
        requests: those that were assigned to it; without a verdict those that ended by then.
        failed: of those, as the edge counted them.
        slow: of those, longer than the plan's time for the candidate, as callers saw them; 0 where no plan has one.
        seen: of those, bad as callers saw them: failed, cut, or answered with what is no number.
        stable_failed: the share of stable's requests that failed meanwhile.
    """

    seconds: float
    requests: int
    failed: int
    slow: int
    seen: int
    stable_failed: float

    @property
    def above(self) -> float:
        """Return the number of failures beyond stable's share."""
        return self.failed - self.requests * self.stable_failed


def harm(each: Release, recording: Recording) -> Harm:
    """Return the harm of a recorded rollout."""
    until = each.until
    canary, stable = (recording.arm(each.uid, arm) for arm in ("canary", "stable"))
    first = min((start for start, counted in canary.items() if counted.ended), default=int(until))
    own, other = (sum_of(counts, first, until) for counts in (canary, stable))
    assigned = recording.sums(each.uid, "canary").get("assigned", 0) if each.over_at else own.ended
    share = other.failed / other.ended if other.ended else 0.0
    rows, limit = list(each.service.samples.of(each.number, first, _whole(until))), slow_s(each)
    slow = sum(took > limit for _, took, _ in rows)
    return Harm(max(0.0, until - first), assigned, own.failed, slow, sum(map(_is_bad, rows)), share)


def sum_of(blocks: dict[int, Counted], first: int, until: float) -> Counted:
    """Return the blocks from one on that begin before an instant."""
    found = Counted()
    for start, counted in blocks.items():
        if first <= start < until:
            found = found.plus(counted)
    return found


def slow_s(each: Release) -> float:
    """The time of the plan's first latency for the candidate, in seconds; infinite where it has none, or not yet."""
    guardrails = (each.status.get("plan") or {}).get("guardrails", ())
    known = [found for metric in guardrails if (found := metric.get("candidateThresholdMicroseconds"))]
    return known[0] / 1e6 if known else float("inf")


def recorded(each: Release, recording: Recording) -> list[Block]:
    """Every ten seconds in which the candidate had traffic all the time; the first and the last are cut.

    How long answers took is as their callers saw it, in seconds: both arms' by one clock, and those of the warm-up, in which edges may
    not know yet what is slow.
    """
    canary, stable = (recording.arm(each.uid, arm) for arm in ("canary", "stable"))
    until, limit = each.until, slow_s(each)
    own_took, stable_took = (_by_block(each.service.samples, revision) for revision in (each.number, each.stable))
    begins = [start for start, counted in canary.items() if counted.ended and start + BLOCK_S <= until]
    found = []
    for start in range(min(begins, default=0) + BLOCK_S, max(begins, default=0), BLOCK_S):
        own, other = canary.get(start, Counted()), stable.get(start, Counted())
        took = own_took.get(start, ())
        slow = sum(seconds > limit for seconds in took)
        found.append(
            Block(own.ended + other.ended, own.ended, own.failed, slow, tuple(took), tuple(stable_took.get(start, ())))
        )
    return found


def _by_block(samples: Samples, revision: int) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for sent, took, _ in samples.of(revision):
        found.setdefault(int(sent // BLOCK_S) * BLOCK_S, []).append(round(took, 4))
    return found


def quantiles(each: Release) -> dict[str, list[float]]:
    """Return `QUANTILES` of the latencies of stable and canary while both had traffic, in ms.

    Empty where one of them had none.
    """
    since = min(each.begun.values(), default=each.until)
    arms = {"stable": each.stable, "canary": each.number}
    took = {
        arm: [took for _, took, _ in each.service.samples.of(revision, since, each.until)]
        for arm, revision in arms.items()
    }
    if not all(took.values()):
        return {}
    return {arm: [round(1000 * float(found), 1) for found in np.quantile(own, QUANTILES)] for arm, own in took.items()}


def latency_quantiles(each: Release) -> list[str]:
    """Format the quantiles of stable and canary."""
    found = quantiles(each)
    return [" / ".join(f"{ms:.0f}" for ms in found.get(arm, ())) for arm in ("stable", "canary")]


@dataclass(frozen=True)
class Unanswered:
    """Requests without any answer, by when they were sent.

    Attributes:
        sent: all that were.
        after_edge: soon after the edge's HAProxy was killed: what it had under way, and what came before the next one was there.
        after_others: soon after the operator or the agent was, and not after the edge.
        elsewhere: at any other time.
    """

    sent: int = 0
    after_edge: int = 0
    after_others: int = 0
    elsewhere: int = 0


def unanswered(services: Sequence[Samples], kills: Kills | None, since: float) -> Unanswered:
    """Count unanswered requests of several services, from an instant on."""
    all_, edge, others, elsewhere = 0, 0, 0, 0
    for samples in services:
        for sent, took, status in _rows(samples):
            all_ += sent >= since
            if status != UNANSWERED or sent < since:
                continue
            near = _died(kills, sent, took)
            if "edge" in near:
                edge += 1
            elif near:
                others += 1
            else:
                elsewhere += 1
    return Unanswered(all_, edge, others, elsewhere)


def unexplained(samples: Samples, kills: Kills | None, since: float, until: float = float("inf")) -> list[str]:
    """Answers of a service without flaws that were bad, or none, though the edge had not died."""
    return [
        f"{sent:.1f}: {status} after {took:.2f} s"
        for sent, took, status in _rows(samples)
        if since <= sent < until and _is_bad((sent, took, status)) and "edge" not in _died(kills, sent, took)
    ]


def miscounted(each: Release, recording: Recording, kills: Kills | None) -> str:
    """In words where the edge's count of a candidate's bad answers, over and done with, is not that of its callers; empty where it is.

    What an agent had not told when it died it may have forgotten, and a caller whose edge died does not know who was to answer him. So the
    count is that of callers, but for what was sent around a kill, and at most as much more as had no answer at all.
    """
    bad = [row for row in each.service.samples.of(each.number, each.released) if _is_bad(row)]
    away = sum(not _died(kills, sent, took + AFTER_A_KILL_S + LOOK_S) for sent, took, _ in bad)
    lost = sum(status == UNANSWERED and sent >= each.released for sent, _, status in _rows(each.service.samples))
    counted = sum(block.failed for block in recording.arm(each.uid, "canary").values())
    if away <= counted <= len(bad) + lost:
        return ""
    saw = f"callers saw {len(bad)}, {away} of them far from any kill, and {lost} had none"
    return f"{each.service.name} r{each.number}: the edge counted {counted} bad answers; {saw}"


def _rows(samples: Samples) -> Iterator[tuple[float, float, int]]:
    return zip(samples.sent, samples.took, samples.statuses, strict=False)


def _is_bad(row: tuple[float, float, int]) -> bool:
    return row[2] >= 500 or row[2] in (UNANSWERED, NO_NUMBERS)


def _died(kills: Kills | None, sent: float, took: float) -> set[str]:
    """Return the processes that were killed during a request, or so shortly before that they may still have been missing."""
    done: Iterable[tuple[float, str]] = kills.done if kills else ()
    return {which for at, which in done if sent - AFTER_A_KILL_S <= at <= sent + took}


def _whole(instant: float) -> int:
    """Return the end of the block that contains an instant."""
    return -int(-instant // BLOCK_S) * BLOCK_S
