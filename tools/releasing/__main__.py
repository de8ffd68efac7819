"""Write locks and check a release: `python -m releasing locks|check`, in the root of a checkout."""

import sys
from pathlib import Path

import click

from releasing import locks


@click.group(help=__doc__)
def main() -> None:
    """Group the commands."""


@main.command("locks")
def write_locks() -> None:
    """Lock the packages of the images again."""
    try:
        locks.write(Path())
    except locks.LockError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
