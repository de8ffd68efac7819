"""Policies that platform teams put on every pod, in force on a real API server: which of them refuse which pod of an installation.

The documentation lists what they refuse. KubeRay itself makes the pods of a RayCluster here; none of them runs.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from charting import ROOT
from charting.installed_pods import installation, planned, rendered
from real_kubernetes import kuberay
from real_kubernetes.binaries import KUBERAY
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.kubectl import Kubectl
from waiting import eventually

CASE = "smallest"
"""The value set with the chart's defaults."""
LIST: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "pod_policies.yaml").read_text())
POLICIES = [policy["metadata"]["name"] for policy in LIST["items"]]
DENIED, WARNED, MADE = "policies-deny", "policies-warn", "policies-made"
ACTIONS = {DENIED: "Deny", WARNED: "Warn"}
WARNING = re.compile(r"Validation failed for ValidatingAdmissionPolicy '([\w-]+)'")
PAGE = ROOT / "docs" / "explanation" / "security.md"

Json = dict[str, Any]

GOOD: Json = {
    "automountServiceAccountToken": False,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "main",
            "image": "registry.example.com:5000/team/app:1.2",
            "livenessProbe": {"tcpSocket": {"port": 80}},
            "readinessProbe": {"tcpSocket": {"port": 80}},
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
        }
    ],
}


def container(**changes: Any) -> Json:
    """The good pod with a change of its container; None removes a field."""
    changed = {key: value for key, value in {**GOOD["containers"][0], **changes}.items() if value is not None}
    return {"containers": [changed]}


def context(**changes: Any) -> Json:
    return container(securityContext={**GOOD["containers"][0]["securityContext"], **changes})


def resources(requests: Json, limits: Json) -> Json:
    return container(resources={"requests": requests, "limits": limits})


FIRST: Json = {
    **context(readOnlyRootFilesystem=False)["containers"][0],
    "name": "first",
    "livenessProbe": None,
    "readinessProbe": None,
}
"""A container before the main one has no probes, and the same duties otherwise."""

BAD: list[tuple[str, Json]] = [
    ("require-image-version", container(image="registry.example.com:5000/team/app")),
    ("require-image-version", container(image="registry.example.com/team/app:latest")),
    ("require-probes", container(livenessProbe=None)),
    ("require-probes", container(readinessProbe=None)),
    ("require-resources", resources({"cpu": "1", "memory": "1Gi"}, {})),
    ("require-resources", resources({"memory": "1Gi"}, {"memory": "1Gi"})),
    ("require-non-root", {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}),
    ("require-non-root", context(runAsNonRoot=False)),
    ("deny-privilege-escalation", context(allowPrivilegeEscalation=None)),
    ("require-dropped-capabilities", context(capabilities={"drop": ["NET_RAW"]})),
    ("require-dropped-capabilities", context(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]})),
    ("require-read-only-root", context(readOnlyRootFilesystem=False)),
    ("require-read-only-root", {"initContainers": [FIRST]}),
    ("deny-host-path", {"volumes": [{"name": "node", "hostPath": {"path": "/"}}]}),
    *(("deny-host-namespaces", {field: True}) for field in ("hostNetwork", "hostPID", "hostIPC")),
    ("deny-host-ports", container(ports=[{"containerPort": 80, "hostPort": 80}])),
    ("deny-mounted-token", {"automountServiceAccountToken": None}),
    ("require-seccomp-profile", {"securityContext": {"runAsNonRoot": True}}),
    ("require-seccomp-profile", context(seccompProfile={"type": "Unconfined"})),
]


@pytest.fixture(scope="module")
def kubectl(api_for_operators: Cluster) -> Iterator[Kubectl]:
    """The policies, in force in two namespaces: one refuses, the other warns of everything that the first would refuse."""
    run = api_for_operators.kubectl
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (DENIED, WARNED, MADE)]
    run.apply(*spaces, *LIST["items"], *(binding(policy, place) for policy in POLICIES for place in ACTIONS))
    try:
        worst = {
            "hostPID": True,
            "volumes": [{"name": "n", "hostPath": {"path": "/"}}],
            "containers": [{"name": "main", "image": "app", "ports": [{"containerPort": 80, "hostPort": 80}]}],
        }
        eventually(lambda: refusals(run, worst) == {*POLICIES}, "all policies in force")
        yield run
    finally:
        run(
            "delete",
            "validatingadmissionpolicybinding",
            *(f"{policy}-{place}" for policy in POLICIES for place in ACTIONS),
        )
        run("delete", "validatingadmissionpolicy", *POLICIES)
        run("delete", "namespace", DENIED, WARNED, MADE)


