"""The page of a report: complete, self-contained, with equal numbers in tables and charts, and safe against hostile texts."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_fixtures import NINE, in_old_format, means, moving, one_name, ten_arms, two_arms
from rollout_fixtures import BEGUN, ERRORS, MINUTE, promoted, rolled_back, running, stored, without_traffic
from sundog_operator.api import ExperimentStatus, HistoryMetric, HistoryPoint, Verdict
from sundog_operator.shell.report import chart_parts, charts
from sundog_operator.shell.report.build import make_report
from sundog_operator.shell.report.page import render_html

REQUESTS = "Requests by arm since the start"
NOW = BEGUN + 12 * MINUTE
OF_ROLLOUTS = {
    "running": running(),
    "promoted": promoted(),
    "rolled back": rolled_back(),
    "no traffic": without_traffic(),
    "of before": running(history=()),
    "not begun": ExperimentStatus(),
}
OF_EXPERIMENTS = {
    "two arms": two_arms(),
    "ten arms": ten_arms(),
    "weights that move": moving(),
    "means": means(),
    "one name for two metrics": one_name(),
    "arms of before": in_old_format(moving()),
    "arms since lately": moving().model_copy(
        update={"history": (*in_old_format(moving()).history[:4], *moving().history[4:])}
    ),
}
STATES = {**OF_ROLLOUTS, **OF_EXPERIMENTS}
HOSTILE = (
    """</title></style></svg><script>alert(1)</script><img src="http://evil.example/x" onerror='x'>"""
    "&{{ 7*7 }}{% raw %}]]>\x00\x1b\u202e"
)
SIDES = {"x": (0, chart_parts.WIDTH), "y": (0, chart_parts.HEIGHT)}


def now_of(status: ExperimentStatus) -> datetime:
    """Return a time after the last evaluation."""
    return max([NOW, *(point.at + MINUTE for point in status.history)])


def made(status: ExperimentStatus, name: str = "digits-r8", deployment: str = "digits") -> str:
    now = now_of(status)
    return render_html(make_report(stored(status, name, deployment), now), "0.1.0", now)


def parsed(status: ExperimentStatus, **names: str) -> Element:
    """Parse the document with a strict parser."""
    return ET.fromstring(made(status, **names))


def text_of(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def tables(root: Element) -> dict[str, list[list[str]]]:
    """Return heads and rows by caption; the last table of a caption counts."""
    return {
        text_of(table.find("caption")): [[text_of(cell) for cell in row] for row in table.iter("tr")]  # type: ignore[arg-type]
        for table in root.iter("table")
    }


@pytest.mark.parametrize("status", STATES.values(), ids=STATES)
def test_it_needs_nothing_but_itself(status: ExperimentStatus) -> None:
    text, root = made(status), parsed(status)
    assert text.lstrip().startswith("<!DOCTYPE html>")
    assert "http" not in text
    assert not {each.tag for each in root.iter()} & {"script", "link", "img", "iframe", "object", "embed", "a", "use"}
    attributes = {name for each in root.iter() for name in each.attrib}
    assert not {name for name in attributes if name.startswith("on")} | attributes & {"src", "href", "style", "srcset"}
    (style,) = root.iter("style")
    assert not re.search(r"url\(|@import|@font-face", style.text or "")
    assert "prefers-color-scheme: dark" in (style.text or "")
    assert len(text) < 50_000 + 10_000 * len(list(root.iter("figure")))


@pytest.mark.parametrize("status", STATES.values(), ids=STATES)
def test_every_drawing_says_what_it_shows_and_has_its_numbers_beside_it(status: ExperimentStatus) -> None:
    root = parsed(status)
    ids = Counter(each.get("id") for each in root.iter() if each.get("id"))
    assert all(count == 1 for count in ids.values())
    for figure in root.iter("figure"):
        (svg,) = figure.iter("svg")
        named = (svg.get("aria-labelledby") or "").split()
        assert (svg.get("role"), len(named)) == ("img", 2)
        assert [each.get("id") for each in (svg[0], svg[1])] == named
        assert all(text_of(each) for each in (svg[0], svg[1]))
        (table,) = figure.iter("table")
        assert len(list(table.iter("tr"))) > 1
    assert root.get("lang") == "en"
    assert next(each.tag for each in root.iter() if re.fullmatch("h[1-6]", each.tag)) == "h1"
    colours = set(re.findall(r"var\((--[a-z0-9-]+)\)", made(status)))
    assert colours <= set(re.findall(r"(--[a-z0-9-]+):", made(status)))


@pytest.mark.parametrize(
    ("state", "charts_", "verdict"),
    [
        ("running", ["Traffic of the candidate", REQUESTS, "errorRate"], "verdict open"),
        ("promoted", ["Traffic of the candidate", REQUESTS, "errorRate"], "verdict good"),
        ("rolled back", ["Traffic of the candidate", REQUESTS, "errorRate"], "verdict bad"),
        ("no traffic", ["Traffic of the candidate", REQUESTS], "verdict open"),
        ("not begun", [], "verdict open"),
    ],
)
def test_what_is_drawn(state: str, charts_: list[str], verdict: str) -> None:
    root = parsed(STATES[state])
    assert [text_of(each) for each in root.iter("figcaption")] == charts_
    assert any(each.get("class") == verdict for each in root.iter("p"))


@pytest.mark.parametrize("status", STATES.values(), ids=STATES)
def test_whatever_is_drawn_has_a_look_of_its_own_and_a_legend(status: ExperimentStatus) -> None:
    """An element without a style is invisible."""
    root = parsed(status)
    (style,) = (each.text or "" for each in root.iter("style"))
    for figure in root.iter("figure"):
        keys = [each.attrib["class"].removeprefix("key ") for each in figure.iter("span")]
        assert len(set(keys)) == len(keys)
        assert all(f".key.{key} " in style for key in keys)
        lines = kinds(figure, "line")
        assert len(set(lines)) == len(lines)
        assert set(lines) <= set(keys)
        assert all(f".line.{kind} " in style for kind in lines)
        assert all(f".dot.{kind} " in style for kind in kinds(figure, "dot"))
        assert {kind for kind in kinds(figure, "bar") if kind != "open"} <= set(keys)
        assert all(f".bar.{kind} line" in style for kind in kinds(figure, "bar") if kind != "open")


def kinds(element: Element, of: str) -> list[str]:
    """Return the kinds of all elements of that class."""
    found = ((each.get("class") or "").split() for each in element.iter())
    return [words[1] for words in found if words[:1] == [of] and len(words) > 1]


def figure_of(status: ExperimentStatus, title: str) -> Element:
    return next(each for each in parsed(status).iter("figure") if text_of(each[0]) == title)


def courses(status: ExperimentStatus) -> dict[str, list[tuple[float, float]]]:
    """Return the traffic lines by kind: (x, y) of each corner."""
    found = figure_of(status, "Traffic of the arms").iter("polyline")
    return {
        (each.get("class") or "").split()[1]: [
            (float(x), float(y)) for x, y in (place.split(",") for place in each.attrib["points"].split())
        ]
        for each in found
    }


def legend(status: ExperimentStatus, title: str) -> dict[str, str]:
    items = figure_of(status, title).findall("./ul/li")
    return {each[0].attrib["class"].removeprefix("key "): text_of(each) for each in items}


def test_the_traffic_of_each_arm_is_seen_over_time() -> None:
    known = legend(moving(), "Traffic of the arms")
    assert (known["control"], known["arm-1"], known["arm-2"]) == ("control", "a", "b")
    lines = courses(moving())
    assert list(lines) == ["control", "arm-1", "arm-2"]
    begin, end = ([lines[kind][place][1] for kind in lines] for place in (0, -1))
    assert max(begin) - min(begin) < 8
    # Up is less: a ends at 80, control at 15, b at 5 percent.
    assert end[1] < end[0] - 50 < end[2] - 50
    assert all(len({x for x, _ in places}) == 9 for places in lines.values())
    rows = tables(parsed(moving()))["Traffic of the arms"]
    assert rows[0] == ["time", "control", "control, counted", "a", "a, counted", "b", "b, counted"]
    assert rows[1] == ["0:00:00", "33.34 %", "–", "33.33 %", "–", "33.33 %", "–"]
    assert rows[-1] == ["7:00:00", "15 %", "15 %", "80 %", "80 %", "5 %", "5 %"]


def test_ten_arms_are_ten_lines_and_none_hides_another() -> None:
    known = legend(ten_arms(), "Traffic of the arms")
    assert [*known.values()][:10] == ["control", *NINE]
    lines = courses(ten_arms())
    assert list(lines) == ["control", *(f"arm-{place}" for place in range(1, 10))]
    for corner in range(len(lines["control"])):
        heights = sorted(places[corner][1] for places in lines.values())
        assert all(b - a > 2.5 for a, b in itertools.pairwise(heights))
        assert heights[0] >= chart_parts.TOP
        assert heights[-1] <= chart_parts.BOTTOM
    rows = tables(parsed(ten_arms()))
    assert rows["Traffic of the arms"][-1][-2:] == ["0 %", "0 %"]
    assert rows[REQUESTS][0][:5] == ["time", "stable, outside", "errors", "control", "errors"]
    assert kinds(figure_of(ten_arms(), REQUESTS), "line") == list(lines)


def test_weights_below_one_percent_are_shown() -> None:
    rows = tables(parsed(means()))["Traffic of the arms"]
    assert rows[0] == ["time", "control", "control, counted", "a", "a, counted"]
    assert rows[-1] == ["7:00:00", "0.5 %", "0.5 %", "0.5 %", "0.5 %"]
    labels = [each.text for each in figure_of(means(), "Traffic of the arms").iter("text")]
    assert "0.6 %" in labels
    assert all(y < chart_parts.BOTTOM - 50 for places in courses(means()).values() for _, y in places)


def test_before_weights_of_arms_were_kept_their_sum_is_drawn() -> None:
    assert list(courses(OF_EXPERIMENTS["arms of before"])) == ["together"]
    assert (
        legend(OF_EXPERIMENTS["arms of before"], "Traffic of the arms")["together"]
        == "all arms except control, rounded"
    )
    rows = tables(parsed(OF_EXPERIMENTS["arms of before"]))["Traffic of the arms"]
    assert rows[0] == ["time", "all arms except control, rounded", "control, counted", "a, counted", "b, counted"]
    assert rows[-1] == ["7:00:00", "85 %", "15 %", "80 %", "5 %"]
    lately = courses(OF_EXPERIMENTS["arms since lately"])
    assert list(lately) == ["together", "control", "arm-1", "arm-2"]
    assert lately["together"][-1][0] == lately["control"][0][0]


def test_a_metric_is_shown_by_what_is_compared_and_by_what_is_counted() -> None:
    def describe(status: ExperimentStatus, title: str) -> tuple[str, str]:
        figure = figure_of(status, title)
        return text_of(next(figure.iter("desc"))), legend(status, title)["one"]

    assert describe(means(), "a: spent") == (
        "Ratio of the mean by unit: arm a to control, with its interval, over time, on a log scale."
        " Goal: mean of amount should increase. An arrow marks an end outside of the drawing.",
        "as much as control (1)",
    )
    assert describe(two_arms(), "b: converted") == (
        "Ratio of the frequency: arm b to control, with its interval, over time, on a log scale."
        " Goal: rate of bought should increase, by 2 % or more. An arrow marks an end outside of the drawing.",
        "as often as control (1)",
    )
    description, one = describe(two_arms(), "a: errorRate")
    assert ": arm a to control" in description
    assert "Limit: up to 25 % more than control, or 0.5 % of all requests." in description
    assert one == "as often as control (1)"
    description, one = describe(promoted(), "errorRate")
    assert ": the candidate to stable" in description
    assert "Limit: up to 25 % more than stable, or 0.5 % of all requests." in description
    assert one == "as often as stable (1)"


def test_the_minimum_effect_has_a_line_beside_the_intervals() -> None:
    assert legend(two_arms(), "a: converted")["effect"] == "minimum effect (1.02)"
    assert "effect" in kinds(figure_of(two_arms(), "a: converted"), "line")
    assert "effect" not in legend(two_arms(), "a: errorRate")
    assert "effect" not in legend(means(), "a: spent")


def test_better_and_worse_have_colours_that_are_shown() -> None:
    found = {title: kinds(figure_of(two_arms(), title), "bar") for title in ("a: converted", "b: converted")}
    assert found == {
        "a: converted": [*["open"] * 9, *["better"] * 3],
        "b: converted": [*["open"] * 9, *["worse"] * 3],
    }
    assert legend(two_arms(), "a: converted")["better"] == "Better"
    assert legend(two_arms(), "b: converted")["worse"] == "Worse"
    assert "worse" not in legend(two_arms(), "a: converted")
    assert legend(two_arms(), "a: errorRate")["passed"] == "Passed"
    assert legend(rolled_back(), "errorRate")["harm"] == "Harm"


def test_two_metrics_of_one_name_are_two_charts_with_their_own_numbers() -> None:
    found = tables(parsed(one_name()))
    assert [row[1] for row in found["a: errorRate (success)"][1:]] == ["0.5"] * 4
    assert [row[1] for row in found["a: errorRate (harm)"][1:]] == ["1.1"] * 4
    assert [row[:6] for row in found["Metrics, with the events of control and of the arm"][1:3]] == [
        ["a: errorRate (success)", "success", "Better", "–", "-50 % (-66.7 to -25)", "–"],
        ["a: errorRate (harm)", "harm", "Harm", "–", "+10 % (-26.7 to 65)", "–"],
    ]
    before = parsed(in_old_format(one_name()))
    assert [text_of(each) for each in before.iter("figcaption")] == ["Traffic of the arms", REQUESTS]


def palette(scheme: int) -> dict[str, str]:
    """Return the colours of the light scheme, 0, or of the dark one, 1."""
    (style,) = (each.text or "" for each in parsed(running()).iter("style"))
    return dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6})", style.split(":root {")[scheme + 1]))


def channels(colour: str) -> list[float]:
    """Return linear red, green and blue from 0 to 1."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def contrast(one: str, other: str) -> float:
    """Return the contrast of WCAG, which needs 3 for graphics."""
    bright, dark = sorted(
        (sum(map(math.prod, zip((0.2126, 0.7152, 0.0722), channels(each), strict=True))) for each in (one, other)),
        reverse=True,
    )
    return (bright + 0.05) / (dark + 0.05)


