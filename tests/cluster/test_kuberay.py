"""KubeRay as its own manifests install it, with their permissions and limits, in the place of the process that the other tests use."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from real_kubernetes import kuberay, machine, node
from real_kubernetes.cluster import BINARIES
from real_serving import Serving, Team
from waiting import PATIENCE_S, patience

pytestmark = [pytest.mark.extended, pytest.mark.timeout(patience(1800))]

DEPLOYMENT = ("-n", "default", "deployment/kuberay-operator")


@pytest.fixture(scope="module")
def image(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of its image. KubeRay runs by its manifests."""
    instance, kubectl = serving.cluster.instance, serving.kubectl
    if instance is None:
        pytest.skip("the cluster given has a KubeRay of its own")
    folder = tmp_path_factory.mktemp("kuberay")
    objects = kuberay.manifests(kubectl, folder)
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    node.import_image(instance, kuberay.write_operator_image(folder, container["image"], BINARIES))
    kuberay.stop(instance)
    # They exceed what a client-side apply can remember.
    applied = ("--server-side", "--force-conflicts")
    kubectl("apply", *applied, "-k", str(folder / "config" / "default"))
    try:
        kubectl.wait(*DEPLOYMENT, "--for=condition=Available")
        yield container["image"]
    finally:
        own = [each for each in objects if each["kind"] != "CustomResourceDefinition"]
        kubectl("delete", "-f", "-", stdin=yaml.safe_dump_all(own))
        kuberay.start(instance, BINARIES, machine.entered(instance, ()), node.HERE / "kubeconfig")


@pytest.fixture(scope="module")
def team(image: str, serving: Serving) -> Iterator[Team]:
    assert image
    with serving.team("shipped") as made:
        yield made


def test_models_are_served_scaled_and_rolled_out_by_it(team: Team) -> None:
    team.apply(team.digits(replicas=1))
    team.until(lambda: team.condition_state("Ready")[0] == "True", "digits is Ready", patience(600))
    with team.traffic() as traffic:
        traffic.more(50)
        team.apply(team.digits(replicas=2))
        team.until(lambda: team.status()["readyReplicas"] == 2, "two replicas", patience(600))
        steps = [{"weight": 50, "gate": "time", "minDuration": "3s"}]
        team.apply(team.digits("v2", replicas=1, rollout={"steps": steps}))
        team.until_stable(2)
        traffic.lost_nothing()


def test_doctor_finds_it(image: str, team: Team) -> None:
    command = (f"{sys.prefix}/bin/sundog", "doctor", "--cluster", "-o", "json")
    done = subprocess.run(command, env=team.environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert {"name": "KubeRay", "status": "ok", "found": image, "fix": ""} in json.loads(done.stdout), done


def test_it_may_do_what_it_does(team: Team) -> None:
    """What it lacks permission for is an error in its log, and an event."""
    log = team.serving.kubectl("logs", *DEPLOYMENT)
    assert "Starting workers" in log
    assert "forbidden" not in log
