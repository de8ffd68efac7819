"""Modules of a model, isolated from those of all others."""

from pathlib import Path

import pytest

from sundog_runtime.formats.model_code import ModelCode
from sundog_runtime.sources.open_model import ModelFiles


def revision(root: Path, number: int) -> ModelCode:
    """Create a revision whose modules have the same names as in every other, and import each other in all ways."""
    (root / "parts").mkdir(parents=True)
    (root / "helper.py").write_text(f"NUMBER = {number}\n")
    (root / "parts" / "__init__.py").write_text("")
    (root / "parts" / "deep.py").write_text("from . import sibling\nfrom helper import NUMBER\nVALUE = sibling.VALUE\n")
    (root / "parts" / "sibling.py").write_text(f"VALUE = {number}\n")
    (root / "net.py").write_text(
        "import json, helper\nimport parts.deep\nimport parts.deep as deep\nfrom parts import sibling\n"
        "def numbers():\n"
        "    import helper as lazily\n    from parts.deep import NUMBER\n"
        "    return {helper.NUMBER, parts.deep.VALUE, deep.NUMBER, sibling.VALUE, lazily.NUMBER, NUMBER}\n"
    )
    return ModelCode(ModelFiles(root))


def test_two_revisions_with_modules_of_the_same_names(tmp_path: Path) -> None:
    codes = [revision(tmp_path / str(number), number) for number in (1, 2)]
    first, second = (code.resolve("net:numbers") for code in codes)
    assert (first(), second(), first()) == ({1}, {2}, {1})
    codes[0].close()
    assert second() == {2}
    with pytest.raises(ModuleNotFoundError):
        first()


def test_a_model_s_module_hides_an_installed_one_only_from_the_model(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("mine = True\n")
    (tmp_path / "net.py").write_text("import json\nmine = json.mine\n")
    assert ModelCode(ModelFiles(tmp_path)).resolve("net:mine") is True
    import json

    assert not hasattr(json, "mine")
