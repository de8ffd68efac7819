"""kubectl for one cluster."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_kubernetes.instance import ClusterError
from waiting import PATIENCE_S

Object = dict[str, Any]

WAIT_S = round(PATIENCE_S)


@dataclass(frozen=True)
class Kubectl:
    """Calls `kubectl` as the user of one kubeconfig."""

    kubeconfig: Path
    program: Path | str = "kubectl"

    def run(self, *arguments: str, stdin: str = "", timeout: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
        """The finished call, whatever its exit code."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            (str(self.program), *arguments),
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = PATIENCE_S) -> str:
        """Run kubectl and return its output. Raises ClusterError with its message."""
        done = self.run(*arguments, stdin=stdin, timeout=timeout)
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)[:120]}: {done.stderr.strip()[:600]}")
        return done.stdout

    def succeeds(self, *arguments: str) -> bool:
        return self.run(*arguments).returncode == 0

    def wait(self, *arguments: str) -> None:
        """`kubectl wait`. Raises ClusterError where it did not come about."""
        self("wait", *arguments, f"--timeout={WAIT_S}s", timeout=WAIT_S + 10)

    def apply(self, *objects: Object) -> str:
        """Server-side apply: KubeRay's CRDs are too long for the annotation of the other kind."""
        return self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(as_list(objects)))

    def get(self, *arguments: str) -> Any:
        """Return the objects that `kubectl get` finds, as JSON."""
        return json.loads(self("get", *arguments, "-o", "json"))


def as_list(objects: tuple[Object, ...]) -> Object:
    """Many objects as the one that kubectl reads."""
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}
