"""Start and stop a cluster in the checkout's .cluster, and build the programs of clusters and stores."""

import signal
import sys
import time

import click

from real_kubernetes.binaries import ALL, CLUSTER, RELEASE, Binaries
from real_kubernetes.instance import ClusterError

# Commands that start or stop a cluster import what they need: `built` answers at once.


@click.group(help=__doc__)
def main() -> None:
    """The group."""


@main.command()
@click.option("--node/--no-node", default=True, help="With a node, DNS and KubeRay; or the control plane alone.")
@click.option("--nodes", default=1, show_default=True, help="How many nodes, in three zones in turn.")
def up(node: bool, nodes: int) -> None:
    """Start a cluster that runs until `down`."""
    from rich.console import Console

    from real_kubernetes import cluster

    console = Console(stderr=True)
    with console.status("starting") as status:
        started = time.monotonic()

        def tell(step: str) -> None:
            console.print(f"[dim]{time.monotonic() - started:5.0f} s[/dim]  {step}")
            status.update(step)

        found = cluster.up(cluster.STAYS, with_node=node, nodes=nodes, tell=tell)
    console.print(f"The cluster runs. [bold]export KUBECONFIG={found.kubeconfig}[/bold]")
    if node:
        console.print(f"A shell with its network and names: {cluster.shell(cluster.STAYS)}")


@main.command()
def down() -> None:
    """Stop it, and every cluster that a killed test run left in this checkout."""
    from rich.console import Console

    from real_kubernetes import cluster

    with Console(stderr=True).status("stopping"):
        cluster.clear_orphans()
        cluster.down(cluster.STAYS)


@main.command()
@click.option("--all", "whole", is_flag=True, help="With the stores and the network policies of `make test-all`.")
def build(whole: bool) -> None:
    """Build the programs of a cluster, so that `up` and the tests find them."""
    # A signal that ends this process also ends Go's compiler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    Binaries.of_environment().build(ALL if whole else CLUSTER, lambda step: click.echo(step, err=True))


@main.command()
@click.argument("program", type=click.Choice([program for build in RELEASE for program in build.programs]))
def path(program: str) -> None:
    """Print the path of a program that a release is checked with. Build it first if it is missing."""
    binaries = Binaries.of_environment()
    binaries.build([build for build in RELEASE if program in build.programs], lambda step: click.echo(step, err=True))
    click.echo(binaries.path(program))


@main.command()
def built() -> None:
    """Exit with 0 if the programs of a cluster are built; otherwise name those that are not, and exit with 1."""
    binaries = Binaries.of_environment()
    if absent := binaries.absent(CLUSTER):
        raise ClusterError(
            f"{', '.join(absent)}: not in {binaries.folder}; expected all programs. Run `make binaries`."
        )


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except ClusterError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
