"""Writes the CRDs, twice, and the API reference into a checkout: `python -m sundog_operator.api.generate [ROOT]`.

ROOT is the current folder by default. The second copy is the chart's: Helm reads nothing outside of it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sundog_operator.api import reference
from sundog_operator.api.schema.crds import CRD_DEFINITIONS, custom_resource_definition

HEADER = "# Generated from sundog_operator.api by `python -m sundog_operator.api.generate`. Edit the types instead.\n"


def render_crds() -> Iterator[tuple[str, str]]:
    """File name and text of each CRD."""
    for definition in CRD_DEFINITIONS:
        yield f"{definition.plural}.yaml", HEADER + _yaml(custom_resource_definition(definition))


def write_generated_files(root: Path) -> None:
    """Write everything below a folder."""
    folders = (root / "crds", root / "helm" / "sundog" / "files" / "crds")
    files = {folder / name: text for name, text in render_crds() for folder in folders}
    files[root / "docs" / "reference" / "api.md"] = reference.render_api_reference()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _yaml(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path())
    write_generated_files(parser.parse_args().root)
