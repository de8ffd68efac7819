"""`sundog get`."""

import click

from sundog_operator.errors import NotFound
from sundog_operator.ports import Kind, Object, Ref
from sundog_operator.shell import kinds, output
from sundog_operator.shell.output import OUTPUT, Format
from sundog_operator.shell.target import Server, complete_name, talks_to_server


@click.command()
@click.argument("what", nargs=-1, metavar="[mdep|mexp] [NAME]", shell_complete=complete_name)
@click.option("-A", "--all-namespaces", is_flag=True)
@click.option("-w", "--watch", is_flag=True, help="Go on and print what changes, until Ctrl-C.")
@OUTPUT
@talks_to_server
async def get(server: Server, what: tuple[str, ...], all_namespaces: bool, watch: bool, output: Format) -> None:
    """List ModelDeployments (mdep, the default) or Experiments (mexp)."""
    kind, names = kinds.split(what)
    namespace = None if all_namespaces else server.namespace
    if all_namespaces and names:
        raise click.UsageError("a NAME cannot be looked up in all namespaces")
    if watch:
        await _watch(server, kind, namespace, names, output)
        return
    objects = await _read(server, kind, namespace, names)
    _print(kind, objects, output, single=len(names) == 1, namespaces=all_namespaces, namespace=namespace)
    server.show_problems()


async def _read(server: Server, kind: Kind, namespace: str | None, names: tuple[str, ...]) -> list[Object]:
    if not names:
        return await server.kube.list(kind, namespace)
    return [await find(server, Ref(kind, server.namespace, name)) for name in names]


async def find(server: Server, ref: Ref) -> Object:
    """An object. Raises NotFound."""
    obj = await server.kube.get(ref)
    if obj is None:
        raise NotFound(f"{ref} does not exist")
    return obj


def _print(
    kind: Kind, objects: list[Object], form: Format, *, single: bool, namespaces: bool, namespace: str | None
) -> None:
    if not objects and form in ("table", "wide"):
        where = f"in namespace {namespace}" if namespace else "in any namespace"
        click.echo(f"no {kind.kind} {where}", err=True)
        return
    output.print_objects(kind, objects, form, single=single, namespaces=namespaces)


async def _watch(server: Server, kind: Kind, namespace: str | None, names: tuple[str, ...], form: Format) -> None:
    """Print every object, and again whenever its line changes."""
    shown: dict[tuple[str, str], list[str]] = {}
    is_table = form in ("table", "wide")
    async for event in server.kube.watch(kind, namespace):
        meta = event.object.get("metadata") or {}
        if event.type in ("SYNCED", "DELETED") or (names and meta["name"] not in names):
            continue
        if not is_table:
            output.print_objects(kind, [event.object], form, single=True, namespaces=False)
            continue
        headers, rows = output.table_of(kind, [event.object], wide=form == "wide", namespaces=namespace is None)
        place, line = (meta["namespace"], meta["name"]), rows[0]
        if not shown:
            _line(headers)
        if shown.get(place, [])[:-1] != line[:-1]:
            _line(line)
        shown[place] = line


def _line(cells: list[str]) -> None:
    """One line of a table that is not known in full: every column has a fixed width."""
    click.echo("  ".join(f"{cell:<{max(10, min(len(cell), 24))}}" for cell in cells).rstrip())
