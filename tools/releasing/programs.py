"""Run programs for the checks of a release."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


class CheckError(Exception):
    """A check that failed. Its text names the object, what was found and what to do."""


class NotRunError(Exception):
    """A check that could not run here. Its text is the reason."""


def run(
    *command: str | Path,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
    umask: int = -1,
) -> str:
    """Run a program and return its output. Raises CheckError with the end of its messages."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        input=stdin,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
        raise CheckError(f"{Path(command[0]).name} ended with {done.returncode}: {said[-1500:]}")
    return done.stdout


def python(module: str, *arguments: str | Path, **options: object) -> str:
    """Run a module with this Python and return its output. Raises CheckError as `run`."""
    return run(sys.executable, "-m", module, *arguments, **options)  # type: ignore[arg-type]


@cache
def go_program(name: str) -> Path:
    """Return a program that Go builds once for all checkouts. Raises CheckError."""
    support = {"PYTHONPATH": str(ROOT / "tests" / "support")}
    return Path(python("real_kubernetes", "path", name, cwd=ROOT, environment=support).strip())