def binding(policy: str, namespace: str) -> Json:
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": f"{policy}-{namespace}"},
        "spec": {
            "policyName": policy,
            "validationActions": [ACTIONS[namespace]],
            "matchResources": {"namespaceSelector": selector},
        },
    }


def pod(namespace: str, spec: Json) -> Json:
    # Only the policies are asked: accounts and nodes are not there.
    kept = {key: value for key, value in spec.items() if key not in {"serviceAccount", "serviceAccountName"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": namespace}, "spec": kept}


def refusals(run: Kubectl, spec: Json) -> set[str]:
    """The policies that would refuse a pod."""
    done = run.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod(WARNED, spec)))
    assert done.returncode == 0, done.stderr
    return set(WARNING.findall(done.stderr))


def test_a_good_pod_is_taken(kubectl: Kubectl) -> None:
    assert refusals(kubectl, GOOD) == set()
    kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod(DENIED, GOOD)))


@pytest.mark.parametrize(("policy", "defect"), BAD)
def test_each_policy_refuses_a_pod_with_that_defect_alone(kubectl: Kubectl, policy: str, defect: Json) -> None:
    spec = {**GOOD, **defect}
    assert refusals(kubectl, spec) == {policy}
    done = kubectl.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod(DENIED, spec)))
    assert done.returncode
    assert f"ValidatingAdmissionPolicy '{policy}'" in done.stderr


def test_each_policy_has_a_bad_pod() -> None:
    assert {policy for policy, _ in BAD} == {*POLICIES}


@pytest.fixture(scope="module")
def pods(kubectl: Kubectl, api_for_operators: Cluster) -> Iterator[dict[str, Json]]:
    """The specs of all pods of an installation, by the names of the documentation."""
    instance = api_for_operators.instance
    if instance is None:
        pytest.skip("KubeRay runs as a process beside the test cluster")
    BINARIES.build((KUBERAY,))
    wanted, chart = planned(installation(CASE), MADE), rendered(CASE)
    kuberay.start(instance, BINARIES, options=(f"--watch-namespace={MADE}",))
    try:
        of_chart = {"operator": chart.pop("Deployment sundog"), "`helm test`": chart.pop("Pod sundog-test")}
        assert not chart
        yield {
            **of_chart,
            **{name: made_by_controllers(kubectl, obj) for name, obj in wanted.workloads.items()},
            **made_by_kuberay(kubectl, wanted.cluster),
        }
    finally:
        kuberay.stop(instance)
        # Nobody is left to do what KubeRay waits for.
        kubectl.run("-n", MADE, "patch", "raycluster", "ray", "--type=merge", '--patch={"metadata":{"finalizers":[]}}')


def made_by_controllers(run: Kubectl, workload: Json) -> Json:
    """The spec of a pod of a Deployment or StatefulSet."""
    spec = workload["spec"]
    if account := spec["template"]["spec"].get("serviceAccountName"):
        run.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": MADE}})
    run.apply(without_owners(workload))
    labels = ",".join(f"{key}={value}" for key, value in spec["selector"]["matchLabels"].items())
    (made, *_) = eventually(partial(items, run, "pods", labels), f"a pod of {workload['metadata']['name']}")
    return made


def made_by_kuberay(run: Kubectl, cluster: Json) -> dict[str, Json]:
    """The specs of the pods of a RayCluster, and that of the Job at its end."""
    own, shared = (group["groupName"] for group in cluster["spec"]["workerGroupSpecs"])
    run.apply(without_owners(cluster))
    made = {
        name: eventually(partial(items, run, "pods", f"ray.io/cluster=ray,ray.io/group={group}"), f"the {name}'s pod")[
            0
        ]
        for name, group in {"head": "headgroup", "worker": own, "shared worker": shared}.items()
    }
    run("-n", MADE, "delete", "raycluster", "ray", "--wait=false")
    (job,) = eventually(partial(items, run, "jobs", "ray.io/cluster=ray"), "KubeRay's Job at the end of a RayCluster")
    return {**made, "KubeRay's cleanup": job["template"]["spec"]}


def items(run: Kubectl, kind: str, labels: str) -> list[Json]:
    return [obj["spec"] for obj in run.get("-n", MADE, kind, "-l", labels)["items"]]


def without_owners(obj: Json) -> Json:
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key != "ownerReferences"}}


def documented() -> set[tuple[str, str]]:
    """Policy and pod of each row of the documentation."""
    section = PAGE.read_text().partition("\n## Exemptions from policies\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| [^|]+ \|$", section, re.MULTILINE)
    return {(policy, name.strip()) for policy, names in rows for name in names.split(",")}


def test_the_documentation_lists_what_is_refused_and_nothing_else(kubectl: Kubectl, pods: dict[str, Json]) -> None:
    found = {(policy, name) for name, spec in pods.items() for policy in refusals(kubectl, spec)}
    assert found == documented()
