"""Sundog on a cluster with pods: the chart installed by helm, and a team's namespace in which real Ray serves digits.

Nothing is replaced by a double except the images: they are empty, and the checkout and the machine's programs are mounted into them.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
import yaml

import campaigning
import digit_traffic
from charting import NAMESPACE, RELEASE, ROOT
from real_kubernetes.checkout import pod_spec
from real_kubernetes.cluster import Cluster
from real_kubernetes.helm import CHART, Helm, checkout_values
from real_kubernetes.images import BASE
from real_kubernetes.instance import ClusterError
from real_kubernetes.kubectl import Kubectl
from real_local import condition
from sundog_operator.core.kubernetes import names
from waiting import PATIENCE_S, eventually, patience

EXAMPLE = ROOT / "examples" / "digits"
CLAIM = "digits-models"
MDEP = "modeldeployments.serving.sundog.dev"
OPERATOR = f"{names.LABEL_NAME}=sundog-operator"

T = TypeVar("T")
Json = dict[str, Any]

USER = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
"""That of the real images; the image of the tests names none."""


_LOADING = (
    "kubectl create",
    "kubectl -n vision apply -f examples/digits/claim.yaml",
    "kubectl -n vision wait pod",
    "for v in",
)
_LOADING += ("kubectl -n vision delete",)


PREDICTOR_OF_ITS_NAME = """
class Predictor:
    def load(self, path, config):
        self.name = path.name

    def predict(self, batch):
        return [self.name] * len(batch)
"""
"""Answers each input with the name of the model's directory."""


