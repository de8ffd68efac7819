"""`sundog get`."""

import click

from sundog_operator.errors import NotFound
from sundog_operator.ports import Kind, Object, Ref
from sundog_operator.shell import kinds, output
from sundog_operator.shell.output import OUTPUT_OPTION, OutputFormat, print_objects
from sundog_operator.shell.server_connection import ServerConnection, complete_names, with_server


@click.command(epilog="Example: sundog get mexp -o wide")
@click.argument("what", nargs=-1, metavar="[mdep|mexp] [NAME]", shell_complete=complete_names)
@click.option("-A", "--all-namespaces", is_flag=True, help="List the objects of all namespaces.")
@click.option("-w", "--watch", is_flag=True, help="Print changes until Ctrl-C.")
@OUTPUT_OPTION
@with_server
async def get(
    server: ServerConnection, what: tuple[str, ...], all_namespaces: bool, watch: bool, output: OutputFormat
) -> None:
    """List ModelDeployments (mdep, the default) or Experiments (mexp)."""
    kind, names = kinds.parse_kind_and_names(what)
    namespace = None if all_namespaces else server.namespace
    if all_namespaces and names:
        raise click.UsageError("NAME and --all-namespaces cannot be combined")
    if watch:
        await _watch(server, kind, namespace, names, output)
        return
    if output in ("table", "wide"):
        await _print_table(server, kind, namespace, names, wide=output == "wide")
    else:
        print_objects(kind, await _read(server, kind, namespace, names), output, single=len(names) == 1)
    server.print_problems()


async def _read(server: ServerConnection, kind: Kind, namespace: str | None, names: tuple[str, ...]) -> list[Object]:
    if not names:
        return await server.kube.list(kind, namespace)
    return [await get_object(server, Ref(kind, server.namespace, name)) for name in names]


async def get_object(server: ServerConnection, ref: Ref) -> Object:
    """Return an object. Raises NotFound."""
    obj = await server.kube.get(ref)
    if obj is None:
        raise NotFound(f"{ref} does not exist")
    return obj


async def _print_table(
    server: ServerConnection, kind: Kind, namespace: str | None, names: tuple[str, ...], *, wide: bool
) -> None:
    """Print the table of the API server, which knows the columns."""
    tables = await _read_tables(server, kind, namespace, names)
    table = {**tables[0], "rows": [row for each in tables for row in each["rows"]]}
    if not table["rows"]:
        where = f"in namespace {namespace}" if namespace else "in any namespace"
        click.echo(f"no {kind.kind} {where}", err=True)
        return
    output.print_table(*output.select_visible_columns(table, wide=wide, namespaces=namespace is None))


async def _read_tables(
    server: ServerConnection, kind: Kind, namespace: str | None, names: tuple[str, ...]
) -> list[Object]:
    """Return one table of all objects, or one for each name. Raises NotFound."""
    if not names:
        return [await server.kube.table(kind, namespace)]
    tables = []
    for name in names:
        try:
            tables.append(await server.kube.table(kind, namespace, name))
        except NotFound:
            raise NotFound(f"{Ref(kind, server.namespace, name)} does not exist") from None
    return tables


async def _watch(
    server: ServerConnection, kind: Kind, namespace: str | None, names: tuple[str, ...], form: OutputFormat
) -> None:
    """Print every object, and print it again when its line changes."""
    printed: dict[tuple[str, str], list[str]] = {}
    is_first = True
    is_table = form in ("table", "wide")
    async for event in server.kube.watch(kind, namespace):
        meta = event.object.get("metadata") or {}
        if event.type in ("SYNCED", "DELETED") or (names and meta["name"] not in names):
            continue
        if not is_table:
            if form == "yaml" and not is_first:
                click.echo("---")
            is_first = False
            print_objects(kind, [event.object], form, single=True)
            continue
        headers, rows = output.make_table(kind, [event.object], wide=form == "wide", namespaces=namespace is None)
        key, cells = (meta["namespace"], meta["name"]), rows[0]
        if not printed:
            _print_line(headers)
        if printed.get(key, [])[:-1] != cells[:-1]:
            _print_line(cells)
        printed[key] = cells


def _print_line(cells: list[str]) -> None:
    """Print one line of a growing table: every column has a fixed width."""
    click.echo("  ".join(f"{cell:<{max(10, min(len(cell), 24))}}" for cell in cells).rstrip())
