from typing import Any

import pytest

from doubles.kuberay import create_with_status
from sundog_operator.adapters.local.doctor import Check
from sundog_operator.errors import Forbidden
from sundog_operator.ports import NODE
from sundog_operator.shell.exit_codes import ExitCode
from sundog_operator.shell.verbs import doctor

FINE = Check("Python", "ok", "3.11.7")
ODD = Check("port 8080", "warn", "held by nginx", "the edge takes another port")
BROKEN = Check("ray", "fail", "not installed", "pip install 'sundog[local]'")


@pytest.mark.parametrize(("checks", "code"), [([FINE, ODD], ExitCode.OK), ([FINE, BROKEN], ExitCode.REFUSED)])
def test_a_warning_is_no_error(
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


def test_it_shows_which_labels_of_a_cluster_name_types_of_gpus(sundog: Any, server: Any) -> None:
    ask = ("doctor", "--kubeconfig", str(server.kubeconfig))
    (unknown,) = sundog(*ask, "-o", "json").json
    assert (unknown["name"], unknown["status"]) == ("GPU labels", "warn")
    assert "installation.gpu.profiles" in unknown["fix"]
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "a", "labels": {"cloud.google.com/gke-nodepool": "a"}},
    }
    server.do(lambda cluster: create_with_status(cluster.kube, NODE, node, {}))
    assert sundog(*ask).out == "ok    GPU labels  gke (guessed from the nodes)\n"
    server.cluster.kube.faults = lambda _, ref: Forbidden("nodes is forbidden") if ref.kind == NODE else None
    (forbidden,) = sundog(*ask, "-o", "json").json
    assert forbidden["found"].startswith("unknown: nodes: nodes is forbidden")
