"""The page of a report in a real browser: nothing beyond its sides, no label over another, in light and in dark."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiment_fixtures import HOUR, means, moving, ten_arms
from rollout_fixtures import BEGUN, promoted, stored
from sundog_operator.api import ExperimentStatus
from sundog_operator.shell.report.build import make_report
from sundog_operator.shell.report.page import render_html
from waiting import PATIENCE_S

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")

STATES = {"rollout": promoted(), "ten arms": ten_arms(), "weights that move": moving(), "means": means()}
LOOK = """
const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
const boxes = [...page.querySelectorAll("svg")].map(
  svg => [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect()));
const over = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
document.title = JSON.stringify({
  asked: root.clientWidth, taken: root.scrollWidth,
  over: boxes.map(all => all.filter((a, i) => all.some((b, j) => i < j && over(a, b))).length),
  tall: Math.min(...boxes.flat().map(box => box.height)),
  paper: getComputedStyle(page.body).backgroundColor,
  unseen: [...page.querySelectorAll("polyline, .bar line")].filter(
    line => getComputedStyle(line).stroke === "none").map(line => line.getAttribute("class")),
});
"""
"""Measures the page in a frame of a given width: a window has a least width of its own."""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(251, 251, 252)"), ("dark", "rgb(18, 22, 28)")])
@pytest.mark.parametrize("status", STATES.values(), ids=STATES)
def test_it_fits_and_can_be_read(tmp_path: Path, status: ExperimentStatus, width: int, scheme: str, paper: str) -> None:
    now = BEGUN + 12 * HOUR
    shown = html.escape(render_html(make_report(stored(status), now), "0.1.0", now))
    frame = f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{shown}"></iframe>'
    seen = measured(tmp_path, f'<body>{frame}<script>addEventListener("load", () => {{{LOOK}}})</script>', scheme)
    assert seen["taken"] == seen["asked"] <= width
    assert len(seen["over"]) >= 3
    assert not any(seen["over"])
    assert seen["tall"] >= 11
    assert seen["paper"] == paper
    assert seen["unseen"] == []


def measured(folder: Path, document: str, scheme: str) -> dict[str, Any]:
    """What a browser finds, as it wrote it into its title."""
    path = folder / "frame.html"
    path.write_text(f"<!DOCTYPE html><meta charset='utf-8'><title></title>{document}", encoding="utf-8")
    assert BROWSER is not None
    dark = {"dark": 0, "light": 1}[scheme]
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--blink-settings=preferredColorScheme={dark}")
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [BROWSER, *options, profile, "--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    found = re.search("<title>(.*?)</title>", done.stdout)
    assert found is not None, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen
