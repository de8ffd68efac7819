"""KEDA for a cluster: its CRDs, its operator and its server of metrics as processes beside the control plane."""

from collections.abc import Iterator
from contextlib import contextmanager

from certificates import self_signed
from ports import free_port
from real_kubernetes import api_service
from real_kubernetes.binaries import Binaries, module_directory
from real_kubernetes.control_plane import await_answer
from real_kubernetes.instance import Instance
from real_kubernetes.kubectl import Kubectl

MODULE = "github.com/kedacore/keda/v2"
OPERATOR, METRICS = "keda-operator", "keda-metrics-apiserver"
NAMESPACE = "keda"
GROUP = "external.metrics.k8s.io"


@contextmanager
def running(instance: Instance, binaries: Binaries, kubectl: Kubectl) -> Iterator[None]:
    """Run KEDA in the block. Its CRDs stay. Raises ClusterError."""
    folder = module_directory("keda", MODULE) / "config" / "crd" / "bases"
    port = free_port()
    # They exceed what a client-side apply can remember.
    kubectl("apply", "--server-side", "-f", str(folder))
    kubectl.wait("--for=condition=Established", "crd/scaledobjects.keda.sh")
    with api_service.served(kubectl, GROUP, NAMESPACE, port) as name:
        try:
            _start(instance, binaries, port)
            kubectl.wait("--for=condition=Available", f"apiservice/{name}")
            yield
        finally:
            instance.stop(METRICS, OPERATOR)


def _start(instance: Instance, binaries: Binaries, port: int) -> None:
    certificate, folder, calls = self_signed("localhost", "127.0.0.1"), instance.folder("keda"), free_port()
    for name, text in {
        "tls.crt": certificate.certificate,
        "ca.crt": certificate.certificate,
        "tls.key": certificate.key,
    }.items():
        (folder / name).write_text(text)
    environment = {
        "KUBECONFIG": str(instance.kubeconfig),
        "POD_NAMESPACE": NAMESPACE,
        "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
        "WATCH_NAMESPACE": "",
    }
    operator = (
        str(binaries.path(OPERATOR)),
        f"--metrics-bind-address=127.0.0.1:{free_port()}",
        f"--health-probe-bind-address=127.0.0.1:{free_port()}",
        f"--metrics-service-bind-address=127.0.0.1:{calls}",
        f"--cert-dir={folder}",
    )
    instance.start(OPERATOR, operator, environment)
    await_answer(instance, OPERATOR, lambda: "Starting workers" in instance.log(OPERATOR).read_text(errors="replace"))
    metrics = (
        str(binaries.path(METRICS)),
        f"--port={free_port()}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--tls-cert-file={folder / 'tls.crt'}",
        f"--tls-private-key-file={folder / 'tls.key'}",
        f"--metrics-service-address=localhost:{calls}",
        *(f"--{use}-kubeconfig={instance.kubeconfig}" for use in ("lister", "authentication", "authorization")),
    )
    instance.start(METRICS, metrics, environment)
