"""The page of a report: whole, on its own, the same in numbers as in drawings, and deaf to what others write into it."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sundog_operator.api import ExperimentStatus, HistoryMetric, HistoryPoint, Verdict
from sundog_operator.shell.reporting import charts
from sundog_operator.shell.reporting.content import report_of
from sundog_operator.shell.reporting.page import page
from told_rollouts import BEGUN, ERRORS, MINUTE, promoted, rolled_back, running, stored, without_traffic

NOW = BEGUN + 12 * MINUTE
STATES = {
    "running": running(),
    "promoted": promoted(),
    "rolled back": rolled_back(),
    "no traffic": without_traffic(),
    "of before": running(history=()),
    "not begun": ExperimentStatus(),
}
HOSTILE = (
    """</title></style></svg><script>alert(1)</script><img src="http://evil.example/x" onerror='x'>"""
    "&{{ 7*7 }}{% raw %}]]>\x00\x1b\u202e"
)
SIDES = {"x": (0, charts.WIDTH), "y": (0, charts.HEIGHT)}


def made(status: ExperimentStatus, name: str = "digits-r8", deployment: str = "digits") -> str:
    return page(report_of(stored(status, name, deployment), NOW), "0.1.0", NOW)


def parsed(status: ExperimentStatus, **names: str) -> Element:
    """The document, read by a parser that forgives nothing."""
    return ET.fromstring(made(status, **names))


def text_of(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def tables(root: Element) -> dict[str, list[list[str]]]:
    """By caption, the last of a name: heads and rows."""
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
    assert len(text) < 100_000


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
    colours = set(re.findall(r"var\((--[a-z]+)\)", made(status)))
    assert colours <= set(re.findall(r"(--[a-z]+):", made(status)))


@pytest.mark.parametrize(
    ("state", "charts_", "verdict"),
    [
        ("running", ["Traffic of the candidate", "Requests by arm", "errorRate"], "verdict open"),
        ("promoted", ["Traffic of the candidate", "Requests by arm", "errorRate"], "verdict good"),
        ("rolled back", ["Traffic of the candidate", "Requests by arm", "errorRate"], "verdict bad"),
        ("no traffic", ["Traffic of the candidate", "Requests by arm"], "verdict open"),
        ("not begun", [], "verdict open"),
    ],
)
def test_what_is_drawn(state: str, charts_: list[str], verdict: str) -> None:
    root = parsed(STATES[state])
    assert [text_of(each) for each in root.iter("figcaption")] == charts_
    assert any(each.get("class") == verdict for each in root.iter("p"))


@pytest.mark.parametrize("ratio", [-1.0, 1e-320, 1e308])
def test_a_history_that_somebody_damaged_is_drawn_as_far_as_it_goes(ratio: float) -> None:
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
        *("errorRate", "guardrail", "Passed", "900", "310", "1.05", "0.81–1.33", "1.5")
    ]
    assert found["errorRate"][-1] == ["0:11:00", "1.05", "0.788–1.4", "1.25", "Passed"]
    assert found["Traffic of the candidate"][-1] == ["0:11:00", "100 %", "25 %"]
    assert found["Requests by arm"][-1] == ["0:11:00", "49500", "495", "16500", "176"]


def test_an_end_that_is_not_known_is_marked_and_harm_is_told_apart() -> None:
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
def test_nothing_is_drawn_outside_whatever_was_found(told: list[tuple[int, int, int, HistoryMetric | None]]) -> None:
    history = tuple(
        HistoryPoint(
            at=BEGUN + timedelta(seconds=at),
            epoch=1,
            weight=weight,
            requests=(requests, requests // 3),
            errors=(0, 0),
            metrics=(metric,) if metric else None,
        )
        for at, weight, requests, metric in sorted(told, key=lambda each: each[0])
    )
    now = history[-1].at + MINUTE
    report = report_of(stored(running(history=history, metrics=(), counted_at=None)), now)
    root = ET.fromstring(page(report, "0.1.0", now))
    for svg in root.iter("svg"):
        for name, value in places(svg):
            low, high = SIDES[name]
            assert low <= value <= high


def places(svg: Element) -> Iterator[tuple[str, float]]:
    """The coordinates in a drawing."""
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
    """A digit takes some 7 of the 12 of its height."""
    for svg in parsed(status).iter("svg"):
        labels = list(svg.iter("text"))
        for index, one in enumerate(labels):
            for other in labels[index + 1 :]:
                assert not (overlap(one, other) and near(float(one.attrib["y"]), float(other.attrib["y"])))
        assert all(left(each) >= 0 and left(each) + width(each) <= charts.WIDTH for each in labels)


def width(label: Element) -> float:
    return 7.0 * len(label.text or "")


def left(label: Element) -> float:
    return float(label.attrib["x"]) - width(label) * {"end": 1.0, "middle": 0.5}[label.attrib["text-anchor"]]


def overlap(one: Element, other: Element) -> bool:
    return left(one) < left(other) + width(other) and left(other) < left(one) + width(one)
