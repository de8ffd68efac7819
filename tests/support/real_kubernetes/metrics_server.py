"""The metrics server, as a process beside the control plane: CPU and memory of pods, for `kubectl top` and an HPA."""

from collections.abc import Iterator
from contextlib import contextmanager

from certificates import self_signed
from ports import free_port
from real_kubernetes import api_service
from real_kubernetes.binaries import Binaries
from real_kubernetes.control_plane import await_answer
from real_kubernetes.instance import Instance
from real_kubernetes.kubectl import Kubectl

PROGRAM = "metrics-server"
GROUP = "metrics.k8s.io"
NAMESPACE = "kube-system"
RESOLUTION = "10s"
"""The shortest interval that it accepts."""


@contextmanager
def running(instance: Instance, binaries: Binaries, kubectl: Kubectl) -> Iterator[None]:
    """Run it in the block. Raises ClusterError."""
    port, certificate, folder = free_port(), self_signed("localhost", "127.0.0.1"), instance.folder(PROGRAM)
    (folder / "tls.crt").write_text(certificate.certificate)
    (folder / "tls.key").write_text(certificate.key)
    command = (
        str(binaries.path(PROGRAM)),
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={folder / 'tls.crt'}",
        f"--tls-private-key-file={folder / 'tls.key'}",
        # The kubelet's certificate is of its own making.
        "--kubelet-insecure-tls",
        "--kubelet-preferred-address-types=InternalIP",
        f"--metric-resolution={RESOLUTION}",
        # It has to be shorter.
        "--kubelet-request-timeout=5s",
        f"--kubeconfig={instance.kubeconfig}",
        *(f"--{use}-kubeconfig={instance.kubeconfig}" for use in ("authentication", "authorization")),
    )
    with api_service.served(kubectl, GROUP, NAMESPACE, port):
        try:
            instance.start(PROGRAM, command)
            # It answers before it has measured the node twice; an HPA waits for that.
            await_answer(instance, PROGRAM, lambda: kubectl.succeeds("get", "--raw", f"/apis/{GROUP}/v1beta1/nodes"))
            yield
        finally:
            instance.stop(PROGRAM)
