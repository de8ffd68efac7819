"""Every header that the edge reads or writes has its name in one module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sundog_edge import headers
from sundog_edge.haproxy.config import render_config
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir

NAMES = {value.lower() for name, value in vars(headers).items() if name.isupper()}
SOURCES = Path(headers.__file__).parent
MODULES = sorted(path for path in SOURCES.rglob("*.py") if path.name != "headers.py")
_IN_RULES = re.compile(r"\bre[qs][.]f?hdr(?:_val|_cnt)?[(]([^),]+)|-header (\S+)(?! -m sub)\s| hdr (\S+) ")
_TYPE_OF_BODY = re.compile(r"content-type [a-z]+/")
"""An argument of HAProxy's `return`, not a header's name."""


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module, without docstrings."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield _TYPE_OF_BODY.sub("", node.value)


def test_every_header_in_the_rules_of_haproxy_has_a_name():
    layout = Layout(units=("cookie:sid",), grpc=True, shadow=True, cors=True, compression=True)
    text = render_config(HaproxyProcessSettings(), layout, StateDir(Path("/tmp/x")))
    found = {name.lower() for groups in _IN_RULES.findall(text) for name in groups if name}
    assert len(found) > 45
    assert found - NAMES == {f"^(?!{headers.CONTENT_LENGTH}$|{headers.TRANSFER_ENCODING}$|{headers.HOST}$)"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCES)))
def test_a_module_writes_no_header_as_text(path: Path):
    compound = "|".join(re.escape(name) for name in NAMES if "-" in name.strip("-"))
    written = re.compile(rf"(?<![\w-])({compound})(?![\w-])", re.IGNORECASE)
    assert [text for text in texts(ast.parse(path.read_text())) if written.search(text)] == []
