"""KubeRay for a cluster: its CRDs, and its operator as a process."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ports import free_port
from real_kubernetes.binaries import Binaries, module_directory
from real_kubernetes.control_plane import await_answer
from real_kubernetes.images import write_image
from real_kubernetes.instance import Instance
from real_kubernetes.kubectl import Kubectl, Object

MODULE = "github.com/ray-project/kuberay/ray-operator"
PROCESS = "kuberay-operator"


def manifests(kubectl: Kubectl, folder: Path) -> list[Object]:
    """KubeRay's own manifests, `config/default` of its module, built as `kubectl apply -k` does. Raises ClusterError."""
    # Go's folder of modules cannot be written to, and kustomize must be able to.
    copied = shutil.copytree(module_directory("kuberay", MODULE) / "config", folder / "config")
    return list(yaml.safe_load_all(kubectl("kustomize", str(copied / "default"))))


def write_operator_image(folder: Path, name: str, binaries: Binaries) -> Path:
    """An archive of an image like KubeRay's own: its operator as `/manager`, and a user that is not root."""
    program = {"manager": binaries.path(PROCESS).read_bytes()}
    return write_image(folder / "kuberay.tar", name, program, user="65532:65532")


def apply_crds(kubectl: Kubectl) -> None:
    """KubeRay's resources, from its module. Raises ClusterError."""
    folder = module_directory("kuberay", MODULE) / "config" / "crd" / "bases"
    for path in sorted(folder.glob("*.yaml")):
        # They exceed what a client-side apply can remember.
        kubectl("apply", "--server-side", "-f", str(path))
    kubectl.wait("--for=condition=Established", "crd/rayclusters.ray.io")


def start(
    instance: Instance,
    binaries: Binaries,
    prefix: Sequence[str] = (),
    kubeconfig: Path | None = None,
    *,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """Starts the operator; `prefix` says where: inside of the node's machine it knows the names of services."""
    config = kubeconfig or instance.kubeconfig
    command = (
        *prefix,
        str(binaries.path(PROCESS)),
        "--enable-leader-election=false",
        f"--metrics-addr=127.0.0.1:{free_port()}",
        f"--health-probe-bind-address=127.0.0.1:{free_port()}",
        *options,
    )
    instance.start(PROCESS, command, {"KUBECONFIG": str(config), **(environment or {})})
    await_answer(instance, PROCESS, lambda: "Starting workers" in _text(instance))


def stop(instance: Instance) -> None:
    instance.stop(PROCESS)


def _text(instance: Instance) -> str:
    return instance.log(PROCESS).read_text(errors="replace")
