"""The example's repository hangs together: both tools find all of it, and install the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from charting import ROOT, templates
from charting.argocd import CONFIG, SCRIPTS

EXAMPLE = ROOT / "examples" / "gitops"
APPLICATIONS = EXAMPLE / "argocd" / "applications.yaml"
FLUX = sorted((EXAMPLE / "flux").glob("*.yaml"))
ENTRIES = {APPLICATIONS, CONFIG, *FLUX}
"""What people apply themselves, as the README says."""
VALUES = EXAMPLE / "platform" / "values.yaml"
CONFIG_REF = "$config/"
CRD_SYNC = "SkipDryRunOnMissingResource=true"

Object = dict[str, Any]


def loaded(*paths: Path) -> list[Object]:
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def one(kind: str, name: str) -> Object:
    (found,) = [obj for obj in loaded(APPLICATIONS, *FLUX) if (obj["kind"], obj["metadata"]["name"]) == (kind, name)]
    return found


def kustomized(folder: Path) -> set[Path]:
    """The files that kustomize reads in a folder."""
    entry = folder / "kustomization.yaml"
    (kustomization,) = loaded(entry)
    generators = kustomization.get("configMapGenerator", ())
    named = [*kustomization["resources"], *(name for each in generators for name in each["files"])]
    return {entry, *(folder / name for name in named)}


def read_by_argocd() -> Iterator[Path]:
    for obj in loaded(APPLICATIONS):
        spec = obj["spec"]
        for source in spec.get("sources") or [spec["source"]]:
            for name in source.get("helm", {}).get("valueFiles", ()):
                yield EXAMPLE / name.removeprefix(CONFIG_REF)
            if source.get("path", "").startswith("teams/"):
                yield from kustomized(EXAMPLE / source["path"])


def read_by_flux() -> Iterator[Path]:
    for obj in loaded(*FLUX):
        if obj["kind"] == "Kustomization":
            yield from kustomized(EXAMPLE / obj["spec"]["path"])


def test_every_file_is_read_by_a_tool_or_described_to_people() -> None:
    scripts = set(SCRIPTS.rglob("*"))
    found = {path for path in EXAMPLE.rglob("*") if path.is_file()} - scripts - {EXAMPLE / "README.md"}
    assert found == ENTRIES | set(read_by_argocd()) | set(read_by_flux())


def test_the_readme_lists_what_is_applied_by_hand() -> None:
    text = (EXAMPLE / "README.md").read_text()
    assert [path for path in ENTRIES if str(path.relative_to(EXAMPLE)) not in text] == []


def test_both_tools_install_by_the_same_values() -> None:
    chart, _ = one("Application", "sundog")["spec"]["sources"]
    assert chart["helm"]["valueFiles"] == [CONFIG_REF + str(VALUES.relative_to(EXAMPLE))]
    assert "values" not in chart["helm"]
    release = one("HelmRelease", "sundog")
    assert "values" not in release["spec"]
    (kustomization,) = loaded(VALUES.with_name("kustomization.yaml"))
    (generated,) = kustomization["configMapGenerator"]
    assert generated["namespace"] == release["metadata"]["namespace"]
    assert generated["options"]["disableNameSuffixHash"] is True
    assert generated["files"] == [VALUES.name]
    assert release["spec"]["valuesFrom"] == [{"kind": "ConfigMap", "name": generated["name"], "valuesKey": VALUES.name}]


def test_the_chart_takes_these_values() -> None:
    (values,) = loaded(VALUES)
    assert templates(values)


def test_both_tools_label_the_namespace_of_the_operator_alike() -> None:
    (namespace,) = loaded(EXAMPLE / "platform" / "namespace.yaml")
    application = one("Application", "sundog")["spec"]
    assert namespace["metadata"]["name"] == application["destination"]["namespace"]
    assert namespace["metadata"]["name"] == one("HelmRelease", "sundog")["spec"]["targetNamespace"]
    assert application["syncPolicy"]["managedNamespaceMetadata"]["labels"] == namespace["metadata"]["labels"]
    assert "CreateNamespace=true" in application["syncPolicy"]["syncOptions"]


def test_models_may_be_in_git_before_their_crd_is_in_the_cluster() -> None:
    policy = one("Application", "vision")["spec"]["syncPolicy"]
    assert CRD_SYNC in policy["syncOptions"]
    assert policy["retry"]["limit"] < 0, "for as long as it takes"
    team, platform = one("Kustomization", "vision")["spec"], one("Kustomization", "platform")["spec"]
    assert team["dependsOn"] == [{"name": "platform"}]
    (awaited,) = platform["healthChecks"]
    assert (awaited["kind"], awaited["name"]) == ("HelmRelease", "sundog")
