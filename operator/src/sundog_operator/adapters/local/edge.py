"""Runs each namespace's edge as HAProxy and agent on this machine, in the place of the kubelet."""

import asyncio
import base64
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from sundog_operator.adapters.local import ports_allocation, secret_files
from sundog_operator.adapters.local.edge_command import EDGE_CLI, make_edge_command
from sundog_operator.adapters.local.edge_directory import (
    AGENT,
    HAPROXY,
    HTTPS,
    LISTENERS,
    PARTS,
    EdgeDirectory,
    port_fact,
)
from sundog_operator.adapters.local.object_directories import ObjectDirectory
from sundog_operator.adapters.local.object_reconciler import POLL_S
from sundog_operator.adapters.local.ports_allocation import LOOPBACK, PortClaims
from sundog_operator.adapters.local.process_controller import STOPPED, ProcessController
from sundog_operator.adapters.local.process_table import ProcessCommand, ProcessTable
from sundog_operator.adapters.local.state_directory import StateDirectory, write_atomically
from sundog_operator.adapters.local.status import Problem, deployment_status, make_edge_pod, pod_status
from sundog_operator.api import format_micro_time
from sundog_operator.core.edge import secrets as edge_secrets
from sundog_operator.core.edge import split_document
from sundog_operator.core.events import KubernetesEvent, make_event_object
from sundog_operator.core.kubernetes import names
from sundog_operator.errors import AlreadyExists
from sundog_operator.ports import CONFIG_MAP, DEPLOYMENT, POD, SECRET, Clock, Kubernetes, Object, Ref

logger = logging.getLogger(__name__)

PREFERRED_HTTP_PORT: Final = 8080
PREFERRED_HTTPS_PORT: Final = 8443
_REPORTER: Final = "sundog-local"
_PROBE_INTERVAL: Final = timedelta(seconds=2)
_PROBE_TIMEOUT: Final = aiohttp.ClientTimeout(total=2, connect=1)


