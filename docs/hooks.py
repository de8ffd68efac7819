"""MkDocs hooks: read Markdown as GitHub does, and show the files of the repository that pages link to."""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from markdown import Extension, Markdown
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = "docs/"
SOURCE = "source/"
"""Folder of the pages that show files outside of docs/."""

FENCED = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
CELL = re.compile(r"<t[dh][^>]*>.*?</t[dh]>", re.DOTALL)
LONG_NAME = re.compile(r"(?<=<code>)[^<\s]{30,}(?=</code>)")
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)\s#]+)(?=[)#])")
BLOCK_AFTER_TEXT = re.compile(r"^(?![-*] |[|>#]|\d+\. )(\S.*\n)(?=- |1\. |\|)", re.MULTILINE)
ITEM_AFTER_PARAGRAPH = re.compile(r"(\n\n(?: {2,}\S.*\n)+)(?=- )")


class TwoSpaces(Extension):
    """Two spaces indent the content of a list item."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Set the width of an indent, before other extensions add to the parser."""
        md.tab_length = 2
        md.build_parser()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read list items as GitHub does."""
    config.markdown_extensions.insert(0, TwoSpaces())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside of docs/ that a page links to, directly or through another one."""
    pending = list(files.documentation_pages())
    while pending:
        page = pending.pop()
        for target in _linked_paths(page):
            uri = _page_uri(target)
            if uri.startswith(SOURCE) and files.get_file_from_path(uri) is None:
                added = File.generated(config, uri, content=_show(target))
                files.append(added)
                if target.endswith(".md"):
                    pending.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead links to the pages of the site, and separate blocks as Python-Markdown expects it."""
    origin = _origin(page.file.src_uri)

    def lead(match: re.Match[str]) -> str:
        target = _resolve(origin, match[1])
        if not (ROOT / target).exists():
            return match[1]
        return posixpath.relpath(_page_uri(target), posixpath.dirname(page.file.src_uri) or ".")

    def change(text: str) -> str:
        return ITEM_AFTER_PARAGRAPH.sub(r"\1\n", BLOCK_AFTER_TEXT.sub(r"\1\n", LINK.sub(lead, text)))

    return _outside_fences(markdown, change)


def on_page_content(html: str, **_: object) -> str:
    """Let long names in tables break after their separators, and nowhere else."""

    def split(name: re.Match[str]) -> str:
        return re.sub(r"(?<=[./_])(?=\w)", "<wbr>", name[0])

    return CELL.sub(lambda cell: LONG_NAME.sub(split, cell[0]), html)


def _linked_paths(page: File) -> list[str]:
    """Return the paths that a page links to, relative to the repository."""
    origin = _origin(page.src_uri)
    targets = [_resolve(origin, link) for link in LINK.findall(FENCED.sub("", page.content_string))]
    return [target for target in targets if (ROOT / target).exists()]


def _resolve(origin: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _origin(uri: str) -> str:
    """Return the path in the repository of what a page shows."""
    if not uri.startswith(SOURCE):
        return DOCS + uri
    path = uri.removeprefix(SOURCE)
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def _page_uri(path: str) -> str:
    """Return the page that shows a path of the repository."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if (ROOT / path).is_dir():
        return f"{SOURCE}{path}/README.md"
    return SOURCE + (path if path.endswith(".md") else f"{path}.md")


def _show(path: str) -> str:
    """Return the page of a file or a folder. Search leaves it out."""
    head = "---\nsearch: {exclude: true}\n---\n"
    found = ROOT / path
    if found.is_dir():
        names = "\n".join(
            f"- `{each.name}`" for each in sorted(found.iterdir()) if not each.name.startswith(("_", "."))
        )
        return f"{head}# {path}\n\n{names}\n"
    if found.suffix == ".md":
        return head + found.read_text()
    return f"{head}# {path}\n\n````{found.suffix.removeprefix('.')}\n{found.read_text().rstrip()}\n````\n"


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts = FENCED.split(markdown)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))