def lab(colour: str) -> tuple[float, float, float]:
    """Return CIELAB coordinates. A distance of 2.3 is just visible."""
    red, green, blue = channels(colour)
    white = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505,
        0.2126 * red + 0.7152 * green + 0.0722 * blue,
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089,
    )
    x, y, z = (each ** (1 / 3) if each > 0.008856 else 7.787 * each + 16 / 116 for each in white)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("scheme", [0, 1])
def test_ten_arms_and_all_verdicts_can_be_distinguished_in_light_and_in_dark(scheme: int) -> None:
    colours = palette(scheme)
    arms = [colours["--stable"], *(colours[f"--arm-{place}"] for place in range(1, 10))]
    verdicts = [colours[f"--{name}"] for name in ("candidate", "good", "bad", "better", "worse")]
    assert min(contrast(each, colours["--sheet"]) for each in (*arms, *verdicts)) >= 3
    for group in (arms, verdicts):
        assert min(math.dist(lab(a), lab(b)) for a, b in itertools.combinations(group, 2)) > 20


@pytest.mark.parametrize("ratio", [-1.0, 1e-320, 1e308])
def test_a_history_that_is_damaged_is_drawn_as_far_as_it_goes(ratio: float) -> None:
    first, *others = running().history
    point = others[-1].model_copy(update={"metrics": (HistoryMetric(name="errorRate", ratio=ratio, lower=ratio),)})
    assert len(parsed(running(history=(first, *others[:-1], point))).findall(".//figure")) == 3


