"""What only an Experiment's report has: dated estimates, units, effects by day, power, and who is probably best."""

import itertools
from datetime import timedelta
from xml.etree import ElementTree as ET

import pytest

from experiment_fixtures import HOUR, measured, two_arms
from rollout_fixtures import stored
from sundog_operator.api import ExperimentStatus
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.trial import history
from sundog_operator.shell.report import outcome_history
from sundog_operator.shell.report.build import make_report
from sundog_operator.shell.report.model import ExperimentReport
from sundog_operator.shell.report.page import render_html
from sundog_operator.shell.view.verdict import WINNERS_CURSE


def report_of(status: ExperimentStatus) -> ExperimentReport:
    return make_report(stored(status), status.history[-1].at + HOUR)


def titles(status: ExperimentStatus) -> list[str]:
    root = ET.fromstring(render_html(report_of(status), "0.1.0", status.history[-1].at))
    return ["".join(each.itertext()) for each in root.iter("figcaption")]


def test_the_head_has_one_estimate_of_the_win_and_one_of_now_each_with_its_time() -> None:
    report = report_of(measured())
    won = "wide won at 2026-11-27 13:00 UTC with converted 19.8 % → 29.4 %, +49 % (-2.5 to 132)"
    assert report.heading == f"{won}; now 19.7 % → 26.2 %, +32.6 % (10.4 to 59.7)"
    assert report.why[0].startswith("When it won: converted of wide is 48.5 % above control's")
    assert WINNERS_CURSE in report.why
    assert not any(each.startswith("converted of wide") for each in report.why)


def test_events_that_count_as_few_independent_ones_are_listed() -> None:
    expected = "errorRate of wide: 100 failures count as about 12 independent events"
    assert expected in report_of(measured()).why


def test_an_end_whose_estimate_has_not_changed_has_it_once() -> None:
    assert report_of(two_arms()).heading == "a won at 2026-11-26 23:00 UTC: converted +40 % (20 to 63.3)"


def test_units_are_drawn_with_their_split() -> None:
    report = report_of(measured())
    last = report.points[-1].units
    assert last is not None
    assert last == tuple(arm.units for arm in measured().arms)
    assert [lane.name for lane in report.lanes] == ["stable, outside", "control", "wide", "twin"]
    assert "Units by arm since the warm-up" in titles(measured())
    assert "Units by arm since the warm-up" not in titles(two_arms())


def test_days_add_up_to_what_was_counted_in_all() -> None:
    (wide,) = (each for each in report_of(measured()).metrics if each.name == "wide: converted")
    assert wide.last is not None
    assert wide.last.values is not None
    assert wide.period == "day"
    assert [sum(each.units[side] for each in wide.periods) for side in (0, 1)] == [
        each.count for each in wide.last.values
    ]
    bought = [sum(each.units[side] * each.values[side] for each in wide.periods) for side in (0, 1)]
    assert bought == pytest.approx(list(wide.last.events))
    assert len(wide.periods) == 7
    assert all(each.lower is not None and each.upper is not None for each in wide.periods[1:-1])
    assert all(each.lower < (each.ratio or 0) < each.upper for each in wide.periods if each.lower and each.upper)


def test_power_grows_with_units_and_says_nothing_of_the_effect() -> None:
    bought = report_of(measured()).chances[0]
    assert (bought.metric, bought.effect) == ("converted", 0.1)
    _, control, wide, twin = bought.lanes
    powers = [each.power or 0.0 for each in wide]
    assert powers == sorted(powers)
    assert powers[-1] == pytest.approx(twin[-1].power, abs=0.01)
    assert {each.power for each in control} == {None}


def test_who_is_probably_best_sums_to_one() -> None:
    _, *lanes = report_of(measured()).chances[0].lanes
    for arms in zip(*lanes, strict=True):
        assert sum(each.best or 0.0 for each in arms) == pytest.approx(1.0)
    assert (lanes[1][-1].best or 0.0) > 0.99


def test_each_chart_is_there_once() -> None:
    found = titles(measured())
    assert len(found) == len(set(found))
    assert {"wide: converted by day", "converted: power reached", "converted: probability to be best"} <= set(found)


def test_the_last_point_of_each_day_is_kept() -> None:
    (first, *_) = measured().history
    points = [first.model_copy(update={"at": first.at + place * 2 * HOUR}) for place in range(24 * 6)]
    kept = history.thin_points(points)
    assert len(kept) == history.MAX_POINTS
    ends = {each.at.date(): each.at for each in points}
    assert set(ends.values()) <= {each.at for each in kept}
    assert max(b.at - a.at for a, b in itertools.pairwise(kept)) <= timedelta(days=1)


@pytest.mark.parametrize(
    ("kind", "sums", "possible"),
    [
        ("rate", (10, 4.0, 4.0), True),
        ("rate", (10, 41.0, 41.0), False),
        ("rate", (10, -3.0, -3.0), False),
        ("mean", (10, -20.0, 50.0), True),
        ("mean", (10, 20.0, 5.0), False),
        ("mean", (10, 0.0, -1.0), False),
    ],
)
def test_a_day_with_impossible_sums_is_left_out(kind: str, sums: tuple[int, float, float], possible: bool) -> None:
    """Outcomes of units of an earlier day count on the day they come, which may have had few units of its own."""
    metric = OutcomeMetric("m", kind)  # type: ignore[arg-type]
    assert outcome_history._is_possible(metric, *sums) is possible
