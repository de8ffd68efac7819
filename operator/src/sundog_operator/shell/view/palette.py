"""Colours: of the report's page, which uses them as `var(--name)`, and of what terminals show."""

from collections.abc import Mapping
from typing import Final

from sundog_operator.shell.demo.dataset import BROKEN_MODEL, GOOD_MODEL, WEAK_MODEL

PAGE: Final[tuple[Mapping[str, tuple[str, str]], ...]] = (
    {
        "paper": ("#fbfbfc", "#12161c"),
        "sheet": ("#ffffff", "#1a2029"),
        "ink": ("#1c2330", "#e7ebf1"),
        "faint": ("#566070", "#a3adbb"),
        "grid": ("#e4e7ec", "#2d3541"),
        "edge": ("#d3d8e0", "#38414f"),
    },
    {
        "stable": ("#2f69a8", "#7db2ea"),
        "candidate": ("#c86408", "#f2a055"),
        "good": ("#1a7a48", "#5cc98d"),
        "bad": ("#b8312b", "#ff827a"),
        "open": ("#5b6472", "#a3adbb"),
        "gate": ("#7c4dc0", "#bb9af5"),
    },
    {
        "better": ("#0c7f8e", "#4fd0dc"),
        "worse": ("#a3248c", "#f08be0"),
    },
    {
        "arm-1": ("#c86408", "#f2a055"),
        "arm-2": ("#1a7a48", "#4fbf83"),
        "arm-3": ("#7c4dc0", "#b493f7"),
        "arm-4": ("#c2328f", "#f57fc6"),
        "arm-5": ("#0c8a9b", "#4fd0dc"),
        "arm-6": ("#8a5a2b", "#b98a5e"),
        "arm-7": ("#748000", "#d2d65a"),
        "arm-8": ("#1c2330", "#e7ebf1"),
        "arm-9": ("#d1463c", "#ff7a70"),
    },
)
"""Colours of the page by name, on light and on dark paper.

Groups: paper and text; the arms of a rollout and what is drawn beside them; outcomes; the arms of an Experiment.
"""

TERMINAL_TONES: Final[Mapping[str, str]] = {"good": "bold green", "bad": "bold red", "open": "bold"}
"""Styles of a report's heading, by its tone."""
TERMINAL_VERDICTS: Final[Mapping[str, str]] = {"Harm": "red", "Passed": "green", "Better": "cyan", "Worse": "magenta"}
"""Styles of an interval, by the verdict on it."""
TERMINAL_READY: Final[Mapping[str, str]] = {"True": "green", "False": "red", "Unknown": "yellow"}
"""Styles of the condition `Ready`, by its status."""
TERMINAL_CHECKS: Final[Mapping[str, str]] = {"ok": "green", "warn": "yellow", "fail": "red"}
"""Styles of a check of this machine, by its result."""
DEMO_MODELS: Final[Mapping[str, str]] = {WEAK_MODEL: "blue", GOOD_MODEL: "yellow", BROKEN_MODEL: "red"}
"""Styles of the demo's models, by name."""