def test_the_tables_have_the_numbers() -> None:
    found = tables(parsed(promoted()))
    assert found["Sample"][1:] == [
        ["stable", "r7", "0 %", "49500", "75.0%", "49000", "495", "1.000%"],
        ["canary", "r8", "100 %", "16500", "25.0%", "16333", "176", "1.067%"],
    ]
    assert found["Metrics, with the events of both arms"][1] == [
        *("errorRate", "guardrail", "Passed", "–", "+4.7 % (-19 to 33)", "+50 %", "900", "310")
    ]
    assert found["errorRate"][-1] == ["0:11:00", "1.05", "0.788–1.4", "1.25", "Passed"]
    assert found["Traffic of the candidate"][-1] == ["0:11:00", "100 %", "25 %"]
    assert found[REQUESTS][-1] == ["0:11:00", "49500", "495", "16500", "176"]


def test_an_end_that_is_not_known_is_marked_and_harm_is_distinguished() -> None:
    bars = [each for each in parsed(rolled_back()).iter("g") if "bar" in (each.get("class") or "")]
    assert [len(list(each.iter("path"))) for each in bars] == [1, 0, 0, 0, 0]
    assert [each.get("class") for each in bars] == [*["bar open"] * 4, "bar harm"]


def test_what_others_wrote_stays_text() -> None:
    metric = ERRORS.model_copy(update={"message": HOSTILE, "verdict": HOSTILE, "name": HOSTILE})
    status = running(
        phase="Stopped",
        metrics=(metric,),
        verdict=Verdict(reason=f"{HOSTILE}: {HOSTILE}"),
        conditions=tuple(
            each.model_copy(update={"message": HOSTILE, "reason": HOSTILE}) for each in running().conditions
        ),
        history=tuple(
            point.model_copy(
                update={"metrics": tuple(each.model_copy(update={"verdict": HOSTILE}) for each in point.metrics or ())}
            )
            for point in running().history
        ),
    )
    plain, hostile = parsed(running()), parsed(status, name=HOSTILE, deployment=HOSTILE)
    assert {each.tag for each in hostile.iter()} == {each.tag for each in plain.iter()}
    assert {name for each in hostile.iter() for name in each.attrib} == {
        n for each in plain.iter() for n in each.attrib
    }
    for each in hostile.iter():
        assert not any("script" in value or "http" in value for value in each.attrib.values())
    shown = HOSTILE.replace("\x00", "�").replace("\x1b", "�").replace("\u202e", "�")
    (title,) = hostile.iter("h1")
    assert text_of(title) == f"vision/{shown}"
    assert shown in text_of(hostile.find("body"))  # type: ignore[arg-type]
    assert "49" not in text_of(title)


