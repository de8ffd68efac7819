"""Axes: positions of values, and ticks at round values that do not overlap."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.shell.report import scales
from sundog_operator.shell.report.scales import AxisScale, AxisTick

positive = st.floats(1e-3, 1e6)


def apart(ticks: list[AxisTick]) -> float:
    return min((abs(b.at - a.at) for a, b in itertools.pairwise(ticks)), default=math.inf)


@given(st.floats(1, 3e7))
def test_times_are_whole_and_have_one_unit(seconds: float) -> None:
    ticks = scales.make_time_ticks(AxisScale(0, seconds, 46, 388), 58)
    assert 2 <= len(ticks) <= 6 or seconds < 1.5
    assert apart(ticks) >= 58
    assert ticks[0].text == "0"
    assert len({tick.text.split()[1] for tick in ticks[1:]}) <= 1
    assert all(tick.text.split()[0].isdigit() for tick in ticks)


@pytest.mark.parametrize(
    ("seconds", "texts"),
    [
        (45, ["0", "10 s", "20 s", "30 s", "40 s"]),
        (1461, ["0", "5 min", "10 min", "15 min", "20 min"]),
        (3 * 3600, ["0", "30 min", "60 min", "90 min", "120 min", "150 min", "180 min"]),
        (86_400, ["0", "6 h", "12 h", "18 h", "24 h"]),
    ],
)
def test_times(seconds: float, texts: list[str]) -> None:
    found = [tick.text for tick in scales.make_time_ticks(AxisScale(0, seconds, 46, 388), 56)]
    assert found == texts


@given(st.floats(0, 1e10))
def test_counts_begin_at_0_and_end_at_a_round_value_above_all(most: float) -> None:
    scale = scales.make_count_scale(most, 172, 10)
    ticks = scales.make_count_ticks(scale)
    assert most <= scale.high <= max(2 * most, 5)
    assert 4 <= len(ticks) <= 6
    assert (ticks[0].text, ticks[0].at, ticks[-1].at) == ("0", 172, 10)
    assert apart(ticks) >= 20
    assert len({tick.text for tick in ticks}) == len(ticks)
    assert all(len(tick.text) <= 6 for tick in ticks)


@pytest.mark.parametrize(
    ("most", "texts"),
    [
        (0, ["0", "1", "2", "3", "4", "5"]),
        (11, ["0", "5", "10", "15"]),
        (100, ["0", "20", "40", "60", "80", "100"]),
        (100_875, ["0", "25 k", "50 k", "75 k", "100 k", "125 k"]),
    ],
)
def test_counts(most: float, texts: list[str]) -> None:
    assert [tick.text for tick in scales.make_count_ticks(scales.make_count_scale(most, 172, 10))] == texts


@given(st.integers(0, 10_000))
def test_percents_begin_at_0_and_are_in_hundredths_at_least(hundredths: int) -> None:
    most = hundredths / 100
    scale = scales.make_percent_scale(most, 172, 10)
    ticks = scales.make_percent_ticks(scale)
    assert most <= scale.high <= (max(2 * most, 0.05) if most else 5)
    assert 4 <= len(ticks) <= 6
    assert (ticks[0].text, ticks[0].at, ticks[-1].at) == ("0 %", 172, 10)
    assert len({tick.text for tick in ticks}) == len(ticks)
    assert all(len(tick.text) <= 6 for tick in ticks)


@pytest.mark.parametrize(
    ("most", "texts"),
    [
        (0, ["0 %", "1 %", "2 %", "3 %", "4 %", "5 %"]),
        (0.5, ["0 %", "0.1 %", "0.2 %", "0.3 %", "0.4 %", "0.5 %"]),
        (1.1, ["0 %", "0.25 %", "0.5 %", "0.75 %", "1 %", "1.25 %"]),
        (25, ["0 %", "5 %", "10 %", "15 %", "20 %", "25 %"]),
        (100, ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]),
    ],
)
def test_percents(most: float, texts: list[str]) -> None:
    assert [tick.text for tick in scales.make_percent_ticks(scales.make_percent_scale(most, 172, 10))] == texts


@given(positive, st.floats(1.3, 1e6))
def test_ratios_are_round_and_at_least_one_is_shown_of_any_range_that_has_one(low: float, times: float) -> None:
    scale = AxisScale(low, low * times, 172, 10, "log")
    ticks = scales.make_ratio_ticks(scale, 20)
    assert len(ticks) >= 1 or times < 2.5
    assert len(ticks) < 2 or apart(ticks) >= 20 or math.log10(times) > 6
    for tick in ticks:
        assert scale.at(float(tick.text)) == pytest.approx(tick.at)


def test_what_is_beyond_an_end_lies_at_it() -> None:
    scale = AxisScale(0.1, 10, 172, 10, "log")
    assert [round(scale.at(value), 6) for value in (1, 0.0001, 1e9)] == [91, 172, 10]
    assert scale.shows(10)
    assert not scale.shows(10.1)
