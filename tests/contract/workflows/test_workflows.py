"""Workflows do what their documentation says. actionlint checks their syntax in `make release-check`."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from releasing import artifacts

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / ".github" / "workflows"
Json = dict[str, Any]

# Versions that actionlint or the action's own repository knows.
ACTIONS = {
    "actions/attest-build-provenance": "v3",
    "actions/attest-sbom": "v3",
    "actions/cache": "v4",
    "actions/checkout": "v5",
    "actions/configure-pages": "v5",
    "actions/deploy-pages": "v4",
    "actions/download-artifact": "v5",
    "actions/setup-go": "v6",
    "actions/setup-python": "v6",
    "actions/upload-artifact": "v4",
    "actions/upload-pages-artifact": "v4",
    "docker/build-push-action": "v6",
    "docker/login-action": "v3",
    "docker/setup-buildx-action": "v3",
    "pypa/gh-action-pypi-publish": "release/v1",
    "sigstore/cosign-installer": "v3",
}


def read(name: str) -> Json:
    # As a plain loader reads it, the key `on` is True.
    loaded: Json = yaml.safe_load((FOLDER / f"{name}.yml").read_text())
    return loaded


GATE, RELEASE = read("gate"), read("release")
JOBS = {f"{name}/{job}": found for name in ("gate", "release") for job, found in read(name)["jobs"].items()}


def steps(job: Json) -> Iterator[Json]:
    yield from job.get("steps", ())


def needed(job: str) -> set[str]:
    """The jobs of a release that have ended before one begins."""
    found = RELEASE["jobs"][job].get("needs", [])
    direct = {found} if isinstance(found, str) else set(found)
    return direct | {other for each in direct for other in needed(each)}


def test_the_gate_runs_for_pull_requests_and_a_release_for_tags_only() -> None:
    assert {"pull_request", "merge_group", "workflow_call"} <= GATE[True].keys()
    assert RELEASE[True] == {"push": {"tags": ["v*.*.*"]}}
    assert "pull_request_target" not in (FOLDER / "gate.yml").read_text()


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_a_limit_and_names_actions_by_known_versions(name: str) -> None:
    job = JOBS[name]
    assert "uses" in job or job["timeout-minutes"] <= 120
    for step in steps(job):
        if action := step.get("uses"):
            found, _, version = action.partition("@")
            # Dependabot proposes newer ones, and hashes if a hash stands there.
            assert version == ACTIONS[found]
            if found == "actions/checkout":
                assert step["with"]["persist-credentials"] is False


def test_no_action_is_listed_that_no_job_uses() -> None:
    used = {step["uses"].partition("@")[0] for job in JOBS.values() for step in steps(job) if "uses" in step}
    assert used == ACTIONS.keys()


def test_rights_to_write_belong_to_jobs_that_publish() -> None:
    assert GATE["permissions"] == {"contents": "read"}
    assert RELEASE["permissions"] == {}
    writing = {
        job: {right for right, kind in found["permissions"].items() if kind == "write"}
        for job, found in RELEASE["jobs"].items()
    }
    assert writing == {
        "gate": set(),
        "check": set(),
        "images": {"packages"},
        "names": {"packages", "id-token", "attestations"},
        "chart": {"packages", "id-token", "attestations"},
        "wheel": {"id-token"},
        "docs": {"pages", "id-token"},
        "page": {"contents", "id-token", "attestations"},
    }


def test_nothing_is_published_before_the_gate_and_the_checks() -> None:
    assert all({"gate", "check"} <= needed(job) for job in RELEASE["jobs"] if job not in ("gate", "check"))
    # PyPI takes a version once.
    assert {"images", "names", "chart"} <= needed("wheel")
    assert needed("page") == RELEASE["jobs"].keys() - {"page"}


@pytest.mark.parametrize("name", JOBS)
def test_a_step_runs_targets_that_the_makefile_has(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(JOBS[name]):
        assert set(re.findall(r"\bmake ([\w-]+)", step.get("run", ""))) <= targets


def test_the_gate_runs_all_that_a_developer_runs() -> None:
    commands = " ".join(step.get("run", "") for job in GATE["jobs"].values() for step in steps(job))
    assert {"test", "unit", "e2e", "docs", "release-check"} <= set(re.findall(r"\bmake ([\w-]+)", commands))


def test_the_gate_tests_each_python_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = {line.split()[-1] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)}
    tested = {*GATE["jobs"]["unit"]["strategy"]["matrix"]["python"]}
    tested |= {step["with"]["python-version"] for step in steps(GATE["jobs"]["test"]) if "setup-python" in str(step)}
    assert tested == supported


@pytest.mark.parametrize("job", ["images", "names"])
def test_a_release_has_each_image_for_both_architectures(job: str) -> None:
    matrix = RELEASE["jobs"][job]["strategy"]["matrix"]
    assert set(matrix["image"]) == {path.stem for path in ROOT.glob("images/*.Containerfile")} == artifacts.BILLS.keys()
    assert matrix.get("architecture", ["amd64", "arm64"]) == ["amd64", "arm64"]


def test_images_are_built_from_the_pinned_base_with_arguments_that_they_have() -> None:
    (build,) = (step["with"] for step in steps(RELEASE["jobs"]["images"]) if "build-push" in step.get("uses", ""))
    given = dict(line.split("=", 1) for line in build["build-args"].splitlines())
    assert given["BASE"] == "${{ needs.check.outputs.base }}"
    for path in ROOT.glob("images/*.Containerfile"):
        assert given.keys() <= set(re.findall(r"^ARG (\w+)", path.read_text(), re.MULTILINE))
    assert (build["provenance"], build["sbom"]) == ("mode=max", True)
    assert any("images/pin-base" in step.get("run", "") for step in steps(RELEASE["jobs"]["check"]))


def test_all_that_is_published_is_signed() -> None:
    signed = {
        job: [kind for kind in ("cosign sign ", "cosign sign-blob", "attest-build-provenance") if kind in str(found)]
        for job, found in RELEASE["jobs"].items()
    }
    assert signed["names"] == signed["chart"] == ["cosign sign ", "attest-build-provenance"]
    assert signed["page"] == ["cosign sign-blob", "attest-build-provenance"]
    # Trusted publishing signs the wheel.
    assert "secrets" not in str(RELEASE["jobs"]["wheel"])


def test_every_folder_of_a_go_module_is_in_reach_of_dependabot() -> None:
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    (go,) = (each for each in updates if each["package-ecosystem"] == "gomod")
    reached = {path for pattern in go["directories"] for path in ROOT.glob(f"{pattern.strip('/')}/go.mod")}
    assert reached == set(ROOT.glob("tests/**/go.mod"))
    assert {each["package-ecosystem"] for each in updates} == {"pip", "gomod", "github-actions"}


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_a_form_of_an_issue_has_what_the_host_asks_for(form: str) -> None:
    loaded = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{form}.yml").read_text())
    assert {"name", "description", "body"} <= loaded.keys()
    identifiers = [field["id"] for field in loaded["body"] if field["type"] != "markdown"]
    assert len(identifiers) == len(set(identifiers)) > 0
    assert all(field["attributes"].get("label") for field in loaded["body"] if field["type"] != "markdown")
