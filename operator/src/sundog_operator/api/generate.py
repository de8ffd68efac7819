"""Writes the CRDs: `python -m sundog_operator.api.generate [FOLDER]`, by default `crds`."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sundog_operator.api.schema import DEFINITIONS, custom_resource_definition

HEADER = "# Generated from sundog_operator.api by `python -m sundog_operator.api.generate`. Edit the types instead.\n"


def documents() -> Iterator[tuple[str, str]]:
    """File name and text of each CRD."""
    for definition in DEFINITIONS:
        yield f"{definition.plural}.yaml", HEADER + _yaml(custom_resource_definition(definition))


def write(folder: Path) -> None:
    """Write all CRDs into a folder, which is created where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents():
        (folder / name).write_text(text, encoding="utf-8")


def _yaml(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("crds"))
    write(parser.parse_args().folder)
