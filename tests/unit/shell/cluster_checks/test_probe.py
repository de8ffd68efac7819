"""What a probe finds where images cannot be pulled, pods do not start, and policies count or not; and that nothing of it stays."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.errors import Forbidden, NotFound
from sundog_operator.ports import NETWORK_POLICY, POD, ref_of
from sundog_operator.shell.cluster_checks import probe
from sundog_operator.shell.cluster_checks.planned_release import PlannedRelease, ReleaseImage
from waiting import PATIENCE_S

NAMESPACE = "sundog-system"
OWN, RUNTIME = "registry.example.com/operator:1", "registry.example.com/runtime:1"
RELEASE = PlannedRelease(
    NAMESPACE, frozenset(), images=(ReleaseImage(OWN, "Always"), ReleaseImage(RUNTIME)), pull_secrets=("key",)
)
Status = dict[str, Any]
Kubelet = Callable[[Any, bool], Status | None]
"""Give the status of a pod, beside a policy or not; None for one that has none yet."""


def waiting(reason: str, message: str = "") -> Status:
    return {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}]}


def runs(pod: Any, is_closed: bool) -> Status:
    """Do what a kubelet does where policies are enforced."""
    command = pod["spec"]["containers"][0]["command"]
    pulled = {"containerStatuses": [{"state": {}, "imageID": "sha256:1"}]}
    if command == ["true"]:
        return {"phase": "Succeeded", **pulled}
    if "http.server" in command[-1]:
        return {"phase": "Running", "podIP": "10.0.0.7", **pulled}
    _, _, script, wanted, address = command
    assert (script, address) == (probe._CONNECT, "10.0.0.7")
    return {"phase": "Succeeded" if (wanted == "closed") == is_closed else "Failed", **pulled}


@pytest.fixture
def objects(server: Any) -> dict[str, Any]:
    """All pods and policies that were created, by name."""
    return {}


@pytest.fixture
def probed(server: Any, objects: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Run a probe on a cluster with that kubelet."""
    monkeypatch.setattr(probe, "_POLL_S", 0.01)
    monkeypatch.setattr(probe, "_RUN_S", 1.0)
    ended = threading.Event()

    async def step(cluster: Any, kubelet: Kubelet) -> None:
        policies = await cluster.kube.list(NETWORK_POLICY, NAMESPACE)
        objects.update({each["metadata"]["name"]: each for each in policies})
        for pod in await cluster.kube.list(POD, NAMESPACE):
            objects[pod["metadata"]["name"]] = pod
            status = kubelet(pod, bool(policies))
            if status and pod.get("status") != status:
                version = pod["metadata"]["resourceVersion"]
                # The probe may have deleted the pod since the list.
                with contextlib.suppress(NotFound):
                    await cluster.kube.patch_status(ref_of(pod), status, resource_version=version)

    def live(kubelet: Kubelet) -> None:
        while not ended.wait(0.005):
            server.do(lambda cluster: step(cluster, kubelet))

    async def look(pull_s: float) -> probe.ProbeResult:
        kube = await KubernetesClient.connect(server.kubeconfig)
        try:
            return await probe.probe_release(kube, RELEASE, pull_s)
        finally:
            await kube.close()

    threads: list[threading.Thread] = []

    def run(kubelet: Kubelet, pull_s: float = PATIENCE_S) -> probe.ProbeResult:
        threads.append(threading.Thread(target=live, args=(kubelet,)))
        threads[-1].start()
        return asyncio.run(look(pull_s))

    yield run
    ended.set()
    for thread in threads:
        thread.join()


@pytest.fixture(autouse=True)
def _nothing_stays(server: Any, probed: Any) -> Iterator[None]:
    yield
    for kind in (POD, NETWORK_POLICY):
        assert server.do(lambda cluster, kind=kind: cluster.kube.list(kind, NAMESPACE)) == []


