"""The page about feedback, done as it stands: each block in order, and its output compared with what is shown."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_replicas
from real_edge import Edge, arm, running_edge, service
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "feedback.md"
PART = re.compile(r"^```(sh|python)\n(.*?)^```\n+```(?:json|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELLS = {"sh": ("bash", "-euo", "pipefail", "-c"), "python": (sys.executable, "-W", "error", "-c")}


@pytest.fixture
def edge() -> Iterator[Edge]:
    with (
        fake_replicas.replicas({"digits-r1": 1}) as ports,
        fake_replicas.serve_naming(ports) as serve,
        running_edge(serve, feedback=True) as made,
    ):
        arms = [arm("stable", "digits-r1", fake_replicas.prefix("digits-r1"), [(0, 10_000)])]
        made.apply([{**service("digits", arms), "feedback": {"metrics": ["converted", "revenue"]}}])
        yield made


def test_each_example_does_what_it_shows(edge: Edge, tmp_path: Path) -> None:
    examples = PART.findall(PAGE.read_text())
    assert [language for language, *_ in examples] == ["sh", "sh", "python", "python"]
    for language, code, shown in examples:
        done = subprocess.run(
            [*SHELLS[language], code],
            cwd=tmp_path,
            env={**os.environ, "EDGE": edge.url("").removesuffix("//")},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        if shown.startswith("{"):
            assert json.loads(done.stdout) == json.loads(shown), code
        else:
            assert done.stdout == shown, f"{code}\n{done.stderr}"
