"""`sundog get`."""

import click

from sundog_operator.errors import NotFound
from sundog_operator.ports import Kind, Object, Ref
from sundog_operator.shell import kinds, output
from sundog_operator.shell.output import OUTPUT_OPTION, OutputFormat, print_objects
from sundog_operator.shell.server_connection import ServerConnection, complete_names, with_server


@click.command()
@click.argument("what", nargs=-1, metavar="[mdep|mexp] [NAME]", shell_complete=complete_names)
@click.option("-A", "--all-namespaces", is_flag=True)
@click.option("-w", "--watch", is_flag=True, help="Go on and print what changes, until Ctrl-C.")
@OUTPUT_OPTION
@with_server
async def get(
    server: ServerConnection, what: tuple[str, ...], all_namespaces: bool, watch: bool, output: OutputFormat
) -> None:
    """List ModelDeployments (mdep, the default) or Experiments (mexp)."""
    kind, names = kinds.parse_kind_and_names(what)
    namespace = None if all_namespaces else server.namespace
    if all_namespaces and names:
        raise click.UsageError("a NAME cannot be looked up in all namespaces")
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
    return [await find(server, Ref(kind, server.namespace, name)) for name in names]


async def find(server: ServerConnection, ref: Ref) -> Object:
    """An object. Raises NotFound."""
    obj = await server.kube.get(ref)
    if obj is None:
        raise NotFound(f"{ref} does not exist")
    return obj


async def _print_table(
    server: ServerConnection, kind: Kind, namespace: str | None, names: tuple[str, ...], *, wide: bool
) -> None:
    """The table that the API server makes: it knows the columns."""
    found = await _tables(server, kind, namespace, names)
    table = {**found[0], "rows": [row for each in found for row in each["rows"]]}
    if not table["rows"]:
        where = f"in namespace {namespace}" if namespace else "in any namespace"
        click.echo(f"no {kind.kind} {where}", err=True)
        return
    output.print_table(*output.select_visible_columns(table, wide=wide, namespaces=namespace is None))


async def _tables(server: ServerConnection, kind: Kind, namespace: str | None, names: tuple[str, ...]) -> list[Object]:
    """Of all objects, or one for each name. Raises NotFound."""
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
    """Print every object, and again whenever its line changes."""
    shown: dict[tuple[str, str], list[str]] = {}
    is_table = form in ("table", "wide")
    async for event in server.kube.watch(kind, namespace):
        meta = event.object.get("metadata") or {}
        if event.type in ("SYNCED", "DELETED") or (names and meta["name"] not in names):
            continue
        if not is_table:
            print_objects(kind, [event.object], form, single=True)
            continue
        headers, rows = output.make_table(kind, [event.object], wide=form == "wide", namespaces=namespace is None)
        place, line = (meta["namespace"], meta["name"]), rows[0]
        if not shown:
            _line(headers)
        if shown.get(place, [])[:-1] != line[:-1]:
            _line(line)
        shown[place] = line


def _line(cells: list[str]) -> None:
    """One line of a table that is not known in full: every column has a fixed width."""
    click.echo("  ".join(f"{cell:<{max(10, min(len(cell), 24))}}" for cell in cells).rstrip())
