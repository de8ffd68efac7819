"""Decision records: each has a title, a file name that follows from it, a status, and a row in the index."""

import re
from pathlib import Path

import pytest

RECORDS = Path(__file__).parents[3] / "docs" / "adr"
FILES = sorted(RECORDS.glob("[0-9]*.md"))
HEAD = re.compile(r"# (\d+)\. (.+)\n\nStatus: (Accepted|Replaced by \[\d+\]\(\d{4}-[\w-]+\.md\))\n")
ROW = re.compile(r"^\| \[(\d+)\]\(([\w-]+\.md)\) \| (.+?) \| (.+?) \| .+ \|$", re.MULTILINE)


def read_head(file: Path) -> tuple[int, str, str]:
    """Return number, title and status."""
    head = HEAD.match(file.read_text())
    assert head is not None, file.name
    number, title, status = head.groups()
    return int(number), title, status


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_name_follows_from_number_and_title(file: Path) -> None:
    number, title, _ = read_head(file)
    assert file.stem == f"{number:04d}-{re.sub(r'[^a-z0-9]+', '-', title.lower())}"
    assert len(title) <= 70


def test_index_lists_every_record_with_its_title_and_status() -> None:
    rows = ROW.findall((RECORDS / "README.md").read_text())
    listed = sorted((file, int(number), title, status) for number, file, title, status in rows)
    assert listed == [(file.name, *read_head(file)) for file in FILES]
