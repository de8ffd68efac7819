"""Write locks and check a release: `python -m releasing locks|check`, in the root of a checkout."""

import sys
from pathlib import Path

import click

from releasing import locks
from releasing.check import CHECKS, Checkout, check


@click.group(help=__doc__)
def main() -> None:
    """Group the commands."""


@main.command("locks")
def write_locks() -> None:
    """Lock the packages of the images again."""
    try:
        locks.write(Path.cwd())
    except locks.LockError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


@main.command("check")
@click.option("--tag", default="", help="The tag of the release, such as v0.1.0.")
@click.option("--require", "required", multiple=True, type=click.Choice(list(CHECKS)), help="Fail if it cannot run.")
def check_release(tag: str, required: tuple[str, ...]) -> None:
    """Check what a release takes and needs no account. Write its files to out/release."""
    if not check(Checkout(Path.cwd(), tag), click.echo, frozenset(required)):
        sys.exit(1)


if __name__ == "__main__":
    main()
