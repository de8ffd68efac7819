"""etcd, the API server and the controllers: real admission, RBAC, server-side apply and garbage collection. No pod runs."""

import base64
import contextlib
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import yaml

from certificates import self_signed, signing_key
from ports import free_port
from real_kubernetes import audit
from real_kubernetes.binaries import Binaries
from real_kubernetes.instance import ClusterError, Instance
from real_kubernetes.kubectl import Kubectl
from waiting import PATIENCE_S

READY_S = PATIENCE_S

API_SERVER = "kube-apiserver"
PROCESSES = ("kube-controller-manager", API_SERVER, "etcd")
"""Programs in the order in which they are stopped."""


@dataclass(frozen=True)
class Addresses:
    """Addresses: of the API server, and the ranges of services and pods."""

    host: str = "127.0.0.1"
    port: int = 0
    services: str = "10.96.0.0/16"
    pods: str = "10.244.0.0/16"

    @property
    def service(self) -> str:
        """Return the address of the `kubernetes` Service."""
        return self.services.rsplit(".", 1)[0] + ".1"

    def pods_of(self, node: int) -> str:
        """Return the subnet for the pods of one node; the first has the number 0."""
        network, _, _ = self.pods.rsplit(".", 2)
        return f"{network}.{node}.0/24"

    @property
    def dns(self) -> str:
        return self.services.rsplit(".", 1)[0] + ".10"


def start(instance: Instance, binaries: Binaries, addresses: Addresses | None = None) -> None:
    """Starts a control plane and waits until it answers; its kubeconfig is an administrator's. Raises ClusterError."""
    addresses = addresses or Addresses()
    port = addresses.port or free_port()
    pki = instance.folder("pki")
    server = f"https://{addresses.host}:{port}"
    names = (
        "kubernetes",
        "localhost",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    )
    certificate = self_signed(*names, "127.0.0.1", addresses.service, addresses.host)
    token = secrets.token_hex(16)
    (pki / "api.crt").write_text(certificate.certificate)
    (pki / "api.key").write_text(certificate.key)
    (pki / "sa.key").write_text(signing_key())
    proxy = self_signed("front-proxy")
    (pki / "proxy.crt").write_text(proxy.certificate)
    (pki / "proxy.key").write_text(proxy.key)
    (pki / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    _start_etcd_and_api(instance, binaries, addresses, port)
    instance.kubeconfig.write_text(kubeconfig(server, certificate.certificate, token))
    instance.kubeconfig.chmod(0o600)
    await_answer(instance, API_SERVER, lambda: _ready(server, certificate.certificate, token))
    _start_controllers(instance, binaries, addresses)


def stop(instance: Instance) -> None:
    instance.stop(*PROCESSES)


@contextlib.contextmanager
def api_server_away(instance: Instance, kubectl: Kubectl) -> Iterator[None]:
    """Kill a cluster's API server, and start it again after the block. Raises ClusterError if it does not start."""
    process = instance.processes()[API_SERVER]
    command = process.cmdline()
    process.kill()
    process.wait(10)
    try:
        yield
    finally:
        instance.start(API_SERVER, command)
        # On a busy machine it competes with all that runs in pods.
        await_answer(instance, API_SERVER, lambda: kubectl.succeeds("get", "--raw", "/readyz"), 3 * READY_S)


def _start_etcd_and_api(instance: Instance, binaries: Binaries, addresses: Addresses, port: int) -> None:
    pki = instance.folder("pki")
    etcd, peers = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    instance.start(
        "etcd",
        (
            str(binaries.path("etcd")),
            f"--data-dir={instance.folder('etcd')}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
    )
    local = addresses.host == "127.0.0.1"
    instance.start(
        API_SERVER,
        (
            str(binaries.path("kube-apiserver")),
            f"--etcd-servers={etcd}",
            f"--bind-address={addresses.host}",
            f"--advertise-address={addresses.host}",
            f"--secure-port={port}",
            f"--tls-cert-file={pki / 'api.crt'}",
            f"--tls-private-key-file={pki / 'api.key'}",
            f"--token-auth-file={pki / 'tokens.csv'}",
            f"--service-account-key-file={pki / 'sa.key'}",
            f"--service-account-signing-key-file={pki / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            # API servers of others, such as KEDA's, know callers by what this one says of them.
            f"--requestheader-client-ca-file={pki / 'proxy.crt'}",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki / 'proxy.crt'}",
            f"--proxy-client-key-file={pki / 'proxy.key'}",
            f"--service-cluster-ip-range={addresses.services}",
            "--authorization-mode=RBAC,Node",
            "--allow-privileged=true",
            # As on OpenShift: a blocking owner reference needs a permission for the owner.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            *audit.flags(instance),
            # Otherwise `kubectl logs` and `exec` look the node's name up in DNS.
            "--kubelet-preferred-address-types=InternalIP",
            # An API server on loopback gets no endpoint.
            *(("--endpoint-reconciler-type=none",) if local else ()),
        ),
    )


def _start_controllers(instance: Instance, binaries: Binaries, addresses: Addresses) -> None:
    pki = instance.folder("pki")
    instance.start(
        "kube-controller-manager",
        (
            str(binaries.path("kube-controller-manager")),
            f"--kubeconfig={instance.kubeconfig}",
            f"--service-account-private-key-file={pki / 'sa.key'}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            # Without it pods get no certificate to check the API server by.
            f"--root-ca-file={pki / 'api.crt'}",
            "--allocate-node-cidrs",
            f"--cluster-cidr={addresses.pods}",
            f"--service-cluster-ip-range={addresses.services}",
            # Otherwise it makes one in /usr/libexec.
            f"--flex-volume-plugin-dir={instance.folder('volume-plugins')}",
            "--secure-port=0",
        ),
    )


def kubeconfig(server: str, authority: str, token: str) -> str:
    """Write a kubeconfig for one user with a token."""
    data = base64.b64encode(authority.encode()).decode()
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": data}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
    )


def await_answer(instance: Instance, name: str, probe: Callable[[], bool], within: float = READY_S) -> None:
    """Waits for a component. Raises ClusterError with its last line where it ended or did not answer in time."""
    deadline = time.monotonic() + within
    while not probe():
        if name not in instance.processes():
            raise ClusterError(f"{name} ended before it answered: {instance.tail(name)}")
        if time.monotonic() > deadline:
            raise ClusterError(f"{name} did not answer within {within:g} s: {instance.tail(name)}")
        time.sleep(0.1)


def _ready(server: str, authority: str, token: str) -> bool:
    context = ssl.create_default_context(cadata=authority)
    request = urllib.request.Request(f"{server}/readyz", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, context=context, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
