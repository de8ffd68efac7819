"""`sundog version`."""

import platform
from importlib import metadata
from typing import Final

import click

from sundog_operator.shell.output import print_document

_PARTS: Final = ("ray", "torch", "kubernetes", "kopf")


def own_version() -> str:
    """The installed version of this distribution."""
    return metadata.version("sundog")


@click.command()
@click.option("-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text", show_default=True)
def version(output: str) -> None:
    """Print the version, and those of what it builds on."""
    found = {"sundog": own_version(), "python": platform.python_version(), **{part: _version(part) for part in _PARTS}}
    if output == "json" or output == "yaml":
        print_document(found, "json" if output == "json" else "yaml")
        return
    for name, number in found.items():
        click.echo(f"{name} {number or 'not installed'}")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