def test_images_are_pulled_and_a_policy_closes_a_pod(probed: Any, objects: dict[str, Any]) -> None:
    assert probed(runs) == probe.ProbeResult({OWN: "", RUNTIME: ""}, True)
    (policy,) = [each for each in objects.values() if each["kind"] == "NetworkPolicy"]
    pods = [each for each in objects.values() if each["kind"] == "Pod"]
    wanted = policy["spec"]["podSelector"]["matchLabels"].items()
    (server,) = [pod for pod in pods if wanted <= pod["metadata"]["labels"].items()]
    assert "http.server" in server["spec"]["containers"][0]["command"][-1]
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {OWN, RUNTIME}
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container.get("imagePullPolicy") == ("Always" if container["image"] == OWN else None)
        assert pod["spec"]["imagePullSecrets"] == [{"name": "key"}]
        assert not pod["spec"]["automountServiceAccountToken"]


def test_a_policy_without_effect_is_seen(probed: Any) -> None:
    assert probed(lambda pod, _: runs(pod, False)) == probe.ProbeResult({OWN: "", RUNTIME: ""}, False)


def test_pods_that_never_reached_each_other_say_nothing_about_policies(probed: Any) -> None:
    found = probed(lambda pod, _: runs(pod, True))
    assert (found.is_isolated, found.reason) == (
        None,
        "pods do not reach each other there, with the policies that exist",
    )


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param(waiting("ErrImagePull", "401:\nno login"), "401: no login", id="refused"),
        pytest.param(waiting("InvalidImageName"), "InvalidImageName", id="without-a-message"),
        pytest.param(waiting("ContainerCreating"), "not pulled after 1 s", id="slow"),
        pytest.param({"phase": "Pending"}, "not pulled after 1 s", id="not-started"),
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/0 nodes"}]},
            "no node takes the pod: 0/0 nodes",
            id="no-node",
        ),
    ],
)
def test_an_image_that_no_node_has_is_named_with_the_reason(probed: Any, status: Status, reason: str) -> None:
    def kubelet(pod: Any, is_closed: bool) -> Status:
        return status if pod["spec"]["containers"][0]["image"] == RUNTIME else runs(pod, is_closed)

    assert probed(kubelet, 1.0) == probe.ProbeResult({OWN: "", RUNTIME: reason}, True)


@pytest.mark.parametrize("status", [waiting("CreateContainerError"), waiting("RunContainerError")])
def test_an_image_without_the_command_was_pulled(probed: Any, status: Status) -> None:
    def kubelet(pod: Any, is_closed: bool) -> Status:
        return status if pod["spec"]["containers"][0]["image"] == RUNTIME else runs(pod, is_closed)

    assert probed(kubelet).images == {OWN: "", RUNTIME: ""}


def test_policies_are_not_tried_without_an_image_to_run(probed: Any) -> None:
    found = probed(lambda *_: waiting("ErrImagePull", "no such host"))
    assert (found.is_isolated, found.reason) == (None, f"{OWN} cannot be pulled")


def test_a_pod_that_does_not_start_is_a_reason(probed: Any) -> None:
    found = probed(lambda pod, _: runs(pod, False) if "true" in pod["spec"]["containers"][0]["command"] else None)
    assert (found.is_isolated, found.reason) == (None, f"a pod of {OWN} did not start within 1 s")


def test_a_pod_that_does_not_end_is_no_policy_without_effect(probed: Any) -> None:
    found = probed(
        lambda pod, closed: None if "closed" in pod["spec"]["containers"][0]["command"] else runs(pod, closed)
    )
    assert (found.is_isolated, found.reason) == (None, f"a pod of {OWN} did not end within 1 s")


def test_what_was_created_goes_when_the_api_server_refuses_the_rest(server: Any, probed: Any) -> None:
    server.cluster.kube.faults = lambda verb, ref: (
        Forbidden("no policies") if verb == "create" and ref.kind == NETWORK_POLICY else None
    )
    with pytest.raises(Forbidden, match="no policies"):
        probed(runs)
