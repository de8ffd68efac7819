"""Argo CD for a cluster: its CRDs, and its controller, its repo server and their Redis as processes beside the control plane."""

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import yaml

from charting.argocd import config
from ports import free_port
from real_kubernetes.binaries import Binaries, module_directory
from real_kubernetes.control_plane import await_answer
from real_kubernetes.instance import Instance
from real_kubernetes.kubectl import Kubectl, Object

MODULE = "github.com/argoproj/argo-cd/v3"
NAMESPACE = "argocd"
REDIS, REPO_SERVER, CONTROLLER = "argocd-redis", "argocd-repo-server", "argocd-application-controller"
APPLICATIONS = "applications.argoproj.io"
RESYNC_S = 2
"""Argo CD's own is three minutes."""


@dataclass(frozen=True)
class ArgoCD:
    """A running Argo CD, with the health scripts of the example."""

    kubectl: Kubectl

    def status(self, name: str) -> Object:
        """Return the status of an Application."""
        found: Object = self.kubectl.get("-n", NAMESPACE, APPLICATIONS, name).get("status", {})
        return found

    def health(self, name: str) -> str:
        """Return what Argo CD shows for an Application, such as Suspended; empty before it has looked."""
        return str(self.status(name).get("health", {}).get("status", ""))

    def has_synced(self, name: str, commit: str) -> bool:
        """Return whether the cluster is as a commit says."""
        sync = self.status(name).get("sync", {})
        return sync.get("status") == "Synced" and _commit(sync) == commit

    def syncs(self, name: str) -> list[str]:
        """Return the commits that were applied, in order: one that was applied again after a drift is there twice."""
        return [_commit(entry) for entry in self.status(name).get("history", ())]

    def looks(self, name: str) -> str:
        """Return when Argo CD last compared an Application with its repository."""
        return str(self.status(name).get("reconciledAt", ""))


def _commit(state: Object) -> str:
    """Return the commit of a state whose sources are of one repository."""
    (commit,) = {*state.get("revisions", [state.get("revision")])}
    return str(commit)


@contextmanager
def running(instance: Instance, binaries: Binaries, kubectl: Kubectl) -> Iterator[ArgoCD]:
    """Run Argo CD in the block. Its CRDs stay. Raises ClusterError."""
    manifests = module_directory("argo-cd", MODULE) / "manifests"
    kubectl("apply", "--server-side", "-k", str(manifests / "crds"))
    kubectl.wait("--for=condition=Established", f"crd/{APPLICATIONS}")
    settings = yaml.safe_load((manifests / "base" / "config" / "argocd-cm.yaml").read_text())
    settings["data"] |= yaml.safe_load(config())["data"]
    kubectl.apply(*_objects(settings))
    try:
        _start(instance, binaries)
        yield ArgoCD(kubectl)
    finally:
        instance.stop(CONTROLLER, REPO_SERVER, REDIS)


def _objects(settings: Object) -> list[Object]:
    """Return what Argo CD needs before it starts. Every repository and namespace is its default project's."""
    own = {"namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "argocd"}}
    anything = {
        "sourceRepos": ["*"],
        "destinations": [{"server": "*", "namespace": "*"}],
        "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
    }
    key = base64.b64encode(b"of no use without a web server").decode()
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {**settings, "metadata": {"name": "argocd-cm", **own}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "argocd-secret", **own},
            "data": {"server.secretkey": key},
        },
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "AppProject",
            "metadata": {"name": "default", "namespace": NAMESPACE},
            "spec": anything,
        },
    ]


def _start(instance: Instance, binaries: Binaries) -> None:
    redis, repository = free_port(), free_port()
    folder = instance.folder("argocd")
    store = shutil.which("valkey-server") or shutil.which("redis-server") or "redis-server"
    environment = {
        # It renders charts by Helm.
        "PATH": f"{binaries.path('helm').parent}{os.pathsep}{os.environ['PATH']}",
        "KUBECONFIG": str(instance.kubeconfig),
        # It takes the kubeconfig for the cluster that it calls its own.
        "ARGOCD_FAKE_IN_CLUSTER": "true",
        "ARGOCD_GPG_ENABLED": "false",
        "ARGOCD_TLS_DATA_PATH": str(instance.folder("argocd/tls")),
        "ARGOCD_SSH_DATA_PATH": str(instance.folder("argocd/ssh")),
        "ARGOCD_PLUGINSOCKFILEPATH": str(instance.folder("argocd/plugins")),
        "ARGOCD_ASK_PASS_SOCK": str(folder / "ask-pass.sock"),
        "TMPDIR": str(instance.folder("argocd/tmp")),
    }
    common = (f"--namespace={NAMESPACE}", f"--kubeconfig={instance.kubeconfig}", f"--redis=127.0.0.1:{redis}")
    answers = {
        "address": "127.0.0.1",
        "port": repository,
        "metrics-address": "127.0.0.1",
        "metrics-port": free_port(),
    }
    # It looks no more often than this which commit a branch has, however often it is asked.
    often = f"--revision-cache-expiration={RESYNC_S}s"
    serves = ("--disable-tls", often, *(f"--{name}={value}" for name, value in answers.items()))
    controls = (
        f"--repo-server=127.0.0.1:{repository}",
        "--repo-server-plaintext",
        f"--metrics-port={free_port()}",
        f"--app-resync={RESYNC_S}",
        "--app-resync-jitter=0",
    )
    instance.start(REDIS, (store, "--bind", "127.0.0.1", "--port", str(redis), "--save", "", "--dir", str(folder)))
    _begin(instance, REPO_SERVER, (str(binaries.path(REPO_SERVER)), *common[2:], *serves), environment, "listening on")
    _begin(instance, CONTROLLER, (str(binaries.path(CONTROLLER)), *common, *controls), environment, "appResyncPeriod")


def _begin(instance: Instance, name: str, command: tuple[str, ...], environment: dict[str, str], sign: str) -> None:
    instance.start(name, command, environment)
    await_answer(instance, name, lambda: sign in instance.log(name).read_text(errors="replace"))
