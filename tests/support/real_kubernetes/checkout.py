"""Pods that run the code under test: the checkout and the machine's Python, mounted read-only into an image of empty folders."""

import sys
from pathlib import Path
from typing import Any

from real_kubernetes.binaries import ROOT
from real_kubernetes.images import BASE

Json = dict[str, Any]


def pod_template(root: Path = ROOT) -> Json:
    """Return an administrator's pod template (`Installation`'s PodTemplate) as JSON, whose pods run this checkout."""
    folders = mounted(root)
    return {
        "imagePullPolicy": "Never",
        "env": environment(root),
        "volumes": [{"name": name, "hostPath": {"path": str(path)}} for name, path in folders.items()],
        "volumeMounts": [{"name": name, "mountPath": str(path), "readOnly": True} for name, path in folders.items()],
    }


def pod_spec(*command: str, root: Path = ROOT) -> Json:
    """Return a pod's spec with one container, `main`, that runs a command of this checkout."""
    template = pod_template(root)
    container = {
        "name": "main",
        "image": BASE,
        "command": list(command),
        **{name: template[name] for name in ("imagePullPolicy", "env", "volumeMounts")},
    }
    return {"containers": [container], "volumes": template["volumes"], "terminationGracePeriodSeconds": 1}


def environment(root: Path = ROOT) -> list[Json]:
    """Return Python's environment: the checkout's sources first, and no bytecode files beside them."""
    path = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables = {
        "PATH": path,
        "PYTHONPATH": f"{root}/operator/src:{root}/serving/src",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HOME": "/tmp",
    }
    return [{"name": name, "value": value} for name, value in variables.items()]


def mounted(root: Path = ROOT) -> dict[str, Path]:
    """Return the machine's folders that pods mount, by volume name. A folder inside another one is not mounted twice."""
    wanted = {
        "machine-usr": Path("/usr"),
        "machine-certificates": Path("/etc/ssl"),
        "machine-python": Path(sys.base_prefix),
        "machine-environment": Path(sys.prefix),
        "checkout": root,
    }
    kept: dict[str, Path] = {}
    for name, path in sorted(wanted.items(), key=lambda item: len(item[1].parts)):
        if not any(path.is_relative_to(other) for other in kept.values()):
            kept[name] = path
    return kept
