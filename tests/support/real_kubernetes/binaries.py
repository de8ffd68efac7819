"""The programs of a cluster, built from their Go modules. What is built once is not built again until a module changes."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from real_kubernetes.instance import ClusterError

ROOT = Path(__file__).parents[3]
MODULES = ROOT / "tests" / "cluster" / "go"

KUBERNETES = "v1.36.3"
BUILD_S = 3600

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Build:
    """Programs of one Go module that are built by one command: packages, and what each is called."""

    module: str
    packages: dict[str, str]
    flags: str = "-s -w"

    @property
    def programs(self) -> tuple[str, ...]:
        return tuple(self.packages.values())


# Without the version an API server says v0.0.0, and clients misjudge it.
STAMPED = f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}"
STAMPED += " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"

CONTROL_PLANE = Build(
    "kubernetes",
    {
        "go.etcd.io/etcd/server/v3": "etcd",
        "k8s.io/kubernetes/cmd/kube-apiserver": "kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager": "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kubectl": "kubectl",
    },
    STAMPED,
)
NODE = Build(
    "kubernetes",
    {
        "k8s.io/kubernetes/cmd/kube-scheduler": "kube-scheduler",
        "k8s.io/kubernetes/cmd/kubelet": "kubelet",
        "k8s.io/kubernetes/cmd/kube-proxy": "kube-proxy",
    },
    STAMPED,
)
KUBERAY = Build("kuberay", {"github.com/ray-project/kuberay/ray-operator": "kuberay-operator"})
COREDNS = Build("coredns", {"sundog.dev/tests/cluster/coredns": "coredns"})
HELM = Build("helm", {"helm.sh/helm/v4/cmd/helm": "helm"})
KUBECONFORM = Build("kubeconform", {"github.com/yannh/kubeconform/cmd/kubeconform": "kubeconform"})
POLICIES = Build("network-policies", {"sundog.dev/tests/cluster/network-policies": "network-policies"})
ALL = (CONTROL_PLANE, NODE, KUBERAY, COREDNS, HELM, KUBECONFORM, POLICIES)


@dataclass(frozen=True)
class Binaries:
    """A folder of built programs."""

    folder: Path

    def path(self, program: str) -> Path:
        return self.folder / program

    def missing(self, builds: Iterable[Build]) -> list[Build]:
        """The builds whose programs are not there, or are of an older module."""
        return [build for build in builds if not self._fresh(build)]

    def build(self, builds: Iterable[Build], tell: Tell = lambda _: None) -> None:
        """Builds what is missing. One process at a time; a second waits. Raises ClusterError in one line."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for build in builds:
            if self._fresh(build):
                continue
            with self._locked(build, tell):
                if not self._fresh(build):
                    tell(f"building {', '.join(build.programs)}")
                    self._compile(build)

    def _fresh(self, build: Build) -> bool:
        stamp = self._stamp(build)
        built = all(self.path(program).exists() for program in build.programs)
        return built and stamp.exists() and stamp.read_text() == _digest(build)

    def stamp(self, build: Build) -> None:
        """Notes of which module the programs that lie here are."""
        self._stamp(build).write_text(_digest(build))

    def _stamp(self, build: Build) -> Path:
        return self.folder / f".{build.programs[0]}.built"

    @contextmanager
    def _locked(self, build: Build, tell: Tell) -> Iterator[None]:
        with (self.folder / f".{build.programs[0]}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"waiting for {build.programs[0]}, which another process builds")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _compile(self, build: Build) -> None:
        go = shutil.which("go")
        if go is None:
            raise ClusterError(f"{build.programs[0]} is built by Go, which is not installed (https://go.dev/dl)")
        scratch = self.folder / f".building-{build.programs[0]}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        command = (go, "build", "-ldflags", build.flags, "-o", f"{scratch}/", *build.packages)
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
        try:
            done = subprocess.run(
                command, cwd=MODULES / build.module, env=environment, capture_output=True, text=True, timeout=BUILD_S
            )
            if done.returncode:
                raise ClusterError(f"go build of {build.programs[0]} failed: {_last(done.stderr)}")
            for package, program in build.packages.items():
                (scratch / _built_as(package)).replace(self.path(program))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self.stamp(build)


def module_directory(module: str, path: str) -> Path:
    """Where Go keeps the sources of a module that `module` requires. Raises ClusterError."""
    go = shutil.which("go")
    if go is None:
        raise ClusterError(f"the files of {path} come with its Go module, and Go is not installed")
    command = (go, "mod", "download", "-json", path)
    done = subprocess.run(command, cwd=MODULES / module, capture_output=True, text=True, timeout=BUILD_S)
    if done.returncode:
        raise ClusterError(f"the Go module {path} cannot be had: {_last(done.stderr or done.stdout)}")
    listed = subprocess.run(
        (go, "list", "-m", "-f", "{{.Dir}}", path), cwd=MODULES / module, capture_output=True, text=True, timeout=60
    )
    return Path(listed.stdout.strip())


def _built_as(package: str) -> str:
    """The name that Go gives a program: the last part of its package that is no version."""
    parts = [part for part in package.split("/") if not (part[:1] == "v" and part[1:].isdigit())]
    return parts[-1]


def _digest(build: Build) -> str:
    found = hashlib.sha256(f"{build}".encode())
    for path in sorted((MODULES / build.module).iterdir()):
        found.update(path.read_bytes())
    return found.hexdigest()


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
