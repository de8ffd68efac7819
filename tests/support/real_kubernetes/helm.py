"""helm for one cluster, and the values with which the chart runs the code under test."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from real_kubernetes.binaries import ROOT
from real_kubernetes.checkout import pod_template
from real_kubernetes.images import BASE
from real_kubernetes.instance import ClusterError
from waiting import PATIENCE_S

CHART = ROOT / "helm" / "sundog"
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Helm:
    """Calls `helm` as the user of one kubeconfig; what it keeps of its own lies in `home`."""

    kubeconfig: Path
    program: Path
    home: Path

    def __call__(self, *arguments: str, values: Values | None = None, timeout: float = 2 * PATIENCE_S) -> str:
        """Run helm and return its output. Raises ClusterError with its message."""
        folders = {f"HELM_{name}_HOME": str(self.home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        environment = {**os.environ, **folders, "KUBECONFIG": str(self.kubeconfig)}
        command = [str(self.program), *arguments, *(("--values", "-") if values is not None else ())]
        done = subprocess.run(
            command,
            input=yaml.safe_dump(dict(values or {})),
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise ClusterError(f"helm {' '.join(arguments)[:120]}: {done.stderr.strip()[:1500]}")
        return done.stdout


def checkout_values(root: Path = ROOT) -> dict[str, Any]:
    """Return values with which all of Sundog's pods run a checkout, without an image of it."""
    template = pod_template(root)
    repository, _, tag = BASE.rpartition(":")
    mounts = {name: template[name] for name in ("env", "volumes", "volumeMounts")}
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": template["imagePullPolicy"]},
        **mounts,
        "installation": {
            "runtimeImage": BASE,
            "edgeImage": BASE,
            "ray": {"pods": template},
            "edge": {"pods": template},
        },
    }
