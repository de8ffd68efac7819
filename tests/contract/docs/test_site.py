"""The documentation site: its navigation has every page, its links stay in it, and tutorials can be followed."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
SHELL = re.compile(r"^```(?:sh|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class SiteLoader(yaml.SafeLoader):
    """Reads mkdocs.yml without the Python objects that it names."""


SiteLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def pages_of(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
        return
    for child in entry.values() if isinstance(entry, dict) else entry:
        yield from pages_of(child)


def test_each_page_is_in_the_navigation_once() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), SiteLoader)
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    decisions = {page for page in pages if page.startswith("adr/0")}
    assert sorted(pages_of(config["nav"])) == sorted(pages - decisions)


def test_the_site_loads_nothing_from_other_hosts() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), SiteLoader)
    assert config["theme"]["font"] is False
    assert "://" not in (ROOT / "mkdocs.yml").read_text()


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "markdown", "expected"),
    [
        ("guides/gpus.md", "[API](../reference/api.md#spec)", "[API](../reference/api.md#spec)"),
        ("guides/gpus.md", "[readme](../../README.md)", "[readme](../source/README.md)"),
        ("guides/gpus.md", "[code](../../pyproject.toml)", "[code](../source/pyproject.toml.md)"),
        ("index.md", "[folder](../operator/src)", "[folder](source/operator/src/README.md)"),
        ("source/examples/README.md", "[API](../docs/reference/api.md)", "[API](../../reference/api.md)"),
        ("source/examples/README.md", "[digits](digits/README.md)", "[digits](digits/README.md)"),
        ("index.md", "[gone](../gone.md) [web](https://example.com/a.md)", None),
        ("index.md", "Items:\n- one\n- two\n", "Items:\n\n- one\n- two\n"),
        ("index.md", "**Bold**:\n- one\n", "**Bold**:\n\n- one\n"),
        ("index.md", "Table:\n| a |\n|---|\n", "Table:\n\n| a |\n|---|\n"),
        ("index.md", "- one\n\n  more\n- two\n", "- one\n\n  more\n\n- two\n"),
        ("index.md", "- one\n  more\n- two\n", None),
        ("index.md", "```yaml\nsteps:\n- {weight: 5}\n```\n", None),
    ],
)
def test_markdown_is_read_as_on_github(hooks: ModuleType, page: str, markdown: str, expected: str | None) -> None:
    found = hooks.on_page_markdown(markdown, SimpleNamespace(file=SimpleNamespace(src_uri=page)))
    assert found == (markdown if expected is None else expected)


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<td><code>Reconciling</code></td>", "<td><code>Reconciling</code></td>"),
        (
            f"<td><code>installation.{'ray' * 8}.image</code></td>",
            f"<td><code>installation.<wbr>{'ray' * 8}.<wbr>image</code></td>",
        ),
        (f"<p><code>installation.{'ray' * 8}.image</code></p>", f"<p><code>installation.{'ray' * 8}.image</code></p>"),
        (f"<td><code>max {'by_' * 12}</code></td>", f"<td><code>max {'by_' * 12}</code></td>"),
    ],
    ids=["short-name-stays", "long-name-breaks-after-dots", "text-stays", "words-stay"],
)
def test_long_names_in_tables_break_after_separators(hooks: ModuleType, html: str, expected: str) -> None:
    assert hooks.on_page_content(html) == expected


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """No dead link or anchor, no page outside of the navigation."""
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path))
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "index.html").exists()


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda page: page.stem)
def test_the_commands_of_a_tutorial_are_valid_in_bash(tutorial: Path) -> None:
    blocks = SHELL.findall(tutorial.read_text())
    assert blocks
    for block in blocks:
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), block


def test_tutorials_on_one_machine_have_names_of_their_own() -> None:
    """Their objects stay in the default instance, which a later tutorial starts again."""
    names = [re.findall(r"^metadata: \{name: (\w+)\}", page.read_text(), re.MULTILINE) for page in TUTORIALS]
    found = [name for page in names for name in {*page}]
    assert len(found) >= 3
    assert len(found) == len({*found})
