"""The first pages that a user follows do not collide when they follow both."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_readme_and_quickstart_have_models_and_instances_of_their_own() -> None:
    readme, quickstart = ((ROOT / page).read_text() for page in ("README.md", "docs/quickstart.md"))
    section = readme.partition("## Serve a model of your own")[2].partition("\n## ")[0]
    first, second = (re.findall(r"^metadata: \{name: (\w+)\}", page, re.MULTILINE) for page in (section, quickstart))
    assert first
    assert second
    assert not {*first} & {*second}
    assert "export SUNDOG_STATE_DIR=" in section
    assert "SUNDOG_STATE_DIR" not in quickstart
