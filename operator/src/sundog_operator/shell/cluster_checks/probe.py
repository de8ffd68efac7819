"""Pods that find out what the API does not show: whether images can be pulled, and whether NetworkPolicies are enforced."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.pods import RESTRICTED_CONTAINER, RESTRICTED_POD
from sundog_operator.ports import NETWORK_POLICY, POD, Kind, Kubernetes, Object, Ref
from sundog_operator.shell.cluster_checks.planned_release import PlannedRelease, ReleaseImage

PULL_S: Final = 900.0
"""Time in which all images are pulled. The runtime's has several gigabytes."""
_RUN_S: Final = 90.0
"""Time in which a pod of a pulled image starts, or ends."""
_POLL_S: Final = 1.0
_NAME: Final = "sundog-probe"
_USER: Final = 65532
_NOT_PULLED: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_PORT: Final = 8265
_LISTEN: Final = f"import http.server as h; h.HTTPServer(('', {_PORT}), h.BaseHTTPRequestHandler).serve_forever()"
_CONNECT: Final = f"""
import socket, sys, time
end, wanted = time.monotonic() + 30, sys.argv[1] == "open"
while time.monotonic() < end:
    try:
        socket.create_connection((sys.argv[2], {_PORT}), 3).close()
        is_open = True
    except OSError:
        is_open = False
    if is_open == wanted:
        sys.exit(0)
    time.sleep(1)
sys.exit(1)
"""
"""Ends well once a pod is reached (`open`), or is not (`closed`)."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Findings of the pods.

    Attributes:
        images: why no node pulled an image, by its name; empty if one did.
        is_isolated: whether a NetworkPolicy closed a pod; None if that could not be seen.
        reason: why it could not be seen.
    """

    images: Mapping[str, str]
    is_isolated: bool | None
    reason: str = ""


async def probe_release(kube: Kubernetes, release: PlannedRelease, pull_s: float = PULL_S) -> ProbeResult:
    """Run pods in the release's namespace, and delete them at the end.

    `release` has images, the operator's first. Raises RequestRefused if the API server refuses a pod, and DependencyError if it does not
    answer.
    """
    async with _objects(kube, release) as probe:
        images = await _pull(probe, pull_s)
        own = release.images[0]
        if images[own.name]:
            return ProbeResult(images, None, f"{own.name} cannot be pulled")
        return ProbeResult(images, *await _try_policy(probe, own))


async def _pull(probe: "_Probe", pull_s: float) -> dict[str, str]:
    """Return why each image was not pulled, by its name. All are pulled at the same time."""
    pods = {each.name: await probe.run(each, ["true"]) for each in probe.release.images}
    found = await probe.wait(list(pods.values()), _find_pull_error, pull_s)
    late = f"not pulled after {pull_s:.0f} s"
    return {name: late if found[ref] is None else str(found[ref]) for name, ref in pods.items()}


async def _try_policy(probe: "_Probe", image: ReleaseImage) -> tuple[bool | None, str]:
    """Report whether a policy closes a pod that another one reached before, or why that cannot be seen."""
    server = await probe.run(image, ["python", "-c", _LISTEN], role="server")
    address = (await probe.wait([server], _find_address, _RUN_S))[server]
    if address is None:
        return None, f"a pod of {image.name} did not start within {_RUN_S:.0f} s"
    if not await _succeeds(probe, image, "open", address):
        return None, "pods do not reach each other there, with the policies that exist"
    selector = {"matchLabels": probe.labels("server")}
    await probe.create(NETWORK_POLICY, {"podSelector": selector, "policyTypes": ["Ingress"]})
    is_isolated = await _succeeds(probe, image, "closed", address)
    return is_isolated, f"a pod of {image.name} did not end within {_RUN_S:.0f} s" if is_isolated is None else ""


async def _succeeds(probe: "_Probe", image: ReleaseImage, wanted: str, address: str) -> bool | None:
    """Report whether a pod sees what is wanted of the address; None if it did not end in time."""
    pod = await probe.run(image, ["python", "-c", _CONNECT, wanted, address])
    phase = (await probe.wait([pod], _find_end, _RUN_S))[pod]
    return None if phase is None else phase == "Succeeded"


@dataclass(frozen=True, slots=True)
class _Probe:
    """The objects of one probe, whose names have its token."""

    kube: Kubernetes
    release: PlannedRelease
    token: str
    created: list[Ref] = field(default_factory=list)

    def labels(self, role: str) -> dict[str, str]:
        return {names.LABEL_NAME: f"{_NAME}-{role}", names.LABEL_INSTANCE: self.token}

    async def run(self, image: ReleaseImage, command: Sequence[str], role: str = "client") -> Ref:
        """Create a pod that a `restricted` namespace takes."""
        container = {
            "name": "main",
            "image": image.name,
            "command": list(command),
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
            "securityContext": {**RESTRICTED_CONTAINER, "readOnlyRootFilesystem": True},
        }
        spec = {
            "containers": [{**container, **({"imagePullPolicy": image.policy} if image.policy else {})}],
            "imagePullSecrets": [{"name": name} for name in self.release.pull_secrets],
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {**RESTRICTED_POD, "runAsUser": _USER},
        }
        return await self.create(POD, spec, role)

    async def create(self, kind: Kind, spec: Mapping[str, Any], role: str = "policy") -> Ref:
        """Create an object, which is deleted at the end."""
        ref = Ref(kind, self.release.namespace, f"{_NAME}-{self.token}-{len(self.created)}")
        # Before the request: one that was sent may have created the object although no answer came.
        self.created.append(ref)
        metadata = {"name": ref.name, "namespace": ref.namespace, "labels": self.labels(role)}
        await self.kube.create({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec})
        return ref

    async def wait(
        self, pods: Iterable[Ref], find: Callable[[Object], str | None], limit_s: float
    ) -> dict[Ref, str | None]:
        """Return what is found in each pod; None for a pod in which nothing was found in time."""
        found: dict[Ref, str | None] = dict.fromkeys(pods)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while missing := [ref for ref, each in found.items() if each is None]:
                    await asyncio.sleep(_POLL_S)
                    for ref in missing:
                        found[ref] = find(await self.kube.get(ref) or {})
        return found


@contextlib.asynccontextmanager
async def _objects(kube: Kubernetes, release: PlannedRelease) -> AsyncIterator[_Probe]:
    probe = _Probe(kube, release, secrets.token_hex(3))
    try:
        yield probe
    finally:
        for ref in probe.created:
            await kube.delete(ref)


def _find_pull_error(pod: Object) -> str | None:
    """Return why the image cannot be pulled, empty if it was; None while that is open."""
    status = pod.get("status", {})
    for each in status.get("conditions", ()):
        if each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable":
            return f"no node takes the pod: {_one_line(each.get('message', ''))}"
    for each in status.get("containerStatuses", ()):
        waiting = each.get("state", {}).get("waiting", {})
        if waiting.get("reason") in _NOT_PULLED:
            return _one_line(waiting.get("message") or waiting["reason"])
        # It has an id once the container exists, whether or not the image has the command.
        if each.get("imageID") or waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return ""
    return None


def _find_address(pod: Object) -> str | None:
    status = pod.get("status", {})
    return status.get("podIP") if status.get("phase") == "Running" else None


def _find_end(pod: Object) -> str | None:
    phase = pod.get("status", {}).get("phase")
    return phase if phase in ("Succeeded", "Failed") else None


def _one_line(text: str) -> str:
    return " ".join(text.split())
