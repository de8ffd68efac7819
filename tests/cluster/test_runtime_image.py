"""The image of the runtime, PyTorch in it, is all that Ray's head and workers have: nothing of the machine is mounted into them.

It has several gigabytes, so no test builds it: SUNDOG_RUNTIME_ARCHIVE names the archive that `images/build` wrote.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from real_kubernetes import node
from real_kubernetes.binaries import ROOT
from real_serving import Json, Serving, Team
from releasing import locks
from waiting import patience

ARCHIVE = "SUNDOG_RUNTIME_ARCHIVE"

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(patience(2400)),
    pytest.mark.skipif(
        not os.environ.get(ARCHIVE),
        reason=f"{ARCHIVE} names no archive of the runtime's image (ARCHIVES=FOLDER images/build runtime)",
    ),
]

NAMESPACE = "imaged"
HELD_OUT = 540

# Ray brings packages of its own, and has Python find them, so that all are listed before it is imported.
LOOK = """
import importlib.metadata, json, os, pathlib, sys
installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
import sundog_runtime.serve, sundog_runtime.replica, ray, torch
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "home": [str(pathlib.Path.home()), os.access(pathlib.Path.home(), os.W_OK)],
    "writable": os.access(sys.prefix, os.W_OK),
    "installed": installed,
    "loaded": sorted({name.partition(".")[0] for name in sys.modules}),
    "product": (torch.ones(2, 3) @ torch.ones(3, 2)).tolist(),
}))
"""


@pytest.fixture(scope="module")
def image(serving: Serving) -> str:
    """The name of the image, which the node has."""
    if serving.cluster.instance is None:
        pytest.skip("an image gets into the tests' own cluster only")
    archive = Path(os.environ[ARCHIVE])
    node.import_image(serving.cluster.instance, archive)
    return name_of(archive)


@pytest.fixture(scope="module")
def team(image: str, serving: Serving) -> Iterator[Team]:
    """A namespace whose Ray runs that image, by the chart's own pods."""
    installation = serving.values["installation"]
    ray = {
        **installation["ray"],
        "pods": {"imagePullPolicy": "Never"},
        # What runs the store here is the machine's, and would be mounted into Ray's pods as well.
        "gcsFaultTolerance": {"enabled": False},
    }
    serving.upgrade({**serving.values, "installation": {**installation, "runtimeImage": image, "ray": ray}})
    try:
        with serving.team(NAMESPACE) as made:
            yield made
    finally:
        serving.upgrade(serving.values)


@pytest.fixture(scope="module")
def looked(image: str, team: Team) -> Json:
    """What a Python of the image tells of itself."""
    container = {"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["python", "-c", LOOK]}
    restricted = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "restartPolicy": "Never", "securityContext": restricted}
    team.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "look"}, "spec": spec})
    team.serving.kubectl.wait("-n", NAMESPACE, "pod/look", "--for=jsonpath={.status.phase}=Succeeded")
    told: Json = json.loads(team.kubectl("logs", "look").splitlines()[-1])
    return told


def test_nobody_runs_in_it(looked: Json) -> None:
    assert looked["user"] == [65532, 65532]
    assert looked["home"] == ["/home/ray", True]
    assert not looked["writable"]
    assert looked["product"] == [[3.0, 3.0], [3.0, 3.0]]


def test_the_model_server_knows_no_operator(looked: Json) -> None:
    strange = {"sundog_operator", "sundog_edge", "sundog_feedback", "kopf", "kubernetes", "scipy"}
    assert strange.isdisjoint(looked["loaded"])
    assert {"sundog_runtime", "ray", "torch"} <= set(looked["loaded"])


def test_packages_are_those_of_the_locks(looked: Json) -> None:
    """Except async-timeout, which Python needs before 3.11.3 only."""
    installed = {normalised(name): version for name, version in looked["installed"].items()}
    texts = [(ROOT / locks.LOCKS / f"{name}.txt").read_text() for name in ("runtime", "torch")]
    locked = {name: package.version for text in texts for name, package in locks.parse(text).items()}
    assert installed.keys() - locked.keys() == {"sundog", "pip"}
    assert locked.keys() - installed.keys() <= {"async-timeout"}
    assert {name: version for name, version in installed.items() if locked.get(name, version) != version} == {}


def test_the_example_is_served_out_of_it(team: Team, image: str) -> None:
    team.apply(team.digits())
    team.until(lambda: team.condition_state("Ready")[0] == "True", "digits is Ready", patience(900))
    for pod in (*team.heads(), *team.workers(1)):
        assert {each["image"] for each in pod["spec"]["containers"]} == {image}
        assert not [each for each in pod["spec"]["volumes"] if "hostPath" in each]
    with team.traffic() as traffic:
        told = traffic.until(lambda told: told["images"].get("1") == HELD_OUT, "every held-out image was read")
    assert told["right"] == {"1": round(team.serving.accuracy("v1") * HELD_OUT)}


def name_of(archive: Path) -> str:
    """The first name in a docker-archive."""
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        return str(json.load(manifest)[0]["RepoTags"][0])


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
