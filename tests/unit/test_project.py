"""Guards of the project's shape."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAY = ("ray", "torch", "safetensors")
IN_MEMORY = "sundog_operator.adapters.memory_kubernetes"


@pytest.mark.parametrize("folder", ["operator", "serving", "tests", "operator/src", "serving/src"])
def test_no_package_shadows_the_standard_library(folder: str) -> None:
    """`operator/__init__.py` would break the interpreter for everyone who starts Python in this directory."""
    assert not (ROOT / folder / "__init__.py").exists()
    assert not (ROOT / "operator.py").exists()


def test_python_starts_in_the_root_with_its_own_operator_module() -> None:
    code = "import sys; sys.path.insert(0, ''); import operator, collections; print(operator.add(1, 2))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_no_command_is_called_operator() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "operator" not in scripts


@pytest.mark.parametrize(
    ("module", "foreign"),
    [
        ("sundog_operator.shell.cli", (*RAY, "numpy")),
        # Evidence is what the operator has arrays for.
        ("sundog_operator.app.controller", RAY),
        # What scipy.stats loads alone was a tenth of its memory with a thousand ModelDeployments.
        (
            "sundog_operator.shell.operator",
            (
                *RAY,
                "scipy.stats",
                "scipy.linalg",
                "pyarrow",
                "obstore",
                "sqlite3",
                "redis",
                "jinja2",
                "rich",
                IN_MEMORY,
            ),
        ),
        ("sundog_edge.cli", (*RAY, "numpy", "aiohttp")),
        ("sundog_edge.agent.run", (*RAY, "numpy")),
        ("sundog_edge.agent.agent", (*RAY, "numpy")),
    ],
)
def test_operator_cli_and_edge_load_nothing_that_they_do_not_use(module: str, foreign: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {foreign} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_constraints_name_versions_and_no_index() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    assert all("==" in line and "/" not in line and "@" not in line for line in lines)
    assert not any(line.startswith("ray==") for line in lines), "ray is taken from its range, the newest patch first"


def test_ray_is_bounded_to_the_tested_range() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "ray[serve]>=2.60.0,<2.61" in extras["runtime"]


def test_every_extra_that_is_promised_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"runtime", "local", "hf", "transformers", "dev"} <= set(extras)
