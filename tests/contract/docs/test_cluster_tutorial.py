"""The tutorial for a cluster: each of its commands equals, except for names, one that the tests of a cluster run."""

import ast
import functools
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from real_serving import readme_commands
from sundog_operator.api import ModelDeployment

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "tutorials" / "first-model-on-a-cluster.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = "".join(BLOCKS).replace("\\\n", "").splitlines()
SOURCES = (*sorted((ROOT / "tests" / "cluster").glob("test_*.py")), ROOT / "tests" / "support" / "real_serving.py")
PROGRAMS = {"kubectl": "kubectl", "helm": "helm", "sundog": "kubectl sundog"}
"""Functions of those tests, and the program that each runs."""
NAMES = ("-n", "--namespace", "--set")
"""Options with names: a namespace, and values, which the tests keep in a file."""
LONG = {"-d": "--data"}
NOT_RUN = {
    "REGISTRY=": "names a registry",
    "make images ": "tests of images run the script behind it, images/build",
    "podman push ": "the tests have no registry",
    "helm install kuberay-operator ": "the tests compile KubeRay; a test below compares the versions",
    "sed ": "a test below runs it",
    "kubectl sundog get digits -n vision --watch": "ends by Ctrl-C only",
    "kubectl -n vision wait mdep/digits --for=condition=Promoted ": "the tests read the object instead",
}
"""Commands that those tests do not run, by their beginning."""


@dataclass(frozen=True)
class Command:
    """A command without names: its program, its verb, the kind that kubectl acts on, and the names of its options."""

    program: str
    verb: str
    kind: str
    options: frozenset[str]

    def is_part_of(self, other: "Command") -> bool:
        """Return whether the other one does the same, perhaps with more options."""
        same = (self.program, self.verb, self.kind) == (other.program, other.verb, other.kind)
        return same and self.options <= other.options


def parse(program: str, arguments: Sequence[str]) -> Command:
    """Return the command that these words are; of options, only that of a wait keeps its value."""
    words = list(arguments)
    for option in NAMES:
        while option in words:
            start = words.index(option)
            del words[start : start + 2]
    verb, *rest = words or [""]
    found = {word if word.startswith("--for=") else word.partition("=")[0] for word in rest if word.startswith("-")}
    acts_on_kind = program == "kubectl" and rest and not rest[0].startswith("-")
    kind = rest[0].partition("/")[0] if acts_on_kind else ""
    return Command(program, verb, kind, frozenset(LONG.get(option, option) for option in found))


def parse_line(line: str) -> Command:
    program = next(each for each in sorted(PROGRAMS.values(), key=len, reverse=True) if line.startswith(f"{each} "))
    return parse(program, shlex.split(line.removeprefix(program)))


@functools.cache
def commands_of_tests() -> frozenset[Command]:
    """Every call of kubectl, helm and sundog in the tests of a cluster."""
    calls = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return frozenset(parse(PROGRAMS[name], list(words_of(call.args))) for call in calls if (name := name_of(call)))


def name_of(call: ast.Call) -> str:
    """Return which of the programs a call runs; empty if none."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name if name in PROGRAMS else ""


def words_of(arguments: Sequence[ast.expr]) -> Iterator[str]:
    """The words of a call; `…` stands for what is no literal."""
    for argument in arguments:
        match argument:
            case ast.Constant(value=str(word)):
                yield word
            case ast.JoinedStr(values=[ast.Constant(value=str(beginning)), *_]):
                yield beginning
            case ast.Starred(value=ast.Tuple(elts=elements)):
                yield from words_of(elements)
            case _:
                yield "…"


def test_serving_has_the_commands_of_the_example_which_the_tests_run_as_they_stand() -> None:
    example = readme_commands(ROOT / "examples" / "digits" / "README.md", "In a cluster")
    first = COMMANDS.index(example[0])
    assert COMMANDS[first : first + len(example)] == example


def compared() -> list[str]:
    example = readme_commands(ROOT / "examples" / "digits" / "README.md", "In a cluster")
    return [line for line in COMMANDS if line not in example and not line.startswith(tuple(NOT_RUN))]


@pytest.mark.parametrize("line", compared())
def test_each_other_command_is_run_by_a_test_of_a_cluster(line: str) -> None:
    command = parse_line(line)
    assert any(command.is_part_of(other) for other in commands_of_tests()), f"{line}: no test of a cluster runs it"


def test_what_is_not_run_is_on_the_page() -> None:
    assert [each for each in NOT_RUN if not any(line.startswith(each) for line in COMMANDS)] == []


def test_the_page_installs_the_tested_kuberay() -> None:
    [kuberay] = re.findall(r"ray-operator v(\S+)", (ROOT / "tests/cluster/go/kuberay/go.mod").read_text())
    assert f"--version {kuberay} " in next(line for line in COMMANDS if " kuberay-operator " in line)


def test_values_of_the_page_are_those_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "helm" / "sundog" / "values.yaml").read_text())
    keys = re.findall(r"--set ([\w.]+)=", "\n".join(COMMANDS))
    assert keys
    for key in keys:
        assert isinstance(functools.reduce(dict.__getitem__, key.split("."), values), str)


def test_the_change_of_the_model_is_another_model(tmp_path: Path) -> None:
    command = next(line for line in COMMANDS if line.startswith("sed "))
    subprocess.run(["bash", "-euc", command.replace("examples/", f"{ROOT}/examples/")], cwd=tmp_path, check=True)
    changed = yaml.safe_load((tmp_path / "digits-v2.yaml").read_text())
    example = yaml.safe_load((ROOT / "examples" / "digits" / "modeldeployment.yaml").read_text())
    example["spec"]["model"]["uri"] = "pvc://digits-models/v2"
    assert changed == example
    ModelDeployment.parse(changed)
