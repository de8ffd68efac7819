"""Servers of other API groups: processes beside the control plane, to which its API server forwards requests."""

from collections.abc import Iterator
from contextlib import contextmanager

from real_kubernetes.kubectl import Kubectl, Object


@contextmanager
def served(kubectl: Kubectl, group: str, namespace: str, port: int) -> Iterator[str]:
    """Forward version v1beta1 of a group to a port of this machine in the block, and yield the name of the APIService.

    The namespace is created and stays. Raises ClusterError.
    """
    name = f"v1beta1.{group}"
    kubectl.apply(*_make_objects(group, name, namespace, port))
    try:
        yield name
    finally:
        # Without a server behind it, each later discovery of resources would fail.
        kubectl("delete", f"apiservice/{name}", "--ignore-not-found")


def _make_objects(group: str, name: str, namespace: str, port: int) -> list[Object]:
    place = {"name": group.replace(".", "-"), "namespace": namespace}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": place,
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    api_service = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": name},
        "spec": {
            "group": group,
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {**place, "port": port},
        },
    }
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, service, api_service]
