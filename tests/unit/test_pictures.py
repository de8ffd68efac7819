"""Pictures of the documentation: they show the recorded run and the present tables, in both modes."""

import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

from pictures import benchmarks, dashboard, rollback, style

MODULES = (benchmarks, dashboard, rollback)


def texts(path: Path) -> list[str]:
    return [text for each in ET.parse(path).iter("{http://www.w3.org/2000/svg}text") for text in each.itertext()]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_committed_pictures_show_what_is_recorded(module: ModuleType, tmp_path: Path) -> None:
    module.draw(tmp_path)
    drawn = sorted(tmp_path.iterdir())
    assert drawn
    for path in drawn:
        assert texts(path) == texts(style.IMAGES / path.name), f"{path.name}: run `make pictures`"


def test_a_picture_follows_dark_mode(tmp_path: Path) -> None:
    with style.picture(tmp_path / "one.svg", 2, 1) as figure:
        figure.text(0, 0, "shown", color=style.STABLE)
    drawn = (tmp_path / "one.svg").read_text()
    assert "prefers-color-scheme:dark" in drawn
    assert f"fill: var(--c4,{style.STABLE})" in drawn


def test_a_decision_is_right_if_a_good_canary_is_promoted_and_a_bad_one_not(tmp_path: Path) -> None:
    rows = [["as good", "tool", "10", "7", "1"], ["dead", "tool", "10", "2", "8"]]
    benchmarks.draw_decisions(tmp_path / "one.svg", rows)
    shares = [text for text in texts(tmp_path / "one.svg") if text in {"70", "20", "10", "80"}]
    assert shares[:3] == ["70", "20", "10"]


def test_a_missing_table_is_named() -> None:
    with pytest.raises(ValueError, match="no part peers"):
        benchmarks.read_table("# Page\n", "peers")
