"""`kubectl sundog` as kubectl finds it, and the verbs of the command on a real API server with an operator of the chart's making."""

import json
from pathlib import Path

import pytest

from charting.lifecycle import CANARY, MDEP, TEAM, Life, model_deployment
from real_kubernetes.cluster import Cluster
from real_kubernetes.kubectl import Kubectl
from sundog_operator.shell.exit_codes import ExitCode


@pytest.fixture
def kubectl(api_server: Cluster, commands: Path) -> Kubectl:
    """kubectl with the package's commands on its PATH."""
    return api_server.kubectl


def manifest(folder: Path, version: int) -> str:
    path = folder / f"v{version}.yaml"
    path.write_text(json.dumps(model_deployment(version, **CANARY)))
    return str(path)


def test_kubectl_finds_the_plugin(kubectl: Kubectl, commands: Path) -> None:
    assert str(commands / "kubectl-sundog") in kubectl("plugin", "list").splitlines()
    usage = kubectl("sundog", "promote", "--help").splitlines()[0]
    assert usage.startswith("Usage: kubectl sundog promote")


@pytest.mark.campaign
def test_a_rollout_by_the_verbs_alone(kubectl: Kubectl, life: Life, tmp_path: Path) -> None:
    def sundog(*arguments: str) -> str:
        return kubectl("sundog", *arguments, "-n", TEAM)

    assert "digits" in sundog("apply", "-f", manifest(tmp_path, 1))
    life.until_serves(1)
    assert "digits" in sundog("get")
    assert "revision 2" in sundog("plan", "-f", manifest(tmp_path, 2))
    assert life.status()["stable"]["revision"] == 1, "a plan changes nothing"
    sundog("apply", "-f", manifest(tmp_path, 2))
    life.until_weight(25)
    sundog("pause", "digits")
    assert life.condition("Progressing") == ("True", "Paused")
    assert "Paused" in sundog("describe", "digits")
    sundog("resume", "digits", "--revision", "2")
    sundog("abort", "digits")
    life.until(lambda: life.condition("Stalled") == ("True", "Aborted"), "an abort")
    sundog("retry", "digits")
    life.until_weight(25)
    sundog("promote", "digits")
    life.until_serves(2)
    sundog("rollback", "digits")
    life.until(lambda: life.condition("Stalled") == ("True", "RolledBack"), "a rollback")
    life.until(lambda: life.status()["stable"]["revision"] == 1, "revision 1 serves again")
    assert [line.split()[0] for line in sundog("get", "mexp").splitlines()[1:]] != []
    sundog("delete", "digits")
    life.until(lambda: not kubectl.get("-n", TEAM, MDEP)["items"], "nothing of it")


def test_errors_are_one_line_and_a_code_of_its_own(kubectl: Kubectl, life: Life) -> None:
    del life
    absent = kubectl.run("sundog", "describe", "nobody", "-n", TEAM)
    assert (absent.returncode, absent.stderr) == (
        ExitCode.NOT_FOUND,
        f"error: ModelDeployment {TEAM}/nobody does not exist\n",
    )
    wrong = kubectl.run("sundog", "promote", "nobody", "--sideways")
    assert wrong.returncode == ExitCode.USAGE
    assert "see `kubectl sundog promote --help`" in wrong.stderr
    lacking = kubectl.run("sundog", "get", "--context", "nowhere")
    assert lacking.returncode == ExitCode.UNREACHABLE
    assert len(lacking.stderr.splitlines()) == 1
