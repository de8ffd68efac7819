"""Build the programs that tests start from their Go modules: a Kubernetes, what it is used with, and stores.

A user has each program once: all checkouts share `sundog/test-binaries` in the XDG cache folder. A module that
changes gets a folder of its own there. `SUNDOG_TEST_BINARIES` names a folder that holds all programs instead.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from real_kubernetes.instance import ClusterError
from waiting import PATIENCE_S, patience

ROOT = Path(__file__).parents[3]
MODULES = ROOT / "tests" / "cluster" / "go"

KUBERNETES_VERSION = "v1.36.3"
BUILD_S = patience(3600)
GIVEN: Final = "SUNDOG_TEST_BINARIES"
"""The folder with built programs; nothing is built then."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Build:
    """One program that Go builds from a package, and the names that it is started by."""

    module: str
    package: str
    programs: tuple[str, ...]
    flags: str = "-s -w"


KUBERNETES = Build(
    "kubernetes",
    "sundog.dev/tests/cluster/kubernetes",
    ("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"),
    # Without the version an API server says v0.0.0, and clients misjudge it.
    f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
    " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
)
KUBERAY = Build("kuberay", "github.com/ray-project/kuberay/ray-operator", ("kuberay-operator",))
COREDNS = Build("coredns", "sundog.dev/tests/cluster/coredns", ("coredns",))
HELM = Build("helm", "helm.sh/helm/v4/cmd/helm", ("helm",))
KUBECONFORM = Build("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", ("kubeconform",))
POLICIES = Build("network-policies", "sundog.dev/tests/cluster/network-policies", ("network-policies",))
VERSITYGW = Build("versitygw", "github.com/versity/versitygw/cmd/versitygw", ("versitygw",))
FAKE_GCS = Build("fake-gcs-server", "github.com/fsouza/fake-gcs-server", ("fake-gcs-server",))
KEDA = (
    Build("keda", "github.com/kedacore/keda/v2/cmd/operator", ("keda-operator",)),
    Build("keda", "github.com/kedacore/keda/v2/cmd/adapter", ("keda-metrics-apiserver",)),
)
FLUX = (
    Build("flux", "github.com/fluxcd/source-controller", ("source-controller",)),
    Build("flux", "github.com/fluxcd/kustomize-controller", ("kustomize-controller",)),
)
ARGOCD = Build("argo-cd", "github.com/argoproj/argo-cd/v3/cmd", ("argocd-application-controller", "argocd-repo-server"))
CONTOUR = Build("contour", "github.com/projectcontour/contour/cmd/contour", ("contour",))
ACTIONLINT = Build("actionlint", "github.com/rhysd/actionlint/cmd/actionlint", ("actionlint",))
METRICS_SERVER = Build("metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server", ("metrics-server",))
CLUSTER = (KUBERNETES, KUBERAY, COREDNS, HELM, KUBECONFORM)
"""Programs that `make e2e` needs."""
ALL = (*CLUSTER, POLICIES, VERSITYGW, FAKE_GCS, METRICS_SERVER, CONTOUR, ARGOCD, *KEDA, *FLUX)
RELEASE = (HELM, ACTIONLINT)
"""Programs that `make release-check` needs."""

_BUILD_OF = {program: build for build in (*ALL, *RELEASE) for program in build.programs}


@dataclass(frozen=True)
class Binaries:
    """Built programs: a cache with a folder for each module and its state, or a given folder that holds them all."""

    folder: Path
    is_given: bool = False

    @classmethod
    def of_environment(cls) -> Self:
        """Return the folder of SUNDOG_TEST_BINARIES, or the user's cache."""
        if given := os.environ.get(GIVEN):
            return cls(Path(given).absolute(), is_given=True)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(cache.absolute() / "sundog" / "test-binaries")

    def path(self, program: str) -> Path:
        return self._folder(_BUILD_OF[program]) / program

    def absent(self, builds: Iterable[Build]) -> list[str]:
        """Return the programs that are not there, or are of another state of their module."""
        return [program for build in builds for program in build.programs if not self.path(program).exists()]

    def missing(self, builds: Iterable[Build]) -> list[Build]:
        """Return the builds with an absent program."""
        return [build for build in builds if self.absent((build,))]

    def refusal(self, builds: Iterable[Build]) -> str:
        """Return why absent programs cannot be built; empty where none is absent, or Go can build them."""
        absent = [] if self.is_given else self.absent(builds)
        if not absent or shutil.which("go"):
            return ""
        return (
            f"{', '.join(absent)}: not built; expected Go on the PATH, which builds it. Install Go (https://go.dev/dl)."
        )

    def build(self, builds: Iterable[Build], tell: Tell = lambda _: None) -> None:
        """Build what is missing, one process at a time; a second one waits. Raises ClusterError in one line."""
        missing = self.missing(builds)
        if missing and self.is_given:
            absent = ", ".join(self.absent(missing))
            raise ClusterError(
                f"{GIVEN}: no {absent} in {self.folder}; expected all programs. Add them or unset {GIVEN}."
            )
        if reason := self.refusal(missing):
            raise ClusterError(reason)
        for build in missing:
            with self._locked(build, tell):
                if self.missing((build,)):
                    tell(f"building {', '.join(build.programs)}")
                    self._compile(build)

    def _folder(self, build: Build) -> Path:
        return self.folder if self.is_given else self.folder / f"{build.module}-{_digest(build)[:12]}"

    @contextmanager
    def _locked(self, build: Build, tell: Tell) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{build.module}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"waiting for {build.module}, which another process builds")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _compile(self, build: Build) -> None:
        """Build in a folder beside the final one, which then appears at once with all its programs."""
        folder, scratch = self._folder(build), self.folder / f".{build.module}.building"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        command = ("go", "build", "-ldflags", build.flags, "-o", f"{scratch}/", build.package)
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
        try:
            done = subprocess.run(
                command, cwd=MODULES / build.module, env=environment, capture_output=True, text=True, timeout=BUILD_S
            )
            if done.returncode:
                raise ClusterError(f"go build of {build.module} failed: {_last(done.stderr)}")
            # Go names the program after its package.
            (built,) = scratch.iterdir()
            for program in {*build.programs} - {built.name}:
                (scratch / program).symlink_to(built.name)
            shutil.rmtree(folder, ignore_errors=True)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def module_directory(module: str, path: str) -> Path:
    """Return Go's folder with the sources of a module that `module` requires. Raises ClusterError."""
    go = shutil.which("go")
    if go is None:
        raise ClusterError(f"the files of {path} come with its Go module, and Go is not installed")
    command = (go, "mod", "download", "-json", path)
    done = subprocess.run(command, cwd=MODULES / module, capture_output=True, text=True, timeout=BUILD_S)
    if done.returncode:
        raise ClusterError(f"the Go module {path} cannot be had: {_last(done.stderr or done.stdout)}")
    listed = subprocess.run(
        (go, "list", "-m", "-f", "{{.Dir}}", path),
        cwd=MODULES / module,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return Path(listed.stdout.strip())


def _digest(build: Build) -> str:
    """Return a hash of everything in the checkout that the program depends on."""
    found = hashlib.sha256(f"{build} {os.uname().machine}".encode())
    folder = MODULES / build.module
    for path in sorted((*folder.glob("go.*"), *folder.glob("*.go"))):
        found.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return found.hexdigest()


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
