"""A registry in the node's network, at an address that containerd asks by plain HTTP."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from real_kubernetes import machine
from real_kubernetes.control_plane import await_answer
from real_kubernetes.instance import Instance
from waiting import patience

ADDRESS = "localhost:5000"
PROGRAM = "docker-registry"
PUSH_S = patience(600)
_ASK = """
import sys
from urllib.request import Request, urlopen
print(urlopen(Request(sys.argv[1], headers={"Accept": sys.argv[2]})).read().decode())
"""


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    instance: Instance

    def push(self, image: str, repository: str) -> str:
        """Push an image of buildah's and return its digest there."""
        file = self.instance.folder(PROGRAM) / "digest"
        target = f"docker://{ADDRESS}/{repository}:pushed"
        command = ("buildah", "push", "--quiet", "--tls-verify=false", "--digestfile", str(file), image, target)
        subprocess.run(self._beside(*command), check=True, capture_output=True, timeout=PUSH_S)
        return file.read_text().strip()

    def layers(self, repository: str, digest: str) -> list[dict[str, Any]]:
        """Return digest and compressed size of each layer of an image, the base's first."""
        accept = "application/vnd.docker.distribution.manifest.v2+json"
        found: list[dict[str, Any]] = json.loads(self._ask(f"{repository}/manifests/{digest}", accept).stdout)["layers"]
        return found

    def answers(self) -> bool:
        return self._ask("", "*/*").returncode == 0

    def _ask(self, path: str, accept: str) -> "subprocess.CompletedProcess[bytes]":
        command = self._beside(sys.executable, "-c", _ASK, f"http://{ADDRESS}/v2/{path}", accept)
        return subprocess.run(command, capture_output=True, timeout=PUSH_S)

    def _beside(self, *command: str) -> tuple[str, ...]:
        return ("nsenter", "--target", str(machine.init_pid(self.instance)), "--net", *command)


@contextmanager
def running(instance: Instance) -> Iterator[Registry]:
    """Start a registry without images, and stop it at the end."""
    registry, folder = Registry(instance), instance.folder(PROGRAM)
    settings = {"version": "0.1", "storage": {"filesystem": {"rootdirectory": str(folder)}}, "http": {"addr": ADDRESS}}
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump(settings))
    instance.start(PROGRAM, registry._beside(PROGRAM, "serve", str(config)))
    try:
        await_answer(instance, PROGRAM, registry.answers)
        yield registry
    finally:
        instance.stop(PROGRAM)
