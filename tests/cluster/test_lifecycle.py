"""Clusters come, go and leave nothing; also where whoever started one was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from real_kubernetes import control_plane, machine
from real_kubernetes.binaries import KUBERNETES, Binaries
from real_kubernetes.cluster import BINARIES, Cluster, directory_of, down, up
from real_kubernetes.instance import ClusterError, Instance
from real_kubernetes.leftovers import nothing_left
from waiting import PATIENCE_S, eventually

# They start nodes of their own.
pytestmark = pytest.mark.node


@pytest.fixture
def directory(api_server: Cluster) -> Path:
    """A folder for one more cluster; the first shows that clusters can be had here."""
    if api_server.instance is None:
        pytest.skip("the cluster is somebody else's")
    return directory_of("other")


def test_control_planes_live_side_by_side(api_server: Cluster, directory: Path) -> None:
    with nothing_left(directory):
        other = up(directory, with_node=False)
        other.kubectl("create", "namespace", "only-here")
        assert not api_server.kubectl.succeeds("get", "namespace", "only-here")
        down(directory)
    assert api_server.kubectl.succeeds("get", "namespace", "default")


def test_the_service_account_of_a_namespace_may_nothing(api_server: Cluster) -> None:
    allowed = api_server.kubectl.run("auth", "can-i", "list", "pods", "--as=system:serviceaccount:default:default")
    assert allowed.stdout == "no\n"


def test_a_killed_start_is_cleared_by_its_records(directory: Path) -> None:
    code = "import sys; from pathlib import Path; from real_kubernetes import cluster; cluster.up(Path(sys.argv[1]), with_node=False)"
    environment = {**os.environ, "PYTHONPATH": str(Path(machine.__file__).parents[1])}
    with nothing_left(directory):
        starter = subprocess.Popen((sys.executable, "-c", code, str(directory)), env=environment)
        eventually(lambda: "kube-apiserver" in Instance(directory).processes(), "the API server's start")
        starter.send_signal(signal.SIGKILL)
        starter.wait(PATIENCE_S)
        assert set(Instance(directory).processes()) >= {"etcd", "kube-apiserver"}
        down(directory)


def test_a_failed_start_says_why_and_ends_what_it_began(directory: Path, tmp_path: Path) -> None:
    """The records and logs stay for who looks for the cause."""
    broken = Binaries(tmp_path, is_given=True)
    for program in KUBERNETES.programs:
        (tmp_path / program).symlink_to(BINARIES.path(program))
    (tmp_path / "kube-apiserver").unlink()
    (tmp_path / "kube-apiserver").write_text("#!/bin/sh\necho 'no port left' >&2\nexit 1\n")
    (tmp_path / "kube-apiserver").chmod(0o755)
    instance = Instance(directory)
    directory.mkdir(parents=True)
    with pytest.raises(ClusterError, match=r"kube-apiserver ended before it answered: no port left"):
        control_plane.start(instance, broken)
    down(directory)
    assert instance.processes() == {}


def test_a_folder_has_one_cluster(api_server: Cluster, directory: Path) -> None:
    assert api_server.instance is not None
    with pytest.raises(ClusterError, match=r"runs in .* already"):
        up(api_server.instance.directory, with_node=False)
    assert api_server.kubectl.succeeds("get", "namespace", "default")


def test_nodes_live_side_by_side_and_one_that_was_killed_leaves_nothing(cluster: Cluster, directory: Path) -> None:
    if cluster.instance is None:
        pytest.skip("the cluster is somebody else's")
    instance, first = Instance(directory), cluster.instance.directory
    with nothing_left(directory):
        directory.mkdir(parents=True)
        slot = machine.start(instance)
        assert slot.number != int((cluster.instance.directory / "slot").read_text())
        assert f" {slot.inside}/30" in str(machine.run(*machine.entered(instance, ("ip", "-br", "address"))))
        # The kubelet of the first has changed what the second would find.
        remembered = [
            {path.name: path.read_text() for path in (each / "settings").glob("*")} for each in (first, directory)
        ]
        assert remembered[0] == remembered[1] != {}
        # Whatever runs inside goes with its first process, and so do mounts, links and rules.
        machine.run(*machine.entered(instance, ("mount", "-t", "tmpfs", "tmpfs", "/opt")))
        machine.run(*machine.entered(instance, ("iptables", "-N", "KUBE-LEFT")))
        sleeper = instance.start("sleeper", machine.entered(instance, ("sleep", "600")))
        for process in machine.inside(instance):
            process.kill()
        sleeper.wait(PATIENCE_S)
        down(directory)
    assert cluster.kubectl.succeeds("get", "nodes")
