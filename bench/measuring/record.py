"""Results of a benchmark: print them as a table, store them as JSON below `out/bench`, and render `docs/benchmarks/archive.md` from it."""

import json
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from measuring.load import Sample, median_rps

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "out" / "bench"
IMPORT_PATH = os.pathsep.join(str(ROOT / folder) for folder in ("bench", "tests/support"))
"""The `PYTHONPATH` of processes that import what benchmarks measure."""
PAGE = ROOT / "docs" / "benchmarks" / "archive.md"
_PACKAGES = ("ray", "torch", "uvicorn", "orjson")


@dataclass
class Record:
    """One benchmark's result: `rows` for readers, `raw` with the measured numbers."""

    part: str
    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def add(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(list(cells))

    def keep_samples(self, key: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Every round of every side."""
        self.raw[key] = {name: [asdict(sample) for sample in rounds] for name, rounds in samples.items()}

    def finish(self) -> None:
        """Print the table, and keep it with the raw numbers."""
        table = Table(*self.columns, title=self.title)
        for row in self.rows:
            table.add_row(*map(escape, row))
        console = Console(width=150 if not os.isatty(1) else None)
        console.print()
        console.print(table, *self.notes, sep="\n")
        FOLDER.mkdir(parents=True, exist_ok=True)
        document = {**asdict(self), "taken": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine()}
        (FOLDER / f"{self.part}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def machine() -> str:
    """Describe the machine and its load."""
    found = [f"{name} {known}" for name in _PACKAGES if (known := _version(name))]
    memory = round(psutil.virtual_memory().total / 2**30)
    load = psutil.getloadavg()[2]
    return (
        f"{os.cpu_count()} cores, {memory} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {', '.join(found)}; mean load of the last 15 minutes {load:.1f}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def throughput(samples: Sequence[Sample]) -> str:
    """Answers per second with the spread of the rounds."""
    rates = sorted(sample.rps for sample in samples)
    return f"{median_rps(samples):.0f} ({rates[0]:.0f}–{rates[-1]:.0f})"


def markdown(documents: Iterable[Mapping[str, Any]]) -> str:
    """Render the tables of one or more records."""
    parts = []
    for document in documents:
        lines = [
            f"**{document['title']}** ({document['taken']}; {document['machine']})",
            "",
            "| " + " | ".join(document["columns"]) + " |",
            "|" + "---|" * len(document["columns"]),
            *("| " + " | ".join(row) + " |" for row in document["rows"]),
            *(f"\n{note}" for note in document["notes"]),
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def rendered(page: str, documents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with the tables between `<!-- bench:PART -->` and `<!-- /bench:PART -->` rendered again."""

    def fill(found: re.Match[str]) -> str:
        known = [documents[part] for part in found[1].split(",") if part in documents]
        return f"<!-- bench:{found[1]} -->\n{markdown(known)}\n<!-- /bench:{found[1]} -->" if known else found[0]

    return re.sub(r"<!-- bench:([\w,]+) -->\n.*?<!-- /bench:\1 -->", fill, page, flags=re.DOTALL)


def render() -> None:
    """Render the page from the JSON that there is; a part without JSON keeps its table."""
    documents = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
    PAGE.write_text(rendered(PAGE.read_text(), documents))


if __name__ == "__main__":
    render()
