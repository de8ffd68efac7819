"""Outputs of a tutorial are compared by words, and by numbers only where those are the same in each run."""

import pytest

from tutorial_reader import is_like, normal

SHOWN = """\
Rollout default/greeter-r2
Promoted on evidence
…
ARM     SHARE   REQUESTS
────────────────────────
canary  46.4%        882
"""
OUTPUT = """\
Rollout default/greeter-r2
Promoted on evidence

Plan
began  2026-11-29
ARM     SHARE   REQUESTS
─────────────────────────
canary  53.61%     12341
"""


def test_a_shown_output_is_compared_up_to_its_numbers() -> None:
    assert is_like(OUTPUT, SHOWN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Promoted on", "Rolled back on"),
        ("greeter-r2", "greeter-r3"),
        ("canary", "stable"),
        ("12341\n", "12341\nerror\n"),
        ("Rollout", "error\nRollout"),
        ("53.61%", "none"),
    ],
)
def test_other_words_differ(before: str, after: str) -> None:
    assert before in OUTPUT
    assert not is_like(OUTPUT.replace(before, after), SHOWN)


@pytest.mark.parametrize(
    ("output", "shown", "alike"),
    [
        ("revision 3 is held back", "revision 3 is held back", True),
        ("revision 2 is held back", "revision 3 is held back", False),
        ("0/0  0–   50s", "28/21  0.275–1.95  2m", True),
        ("1/4  0.167–3.04e+03", "28/21  0.275–1.95", True),
        ("waits for errors, so far 70 s", "waits for errors…", True),
        ("waits for latency", "waits for errors…", False),
        ("greeter  r1  5", "greeter  r2  5", False),
    ],
)
def test_a_revision_is_no_measured_number(output: str, shown: str, alike: bool) -> None:
    assert is_like(f"{output}\n", f"{shown}\n") is alike


def test_other_outputs_differ_by_age_and_command_alone() -> None:
    assert normal("r1  18s  by command 6d2f8a4c9b1e7053\n") == normal("r1 5m by command 0d2f8a4c9b1e7050\n")
    assert normal("WEIGHT 25") != normal("WEIGHT 50")