class LocalEdge(ProcessController):
    """Runs HAProxy and agent for each namespace's edge, restarts each when it ends, and reports them as one pod.

    Both outlive this process unless `stop_all` ends them. The next LocalEdge of the same state directory adopts them.
    """

    termination_grace_s = 5.0

    def __init__(
        self,
        kube: Kubernetes,
        state_dir: Path,
        clock: Clock,
        *,
        http_port: int = PREFERRED_HTTP_PORT,
        https_port: int = PREFERRED_HTTPS_PORT,
        table: ProcessTable | None = None,
        cli: tuple[str, ...] = EDGE_CLI,
    ) -> None:
        """Args:
        kube: the API server.
        state_dir: the state directory.
        clock: the time.
        http_port: the port of the first edge if it is free; 0 for any port.
        https_port: the same, for TLS.
        table: the processes of this machine.
        cli: the command `sundog-edge`.
        """
        state = StateDirectory.at(state_dir)
        super().__init__(kube, state, state.edge, DEPLOYMENT, clock, table)
        self._preferred = {HAPROXY: http_port, HTTPS: https_port}
        self._cli = cli
        self._edges: dict[Ref, EdgeDirectory] = {}
        self._claims = PortClaims()

    async def run(self) -> None:
        """Run until cancelled. Raises StateDirectoryError when the state directory is unusable."""
        try:
            await self._run_steps(
                (CONFIG_MAP, _edge_of_config_map), (POD, _edge_of_pod), should_reconcile=is_edge_deployment
            )
        finally:
            self._claims.release()

    def _process_names(self, entry: ObjectDirectory) -> tuple[str, ...]:
        return tuple(map(EdgeDirectory(entry).process_name, PARTS))

    async def _report_stopped(self, ref: Ref) -> None:
        if (deployment := await self._kube.get(ref)) is not None:
            await self._publish(deployment, deployment_status(deployment, STOPPED, self._clock.now()))
        if (found := await self._kube.get(_pod_ref(ref))) is not None:
            stopped = dict.fromkeys(PARTS, STOPPED)
            await self._publish(found, pod_status(found, False, STOPPED, self._clock.now(), stopped))

    async def _step(self, ref: Ref, obj: Object | None) -> float:
        return await self._remove(ref) if obj is None else await self._reconcile(ref, obj)

    async def _reconcile(self, ref: Ref, deployment: Object) -> float:
        edge = self._edges.get(ref) or EdgeDirectory(await asyncio.to_thread(self._directories.get_or_create, ref))
        self._edges[ref] = edge
        if not await self._write_document(edge):
            missing = ("NoConfig", f"ConfigMap {ref.namespace}/{names.EDGE} has no {names.SPLIT_KEY} yet")
            await self._report(edge, deployment, missing, dict.fromkeys(PARTS, missing))
            return POLL_S
        await asyncio.to_thread(self._choose_ports, edge)
        if not edge.ports_checked:
            await self._replace_taken_ports(edge, deployment)
            edge.ports_checked = True
        await self._ensure_pod(edge, deployment)
        stopped = {part: problem for part in PARTS if (problem := await self._ensure_running(edge, part)) is not None}
        problem = next(iter(stopped.values()), None) or await self._check_health(edge)
        if problem is None:
            for part in edge.parts.values():
                part.restarts.reset_backoff()
        await self._report(edge, deployment, problem, stopped)
        return POLL_S

    async def _remove(self, ref: Ref) -> float:
        edge = self._edges.get(ref)
        if edge is not None and await asyncio.to_thread(edge.split.exists):
            return await self._keep_without_services(edge)
        self._edges.pop(ref, None)
        entry = await asyncio.to_thread(self._directories.find, ref)
        if entry is None:
            return 0.0
        edge = EdgeDirectory(entry)
        await self._stop(entry)
        self._claims.release(port for part in PARTS for port in edge.ports(part))
        await self._kube.delete(_pod_ref(ref))
        await self._remove_files(entry)
        return 0.0

    async def _keep_without_services(self, edge: EdgeDirectory) -> float:
        """Keep an edge of this run at its ports after the last model of its namespace. The next run removes it.

        Clients are answered 404 instead of being refused, and find the next model at the same port.
        """
        await asyncio.to_thread(_empty_document, edge.split)
        edge.secret_names = frozenset()
        await self._write_secrets(edge)
        await self._kube.delete(_pod_ref(edge.entry.ref))
        for part in PARTS:
            await self._ensure_running(edge, part)
        return POLL_S

    async def _write_document(self, edge: EdgeDirectory) -> bool:
        """Write the Secrets that the ConfigMap's document names, then the document. Return False before the first document.

        As in a pod, the last document stays when the ConfigMap is deleted.
        """
        ref = Ref(CONFIG_MAP, edge.entry.ref.namespace, names.EDGE)
        config_map = await self._kube.get(ref)
        text = (config_map or {}).get("data", {}).get(names.SPLIT_KEY)
        if (document := split_document.read_document(config_map)) is not None:
            edge.secret_names = edge_secrets.secret_names_in_document(document)
        await self._write_secrets(edge)
        return await asyncio.to_thread(_write_if_changed, edge.split, text)

    async def _write_secrets(self, edge: EdgeDirectory) -> None:
        """Write the Secrets that the last document names. A missing Secret has no files."""
        if edge.secret_names is None:
            return
        namespace = edge.entry.ref.namespace
        stored = {name: await self._kube.get(Ref(SECRET, namespace, name)) for name in sorted(edge.secret_names)}
        wanted = {name: _decode(secret) for name, secret in stored.items() if secret is not None}
        await asyncio.to_thread(secret_files.write_secret_files, edge.secrets, wanted)

    def _choose_ports(self, edge: EdgeDirectory) -> None:
        missing = [listener for listener in (HAPROXY, HTTPS, AGENT) if not edge.port(listener)]
        if missing:
            edge.entry = self._directories.choose(edge.entry, lambda entries: self._choose_free_ports(missing, entries))

    async def _replace_taken_ports(self, edge: EdgeDirectory, deployment: Object) -> None:
        """Replace the remembered ports that another process took while no process of the edge used them."""
        taken: dict[str, str] = {}
        for part in PARTS:
            if await self._processes.running(edge.process_name(part)) is not None:
                continue
            await self._processes.clear(edge.process_name(part))
            for listener in LISTENERS[part]:
                if not await asyncio.to_thread(self._claims.claim, edge.port(listener)):
                    taken[listener] = await asyncio.to_thread(ports_allocation.describe_holder, edge.port(listener))
        if not taken:
            return
        before = {listener: edge.port(listener) for listener in taken}
        edge.entry = await asyncio.to_thread(
            self._directories.choose, edge.entry, lambda entries: self._choose_free_ports([*taken], entries)
        )
        for listener, holder in taken.items():
            note = f"port {before[listener]} is held by {holder}; the edge listens on port {edge.port(listener)} for {listener}"
            logger.warning("%s: %s", edge.entry.ref, note)
            event = KubernetesEvent(
                "Warning", "PortTaken", "ChoosePort", note, f"{before[listener]}/{edge.port(listener)}"
            )
            await self._record_event(deployment, event)

    async def _record_event(self, deployment: Object, event: KubernetesEvent) -> None:
        made = make_event_object(event, deployment, _REPORTER, format_micro_time(self._clock.now()))
        with contextlib.suppress(AlreadyExists):
            await self._kube.create(made)

    def _choose_free_ports(self, listeners: Sequence[str], entries: Sequence[ObjectDirectory]) -> dict[str, int]:
        """Choose ports that no edge has, as facts to remember."""
        taken = {port for entry in entries for part in PARTS for port in EdgeDirectory(entry).ports(part)}
        facts: dict[str, int] = {}
        for listener in listeners:
            facts[port_fact(listener)] = self._choose_port(listener, taken.union(facts.values()))
        return facts

    def _choose_port(self, listener: str, taken: Collection[int]) -> int:
        """Return the preferred port if it is free, else any free port."""
        port = self._preferred.get(listener, 0)
        return (
            port
            if port and port not in taken and self._claims.claim(port)
            else ports_allocation.allocate_port(taken, is_free=self._claims.claim)
        )

    async def _ensure_pod(self, edge: EdgeDirectory, deployment: Object) -> None:
        """Create the pod of the Deployment where it is missing. When a user deleted it, restart both processes."""
        ref, uid = _pod_ref(edge.entry.ref), deployment["metadata"]["uid"]
        found = await self._kube.get(ref)
        wanted = make_edge_pod(deployment, edge.port(HAPROXY), edge.port(HTTPS), edge.port(AGENT))
        if found is not None and not _is_pod(found, wanted, uid):
            await self._kube.delete(ref, uid=found["metadata"]["uid"])
            found = None
        if found is not None:
            return
        if edge.entry.facts.get("deployment") == uid:
            logger.info("%s: deleted; its processes restart", ref)
            await self._stop(edge.entry)
            for part in edge.parts.values():
                part.ran = False
        await self._kube.create(wanted)
        edge.entry = await asyncio.to_thread(self._directories.remember, edge.entry, {"deployment": uid})

    async def _ensure_running(self, edge: EdgeDirectory, name: str) -> Problem | None:
        """Start a process that does not run. Return why it does not run, None if it runs."""
        part, process, now = edge.parts[name], edge.process_name(name), self._clock.now()
        record = await self._processes.running(process)
        if record is not None:
            part.ran = True
            if part.restarts.reset_if_steady(now - datetime.fromtimestamp(record.created, UTC)):
                part.failure = ""
            return None
        if part.ran:
            part.ran, edge.healthy_at = False, None
            part.restarts.record_exit(now)
            part.failure = f"the {name} {await self._processes.describe_end(process, self._log(process))}"
            logger.warning("%s: %s", edge.entry.ref, part.failure)
        if part.restarts.remaining_delay_s(now):
            return "ProcessExited", part.failure
        await self._processes.clear(process)
        for port in edge.ports(name):
            if not await asyncio.to_thread(self._claims.claim, port):
                holder = await asyncio.to_thread(ports_allocation.describe_holder, port)
                message = (
                    f"port {port} of the edge's {name}: held by {holder}."
                    " End that process, or restart local mode, which takes another port."
                )
                if part.failure != message:
                    # Until the port is free, the other process gets the requests.
                    logger.warning("%s: %s", edge.entry.ref, message)
                part.failure = message
                return "PortTaken", message
        await self._processes.start(self._make_command(edge, name))
        part.ran, edge.healthy_at = True, None
        return None

    def _make_command(self, edge: EdgeDirectory, part: str) -> ProcessCommand:
        pod, log = _pod_ref(edge.entry.ref).name, self._log(edge.process_name(part))
        return make_edge_command(edge, part, self._state, edge_name=pod, log=log, cli=self._cli)

    async def _check_health(self, edge: EdgeDirectory) -> Problem | None:
        """Return the agent's problem with itself or HAProxy. A healthy agent is probed less often."""
        now = self._clock.now()
        if edge.healthy_at is not None and now - edge.healthy_at < _PROBE_INTERVAL:
            return None
        problem = await self._probe(edge)
        edge.healthy_at = now if problem is None else None
        return problem

    async def _probe(self, edge: EdgeDirectory) -> Problem | None:
        """Return why the agent is not ready."""
        if self._session is None:
            return STOPPED
        url = f"http://{LOOPBACK}:{edge.port(AGENT)}/readyz"
        status, text = await self._probe_url(url, _PROBE_TIMEOUT)
        if status == HTTPStatus.OK:
            return None
        found = f"status {status} ({text})" if status else text
        return "AgentNotReady", f"GET {url}: {found}, expected 200"

    async def _report(
        self, edge: EdgeDirectory, deployment: Object, problem: Problem | None, stopped: Mapping[str, Problem]
    ) -> None:
        """Write the statuses of pod and Deployment. `stopped` holds the reason of each process that does not run."""
        now = self._clock.now()
        found = await self._kube.get(_pod_ref(edge.entry.ref))
        if found is not None:
            running = all(part.ran for part in edge.parts.values())
            await self._publish(found, pod_status(found, running, problem, now, stopped))
        await self._publish(deployment, deployment_status(deployment, problem, now))


