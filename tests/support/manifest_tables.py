"""Manifests for tests, and the tables of specs that are accepted and refused, in `manifests/`."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parent / "manifests"


def merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(base)
    for key, value in patch.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result


def resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": kind}
    return {**head, "metadata": {"name": name, "namespace": "vision"}, "spec": spec}


def deployment(spec: dict[str, Any], name: str = "digits") -> dict[str, Any]:
    return resource("ModelDeployment", name, merged({"model": {"uri": "file:///models/digits"}}, spec))


def experiment(spec: dict[str, Any], name: str = "wide-or-narrow") -> dict[str, Any]:
    return resource("Experiment", name, merged({"modelDeployment": "digits", "arms": [{"name": "wide"}]}, spec))


def refused_specs(name: str) -> Iterator[tuple[Any, str]]:
    """The refused specs of a file, each with its error.

    An entry has one `spec`, or several `specs` with the same error. `each` lists the texts to put for EACH in both;
    without a spec, these texts are what is refused.
    """
    for entry in yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text()):
        for text in entry.get("each", [""]):
            filled = json.loads(json.dumps(entry).replace("EACH", text))
            for spec in filled.get("specs", [filled.get("spec", text)]):
                yield spec, filled["error"]


def accepted_specs(*sections: str) -> list[dict[str, Any]]:
    """The accepted specs of these sections: everywhere, inPods, notYet, experiments."""
    accepted = yaml.safe_load((MANIFESTS / "accepted.yaml").read_text())
    return [spec for section in sections for spec in accepted[section]]
