"""Draw the recorded rollout: the share of the canary, the error rate of both arms with its interval, and the moment of the decision."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from matplotlib.ticker import FuncFormatter

from pictures.style import BAD, CANARY, FAINT, IMAGES, INK, LINE, PAPER, RECORDED, STABLE, picture
from sundog_operator.core.stats import single_rate

_STABLE_REVISION: Final = "1"
_CANARY_REVISION: Final = "2"
_BEFORE_S: Final = 30
_BIN_S: Final = 5
"""Length of the record's bins of requests."""
_AFTER_S: Final = 35
_MOST_PERCENT: Final = 12
_NOTE: Final = (
    "Bands: error rates that the data does not exclude, at all looks together. "
    "The decision leaves out the 7 worst blocks of 10 s."
)

Json = dict[str, Any]


def draw(folder: Path = IMAGES) -> None:
    """Write rollback.svg."""
    recorded: Json = json.loads(RECORDED.read_text())
    began = next(at for at, weight in recorded["weights"] if weight)
    ended = datetime.fromisoformat(recorded["looks"][-1]["at"]).timestamp() - began
    clients: Mapping[str, Sequence[Sequence[int]]] = {
        revision: [[start - began, answers, failed] for start, answers, failed in bins]
        for revision, bins in recorded["clients"].items()
    }
    with picture(folder / "rollback.svg", 9.6, 5.4) as figure:
        share, rate = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.9))
        figure.subplots_adjust(left=0.085, right=0.965, top=0.81, bottom=0.1, hspace=0.2)
        figure.text(0.085, 0.945, "A bad canary, rolled back by evidence", fontsize=15, fontweight="bold")
        figure.text(0.085, 0.9, _NOTE, fontsize=9, color=FAINT)
        _draw_share(share, clients, recorded["weights"], began)
        _draw_rate(rate, clients, ended)
        for axes in (share, rate):
            axes.axvline(ended, color=BAD, linewidth=1.6)
            axes.axvline(0, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)))
        share.set(xlim=(-_BEFORE_S, ended + _AFTER_S))
        share.annotate(
            "the canary gets 25 %", (0, 100), xytext=(0, 4), textcoords="offset points", color=FAINT, fontsize=9
        )
        share.annotate(
            f"decided after {ended:.0f} s: rolled back",
            (ended, 100),
            xytext=(4, 4),
            textcoords="offset points",
            ha="right",
            color=BAD,
            fontweight="bold",
        )
        rate.set(xlabel="seconds since the canary's first request")


def _draw_share(
    axes: Any, clients: Mapping[str, Sequence[Sequence[int]]], weights: Sequence[tuple[float, int]], began: float
) -> None:
    stable, canary = (
        {start: answers for start, answers, _ in clients[revision]} for revision in (_STABLE_REVISION, _CANARY_REVISION)
    )
    starts = sorted(stable)
    shares = [100 * canary.get(start, 0) / (canary.get(start, 0) + stable[start]) for start in starts]
    axes.fill_between(starts, 0, shares, step="post", color=CANARY, alpha=0.75, linewidth=0)
    axes.fill_between(starts, shares, 100, step="post", color=STABLE, alpha=0.75, linewidth=0)
    at = [moment - began for moment, _ in weights]
    axes.step([*at, starts[-1]], [*(weight for _, weight in weights), 0], where="post", color=INK, linewidth=1)
    axes.set(ylim=(0, 100), ylabel="requests")
    axes.set_yticks([0, 25, 50, 100])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    axes.text(60, 62, "stable", color=PAPER, fontweight="bold")
    axes.text(60, 8, "canary", color=PAPER, fontweight="bold")


def _draw_rate(axes: Any, clients: Mapping[str, Sequence[Sequence[int]]], ended: float) -> None:
    """Draw the rates of all requests since the canary's first one, with the interval that holds at every look."""
    final = {}
    for revision, name, colour in ((_CANARY_REVISION, "canary", CANARY), (_STABLE_REVISION, "stable", STABLE)):
        bins = [each for each in clients[revision] if -_BIN_S <= each[0] <= ended - _BIN_S]
        at = [start + _BIN_S for start, _, _ in bins]
        answers = [*accumulate(each[1] for each in bins)]
        failed = [*accumulate(each[2] for each in bins)]
        intervals = [
            single_rate.rate_interval(hits, trials, 0.05) for hits, trials in zip(failed, answers, strict=True)
        ]
        axes.fill_between(
            at,
            [100 * lower for lower, _ in intervals],
            [100 * upper for _, upper in intervals],
            color=colour,
            alpha=0.28,
            linewidth=0,
        )
        rates = [100 * hits / trials for hits, trials in zip(failed, answers, strict=True)]
        axes.plot(at, rates, color=colour, linewidth=2.2)
        final[name] = (rates[-1], failed[-1], answers[-1], at[-1])
    axes.set(ylim=(0, _MOST_PERCENT), ylabel="failed requests")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    axes.grid(axis="y", color=LINE)
    for name, (rate, hits, trials, at_s) in final.items():
        axes.annotate(
            f"{name}: {hits} of {trials:,} failed, {rate:.1f} %",
            (at_s, rate),
            xytext=(-6, 38 if name == "canary" else 13),
            textcoords="offset points",
            ha="right",
            color=INK,
            fontweight="bold",
        )
