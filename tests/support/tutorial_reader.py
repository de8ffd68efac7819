"""Follow a tutorial as its reader does: run its shell blocks in order and compare their output with the page.

Comments of the page, which no browser shows, stand for what a reader sees and does before the next block:

- `until: NAME VERB` waits for a state of a ModelDeployment, see `Reader.until`.
- `until: shown` repeats the block until its output is the shown one, except for numbers.
- `terminal: third` runs the block in a terminal of its own and leaves it running.
- `ctrl-c: third` presses Ctrl-C in that terminal.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from real_local import GROUP, Up, condition, instance, processes_of, stable, weight
from waiting import PATIENCE_S, eventually, patience

PART = re.compile(
    r"<!-- (?P<mark>[\w-]+): (?P<value>.+?) -->|^```sh\n(?P<commands>.*?)^```\n(?:```text\n(?P<shown>.*?)^```)?",
    re.DOTALL | re.MULTILINE,
)
SKIPPED = re.compile(r"^```(?:bash|shell|console)$", re.MULTILINE)
MEASURED = re.compile(r"(?<![\w-])(?<!revision )\d(?:[\d.,/%–]|e[+-]?\d)*[smhd]?(?!\w)")
RULE = re.compile("─+")
SERVER = "sundog local up "
OMITTED = "…"
DECISION_S = patience(1200)
"""The limit for what the data decides: after two or three minutes, on an idle machine."""


@dataclass(frozen=True)
class Block:
    """A block that has run. `shown` is the output on the page; None if the page has none."""

    commands: str
    output: str
    shown: str | None


@dataclass
class Reader:
    """Who follows the page: with an instance of Sundog, and terminals that all begin in the same folder."""

    up: Up
    here: Path
    environment: dict[str, str]
    programs: Path
    terminals: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def follow(self, page: Path) -> list[Block]:
        """Run the page to its end, where nothing may run any more, and return the blocks of the second terminal.

        Raises AssertionError for the first thing that is not as the page says.
        """
        text = page.read_text()
        assert not SKIPPED.search(text), f"{page.name}: a shell block that would not run; expected the language `sh`"
        blocks: list[Block] = []
        repeats, terminal = False, ""
        for part in PART.finditer(text):
            match part["mark"], part["value"]:
                case "until", "shown":
                    repeats = True
                case "until", what:
                    self.until(what)
                case "terminal", name:
                    terminal = name
                case "ctrl-c", name:
                    self._interrupt(name)
                case None, _ if terminal:
                    self._open(terminal, part["commands"])
                    terminal = ""
                case None, _ if part["commands"].splitlines()[-1].startswith(SERVER):
                    self._serve(part["commands"])
                case None, _:
                    output = self._show(part["commands"], part["shown"], repeats)
                    blocks.append(Block(part["commands"], output, part["shown"]))
                    repeats = False
                case mark, _:
                    raise AssertionError(f"{page.name}: a comment {mark!r}; expected until, terminal or ctrl-c")
        self._ends()
        return blocks

    def replace_program(self, name: str, script: str) -> None:
        """Put a script of bash in the place of a program."""
        program = self.programs / name
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)

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

    def until(self, what: str) -> None:
        """Wait for what the text promises: a name, then one of the verbs of `_holds` with its argument."""
        name, verb, *rest = what.split(" ", 2)
        self._wait(lambda: self._holds(name, verb, rest[0] if rest else ""), what, PATIENCE_S)

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

    def _show(self, commands: str, shown: str | None, repeats: bool) -> str:
        """Run a block, or repeat it, until its output is what the page shows, and return that output."""
        output = self.run(commands)
        if not repeats:
            assert shown is None or normal(output) == normal(shown), f"{commands}{output}"
            return output
        assert shown is not None, f"{commands}shows no output; expected one to wait for"

        def is_shown() -> bool:
            nonlocal output
            output = self.run(commands)
            return is_like(output, shown)

        try:
            self._wait(is_shown, "what the page shows", DECISION_S)
        except AssertionError as err:
            raise AssertionError(f"{commands}{output}\n{err}") from err
        return output

    def _wait(self, probe: Callable[[], bool], what: str, within: float) -> None:
        def holds() -> bool:
            for name, process in self.terminals.items():
                assert process.poll() is None, f"the {name} terminal: ended; expected it to run on\n{self._log(name)}"
            return probe()

        try:
            eventually(holds, what, within)
        except TimeoutError as err:
            raise AssertionError(f"{err}\n{self.up.output()[-2000:]}") from err

    def _serve(self, commands: str) -> None:
        """Run the block of the first terminal, and wait for the API."""
        self.up.process = process = self._start(commands, self.up.log)

        def answers() -> bool:
            assert process.poll() is None, f"{commands}ended; expected it to run on\n{self.up.output()[-2000:]}"
            return (self.up.state / "kubeconfig").exists()

        eventually(answers, "the API server")

    def _open(self, name: str, commands: str) -> None:
        self.terminals[name] = self._start(commands, self._log_path(name))

    def _start(self, commands: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=self.here,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _interrupt(self, name: str) -> None:
        """Send SIGINT to every process of a terminal, as Ctrl-C does."""
        process = self.terminals.pop(name)
        assert process.poll() is None, f"the {name} terminal: ended; expected it to run on\n{self._log(name)}"
        os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE_S)

    def _log_path(self, name: str) -> Path:
        return self.up.log.with_name(f"{name}.log")

    def _log(self, name: str) -> str:
        return self._log_path(name).read_text()[-2000:]

    def _ends(self) -> None:
        """The page has stopped its instance."""
        assert self.up.process is not None
        assert self.up.process.wait(PATIENCE_S) == 0, self.up.output()[-2000:]
        assert processes_of(self.up.state) == []


@contextlib.contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """A reader with a home, a state directory and processes of its own, which all end with it."""
    with instance(folder) as up:
        home, programs = folder / "reader", folder / "programs"
        home.mkdir()
        programs.mkdir()
        path = (str(programs), str(Path(sys.executable).parent), os.environ["PATH"])
        environment = {
            **os.environ,
            "HOME": str(home),
            "PATH": os.pathsep.join(path),
            "SUNDOG_STATE_DIR": str(up.state),
        }
        made = Reader(up, home, environment, programs)
        try:
            yield made
        finally:
            for process in made.terminals.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(PATIENCE_S)


def normal(output: str) -> list[list[str]]:
    """Words by line, without ages and the names of commands."""
    without_names = re.sub(r"\bcommand [0-9a-f]{16}\b", "command NAME", output)
    return [re.sub(r"\b\d+[smhd]\b", "AGE", line).split() for line in without_names.splitlines()]


def is_like(output: str, shown: str) -> bool:
    """Return whether an output is the shown one, except for numbers. `…` stands for the rest of a line, or for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == OMITTED else ".*".join(map(re.escape, line.split(OMITTED))) + r"\n"
        for line in _worded(shown)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _worded(output))) is not None


def _worded(output: str) -> list[str]:
    """Words by line, with `N` for each number, interval and age, but with the numbers of revisions."""
    return [" ".join(RULE.sub("─", MEASURED.sub("N", line)).split()) for line in output.splitlines()]
