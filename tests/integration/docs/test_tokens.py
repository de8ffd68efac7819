"""Signed tokens: the blocks of docs/guides/endpoints-and-keys.md in order, on an edge with the settings of its manifest."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import fake_replicas
from real_edge import Edge, arm, running_edge, service
from sundog_operator.api import ModelDeployment
from sundog_operator.core.edge import split_document
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "endpoints-and-keys.md"
SECTION = PAGE.read_text().partition("\n## Signed tokens\n")[2].partition("\n## ")[0]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = FENCE.findall(SECTION)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    return folder


@pytest.fixture
def edge(secrets: Path) -> Iterator[Edge]:
    with (
        fake_replicas.replicas({"digits-r1": 1}) as ports,
        fake_replicas.serve_naming(ports) as serve,
        running_edge(serve, secrets=secrets) as made,
    ):
        yield made


def run(command: str, edge: Edge, here: Path) -> str:
    """What a block of the page prints, in a folder of the reader's own, with the Python that sundog is installed for."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=here,
        env={**os.environ, "PATH": path, "EDGE": f"http://127.0.0.1:{edge.http_port}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def test_each_example_does_what_it_shows(edge: Edge, secrets: Path, tmp_path: Path) -> None:
    assert [language for language, _ in BLOCKS] == ["sh", "yaml", "sh", "text", "sh", "json"]
    (_, make), (_, manifests), (_, ask), (_, answered), (_, without), (_, refused) = BLOCKS
    run(make, edge, tmp_path)
    secret, deployment = yaml.safe_load_all(manifests)
    folder = secrets / secret["metadata"]["name"]
    folder.mkdir()
    for name in secret["stringData"]:
        # As the comment there says.
        (folder / name).write_text((tmp_path / name).read_text())
    arms = [arm("stable", "digits-r1", fake_replicas.prefix("digits-r1"), [(0, 10_000)])]
    edge.apply([{**service(deployment["metadata"]["name"], arms), "auth": asked_of_the_edge(deployment)}])
    assert run(ask, edge, tmp_path) == answered
    told, shown = json.loads(run(without, edge, tmp_path)), json.loads(refused)
    assert told.pop("requestId")
    assert shown.pop("requestId")
    assert told == shown
    other = make.replace('"aud": "digits"', '"aud": "letters"')
    assert other != make
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(other, edge, elsewhere)
    assert run(ask, edge, elsewhere) == "401\n", "no key of the Secret has signed it"


def asked_of_the_edge(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the operator makes of the manifest's authentication."""
    parsed = ModelDeployment.parse(manifest).spec
    made: dict[str, Any] = split_document.make_service_entry("default", "digits", parsed, "ray", None)["auth"]
    return made
