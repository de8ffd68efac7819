"""Prints what pip has to install for some of the project's extras, or for one package of them: `requirements.py [--only NAME] [EXTRA...]`.

Run before the code is copied, so that the layer with the packages depends on pyproject.toml alone.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict[str, object], extras: list[str]) -> list[str]:
    """Requirements of the base and of extras. Raises KeyError for an extra that does not exist."""
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]  # type: ignore[index,misc]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="NAME", default="")
    parser.add_argument("extras", nargs="*", metavar="EXTRA")
    options = parser.parse_args()
    lines = requirements(tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"], options.extras)
    sys.stdout.writelines(f"{line}\n" for line in lines if not options.only or re.match(rf"{options.only}\b", line))


if __name__ == "__main__":
    main()
