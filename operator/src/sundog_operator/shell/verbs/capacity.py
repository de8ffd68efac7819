"""`sundog capacity`."""

import click

from sundog_operator.core.kubernetes import node_fit, quotas, usage
from sundog_operator.core.kubernetes.capacity import Inventory
from sundog_operator.core.kubernetes.usage import PodView
from sundog_operator.errors import Forbidden
from sundog_operator.ports import MODEL_DEPLOYMENT, NODE, POD, RESOURCE_QUOTA
from sundog_operator.shell.device_labels import NodeProfiles, find_profiles
from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.output import TEXT_OUTPUT_OPTION, print_document, print_rich
from sundog_operator.shell.server_connection import ServerConnection, with_server
from sundog_operator.shell.view.capacity import CapacityReport, describe_report, find_waiting, make_document


@click.command(epilog="Example: sundog capacity -A")
@click.option("-A", "--all-namespaces", is_flag=True, help="Show the use and the quotas of all namespaces.")
@TEXT_OUTPUT_OPTION
@with_server
async def capacity(server: ServerConnection, all_namespaces: bool, output: str) -> None:
    """Show what nodes have and what is free, who uses it, what quotas leave, and which ModelDeployments wait for resources.

    Devices are listed by type, memory, MIG profile and sharing. LARGEST FIT is the node with the most free devices: no larger
    replica fits. You need permission to list nodes and the pods of all namespaces; without it, the nodes are left out.
    """
    if server.local:
        raise CommandFailed("capacity needs a cluster: local mode has neither nodes nor pods")
    namespace = None if all_namespaces else server.namespace
    known, pods = await _read_pods(server, namespace)
    profiles = await find_profiles(server, known.nodes) if known is not None else NodeProfiles((), "")
    report = CapacityReport(
        classes=usage.find_classes(known) if known is not None else None,
        usage=usage.sum_usage(pods, known.nodes if known is not None else ()),
        quotas=list(quotas.find_use(await server.kube.list(RESOURCE_QUOTA, namespace))),
        waiting=list(find_waiting(await server.kube.list(MODEL_DEPLOYMENT, namespace))),
        profiles=profiles,
    )
    if known is None:
        click.echo("the nodes are left out: listing nodes and the pods of all namespaces is not permitted", err=True)
    if output != "text":
        print_document(make_document(report), output)
    else:
        print_rich(describe_report(report, namespaces=all_namespaces))


async def _read_pods(server: ServerConnection, namespace: str | None) -> tuple[Inventory | None, list[PodView]]:
    """Return the resources of nodes, and the pods of a namespace. Raises Forbidden without permission for the latter."""
    try:
        nodes = await server.kube.scan(NODE, node_fit.trim_node)
        everywhere = [pod for pod in await server.kube.scan(POD, usage.view_pod) if pod is not None]
    except Forbidden:
        found = [usage.view_pod(pod) for pod in await server.kube.list(POD, namespace)]
        return None, [pod for pod in found if pod is not None]
    return usage.make_inventory(nodes, everywhere), [pod for pod in everywhere if namespace in (None, pod.namespace)]