def make_scale_target(name: str) -> Json:
    """The reference of an autoscaler to a ModelDeployment."""
    return {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", "name": name}


def readme_commands(page: Path, heading: str) -> list[str]:
    """The lines of the first block of commands below a heading; one that goes on in the next line is one line."""
    _, _, below = page.read_text().partition(f"## {heading}\n")
    block = below.split("```bash\n")[1].split("```")[0].replace("\\\n", "")
    return [line for line in block.splitlines() if line and not line.startswith("#")]


def has_store() -> bool:
    """Return whether the machine has a store server for Ray's control plane."""
    return any(shutil.which(program) for program in ("valkey-server", "redis-server"))


def example() -> str:
    """The text of the example, with less CPU: the tests' node has two cores for all."""
    return (EXAMPLE / "modeldeployment.yaml").read_text().replace("cpu: 500m", "cpu: 200m")


def values() -> Json:
    """Return the chart's values for a node of two cores. The requests leave space for four replicas."""
    made = checkout_values()
    little = {"requests": {"cpu": "50m", "memory": "256Mi"}}
    pods = {"securityContext": USER}
    made["resources"] = {"requests": {"cpu": "10m", "memory": "128Mi"}}
    installation = made["installation"]
    installation["edge"] |= {"resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}}
    installation["edge"]["pods"] = {**installation["edge"]["pods"], **pods}
    installation["ray"] |= {
        "pods": {**installation["ray"]["pods"], **pods},
        "head": {"resources": {**little, "limits": {"memory": "4Gi"}}},
        "autoscaler": {"resources": {**little, "limits": {"memory": "1Gi"}}},
        "idleTimeout": "10s",
        "sharedWorkers": {"cpu": 1, "memory": "2Gi", "maxPods": 2},
        # No claim: the tests' node makes no volumes.
        "gcsFaultTolerance": {"enabled": has_store(), "image": BASE, "storage": {"size": ""}},
    }
    installation["feedback"] = {"store": {"image": BASE, "memory": "128Mi", "storage": {"size": ""}}}
    return made


@dataclass
class Serving:
    """The installation."""

    cluster: Cluster
    helm: Helm
    folder: Path
    values: Json = field(default_factory=values)

    @property
    def kubectl(self) -> Kubectl:
        return self.cluster.kubectl

    def install(self) -> str:
        """Run `helm install` and return its output. Raises ClusterError with the operator's log."""
        try:
            return self.helm(
                *("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace", "--wait"),
                # Others may have applied the CRDs by other means.
                *("--take-ownership", "--force-conflicts"),
                values=self.values,
            )
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.operator_log(20)}") from None

    def upgrade(self, changed: Mapping[str, Any]) -> str:
        """Run `helm upgrade` and return its output."""
        return self.helm("upgrade", RELEASE, str(CHART), "--namespace", NAMESPACE, "--wait", values=changed)

    def uninstall(self) -> None:
        self.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")
        self.kubectl("delete", "namespace", NAMESPACE, "--wait=false")

    def operators(self) -> list[Json]:
        """The operator's pods that are not on their way out."""
        found = self.kubectl.get("-n", NAMESPACE, "pods", "-l", OPERATOR)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def leader(self) -> str:
        """The name of the pod that holds the Lease."""
        lease = self.kubectl.get("-n", NAMESPACE, "lease", "sundog-operator")
        return str(lease["spec"].get("holderIdentity") or "")

    def kill_leader(self) -> str:
        """SIGKILL for the process that holds the Lease: it has no time to say anything to anybody.

        Gives the name of its pod, in which the kubelet starts another that may hold the Lease on; empty where it does not run.
        """
        name = self.leader()
        pods = [pod for pod in self.operators() if pod["metadata"]["name"] == name]
        processes = [process for pod in pods for process in processes_of(pod) if _is_operator(process)]
        for process in processes:
            process.kill()
        return name if processes else ""

    def lose_leader(self) -> str:
        """The same, with its pod gone, as from a node that is lost: the next to lead is another one, once the Lease has run out."""
        if name := self.kill_leader():
            self.kubectl("-n", NAMESPACE, "delete", "pod", name, "--force", "--grace-period=0", "--wait=false")
        return name

    def operator_log(self, lines: int = 200) -> str:
        pods = self.kubectl.run("-n", NAMESPACE, "get", "pods", "-o", "wide").stdout
        log = self.kubectl.run("-n", NAMESPACE, "logs", "-l", OPERATOR, f"--tail={lines}", "--prefix")
        return f"{pods}\n{log.stdout}{log.stderr}"

    @cached_property
    def trained(self) -> Path:
        """Return the folder with the trained models and the held-out images. v2 also has `faulty_model:FaultyModel`, which may fail."""
        folder = self.folder / "models"
        command = (sys.executable, "-m", "sundog_operator.shell.demo.training", str(folder))
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
        shutil.copyfile(Path(campaigning.__file__).with_name("faulty_model.py"), folder / "v2" / "faulty_model.py")
        return folder

    def accuracy(self, model: str) -> float:
        """The share of the held-out images that a model read right after its training."""
        return float(json.loads((self.trained / "trained.json").read_text())["accuracy"][model])

    @contextlib.contextmanager
    def team(self, name: str) -> Iterator["Team"]:
        """A namespace with the trained models in a claim and the held-out images at hand; it goes at the end, after what is in it."""
        team = Team(self, name)
        try:
            team.load_models()
            yield team
        finally:
            self.kubectl("-n", name, "delete", MDEP, "--all", "--wait=false")
            if self.cluster.instance is None:
                eventually(lambda: not team.list("rayclusters"), f"no RayCluster in {name}")
            self.kubectl("delete", "namespace", name, "--wait=false")

    @contextlib.contextmanager
    def team_with_models(self, name: str, files: Mapping[str, str]) -> Iterator["Team"]:
        """Create a namespace with the claim `CLAIM`, in which these files lie by their paths. Skip on a cluster whose node is not here."""
        instance = self.cluster.instance
        if instance is None:
            pytest.skip("the models of this test lie on its own node")
        for path, text in files.items():
            file = instance.folder(f"volumes/{name}") / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        self.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        try:
            team = Team(self, name)
            team.claim(CLAIM)
            yield team
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")


@dataclass(frozen=True)
class Team:
    """A namespace, and what its people do in it."""

    serving: Serving
    namespace: str

    def kubectl(self, *arguments: str, stdin: str = "", timeout: float = PATIENCE_S) -> str:
        return self.serving.kubectl("-n", self.namespace, *arguments, stdin=stdin, timeout=timeout)

    def load_models(self) -> None:
        """The lines of the example's README, one by one; only the image of the loader is another."""
        self._make_volume(CLAIM)
        folder = self.serving.folder / self.namespace
        example = folder / "examples" / "digits"
        example.mkdir(parents=True)
        (example / "models").symlink_to(self.serving.trained)
        (example / "claim.yaml").write_text(json.dumps(_as_list(*_claim_and_loader())))
        lines = [line for line in readme_commands(EXAMPLE / "README.md", "In a cluster") if line.startswith(_LOADING)]
        script = "\n".join(["set -euo pipefail", *lines]).replace("vision", self.namespace)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if done.returncode:
            raise ClusterError(f"{script}\n{done.stdout}{done.stderr}")
        held_out = {"held-out.json": (self.serving.trained / "held-out.json").read_text()}
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held-out"}, "data": held_out})

    def environment(self) -> dict[str, str]:
        """Return the environment of a user's shell: the cluster is the current one, and `kubectl` is the tests' own."""
        programs = Path(self.serving.kubectl.program).parent
        path = f"{programs}{os.pathsep}{os.environ['PATH']}" if programs.is_absolute() else os.environ["PATH"]
        return {**os.environ, "KUBECONFIG": str(self.serving.cluster.kubeconfig), "PATH": path}

    def claim(self, name: str) -> None:
        """The claim of the example under a name, with what a provisioner would make of it."""
        claim, _ = _claim_and_loader()
        self.apply({**claim, "metadata": {"name": name}})
        self._make_volume(name)

    def _make_volume(self, name: str) -> None:
        """Create a claim's volume, in the folder `volumes/<namespace>` of the cluster, because the tests' node has no provisioner."""
        instance = self.serving.cluster.instance
        if instance is None:
            return
        folder = instance.folder(f"volumes/{self.namespace}")
        folder.chmod(0o777)
        self.serving.kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"{self.namespace}-{name}"},
                "spec": {
                    "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "hostPath": {"path": str(folder)},
                    "claimRef": {"namespace": self.namespace, "name": name},
                },
            }
        )

    def digits(self, version: str = "v1", name: str = "digits", **spec: Any) -> Json:
        """The manifest of the example, with another version, name, or fields of its spec."""
        manifest: Json = yaml.safe_load(example())
        manifest["metadata"]["name"] = name
        manifest["spec"]["model"]["uri"] = f"pvc://{CLAIM}/{version}"
        for key, value in spec.items():
            old = manifest["spec"].get(key)
            manifest["spec"][key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        return manifest

    def apply(self, *objects: Json) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(_as_list(*objects)))

    def get(self, name: str = "digits", kind: str = MDEP) -> Json:
        """A stored object. Raises ClusterError where there is none."""
        found: Json = self.serving.kubectl.get("-n", self.namespace, kind, name)
        return found

    def list(self, kinds: str, selector: str = "") -> list[Json]:
        wanted = ("-l", selector) if selector else ()
        found: list[Json] = self.serving.kubectl.get("-n", self.namespace, kinds, *wanted)["items"]
        return found

    def line(self, name: str = "digits") -> str:
        """Return the line of `kubectl get` for a ModelDeployment."""
        return self.kubectl("get", "mdep", name, "--no-headers").strip()

    def status(self, name: str = "digits") -> Json:
        found: Json = self.get(name).get("status", {})
        return found

    def scaled(self, name: str) -> tuple[int, int]:
        """The number of replicas that its spec has, and how many of stable's are ready."""
        obj = self.get(name)
        return obj["spec"]["replicas"], obj["status"].get("stable", {}).get("readyReplicas", 0)

    def condition_state(self, type_: str, name: str = "digits") -> tuple[str, str]:
        """Status and reason of a condition."""
        found = condition(self.get(name), type_)
        return str(found.get("status", "")), str(found.get("reason", ""))

    def sundog(self, *arguments: str) -> str:
        """Run `kubectl sundog` and return its output. Raises ClusterError with its message."""
        command = (f"{sys.prefix}/bin/kubectl-sundog", *arguments, "--namespace", self.namespace)
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=PATIENCE_S)
        if done.returncode:
            raise ClusterError(f"kubectl sundog {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def until(self, probe: Callable[[], T], what: str, seconds: float = PATIENCE_S) -> T:
        """The first true value of `probe`. Raises AssertionError with all that is known of the namespace."""
        try:
            return eventually(probe, what, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.diagnosis()}") from None

    def until_stable(self, revision: int, name: str = "digits") -> None:
        """A revision has all traffic, and nothing else runs for this ModelDeployment."""

        def settled() -> bool:
            status = self.status(name)
            alone = not status.get("candidate") and not status.get("retiring")
            return alone and (status.get("stable") or {}).get("revision") == revision and _is_ready(self.get(name))

        self.until(settled, f"{name} is Ready with revision {revision} alone")

    def until_canary(self, weight: int, name: str = "digits") -> None:
        self.until(
            lambda: (self.status(name).get("candidate") or {}).get("weight") == weight,
            f"the candidate of {name} has {weight} %",
        )

    def until_told(self, *words: str, name: str = "digits") -> str:
        """The line of `kubectl get` once it has all of these words."""
        self.until(lambda: all(word in self.line(name) for word in words), f"`kubectl get mdep {name}` says {words}")
        return self.line(name)

    def pods(self, selector: str) -> "list[Json]":
        """Pods that are not on their way out."""
        return [pod for pod in self.list("pods", selector) if "deletionTimestamp" not in pod["metadata"]]

    def workers(self, revision: int = 0, name: str = "digits") -> "list[Json]":
        which = f",{names.LABEL_REVISION}={revision}" if revision else ""
        return self.pods(f"ray.io/node-type=worker,{names.LABEL_MODEL_DEPLOYMENT}={name}{which}")

    def all_workers(self, name: str) -> "list[Json]":
        """Its pods, also those on their way out."""
        return self.list("pods", f"ray.io/node-type=worker,{names.LABEL_MODEL_DEPLOYMENT}={name}")

    def heads(self) -> "list[Json]":
        return self.pods("ray.io/node-type=head")

    def edges(self) -> "list[Json]":
        return self.pods(f"{names.LABEL_NAME}={names.EDGE}")

    def evict(self, pod: Json) -> str:
        """Evict a pod as `kubectl drain` does, by the eviction API. Return why it was refused; empty if it was not."""
        name = pod["metadata"]["name"]
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": self.namespace},
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/eviction"
        done = self.serving.kubectl.run("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
        return "" if done.returncode == 0 else done.stderr

    @contextlib.contextmanager
    def traffic(
        self,
        name: str = "digits",
        clients: int = 4,
        pause_s: float = 0.05,
        failing: int = 0,
        slow: int = 0,
        users: int = 0,
        metric: str = "",
        pod: str = "",
        node: str = "",
        *,
        may_fail: bool = False,
    ) -> Iterator["Traffic"]:
        """Clients in a pod that ask by the name of the Service as long as the block runs, and so many more that take seconds for a request.

        They do so for so many users, and report as `metric` once for each whether a digit was read wrongly. No request of theirs may fail
        but those that the revision `failing` answers, unless they `may_fail`. More clients at the same time need a name of their own for
        their pod. It runs on the node `node`, where one is named.
        """
        pod = pod or f"{name}-clients"
        url = f"http://{name}.{self.namespace}.svc/"
        numbers = map(str, (clients, pause_s, slow, users, *filter(None, [metric])))
        spec = pod_spec("python", digit_traffic.__file__, url, *numbers)
        folder = {"name": "held-out", "mountPath": str(digit_traffic.IMAGES.parent)}
        spec["containers"][0]["volumeMounts"].append(folder)
        spec["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": digit_traffic.PORT}, "periodSeconds": 1}
        spec["volumes"].append({"name": "held-out", "configMap": {"name": "held-out"}})
        spec |= {"nodeName": node} if node else {}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": spec})
        self.serving.kubectl.wait("-n", self.namespace, f"pod/{pod}", "--for=condition=Ready")
        traffic = Traffic(self, pod, self.get(pod, "pod")["status"]["podIP"])
        try:
            yield traffic
            traffic.more(50)
            if not may_fail:
                traffic.lost_nothing(failing)
        finally:
            self.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=true")

    @contextlib.contextmanager
    def asked(
        self,
        name: str,
        clients: int,
        inputs: object,
        *,
        may_fail: bool = False,
        client: Callable[[], httpx.Client] | None = None,
    ) -> "Iterator[Counter[tuple[int, str]]]":
        """The answers by status and revision, while so many clients on the tests' own node ask a service.

        Each must be 200, unless it `may_fail`. `client` makes one; without it they ask at the address of the Service.
        """
        stopped, answers = threading.Event(), Counter[tuple[int, str]]()

        def ask() -> None:
            with client() if client else self._client(name) as opened:
                while not stopped.is_set():
                    answer = opened.post("/", json={"inputs": inputs})
                    answers[answer.status_code, answer.headers.get("x-sundog-revision", "")] += 1

        with ThreadPoolExecutor(clients) as pool:
            asking = [pool.submit(ask) for _ in range(clients)]
            try:
                yield answers
            finally:
                stopped.set()
        for each in asking:
            each.result()
        assert may_fail or {status for status, _ in answers} == {200}

    def _client(self, name: str) -> httpx.Client:
        address = self.get(name, "service")["spec"]["clusterIP"]
        headers = {"host": f"{name}.{self.namespace}.svc"}
        return httpx.Client(base_url=f"http://{address}", timeout=2 * PATIENCE_S, trust_env=False, headers=headers)

    def diagnosis(self) -> str:
        shown = (
            ("get", "mdep,pods,rayclusters,sts", "-o", "wide"),
            ("get", "mdep", "-o", "jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        )
        run = self.serving.kubectl.run
        outputs = [run("-n", self.namespace, *command).stdout[-6000:] for command in shown]
        return "\n".join([*outputs, self.serving.operator_log(60)[-6000:]])


@dataclass(frozen=True)
class Traffic:
    """The clients in one pod."""

    team: Team
    pod: str
    address: str

    def counts(self) -> Json:
        """Return their results. On the tests' own node they are read directly, also while the API server is away."""
        cluster = self.team.serving.cluster
        if cluster.instance is None:
            path = f"/api/v1/namespaces/{self.team.namespace}/pods/{self.pod}:{digit_traffic.PORT}/proxy/"
            found: Json = json.loads(cluster.kubectl("get", "--raw", path))
        else:
            url = f"http://{self.address}:{digit_traffic.PORT}/"
            found = httpx.get(url, timeout=patience(20), trust_env=False).json()
        return found

    def until(self, reached: Callable[[Json], Any], what: str, seconds: float = PATIENCE_S) -> Json:
        def probe() -> Json | None:
            counts = self.counts()
            return counts if reached(counts) else None

        found = self.team.until(probe, what, seconds)
        assert found is not None
        return found

    def more(self, requests: int) -> None:
        """So many requests more have ended."""
        before = self.counts()["sent"]
        self.until(lambda told: told["sent"] >= before + requests, f"{requests} requests more")

    def answered(self, revision: int) -> int:
        return int(self.counts()["answered"].get(str(revision), 0))

    def lost_nothing(self, failing: int = 0) -> None:
        """But what the revision `failing` answered."""
        counts = self.counts()
        others = counts["failed"] - (counts["failed_of"].get(str(failing), 0) if failing else 0)
        assert others == 0, json.dumps({"of": counts["failed_of"], "first": counts["failures"]}, indent=1)
        assert counts["fickle"] == []


def processes_of(pod: Json) -> list[psutil.Process]:
    """The processes of a pod, where its node is on this machine."""
    uid, found = str(pod["metadata"]["uid"]), []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            cgroups = Path(f"/proc/{process.pid}/cgroup").read_text()
            if uid in cgroups or uid.replace("-", "_") in cgroups:
                found.append(process)
    return found


def _is_operator(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(part.endswith("/sundog-operator") for part in process.cmdline())
    return False


def _claim_and_loader() -> tuple[Json, Json]:
    claim, pod = yaml.safe_load_all((EXAMPLE / "claim.yaml").read_text())
    spec, machine = pod["spec"], pod_spec()
    spec["containers"][0] |= {"image": BASE, "imagePullPolicy": "Never"}
    spec["containers"][0]["volumeMounts"] += machine["containers"][0]["volumeMounts"]
    spec["volumes"] += machine["volumes"]
    return claim, pod


def _is_ready(obj: Json) -> bool:
    current = obj["metadata"]["generation"] == obj["status"].get("observedGeneration")
    return current and condition(obj, "Ready").get("status") == "True"


def _as_list(*objects: Json) -> Json:
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}
