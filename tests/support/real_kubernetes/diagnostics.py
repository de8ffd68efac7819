"""The state of a cluster when a test fails, so that a rare failure can be explained."""

import subprocess
from collections.abc import Iterator

from real_kubernetes.instance import ClusterError
from real_kubernetes.kubectl import Kubectl, Object

EVENTS = 60
LINES = 25


def state(kubectl: Kubectl) -> str:
    """Pods, what containers say that are not ready, and the latest events; why not, where the cluster does not answer."""
    try:
        return _state(kubectl)
    except (ClusterError, subprocess.TimeoutExpired) as error:
        return str(error)


def _state(kubectl: Kubectl) -> str:
    parts = [
        _told(kubectl, "get", "pods", "-A", "-o", "wide"),
        *_unready(kubectl),
        "\n".join(_told(kubectl, "get", "events", "-A", "--sort-by=.lastTimestamp").splitlines()[-EVENTS:]),
    ]
    return "\n\n".join(parts)


def _told(kubectl: Kubectl, *arguments: str) -> str:
    done = kubectl.run(*arguments)
    return done.stdout.strip() or done.stderr.strip()


def _unready(kubectl: Kubectl) -> Iterator[str]:
    for pod in kubectl.get("pods", "-A")["items"]:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        for container in _unready_containers(pod):
            of = ("-n", namespace, name, "-c", container["name"], f"--tail={LINES}")
            lines = [_told(kubectl, "logs", *of)]
            if container.get("restartCount"):
                lines.append(f"before its restart:\n{_told(kubectl, 'logs', *of, '--previous')}")
            yield "\n".join((f"{namespace}/{name} {container['name']}: {container.get('state')}", *lines))


def _unready_containers(pod: Object) -> list[Object]:
    status = pod["status"]
    each = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    return [container for container in each if not container.get("ready")]
