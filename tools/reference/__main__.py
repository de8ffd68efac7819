"""Write all generated files into a checkout: `python -m reference [ROOT]`, by default the current folder."""

import argparse
from pathlib import Path
from typing import Final

from reference import api, chart_values, cli, condition_reasons, crds, metrics, model_yaml

PAGES: Final = Path("docs/reference")


def render_files() -> dict[Path, str]:
    """Return the text of each generated file by its path below the root."""
    return {
        **crds.render_files(),
        PAGES / "api.md": api.render_page(),
        PAGES / "chart-values.md": chart_values.render_page(),
        PAGES / "cli.md": cli.render_page(),
        PAGES / "condition-reasons.md": condition_reasons.render_page(),
        PAGES / "metrics.md": metrics.render_page(),
        PAGES / "model-yaml.md": model_yaml.render_page(),
        PAGES / model_yaml.SCHEMA_NAME: model_yaml.render_schema(),
    }


def write_files(root: Path) -> None:
    """Write every generated file below a folder."""
    for path, text in render_files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path())
    write_files(parser.parse_args().root)