numbers = st.none() | st.floats(0, 1e12) | st.floats(1e-9, 20)
bounds = st.builds(
    HistoryMetric,
    name=st.just("errorRate"),
    ratio=numbers,
    lower=numbers,
    upper=numbers,
    verdict=st.sampled_from([None, "Harm", "Passed", "Heterogeneous"]),
)
points = st.lists(
    st.tuples(st.integers(0, 10**7), st.integers(0, 100), st.integers(0, 10**12), st.none() | bounds),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(points)
def test_nothing_is_drawn_outside_the_sides(
    describe: list[tuple[int, int, int, HistoryMetric | None]],
) -> None:
    history = tuple(
        HistoryPoint(
            at=BEGUN + timedelta(seconds=at),
            epoch=1,
            weight=weight,
            requests=(requests, requests // 3),
            errors=(0, 0),
            metrics=(metric,) if metric else None,
        )
        for at, weight, requests, metric in sorted(describe, key=lambda each: each[0])
    )
    now = history[-1].at + MINUTE
    report = make_report(stored(running(history=history, metrics=(), counted_at=None)), now)
    root = ET.fromstring(render_html(report, "0.1.0", now))
    for svg in root.iter("svg"):
        for name, value in places(svg):
            low, high = SIDES[name]
            assert low <= value <= high


of_arms = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.none() | st.lists(st.integers(0, 10_000).map(lambda n: n / 100), min_size=4, max_size=4),
        st.lists(st.integers(0, 10**9), min_size=4, max_size=4),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(of_arms)
def test_nor_is_anything_of_arms(describe: list[tuple[int, list[float] | None, list[int]]]) -> None:
    history = tuple(
        HistoryPoint(
            at=BEGUN + timedelta(seconds=at),
            epoch=1,
            weight=50,
            weights=None if weights is None else tuple(weights),
            requests=tuple(requests),
            errors=(0, 0, 0, 0),
        )
        for at, weights, requests in sorted(describe, key=lambda each: each[0])
    )
    status = moving().model_copy(update={"history": history, "counted_at": None})
    for chart in charts.make_charts(make_report(stored(status), now_of(status))):
        drawn = [tuple(map(float, place.split(","))) for line in chart.lines for place in line.points.split()]
        drawn += [(dot.x, dot.y) for dot in chart.dots]
        assert drawn
        assert all(
            chart_parts.LEFT <= x <= chart_parts.RIGHT and chart_parts.TOP <= y <= chart_parts.BOTTOM for x, y in drawn
        )


def places(svg: Element) -> Iterator[tuple[str, float]]:
    """Return the coordinates in a drawing."""
    for each in svg.iter():
        for name in ("x", "x1", "x2", "cx", "y", "y1", "y2", "cy"):
            if name in each.attrib:
                yield name.strip("c12"), float(each.attrib[name])
        pairs = re.findall(r"([-0-9.e]+),([-0-9.e]+)", each.get("points", "") + each.get("d", ""))
        for x, y in pairs:
            yield "x", float(x)
            yield "y", float(y)


def near(a: Any, b: Any) -> bool:
    return abs(a - b) < 12


@pytest.mark.parametrize("status", STATES.values(), ids=STATES)
def test_no_label_is_written_over_another(status: ExperimentStatus) -> None:
    """A digit is about 7 wide at a height of 12."""
    for svg in parsed(status).iter("svg"):
        labels = list(svg.iter("text"))
        for index, one in enumerate(labels):
            for other in labels[index + 1 :]:
                assert not (overlap(one, other) and near(float(one.attrib["y"]), float(other.attrib["y"])))
        assert all(left(each) >= 0 and left(each) + width(each) <= chart_parts.WIDTH for each in labels)


def width(label: Element) -> float:
    return 7.0 * len(label.text or "")


def left(label: Element) -> float:
    return float(label.attrib["x"]) - width(label) * {"end": 1.0, "middle": 0.5}[label.attrib["text-anchor"]]


def overlap(one: Element, other: Element) -> bool:
    return left(one) < left(other) + width(other) and left(other) < left(one) + width(one)
