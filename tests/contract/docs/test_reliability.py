"""The page on reliability: each cell of its tables has a verdict, and each test that it names exists."""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "explanation" / "reliability.md").read_text()
TABLE = re.compile(r"^\|.*\n\|[-| ]+\|\n(?:\|.*\n)+", re.MULTILINE)
PROMISES = ["requests", "counts", "verdicts", "tenants", "state", "memory"]
NOTE = r"[A-Z]\d+"
CELL = re.compile(rf"—|not tried|(?:partly: )?{NOTE}(?:, {NOTE})*")
TEST = re.compile(r"`((?:tests|bench)/[\w/]+\.py)::([\w:]+)`")


def tables(first: str) -> list[list[list[str]]]:
    """Return the rows, split into cells, of all tables whose first column is this one. The first row has the columns."""
    found = []
    for table in TABLE.findall(PAGE):
        head, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines())
        if head[0] == first and head[1:] != ["lost"]:
            found.append([head, *rows])
    return found


FAULTS = {row[0]: row[1:] for head, *rows in tables("fault") for row in rows}
NOTES = [row for head, *rows in tables("note") for row in rows]
NAMED = sorted(set(TEST.findall(PAGE)))


@functools.cache
def functions(path: str) -> frozenset[str]:
    """Return the tests of a file as pytest names them, without parameters."""
    if not (ROOT / path).exists():
        return frozenset()
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if hasattr(each, "name")}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return frozenset(found)


def test_tables_have_all_promises_and_faults_once() -> None:
    found = tables("fault")
    assert [head[1:] for head, *_ in found if head[1:] != PROMISES] == []
    assert len(FAULTS) == sum(len(rows) for _, *rows in found) > 50


def test_each_cell_has_notes_or_says_that_it_was_not_tried() -> None:
    assert [fault for fault, cells in FAULTS.items() if len(cells) != len(PROMISES)] == []
    assert [(fault, cell) for fault, cells in FAULTS.items() for cell in cells if not CELL.fullmatch(cell)] == []


def test_each_note_is_defined_once_names_a_test_and_is_used() -> None:
    defined = [name for name, *_ in NOTES]
    used = {name for cells in FAULTS.values() for cell in cells for name in re.findall(rf"\b{NOTE}\b", cell)}
    assert sorted(defined) == sorted(used)
    assert [row for row in NOTES if len(row) != 3 or not TEST.search(row[1]) or not row[2].endswith(".")] == []


def test_each_test_that_is_named_exists() -> None:
    assert [f"{path}::{name}" for path, name in NAMED if name not in functions(path)] == []
    assert [name for _, name in NAMED if not name.rpartition("::")[2].startswith("test_")] == []


def test_each_name_of_a_python_file_is_read_as_a_test() -> None:
    assert len(re.findall(r"\.py", PAGE)) == len(TEST.findall(PAGE))
