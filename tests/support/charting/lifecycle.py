"""The life of one ModelDeployment on a real API server: a user's actions, and conditions to wait for.

The operator is a process with the chart's service account. `fake_cluster` replaces everything that runs in pods.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from charting import NAMESPACE, RELEASE, ROOT, Values, service_account, values
from fake_cluster.operator_process import SUPPORT, OperatorProcess, running_operator, wait_until
from real_kubernetes import kuberay
from real_kubernetes.cluster import Cluster
from real_kubernetes.kubectl import Kubectl
from waiting import PATIENCE_S

TEAM = "vision"
MDEP = "modeldeployments.serving.sundog.dev"
CANARY = {"rollout": {"steps": [{"weight": 25, "gate": "manual"}]}}
TIMED = {"rollout": {"steps": [{"weight": 50, "gate": "time", "minDuration": "1s"}]}}
RECREATE = {"rollout": {"strategy": "recreate"}}
KEYS = {"endpoint": {"auth": {"apiKeys": {"secretName": "keys"}}}}


@contextlib.contextmanager
def fake_workloads(kubeconfig: Path, log: Path) -> Iterator[None]:
    """Run the fake workloads as a process."""
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    with log.open("ab") as output:
        command = [sys.executable, "-m", "fake_cluster.workloads", str(kubeconfig)]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": path})
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def model_deployment(version: int, name: str = "digits", **spec: Any) -> dict[str, Any]:
    model = {"uri": f"https://models.example.com/digits/v{version}.tar.gz", "entrypoint": "net:Net"}
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment"}
    return {**head, "metadata": {"name": name, "namespace": TEAM}, "spec": {"model": model, **spec}}


class Life:
    """A ModelDeployment, and the actions of its user."""

    def __init__(self, kubectl: Kubectl, operator: OperatorProcess) -> None:
        self._kubectl, self.operator = kubectl, operator

    def apply(self, version: int, **spec: Any) -> None:
        self._kubectl.apply(model_deployment(version, **spec))

    def command(self, text: str) -> None:
        self._kubectl("-n", TEAM, "annotate", "--overwrite", MDEP, "digits", f"serving.sundog.dev/command={text}")

    def status(self, name: str = "digits") -> dict[str, Any]:
        found: dict[str, Any] = self._kubectl.get("-n", TEAM, MDEP, name).get("status", {})
        return found

    def condition(self, type_: str, name: str = "digits") -> tuple[str, str]:
        found = [(c["status"], c["reason"]) for c in self.status(name).get("conditions", ()) if c["type"] == type_]
        return found[0] if found else ("Absent", "")

    def until(self, reached: Callable[[], bool], what: str, within: float = PATIENCE_S) -> None:
        wait_until(reached, what, within, alive=self.operator)

    def until_serves(self, version: int) -> None:
        uri = model_deployment(version)["spec"]["model"]["uri"]
        self.until(
            lambda: self.condition("Promoted")[0] == "True" and self.status()["stable"]["uri"] == uri,
            f"version {version} with all traffic",
        )

    def until_weight(self, weight: int) -> None:
        self.until(lambda: (self.status().get("candidate") or {}).get("weight") == weight, f"a canary with {weight} %")


@contextlib.contextmanager
def beginning(
    api_server: Cluster,
    folder: Path,
    *options: str,
    name: str = RELEASE,
    changes: Values | None = None,
    through: Callable[[Path], contextlib.AbstractContextManager[Path]] = contextlib.nullcontext,
) -> Iterator[Life]:
    """An operator of the chart's making and an empty namespace; the namespace goes at the end. `options` go to the operator.

    `name` is the release's full name, and that of its account: what another one does is not counted as the chart's own.
    `changes` are more of the chart's values. `through` puts something between the operator and the API server: it gets a kubeconfig and
    returns that for the operator.
    """
    kubectl, given = api_server.kubectl, {**values("smallest"), "fullnameOverride": name}
    for key, value in (changes or {}).items():
        given[key] = {**given.get(key, {}), **value} if isinstance(value, dict) else value
    kuberay.apply_crds(kubectl)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    service_account.install(kubectl, given)
    # The first operator of a cluster creates the Lease. A Lease of another account would be taken over instead.
    kubectl("-n", NAMESPACE, "delete", "lease", "--all")
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}})
    own, file = (
        service_account.kubeconfig(kubectl, folder / "kubeconfig", name),
        service_account.installation(given, name),
    )
    options = ("--namespace", NAMESPACE, "--lease", service_account.lease(given, name), *options)
    try:
        with (
            fake_workloads(api_server.kubeconfig, folder / "fake-workloads.log"),
            through(own) as used,
            running_operator(folder, used, *options, installation=file) as operator,
        ):
            yield Life(kubectl, operator)
            operator.end()
    finally:
        kubectl("delete", "namespace", TEAM)
