"""Flux for a cluster: its CRDs, and its source controller and kustomize controller as processes beside the control plane."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ports import free_port
from real_kubernetes.binaries import FLUX, Binaries, module_directory
from real_kubernetes.control_plane import await_answer
from real_kubernetes.instance import Instance
from real_kubernetes.kubectl import Kubectl, Object

NAMESPACE = "flux-system"
CONTROLLERS = ("source-controller", "kustomize-controller")
GIT_REPOSITORIES = "gitrepositories.source.toolkit.fluxcd.io"
KUSTOMIZATIONS = "kustomizations.kustomize.toolkit.fluxcd.io"
_APPLIED = "server-side apply completed"


@dataclass(frozen=True)
class Flux:
    """A running Flux."""

    instance: Instance
    kubectl: Kubectl

    def kustomization(self, name: str) -> Object:
        """Return a Kustomization."""
        found: Object = self.kubectl.get("-n", NAMESPACE, KUSTOMIZATIONS, name)
        return found

    def ready(self, name: str) -> tuple[str, str, str]:
        """Return status, reason and message of a Kustomization's condition Ready."""
        conditions = self.kustomization(name).get("status", {}).get("conditions", ())
        found = [(c["status"], c["reason"], c["message"]) for c in conditions if c["type"] == "Ready"]
        return found[0] if found else ("Absent", "", "")

    def syncs(self, commit: str) -> list[dict[str, str]]:
        """Return what each apply of a commit did so far: by `Kind/namespace/name` created, configured or unchanged."""
        lines = self.instance.log("kustomize-controller").read_text(errors="replace").splitlines()
        records = [json.loads(line) for line in lines if _APPLIED in line]
        return [record["output"] for record in records if record["revision"].endswith(f"sha1:{commit}")]


@contextmanager
def running(instance: Instance, binaries: Binaries, kubectl: Kubectl) -> Iterator[Flux]:
    """Run Flux in the block. Its CRDs stay. Raises ClusterError."""
    for build in FLUX:
        kubectl(
            "apply", "--server-side", "-f", str(module_directory("flux", build.package) / "config" / "crd" / "bases")
        )
    for name in (GIT_REPOSITORIES, KUSTOMIZATIONS):
        kubectl.wait("--for=condition=Established", f"crd/{name}")
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    artifacts = f"127.0.0.1:{free_port()}"
    options = {
        "source-controller": (
            f"--storage-path={instance.folder('flux')}",
            f"--storage-addr={artifacts}",
            f"--storage-adv-addr={artifacts}",
        ),
        "kustomize-controller": (),
    }
    try:
        for name in CONTROLLERS:
            _start(instance, binaries, name, *options[name])
        yield Flux(instance, kubectl)
    finally:
        instance.stop(*reversed(CONTROLLERS))


def _start(instance: Instance, binaries: Binaries, name: str, *options: str) -> None:
    command = (
        str(binaries.path(name)),
        f"--metrics-addr=127.0.0.1:{free_port()}",
        f"--health-addr=127.0.0.1:{free_port()}",
        "--enable-leader-election=false",
        *options,
    )
    instance.start(name, command, {"KUBECONFIG": str(instance.kubeconfig), "RUNTIME_NAMESPACE": NAMESPACE})
    await_answer(instance, name, lambda: "Starting workers" in instance.log(name).read_text(errors="replace"))
