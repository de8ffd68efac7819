"""Load the analysis script of the examples as a module."""

import importlib.util
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "examples" / "experiments" / "analysis" / "analysis.py"


def load() -> ModuleType:
    """Load a new module each time."""
    spec = importlib.util.spec_from_file_location("analysis_of_an_export", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
