"""Print objects as a table, as JSON or YAML, or by name."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import click
import orjson
import yaml
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sundog_operator.ports import Kind, Object, Ref

OutputFormat = Literal["table", "wide", "json", "yaml", "name"]
OUTPUT_FORMATS: Final = ("table", "wide", "json", "yaml", "name")
PIPE_WIDTH_COLUMNS: Final = 10_000
"""Columns when standard output is no terminal: no line is cut or folded."""

OUTPUT_OPTION: Final = click.option(
    "-o", "--output", type=click.Choice(OUTPUT_FORMATS), default="table", show_default=True, help="Output format."
)
TEXT_OUTPUT_OPTION: Final = click.option(
    "-o",
    "--output",
    type=click.Choice(("text", "json", "yaml")),
    default="text",
    show_default=True,
    help="Output format.",
)


def format_full_name(kind: Kind, name: str) -> str:
    """Format an object's name as kubectl prints it, such as `modeldeployment.serving.sundog.dev/digits`."""
    return f"{kind.kind.lower()}{'.' + kind.group if kind.group else ''}/{name}"


def print_left_out(what: str, refs: Sequence[Ref]) -> None:
    """Print on standard error the objects that a command did not get to, because the API server was lost."""
    if refs:
        click.echo(f"{what}: {', '.join(map(str, refs))}", err=True)


def print_json(document: Any) -> None:
    """Print indented JSON."""
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def print_yaml(document: Any) -> None:
    """Print YAML."""
    click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), nl=False)


def print_document(document: Any, output: str) -> None:
    """Print a document as JSON or YAML."""
    (print_yaml if output == "yaml" else print_json)(document)


def print_objects(kind: Kind, objects: Sequence[Object], output: OutputFormat, *, single: bool) -> None:
    """Print objects of one kind as documents or by name; `single` prints one object without a List."""
    if output == "name":
        for obj in objects:
            click.echo(format_full_name(kind, obj["metadata"]["name"]))
    else:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        print_document(objects[0] if single else listed, output)


def make_table(
    kind: Kind, objects: Sequence[Object], *, wide: bool, namespaces: bool
) -> tuple[list[str], list[list[str]]]:
    """Return (headers, rows) by the printer columns of the CRD, as kubectl shows them."""
    from sundog_operator.adapters.memory_kubernetes import tables
    from sundog_operator.shell.local.api_server import printer_columns

    table = tables.make_table(objects, printer_columns()[kind.kind], "0", datetime.now(UTC))
    return select_visible_columns(table, wide=wide, namespaces=namespaces)


def select_visible_columns(table: Object, *, wide: bool, namespaces: bool) -> tuple[list[str], list[list[str]]]:
    """Return (headers, rows) of a Table of an API server. Columns with a priority appear only if `wide`."""
    columns = [(each, wide or not each.get("priority")) for each in table["columnDefinitions"]]
    headers = [str(each["name"]).upper() for each, is_shown in columns if is_shown]
    rows = []
    for row in table["rows"]:
        cells = zip(row["cells"], columns, strict=True)
        line = ["" if cell is None else str(cell) for cell, (_, is_shown) in cells if is_shown]
        rows.append([row["object"]["metadata"]["namespace"], *line] if namespaces else line)
    return ["NAMESPACE", *headers] if namespaces else headers, rows


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns. On a terminal, long cells fold to the next line."""
    table = Table(box=None, pad_edge=False, header_style="")
    for name in headers:
        table.add_column(name, overflow="fold", no_wrap=not sys.stdout.isatty())
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    print_rich(table)


def print_rich(renderable: RenderableType, width: int | None = None) -> None:
    """Print a renderable of rich without trailing blanks, in `width` columns; by default in those of the terminal, if it is one."""
    if not sys.stdout.isatty():
        width = width or PIPE_WIDTH_COLUMNS
    console = Console(highlight=False, width=width)
    with console.capture() as captured:
        console.print(renderable)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
