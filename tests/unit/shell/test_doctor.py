from typing import Any

import pytest

from sundog_operator.adapters.local.doctor import Check
from sundog_operator.shell.exit_codes import ExitCode
from sundog_operator.shell.verbs import doctor

FINE = Check("Python", "ok", "3.11.7")
ODD = Check("port 8080", "warn", "held by nginx", "the edge takes another port")
BROKEN = Check("ray", "fail", "not installed", "pip install 'sundog[local]'")


@pytest.mark.parametrize(("checks", "code"), [([FINE, ODD], ExitCode.OK), ([FINE, BROKEN], ExitCode.REFUSED)])
def test_only_failures_are_an_error(
    sundog: Any, monkeypatch: pytest.MonkeyPatch, checks: list[Check], code: ExitCode
) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda _: checks)
    assert sundog("doctor").code == code


def test_each_check_has_a_line_and_its_remedy(sundog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda _: [FINE, BROKEN])
    assert sundog("doctor").out.splitlines() == [
        "ok    Python  3.11.7",
        "FAIL  ray     not installed",
        "              → pip install 'sundog[local]'",
    ]
    assert sundog("doctor", "-o", "json").json[1]["status"] == "fail"


def test_it_looks_at_this_machine(sundog: Any, tmp_path: Any) -> None:
    done = sundog("doctor", "--state-dir", str(tmp_path), "-o", "json")
    assert {"Python", "memory", "state directory"} <= {check["name"] for check in done.json}
