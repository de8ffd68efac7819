"""How long tests wait is said in one place, and scaled for a slow machine."""

import subprocess
import sys
from pathlib import Path

import pytest

import waiting

LIMITS = "import waiting; print(waiting.PATIENCE_S, waiting.patience(10))"


def limits(**environment: str) -> "subprocess.CompletedProcess[str]":
    """The limits in a process with this environment."""
    return subprocess.run(
        [sys.executable, "-c", LIMITS],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(waiting.__file__).parent), **environment},
        timeout=waiting.PATIENCE_S,
    )


@pytest.mark.parametrize(("scale", "expected"), [("", "300.0 10.0"), ("3", "900.0 30.0"), ("0.5", "150.0 5.0")])
def test_limits_are_scaled_by_the_environment(scale: str, expected: str) -> None:
    done = limits(**({"SUNDOG_PATIENCE": scale} if scale else {}))
    assert (done.stdout.strip(), done.stderr) == (expected, "")


@pytest.mark.parametrize("scale", ["", "long", "0", "-1", "nan", "inf"])
def test_a_scale_that_is_no_number_above_0_is_refused_in_one_line(scale: str) -> None:
    done = limits(SUNDOG_PATIENCE=scale)
    assert done.returncode == 1
    assert done.stderr == (f"SUNDOG_PATIENCE: {scale!r}; expected a number above 0, such as 3 on a slow machine.\n")


def test_what_does_not_come_true_is_reported_with_its_last_value() -> None:
    with pytest.raises(TimeoutError, match=r"^a door did not come true within 0 s; last value: \[\]$"):
        waiting.eventually(list, "a door", within=0)
