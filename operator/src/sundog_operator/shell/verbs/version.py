"""`sundog version`."""

import platform
from importlib import metadata
from typing import Final

import click

from sundog_operator.shell.output import TEXT_OUTPUT_OPTION, print_document

_PARTS: Final = ("ray", "torch", "kubernetes", "kopf")


def own_version() -> str:
    """Return the installed version of this distribution."""
    return metadata.version("sundog")


@click.command(epilog="Example: sundog version -o json")
@TEXT_OUTPUT_OPTION
def version(output: str) -> None:
    """Print the versions of Sundog and of its main dependencies."""
    versions = {
        "sundog": own_version(),
        "python": platform.python_version(),
        **{part: _version(part) for part in _PARTS},
    }
    if output != "text":
        print_document(versions, output)
        return
    for name, number in versions.items():
        click.echo(f"{name} {number or 'not installed'}")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
