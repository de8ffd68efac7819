"""The documentation holds together: links resolve, manifests are accepted, commands exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from sundog_operator.api import ModelDeployment, not_yet_supported, violations
from sundog_operator.shell.cli import root

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/**/*.yaml"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                yield page, target


@pytest.mark.parametrize(
    ("page", "target"), list(links()), ids=lambda value: relative(value) if isinstance(value, Path) else value
)
def test_links_lead_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    assert found.exists(), f"{relative(page)} links to {target}"
    if anchor:
        headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def manifests() -> Iterator[tuple[str, dict[str, object]]]:
    blocks = [
        (relative(page), block)
        for page in PAGES
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    blocks += [
        (relative(page), text)
        for page in PAGES
        for text in re.findall(r"<<'YAML'\n(.*?)\nYAML", page.read_text(), re.DOTALL)
    ]
    blocks += [(relative(path), path.read_text()) for path in EXAMPLES]
    for name, text in blocks:
        for document in yaml.safe_load_all(text.replace("${MANIFEST_DIR}", "/models")):
            if isinstance(document, dict) and document.get("kind") == "ModelDeployment":
                yield name, document


@pytest.mark.parametrize(("page", "manifest"), list(manifests()))
def test_manifests_that_are_shown_are_accepted_and_supported(page: str, manifest: dict[str, object]) -> None:
    assert violations(manifest) == []
    assert not_yet_supported(ModelDeployment.parse(manifest).spec) == []


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                if found := re.match(r"(?:\S*/)?sundog (.+?)\s*(#.*|2>.*|\|.*)?$", line.strip()):
                    yield relative(page), found[1]


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_commands_that_are_shown_exist_with_their_options(page: str, line: str) -> None:
    words = shlex.split(line)
    command: click.Command = root
    context = click.Context(root)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words.pop(0))
        assert found is not None, f"{page}: sundog {line}"
        command = found
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"} <= known, (
        f"{page}: sundog {line}"
    )


def test_every_condition_reason_is_explained_somewhere() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for reason in (
        "InvalidSpec",
        "NotYetSupported",
        "NotOwned",
        "HostTaken",
        "EdgeNotConfirmed",
        "NoHealthyReplica",
        "RayUnknown",
    ):
        assert reason in text
