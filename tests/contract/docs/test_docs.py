"""The documentation holds together: links resolve, manifests are accepted and supported, commands exist."""

import functools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from real_serving import readme_commands
from sundog_operator.adapters.local import doctor
from sundog_operator.api import (
    ModelDeployment,
    ModelDeploymentSpec,
    find_unsupported_fields,
    find_violations,
)
from sundog_operator.core.edge import deployment
from sundog_operator.core.kubernetes import grace_periods
from sundog_operator.core.trial.rollout import windows
from sundog_operator.shell.cli import root

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "helm/sundog/README.md", "images/README.md")
    for page in ROOT.glob(pattern)
)
EXAMPLES = sorted(ROOT.glob("examples/**/*.yaml"))
IN_A_CLUSTER = "# in a cluster\n"
"""How a manifest begins that local mode refuses."""
EXPERIMENT_SPEC = {
    "modelDeployment": "digits",
    "arms": [{"name": "wide"}],
    "metrics": {"success": [{"name": "conversion", "feedback": "converted"}]},
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SUNDOG = re.compile(r"(?:^[ ]*|[|;(]\s*|\bdo\s+)(?:[\w.~/-]*/|kubectl )?sundog ([^|;)#>\n]+)", re.MULTILINE)
"""A command in a script, without `sundog`."""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield from ((relative(page), text) for found, text in FENCE.findall(page.read_text()) if found == language)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def links() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if not target.startswith(("http://", "https://")):
                yield relative(page), target


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "target"), sorted(set(links())))
def test_links_lead_somewhere(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    found = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    assert found.exists()
    assert not anchor or anchor in anchors(found)


def documents() -> Iterator[tuple[str, Any, bool]]:
    """(page, document, whether it is meant for a cluster alone)."""
    shown = [*blocks("yaml")]
    shown += [
        (page, text) for page, block in blocks("sh") for text in re.findall(r"<<'YAML'\n(.*?)\nYAML", block, re.DOTALL)
    ]
    shown += [(relative(path), path.read_text()) for path in EXAMPLES]
    for page, text in shown:
        # As `sundog` reads them: the folder of the manifest, without a way up.
        absolute = text.replace("${MANIFEST_DIR}/..", "").replace("${MANIFEST_DIR}", "/manifests")
        for document in yaml.safe_load_all(absolute):
            yield (
                page,
                document,
                page.endswith(("digits/modeldeployment.yaml", "/gateway.yaml")) or text.startswith(IN_A_CLUSTER),
            )


def manifests() -> Iterator[tuple[str, dict[str, Any], bool]]:
    for page, document, in_pods in documents():
        if document.get("kind") == "ModelDeployment":
            yield page, document, in_pods
        elif set(document) == {"spec"} or set(document) <= set(ModelDeploymentSpec.model_fields):
            shown = document.get("spec", document)
            spec = {"model": {"uri": "file:///models/v1"}, "rollout": {"strategy": "recreate"}, **shown}
            head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment"}
            yield page, {**head, "metadata": {"name": "shown", "namespace": "default"}, "spec": spec}, in_pods


@pytest.mark.parametrize(("page", "manifest", "in_pods"), list(manifests()))
def test_manifests_that_are_shown_are_accepted_and_supported(
    page: str, manifest: dict[str, Any], in_pods: bool
) -> None:
    assert find_violations(manifest) == [], page
    spec = ModelDeployment.parse(manifest).spec
    assert find_unsupported_fields(spec, in_pods=in_pods) == [], page
    assert windows.find_problems(spec.rollout.windows, page) == []


def test_the_readme_checks_a_cluster_and_installs_with_three_commands_of_tested_versions() -> None:
    _, check, *commands = readme_commands(ROOT / "README.md", "Install on a cluster")
    assert check == ".venv/bin/sundog doctor --cluster"
    kuberay, images, install = commands
    [tested] = re.findall(r"ray-operator v(\S+)", (ROOT / "tests/cluster/go/kuberay/go.mod").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"--version {tested} " in kuberay
    assert {*re.findall(r":(\d+\.\d+\.\d+)", images + install)} == {version}
    values = yaml.safe_load((ROOT / "helm/sundog/values.yaml").read_text())
    for keys in re.findall(r"--set ([\w.]+)=", install):
        assert isinstance(functools.reduce(dict.__getitem__, keys.split("."), values), str)
    for command in (kuberay, install):
        assert "--create-namespace" in command


def experiments() -> Iterator[tuple[str, dict[str, Any]]]:
    """(page, Experiment), with what a page may leave out."""
    for page, document, _ in documents():
        if document.get("kind") == "Experiment":
            head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "Experiment"}
            metadata = {"name": "shown", "namespace": "default", **document.get("metadata", {})}
            spec = {**EXPERIMENT_SPEC, **document["spec"]}
            yield page, {**head, **document, "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(("page", "manifest"), list(experiments()))
def test_experiments_that_are_shown_are_accepted(page: str, manifest: dict[str, Any]) -> None:
    assert find_violations(manifest) == [], page


def test_manifests_were_found() -> None:
    expected = {"README.md", "docs/tutorials/first-model.md", "docs/guides/rollouts.md"}
    assert expected <= {page for page, *_ in manifests()}
    assert ("docs/guides/autoscaling-and-sizing.md", True) in {(page, in_pods) for page, _, in_pods in manifests()}


def commands() -> Iterator[tuple[str, str, bool]]:
    """(page, arguments of sundog, whether it is meant to be typed as it is)."""
    for page, block in [*blocks("sh"), *blocks("bash")]:
        script = re.sub(r"<<'(\w+)'\n.*?\n\1$", "", block, flags=re.DOTALL | re.MULTILINE).replace("\\\n", "")
        for line in SUNDOG.findall(script):
            yield page, line.strip().removesuffix(" 2"), True
    for page in PAGES:
        if page.name != "cli.md":  # generated from the commands
            for line in re.findall(r"`sundog ([a-z][^`]*)`", prose(page)):
                yield relative(page), line, False


@pytest.mark.parametrize(("page", "line", "typed"), sorted(set(commands())))
def test_commands_that_are_shown_exist_with_their_options(page: str, line: str, typed: bool) -> None:
    command, words = resolved(line)
    context = click.Context(command)
    # Raises click.UsageError for an option that does not exist or lacks its value.
    given, surplus, _ = command.make_parser(context).parse_args(words)
    assert not surplus, f"{page}: sundog {line}"
    if typed:
        assert not isinstance(command, click.Group), f"{page}: sundog {line}"
        named = {name for name, value in given.items() if isinstance(value, str | tuple | list) and value}
        missing = [each.name for each in command.params if each.required and each.name not in named]
        assert not missing, f"{page}: sundog {line}"


def resolved(line: str) -> tuple[click.Command, list[str]]:
    words = shlex.split(line)
    command: click.Command = root
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, f"sundog {line}"
        command = found
    return command, words


def test_commands_were_found() -> None:
    shown = {line.split()[0] for _, line, _ in commands()}
    assert shown >= {"local", "get", "predict", "describe", "plan", "promote", "abort", "rollback", "retry", "doctor"}


@pytest.mark.parametrize("page", ["guides/monitoring.md"])
def test_how_long_an_edge_takes_to_leave_is_what_its_pods_are_given(page: str) -> None:
    assert (
        f"{deployment.termination_grace_s(grace_periods.DEFAULT_EDGE_DRAIN_S)} s at"
        in (ROOT / "docs" / page).read_text()
    )


def test_the_readme_asks_for_the_memory_that_doctor_wants() -> None:
    assert f"{doctor.MEMORY_GIB:.0f} GiB of free memory" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_metrics_have_their_whole_names_for_who_searches(page: Path) -> None:
    assert re.findall(r"`…_\w+[^`]*`", prose(page)) == []
