"""The commands of docs/guides/bring-a-model.md, one after the other in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from waiting import patience

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "bring-a-model.md"


@pytest.mark.timeout(patience(1000))
def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    # As after `. .venv/bin/activate`: `sundog` and `python` are those that run this test.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", "\n".join(blocks)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=patience(900),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digests = [line.split()[-1] for line in done.stdout.splitlines() if "sha256:" in line]
    assert digests[0] == digests[1], "the digest that package prints is that of the directory"
    assert len(digests) == 5
    for name in ("digits", "doubled"):
        assert "inputs:" in (tmp_path / name / "model.yaml").read_text()
