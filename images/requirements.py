"""Print the requirements of the project and of extras, or of one package: `requirements.py [--only NAME] [EXTRA...]`.

The build runs it before it copies the code, so that the layer with the packages depends on pyproject.toml only.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict[str, object], extras: list[str]) -> list[str]:
    """Return the requirements of the project and of extras. Raises KeyError for an unknown extra."""
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]  # type: ignore[index,misc]


def main() -> None:
    """Print the requirements that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="NAME", default="")
    parser.add_argument("extras", nargs="*", metavar="EXTRA")
    options = parser.parse_args()
    lines = requirements(tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"], options.extras)
    sys.stdout.writelines(f"{line}\n" for line in lines if not options.only or re.match(rf"{options.only}\b", line))


if __name__ == "__main__":
    main()