def is_edge_deployment(deployment: Object) -> bool:
    """Return whether a Deployment is an edge."""
    return (deployment["metadata"].get("labels") or {}).get(names.LABEL_NAME) == names.EDGE


def _edge_of_config_map(obj: Object) -> Ref | None:
    meta = obj["metadata"]
    return Ref(DEPLOYMENT, meta["namespace"], names.EDGE) if meta["name"] == names.EDGE else None


def _edge_of_pod(obj: Object) -> Ref | None:
    owners = obj["metadata"].get("ownerReferences") or ()
    owner = next((o for o in owners if o["kind"] == DEPLOYMENT.kind and o["name"] == names.EDGE), None)
    return None if owner is None else Ref(DEPLOYMENT, obj["metadata"]["namespace"], owner["name"])


def _pod_ref(deployment: Ref) -> Ref:
    return Ref(POD, deployment.namespace, f"{deployment.name}-0")


def _is_pod(found: Object, wanted: Object, uid: str) -> bool:
    """Return whether a pod belongs to the Deployment and has its ports. A pod of an earlier version may lack a port."""
    owners = {owner["uid"] for owner in found["metadata"].get("ownerReferences", ())}
    return uid in owners and bool(found["spec"] == wanted["spec"])


def _decode(secret: Object) -> dict[str, bytes]:
    return {key: base64.b64decode(text) for key, text in (secret.get("data") or {}).items()}


def _empty_document(path: Path) -> None:
    """Remove all services from a stored document."""
    document = split_document.read_document({"data": {names.SPLIT_KEY: path.read_text()}}) or {}
    if document.get("services"):
        emptied = {**document, "generation": int(document["generation"]) + 1, "clusters": {}, "services": []}
        write_atomically(path, orjson.dumps(emptied))


def _write_if_changed(path: Path, text: str | None) -> bool:
    """Write a text if it differs; None leaves the file. Return whether the file exists now."""
    if text is None:
        return path.exists()
    content = text.encode()
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
    return True
