"""What the support for real clusters says and does where there is none."""

import json
import os
import tarfile
from pathlib import Path

import psutil
import pytest

from real_kubernetes import fixtures, machine
from real_kubernetes.binaries import ALL, HELM, Binaries
from real_kubernetes.checkout import mounted, pod_template
from real_kubernetes.images import write_image
from real_kubernetes.instance import ClusterError, Instance


def test_a_node_without_root_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert machine.refusal() == "a node needs root"


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.refusal().startswith("not installed: conntrack containerd iproute2 iptables runc util-linux")


def test_without_go_the_tests_are_skipped_and_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binaries = Binaries(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = "helm: not built; expected Go on the PATH, which builds it. Install Go (https://go.dev/dl)."
    assert binaries.refusal((HELM,)) == wanted
    with pytest.raises(ClusterError, match=r"kube-apiserver, .*: not built; expected Go"):
        binaries.build(ALL)


@pytest.mark.parametrize("fixture", ["api_server", "cluster"])
def test_a_kubernetes_that_is_missing_skips_its_tests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fixture: str
) -> None:
    monkeypatch.setattr(fixtures, "BINARIES", Binaries(tmp_path / "bin"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(fixtures.ELSEWHERE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Kubernetes here"):
        next(getattr(fixtures, fixture).__wrapped__())


def test_a_pid_that_another_process_has_by_now_is_not_ours(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    ours = instance.record("ours", os.getpid())
    assert instance.processes() == {"ours": ours}
    line = json.loads(instance.records.read_text())
    instance.records.write_text(json.dumps(line | {"started": line["started"] - 1}) + "\n")
    assert instance.processes() == {}
    instance.stop("ours")


def test_a_process_stays_ours_when_the_clock_is_corrected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    ours = instance.record("ours", os.getpid())
    booted = psutil.boot_time()
    # Linux derives this from the clock, in whole seconds.
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: booted + 1)
    assert instance.processes() == {"ours": ours}


def test_an_image_is_what_docker_would_save(tmp_path: Path) -> None:
    archive = write_image(
        tmp_path / "x.tar", "docker.io/local/x:1", {"a": b"b"}, links={"bin": "usr/bin"}, folders=("tmp",)
    )
    with tarfile.open(archive) as tar:
        manifest, config = (json.load(tar.extractfile(name)) for name in ("manifest.json", tar.getnames()[0]))
        with tarfile.open(fileobj=tar.extractfile(manifest[0]["Layers"][0])) as layer:
            assert {entry.name: entry.linkname for entry in layer} == {"tmp": "", "bin": "usr/bin", "a": ""}
    assert manifest[0]["RepoTags"] == ["docker.io/local/x:1"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{manifest[0]['Layers'][0].removesuffix('.tar')}"]


def test_pods_see_each_folder_once_and_read_only(tmp_path: Path) -> None:
    folders = list(mounted(tmp_path).values())
    assert tmp_path in folders
    assert not any(a != b and a.is_relative_to(b) for a in folders for b in folders)
    assert all(mount["readOnly"] for mount in pod_template(tmp_path)["volumeMounts"])
