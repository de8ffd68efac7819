"""`python -m real_kubernetes up|down|build`: a cluster to work with, in the checkout's .cluster."""

import signal
import sys
import time

import click
from rich.console import Console

from real_kubernetes import cluster
from real_kubernetes.binaries import ALL
from real_kubernetes.instance import ClusterError

UP = cluster.HOME / "up"
console = Console(stderr=True)


@click.group(help=__doc__)
def main() -> None:
    """The group."""


@main.command()
@click.option("--node/--no-node", default=True, help="With a node, DNS and KubeRay; or the control plane alone.")
def up(node: bool) -> None:
    """Starts a cluster that stays until `down`."""
    with console.status("starting") as status:
        started = time.monotonic()

        def tell(step: str) -> None:
            console.print(f"[dim]{time.monotonic() - started:5.0f} s[/dim]  {step}")
            status.update(step)

        found = cluster.up(UP, with_node=node, tell=tell)
    console.print(f"The cluster runs. [bold]export KUBECONFIG={found.kubeconfig}[/bold]")
    if node:
        console.print(f"A shell with its network and names: {cluster.shell(UP)}")


@main.command()
def down() -> None:
    """Ends it, and every cluster that a killed test run left in this checkout."""
    with console.status("stopping"):
        cluster.clear_orphans()
        cluster.down(UP)


@main.command()
def build() -> None:
    """Builds the programs, so that `up` and the tests find them."""
    # An end by signal is one for Go's compiler as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cluster.BINARIES.build(ALL, lambda step: console.print(step, highlight=False))


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except ClusterError as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        sys.exit(1)
