"""The quickstart, done as it stands: every shell block in order, every output that it shows compared."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from real_local import GROUP, Up, condition, instance, processes_of, stable, weight
from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

PAGE = Path(__file__).parents[3] / "docs" / "tutorials" / "first-model.md"
PART = re.compile(
    r"<!-- until: (?P<until>.+?) -->|^```sh\n(?P<commands>.*?)^```\n(?:```text\n(?P<output>.*?)^```)?",
    re.DOTALL | re.MULTILINE,
)
SERVER = "sundog local up "


@dataclass
class Reader:
    """Who follows the page, with two terminals in one folder."""

    up: Up
    here: Path
    environment: dict[str, str]

    def run(self, commands: str) -> str:
        """Standard output of a block in the second terminal. Later blocks begin in the folder where this one ends."""
        ends_in = self.up.manifests / "pwd"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'trap "pwd > $ENDS_IN" EXIT\n{commands}'],
            cwd=self.here,
            env={**self.environment, "ENDS_IN": str(ends_in)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{commands}{done.stderr}\n{self.up.output()[-2000:]}"
        self.here = Path(ends_in.read_text().strip())
        return done.stdout

    def serve(self, command: str) -> None:
        """The block of the first terminal."""
        with self.up.log.open("wb") as log:
            self.up.process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.here,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, what: str) -> None:
        """Wait for what the text promises before the next block."""
        name, verb, *rest = what.split(" ", 2)
        try:
            eventually(lambda: self._holds(name, verb, rest[0] if rest else ""), what)
        except TimeoutError as err:
            raise AssertionError(f"{err}\n{self.up.output()[-2000:]}") from err

    def _holds(self, name: str, verb: str, wanted: str) -> bool:
        found = self.up.read(name)
        match verb:
            case "gone":
                # An instance that does not answer looks the same.
                return not found and self.up.api("GET", f"{GROUP}/modeldeployments")[0] == 200
            case "at":
                waits = condition(found, "Ready").get("message", "").endswith("waits for promote")
                return weight(found) == int(wanted) and waits
            case "promoted":
                return condition(found, "Promoted").get("status") == "True"
            case "serves":
                synced = all(condition(found, type_).get("status") == "True" for type_ in ("Ready", "TrafficSynced"))
                return stable(found) == int(wanted) and synced
            case "predicts":
                inputs, _, outputs = wanted.partition(" -> ")
                answer = json.loads(self.run(f"sundog predict {name} --data '{inputs}'"))
                return bool(answer["outputs"] == json.loads(outputs))
        raise AssertionError(f"nobody knows how to wait for {verb!r}")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with instance(tmp_path) as up:
        binaries = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "SUNDOG_STATE_DIR": str(up.state),
        }
        folder = tmp_path / "reader"
        folder.mkdir()
        yield Reader(up, folder, environment)


def normal(output: str) -> list[list[str]]:
    """Words by line, without ages and the names of commands."""
    without_names = re.sub(r"\bcommand [0-9a-f]{16}\b", "command NAME", output)
    return [re.sub(r"\b\d+[smhd]\b", "AGE", line).split() for line in without_names.splitlines()]


def test_the_quickstart_does_what_it_says(reader: Reader) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("ray")
    compared = 0
    for part in PART.finditer(PAGE.read_text()):
        if part["until"]:
            reader.until(part["until"])
        elif part["commands"].startswith(SERVER):
            reader.serve(part["commands"].strip())
            eventually(lambda: (reader.up.state / "kubeconfig").exists(), "the API server")
        else:
            output = reader.run(part["commands"])
            if part["output"] is not None:
                compared += 1
                assert normal(output) == normal(part["output"]), f"{part['commands']}{output}"
    assert compared >= 12
    assert reader.up.process is not None
    assert reader.up.process.wait(PATIENCE_S) == 0, reader.up.output()[-2000:]
    assert processes_of(reader.up.state) == []
