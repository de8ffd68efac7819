"""kubeconform without a network: a wheel has the schemas of Kubernetes, the CRDs have their own."""

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from real_kubernetes.binaries import KUBECONFORM, Binaries
from waiting import PATIENCE_S

PUBLISHED = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
_REFERENCE = re.compile(r'"\$ref": "#/\$defs/([^"]+)"')
Object = Mapping[str, Any]


@dataclass(frozen=True)
class Kubeconform:
    """The program, and a folder with a schema per version and kind."""

    program: Path
    folder: Path

    def problems(self, version: str, objects: Iterable[Object]) -> list[str]:
        """Return one line for each object that breaks its schema, or has none."""
        place = f"{self.folder}/{{{{.NormalizedKubernetesVersion}}}}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
        command = (str(self.program), "-strict", "-kubernetes-version", version, "-schema-location", place)
        done = subprocess.run(
            command, input=yaml.safe_dump_all(map(dict, objects)), capture_output=True, text=True, timeout=PATIENCE_S
        )
        return done.stdout.splitlines() + done.stderr.splitlines()


def prepare(binaries: Binaries, folder: Path, versions: Sequence[str], crds: Iterable[Object]) -> Kubeconform:
    """Builds the program, and writes the schemas of these versions. Raises ClusterError."""
    binaries.build((KUBECONFORM,))
    made = {
        _name(crd["spec"]["group"], version["name"], crd["spec"]["names"]["kind"]): closed(
            version["schema"]["openAPIV3Schema"]
        )
        for crd in crds
        for version in crd["spec"]["versions"]
    }
    for version in versions:
        target = folder / f"v{version}"
        target.mkdir(parents=True)
        _publish(PUBLISHED / f"v{version}-local-strict", target)
        for name, schema in made.items():
            (target / name).write_text(json.dumps(schema))
    return Kubeconform(binaries.path("kubeconform"), folder)


def closed(schema: Any, *, whole: bool = True) -> Any:
    """Return a CRD's schema that allows no unknown field, except in the metadata."""
    if isinstance(schema, list):
        return [closed(part, whole=False) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(part, whole=False) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict):
        made["properties"] = {key: closed(part, whole=False) for key, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if whole:
        made["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    return made


def _publish(source: Path, target: Path) -> None:
    """kubeconform follows no reference to another file: each schema gets the definitions that it needs."""
    definitions = json.loads((source / "_definitions.json").read_text())["$defs"]
    for path in source.glob("*-v[0-9]*.json"):
        schema = json.loads(path.read_text().replace('"/api/_definitions.json#', '"#'))
        if "kind" in schema.get("properties", {}):
            (target / path.name).write_text(json.dumps({**schema, "$defs": _needed(schema, definitions)}))


def _needed(schema: Object, definitions: Object) -> dict[str, Any]:
    needed: dict[str, Any] = {}
    left = _REFERENCE.findall(json.dumps(schema))
    while left:
        name = left.pop()
        if name not in needed:
            needed[name] = definitions[name]
            left += _REFERENCE.findall(json.dumps(definitions[name]))
    return needed


def _name(group: str, version: str, kind: str) -> str:
    return f"{kind.lower()}-{group.split('.')[0]}-{version}.json"
