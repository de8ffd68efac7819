"""Show the capacity of a cluster: classes of resources, who uses them, quotas, and who waits for what."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from sundog_operator.api import ModelDeploymentSpec, ModelDeploymentStatus
from sundog_operator.api.installation import UNKNOWN_INSTALLATION
from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.core.kubernetes import accelerators, pod_requests
from sundog_operator.core.kubernetes.pod_requests import CPU, MEMORY, PODS, Amounts
from sundog_operator.core.kubernetes.quotas import QuotaUse
from sundog_operator.core.kubernetes.shared_pods import is_shared, replica_amounts
from sundog_operator.core.kubernetes.usage import ResourceClass, Usage
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.ports import Object
from sundog_operator.shell.device_labels import NodeProfiles
from sundog_operator.shell.view.layout import grid, make_section, title_line

_PLACEMENT_REASONS: Final = frozenset(
    {DeploymentReason.UNSCHEDULABLE, DeploymentReason.POD_REFUSED, DeploymentReason.NOT_ADMITTED}
)


@dataclass(frozen=True, slots=True)
class WaitingDeployment:
    """A ModelDeployment whose pods wait for resources, or whose next revision has not started for lack of them.

    Attributes:
        pods: pods that it needs in all, or replicas in shared pods.
        requests: the requests of each of them.
        message: why it waits, as its condition has it. It names the revision.
    """

    namespace: str
    name: str
    pods: int
    requests: Amounts
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class CapacityReport:
    """The capacity of a cluster.

    `classes` is None without permission to list the nodes and all pods.
    """

    classes: Sequence[ResourceClass] | None
    usage: Sequence[Usage]
    quotas: Sequence[QuotaUse]
    waiting: Sequence[WaitingDeployment]
    profiles: NodeProfiles


def find_waiting(deployments: Iterable[Object]) -> Iterator[WaitingDeployment]:
    """Yield the ModelDeployments that wait for resources."""
    for obj in deployments:
        status = ModelDeploymentStatus.parse(obj.get("status"))
        found = {each.type: each for each in status.conditions if each.status == "False"}
        condition = found.get("CapacityAvailable")
        placed = found.get("RevisionReady")
        if condition is None and placed is not None and placed.reason in _PLACEMENT_REASONS:
            condition = placed
        spec = accept_model_deployment(obj, UNKNOWN_INSTALLATION).spec
        if condition is None or spec is None:
            continue
        yield WaitingDeployment(
            namespace=obj["metadata"]["namespace"],
            name=obj["metadata"]["name"],
            # Replicas in shared pods have none of the overhead of a pod.
            pods=accelerators.count_pods(spec.resources.gpu, _count_replicas(spec)),
            requests=replica_amounts(spec.resources)
            if is_shared(spec)
            else pod_requests.worker_requests(spec.resources),
            reason=condition.reason,
            message=condition.message,
        )


def _count_replicas(spec: ModelDeploymentSpec) -> int:
    return max(1, spec.autoscaling.min_replicas if spec.autoscaling is not None else spec.replicas)


def describe_report(report: CapacityReport, *, namespaces: bool) -> RenderableType:
    """Return the report as tables; `namespaces` adds a column with the namespace."""
    parts: list[RenderableType] = []
    if report.classes is not None:
        parts += [title_line("Nodes"), _classes_table(report.classes) if report.classes else Text("none")]
        parts += [Text(f"GPU labels: {report.profiles.text}")] if report.classes else []
    parts += make_section("Used by", _usage_table(report.usage, namespaces=namespaces))
    parts += make_section("Quotas", _quotas_table(report.quotas, namespaces=namespaces))
    parts += make_section("Waiting", _waiting_table(report.waiting, namespaces=namespaces))
    return Group(*parts)


def make_document(report: CapacityReport) -> dict[str, Any]:
    """Return the report as JSON. CPU is in millicores, memory in bytes."""
    classes = None if report.classes is None else [_class_document(each) for each in report.classes]
    return {
        "classes": classes,
        "profiles": list(report.profiles.names),
        "usage": [
            {
                "namespace": each.namespace,
                "name": each.name,
                "revision": each.revision,
                "pods": each.placed,
                "waitingPods": each.waiting,
                "requests": dict(each.requests),
                "devices": [
                    {"resource": resource, "type": type_, "amount": amount}
                    for (resource, type_), amount in sorted(each.devices.items())
                ],
            }
            for each in report.usage
        ],
        "quotas": [
            {
                "namespace": each.namespace,
                "name": each.quota,
                "key": each.key,
                "resource": each.resource,
                "hard": each.hard,
                "used": each.used,
            }
            for each in report.quotas
        ],
        "waiting": [
            {
                "namespace": each.namespace,
                "name": each.name,
                "pods": each.pods,
                "requestsOfEachPod": dict(each.requests),
                "reason": each.reason,
                "message": each.message,
            }
            for each in report.waiting
        ],
    }


def _class_document(found: ResourceClass) -> dict[str, Any]:
    return {
        "resource": found.resource,
        "type": found.type,
        "deviceMemoryMiB": found.memory_mib,
        "nodes": found.nodes,
        "total": found.total,
        "usable": found.usable,
        "used": found.used,
        "free": found.free,
        "nodesByFree": [{"free": free, "nodes": nodes} for free, nodes in found.by_free.items()],
        "largest": dict(found.largest),
    }


def _classes_table(classes: Sequence[ResourceClass]) -> RenderableType:
    table = grid("RESOURCE", "TYPE", "NODES", "TOTAL", "USED", "FREE", "LARGEST FIT", "FREE BY NODE", header=True)
    for each in classes:
        type_ = " ".join(filter(None, (each.type, f"{each.memory_mib}Mi" if each.memory_mib else "")))
        cells = (each.total, each.used, each.free)
        numbers = (_number(each.resource, cell) for cell in cells)
        largest = _amounts(each.largest) or "none"
        by_free = ", ".join(f"{free} on {nodes}" for free, nodes in each.by_free.items())
        table.add_row(*map(Text, (each.resource, type_ or "-", str(each.nodes), *numbers, largest, by_free)))
    return table


def _usage_table(usage: Sequence[Usage], *, namespaces: bool) -> RenderableType | None:
    rows = (
        (
            each.namespace,
            each.name,
            f"r{each.revision}" if each.revision is not None else "",
            str(each.placed),
            str(each.waiting or ""),
            _requests(each),
        )
        for each in usage
    )
    return _namespaced_table(("NAME", "REVISION", "PODS", "WAITING", "REQUESTS"), rows, namespaces=namespaces)


def _quotas_table(used: Sequence[QuotaUse], *, namespaces: bool) -> RenderableType | None:
    rows = (
        (
            each.namespace,
            each.quota,
            each.key,
            *(_number(each.resource, amount) for amount in (each.hard, each.used, max(each.hard - each.used, 0))),
        )
        for each in used
    )
    return _namespaced_table(("NAME", "KEY", "HARD", "USED", "LEFT"), rows, namespaces=namespaces)


def _waiting_table(waiting: Sequence[WaitingDeployment], *, namespaces: bool) -> RenderableType | None:
    rows = ((each.namespace, each.name, f"{each.pods} × ({_amounts(each.requests)})", each.message) for each in waiting)
    return _namespaced_table(("NAME", "NEEDS", "MESSAGE"), rows, namespaces=namespaces)


def _namespaced_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, namespaces: bool
) -> RenderableType | None:
    """Return a table of rows that begin with a namespace, which is shown only with `namespaces`; None without rows."""
    table = grid(*(["NAMESPACE"] if namespaces else []), *columns, header=True)
    for namespace, *cells in rows:
        table.add_row(*map(Text, (namespace, *cells) if namespaces else cells))
    return table if table.row_count else None


def _number(resource: str, amount: int) -> str:
    return pod_requests.format_amount(resource, amount).split(" ")[0]


def _requests(usage: Usage) -> str:
    """Return what pods request: devices with their types first, then CPU and memory."""
    found = [(resource, amount, type_) for (resource, type_), amount in sorted(usage.devices.items()) if amount]
    devices = [
        pod_requests.format_amount(resource, amount) + (f" ({type_})" if type_ else "")
        for resource, amount, type_ in found
    ]
    others = _amounts({name: amount for name, amount in usage.requests.items() if not pod_requests.is_device(name)})
    return ", ".join(filter(None, (*devices, others)))


def _amounts(amounts: Mapping[str, int]) -> str:
    """Return amounts for people: devices first, then CPU and memory."""
    devices = sorted(name for name in amounts if name not in (CPU, MEMORY, PODS))
    shown = [name for name in (*devices, CPU, MEMORY) if amounts.get(name)]
    return ", ".join(pod_requests.format_amount(name, amounts[name]) for name in shown)
