"""Secrets on their way to an edge: what the operator composes of them, the agent reads as they were."""

import base64
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.cli import main
from sundog_edge.kubernetes.config_source import SPLIT_KEY
from sundog_edge.security.secrets import ComposedSecrets
from sundog_operator.api.installation import parse_installation
from sundog_operator.core.edge import deployment as edge_deployment
from sundog_operator.core.edge import secrets
from sundog_operator.core.kubernetes import names

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True)
KEYS = st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True)


@given(st.dictionaries(NAMES, st.dictionaries(KEYS, st.binary(max_size=40), max_size=4), max_size=4))
def test_every_secret_arrives_as_it_was(contents: dict[str, dict[str, bytes]]) -> None:
    stored = {
        name: {"data": {key: base64.b64encode(value).decode() for key, value in keys.items()}}
        for name, keys in contents.items()
    }
    data = secrets.compose_secret_data([*stored.items(), ("missing", None)])
    with TemporaryDirectory() as folder:
        file = Path(folder) / "secrets.json"
        file.write_text(json.dumps(data))
        assert ComposedSecrets(file).read([*contents, "missing"]) == {**contents, "missing": {}}


@pytest.mark.parametrize("feedback", [False, True])
def test_the_pods_run_commands_that_the_edge_knows(feedback: bool) -> None:
    assert SPLIT_KEY == names.SPLIT_KEY
    deployment = edge_deployment.make_deployment("vision", [], parse_installation("", "test"), feedback=feedback)
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        drain = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        for program, name, *options in filter(None, (drain, [*container["command"], *container["args"]])):
            assert program == "sundog-edge"
            command = main.commands[name]
            # Parses every option and its value, and refuses what it does not know.
            command.make_context(name, list(options))
