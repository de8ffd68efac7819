"""Stands in for the kubelet: makes each namespace's edge real as HAProxy and agent on this machine."""

import asyncio
import base64
import contextlib
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp

from sundog_operator.adapters.http_body import read_body
from sundog_operator.adapters.local import ports_allocation, secret_files
from sundog_operator.adapters.local.object_directories import ObjectDirectories, ObjectDirectory, RestartBackoff
from sundog_operator.adapters.local.object_reconciler import ObjectReconciler
from sundog_operator.adapters.local.ports_allocation import LOOPBACK
from sundog_operator.adapters.local.process_table import ProcessCommand, ProcessTable, SystemProcessTable
from sundog_operator.adapters.local.processes import Processes
from sundog_operator.adapters.local.state_directory import StateDirectory, write_atomically
from sundog_operator.adapters.local.status import deployment_status, make_edge_pod, pod_status
from sundog_operator.api import format_micro_time
from sundog_operator.core.edge import secrets as edge_secrets
from sundog_operator.core.edge import split_document
from sundog_operator.core.events import KubernetesEvent, make_event_object
from sundog_operator.core.kubernetes import names
from sundog_operator.errors import AlreadyExists, Conflict, NotFound, SundogError
from sundog_operator.ports import CONFIG_MAP, DEPLOYMENT, POD, SECRET, Clock, Kubernetes, Object, Ref, ref_of

logger = logging.getLogger(__name__)

Problem = tuple[str, str]

POLL_S: Final = 0.25
HAPROXY: Final = "haproxy"
AGENT: Final = "agent"
HTTPS: Final = "https"
PREFERRED_HTTP_PORT: Final = 8080
PREFERRED_HTTPS_PORT: Final = 8443
_REPORTER: Final = "sundog-local"
# HAProxy first: it must not lose the agent before it has drained.
_PARTS: Final = (HAPROXY, AGENT)
_LISTENERS: Final = {HAPROXY: (HAPROXY, HTTPS), AGENT: (AGENT,)}
_GRACE_S: Final = 5.0
_PROBE_EVERY: Final = timedelta(seconds=2)
_PROBE_TIMEOUT: Final = aiohttp.ClientTimeout(total=2, connect=1)
# The command `sundog-edge`, without a search for it on PATH; `-P` keeps the working directory out of the import path.
_CLI: Final = (sys.executable, "-P", "-c", "from sundog_edge.cli import main; main()")


@dataclass(slots=True)
class _Part:
    """One of the two processes, as known in this run."""

    restarts: RestartBackoff = field(default_factory=RestartBackoff)
    ran: bool = False
    death: str = ""


@dataclass(slots=True)
class _Edge:
    """What is known of an edge in this run.

    `needs` are the Secrets that its document names; None before there was one.
    `settled`: its ports were looked at in this run; they stay as they are until the next.
    """

    unit: ObjectDirectory
    parts: Mapping[str, _Part] = field(default_factory=lambda: {name: _Part() for name in _PARTS})
    healthy_at: datetime | None = None
    needs: frozenset[str] | None = None
    settled: bool = False

    @property
    def split(self) -> Path:
        return self.unit.directory / names.SPLIT_KEY

    @property
    def secrets(self) -> Path:
        """The Secrets that the document names, as files."""
        return self.unit.directory / "secrets"

    @property
    def outcomes(self) -> Path:
        """What the agent keeps of exposures and outcomes; it goes with the edge."""
        return self.unit.directory / "outcomes.sqlite"

    @property
    def state(self) -> Path:
        """HAProxy's and the agent's own directory."""
        return self.unit.directory / "state"

    def process(self, part: str) -> str:
        return f"{self.unit.name}-{part}"

    def port(self, part: str) -> int:
        """Of a process, or of HAProxy's TLS; 0 before it has one."""
        return self.unit.number(_port_fact(part)) or 0

    def ports(self, part: str) -> tuple[int, ...]:
        """All ports that a process listens on."""
        return tuple(self.port(each) for each in _LISTENERS[part])


class LocalEdge:
    """Runs HAProxy and agent for each namespace's edge, restarts either alone, and reports them as one pod.

    Both outlive this process unless `stop_all` ends them; the next LocalEdge of the same state directory adopts them.
    """

    def __init__(
        self,
        kube: Kubernetes,
        state_dir: Path,
        clock: Clock,
        *,
        http_port: int = PREFERRED_HTTP_PORT,
        https_port: int = PREFERRED_HTTPS_PORT,
        table: ProcessTable | None = None,
        cli: tuple[str, ...] = _CLI,
    ) -> None:
        """Args:
        http_port: what the first edge listens on when it is free; 0 for none in particular.
        https_port: the same, for TLS.
        """
        self._kube = kube
        self._clock = clock
        self._state = StateDirectory.at(state_dir)
        self._processes = Processes(self._state, table or SystemProcessTable(), clock)
        self._units = ObjectDirectories(self._state.edge, DEPLOYMENT)
        self._preferred = {HAPROXY: http_port, HTTPS: https_port}
        self._cli = cli
        self._edges: dict[Ref, _Edge] = {}
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Until cancelled. Raises StateDirectoryError when the state directory cannot be used."""
        await asyncio.to_thread(self._state.prepare)
        await self._clear_unowned()
        edges = ObjectReconciler(
            self._kube,
            DEPLOYMENT,
            self._step,
            self._clock,
            wanted=is_edge_deployment,
            remembered=lambda: [unit.ref for unit in self._units.all()],
        )
        try:
            async with aiohttp.ClientSession() as self._session:
                await edges.run((CONFIG_MAP, _edge_of_config_map), (POD, _edge_of_pod))
        finally:
            self._session = None

    async def stop_all(self) -> None:
        """End every HAProxy and agent, after `run` was cancelled. Raises DependencyError when a process survives."""
        await asyncio.to_thread(self._state.prepare)
        edges = [_Edge(unit) for unit in await asyncio.to_thread(self._units.all)]
        await asyncio.gather(*(self._stop(edge) for edge in edges))
        for edge in edges:
            await self._report_stopped(edge.unit.ref)

    async def _report_stopped(self, ref: Ref) -> None:
        problem = ("Stopped", "local mode was stopped")
        try:
            if (deployment := await self._kube.get(ref)) is not None:
                await self._publish(deployment, deployment_status(deployment, problem, self._clock.now()))
            if (found := await self._kube.get(_pod_ref(ref))) is not None:
                stopped = dict.fromkeys(_PARTS, problem)
                await self._publish(found, pod_status(found, False, problem, self._clock.now(), stopped))
        except SundogError as err:
            logger.warning("%s: its end could not be reported: %s", ref, err)

    async def _clear_unowned(self) -> None:
        units = await asyncio.to_thread(self._units.all)
        owned = {_Edge(unit).process(part) for unit in units for part in _PARTS}
        for name in self._processes.recorded():
            if name.startswith(f"{self._state.edge.name}-") and name not in owned:
                await self._processes.clear(name)

    async def _step(self, ref: Ref, deployment: Object | None) -> float:
        if deployment is None:
            return await self._take_down(ref)
        edge = self._edges.get(ref) or _Edge(await asyncio.to_thread(self._units.get_or_create, ref))
        self._edges[ref] = edge
        if not await self._project(edge):
            missing = ("NoConfig", f"ConfigMap {ref.namespace}/{names.EDGE} has no {names.SPLIT_KEY} yet")
            await self._report(edge, deployment, missing, dict.fromkeys(_PARTS, missing))
            return POLL_S
        await asyncio.to_thread(self._choose_ports, edge)
        if not edge.settled:
            await self._leave_taken_ports(edge, deployment)
            edge.settled = True
        await self._ensure_pod(edge, deployment)
        stopped = {part: problem for part in _PARTS if (problem := await self._keep(edge, part)) is not None}
        problem = next(iter(stopped.values()), None) or await self._health(edge)
        if problem is None:
            for part in edge.parts.values():
                part.restarts.reset_backoff()
        await self._report(edge, deployment, problem, stopped)
        return POLL_S

    async def _take_down(self, ref: Ref) -> float:
        self._edges.pop(ref, None)
        unit = await asyncio.to_thread(self._units.find, ref)
        if unit is None:
            return 0.0
        edge = _Edge(unit)
        await self._stop(edge)
        await self._kube.delete(_pod_ref(ref))
        await asyncio.to_thread(self._units.remove, unit)
        for part in _PARTS:
            await asyncio.to_thread(self._log(edge, part).unlink, missing_ok=True)
        return 0.0

    async def _stop(self, edge: _Edge) -> None:
        for part in _PARTS:
            await self._processes.stop(edge.process(part), _GRACE_S)

    async def _project(self, edge: _Edge) -> bool:
        """Write the ConfigMap's document to its file, and before it the Secrets it names. False while there has been none.

        As in a pod, a ConfigMap that is gone leaves the last document.
        """
        ref = Ref(CONFIG_MAP, edge.unit.ref.namespace, names.EDGE)
        config_map = await self._kube.get(ref)
        text = (config_map or {}).get("data", {}).get(names.SPLIT_KEY)
        if (document := split_document.read_document(config_map)) is not None:
            edge.needs = edge_secrets.secret_names_in_document(document)
        await self._project_secrets(edge)
        return await asyncio.to_thread(_write_if_new, edge.split, text)

    async def _project_secrets(self, edge: _Edge) -> None:
        """Write the Secrets that the last document names; one that does not exist has no files."""
        if edge.needs is None:
            return
        namespace = edge.unit.ref.namespace
        stored = {name: await self._kube.get(Ref(SECRET, namespace, name)) for name in sorted(edge.needs)}
        wanted = {name: _content(secret) for name, secret in stored.items() if secret is not None}
        await asyncio.to_thread(secret_files.write_secret_files, edge.secrets, wanted)

    def _choose_ports(self, edge: _Edge) -> None:
        missing = [part for part in (HAPROXY, HTTPS, AGENT) if not edge.port(part)]
        if missing:
            edge.unit = self._units.choose(edge.unit, lambda units: self._ports_for(missing, units))

    async def _leave_taken_ports(self, edge: _Edge, deployment: Object) -> None:
        """Choose others in place of remembered ports that somebody took while no process of the edge listened there."""
        taken: dict[str, str] = {}
        for part in _PARTS:
            if await self._processes.running(edge.process(part)) is not None:
                continue
            await self._processes.clear(edge.process(part))
            for listener in _LISTENERS[part]:
                if not await asyncio.to_thread(ports_allocation.is_port_free, edge.port(listener)):
                    taken[listener] = await asyncio.to_thread(ports_allocation.describe_holder, edge.port(listener))
        if not taken:
            return
        before = {listener: edge.port(listener) for listener in taken}
        edge.unit = await asyncio.to_thread(
            self._units.choose, edge.unit, lambda units: self._ports_for([*taken], units)
        )
        for listener, holder in taken.items():
            note = f"port {before[listener]} is held by {holder}; the edge listens on port {edge.port(listener)} for {listener}"
            logger.warning("%s: %s", edge.unit.ref, note)
            event = KubernetesEvent(
                "Warning", "PortTaken", "ChoosePort", note, f"{before[listener]}/{edge.port(listener)}"
            )
            await self._tell(deployment, event)

    async def _tell(self, deployment: Object, event: KubernetesEvent) -> None:
        made = make_event_object(event, deployment, _REPORTER, format_micro_time(self._clock.now()))
        with contextlib.suppress(AlreadyExists):
            await self._kube.create(made)

    def _ports_for(self, parts: Sequence[str], units: Sequence[ObjectDirectory]) -> dict[str, int]:
        """Ports that no edge has, as facts to remember."""
        taken = {port for unit in units for part in (HAPROXY, AGENT) for port in _Edge(unit).ports(part)}
        facts: dict[str, int] = {}
        for part in parts:
            facts[_port_fact(part)] = self._port_for(part, taken.union(facts.values()))
        return facts

    def _port_for(self, part: str, taken: Collection[int]) -> int:
        """The preferred port where nobody has it, else any."""
        port = self._preferred.get(part, 0)
        return (
            port
            if port and port not in taken and ports_allocation.is_port_free(port)
            else ports_allocation.allocate_port(taken)
        )

    async def _ensure_pod(self, edge: _Edge, deployment: Object) -> None:
        """See to it that the Deployment has its pod. Who deleted one asked for both processes to be started anew."""
        ref, uid = _pod_ref(edge.unit.ref), deployment["metadata"]["uid"]
        found = await self._kube.get(ref)
        wanted = make_edge_pod(deployment, edge.port(HAPROXY), edge.port(HTTPS), edge.port(AGENT))
        if found is not None and not _is_pod(found, wanted, uid):
            await self._kube.delete(ref, uid=found["metadata"]["uid"])
            found = None
        if found is not None:
            return
        if edge.unit.facts.get("deployment") == uid:
            logger.info("%s is gone: its processes are started anew", ref)
            await self._stop(edge)
            for part in edge.parts.values():
                part.ran = False
        await self._kube.create(wanted)
        edge.unit = await asyncio.to_thread(self._units.remember, edge.unit, {"deployment": uid})

    async def _keep(self, edge: _Edge, name: str) -> Problem | None:
        """See to it that a part runs; why it does not."""
        part, process, now = edge.parts[name], edge.process(name), self._clock.now()
        record = await self._processes.running(process)
        if record is not None:
            part.ran = True
            if part.restarts.lived(now - datetime.fromtimestamp(record.created, UTC)):
                part.death = ""
            return None
        if part.ran:
            part.ran, edge.healthy_at = False, None
            part.restarts.died(now)
            part.death = f"the {name} {await self._processes.describe_end(process, self._log(edge, name))}"
            logger.warning("%s: %s", edge.unit.ref, part.death)
        if part.restarts.remaining_delay_s(now):
            return "ProcessExited", part.death
        await self._processes.clear(process)
        for port in edge.ports(name):
            if not await asyncio.to_thread(ports_allocation.is_port_free, port):
                holder = await asyncio.to_thread(ports_allocation.describe_holder, port)
                told = (
                    f"port {port}, on which the {name} of this edge listens, is held by {holder}:"
                    " end that process, or start local mode again, which takes another port"
                )
                if part.death != told:
                    # Whoever asks there is answered by somebody else, until it is free.
                    logger.warning("%s: %s", edge.unit.ref, told)
                part.death = told
                return "PortTaken", told
        await self._processes.start(self._command(edge, name))
        part.ran, edge.healthy_at = True, None
        return None

    def _command(self, edge: _Edge, part: str) -> ProcessCommand:
        address = f"{LOOPBACK}:{edge.port(part)}"
        options = [f"--state-dir={edge.state}"]
        if part == HAPROXY:
            options += [f"--http-bind={address}", f"--https-bind={LOOPBACK}:{edge.port(HTTPS)}"]
        else:
            options += [
                f"--split={edge.split}",
                f"--secrets-dir={edge.secrets}",
                f"--listen={address}",
                f"--edge-name={_pod_ref(edge.unit.ref).name}",
                f"--namespace={edge.unit.ref.namespace}",
                f"--ray-token-file={self._state.ray_token}",
                f"--signing-key={self._state.signing_key}",
                f"--store=sqlite://{edge.outcomes}",
            ]
        return ProcessCommand(
            name=edge.process(part),
            argv=(*self._cli, part, *options),
            env=os.environ,
            directory=edge.unit.directory,
            log=self._log(edge, part),
        )

    async def _health(self, edge: _Edge) -> Problem | None:
        """What the agent says of itself and of HAProxy, asked less often while all is well."""
        now = self._clock.now()
        if edge.healthy_at is not None and now - edge.healthy_at < _PROBE_EVERY:
            return None
        problem = await self._probe(edge)
        edge.healthy_at = now if problem is None else None
        return problem

    async def _probe(self, edge: _Edge) -> Problem | None:
        """Why the agent does not call itself ready."""
        if self._session is None:
            return "Stopped", "local mode was stopped"
        url = f"http://{LOOPBACK}:{edge.port(AGENT)}/readyz"
        try:
            async with self._session.get(url, timeout=_PROBE_TIMEOUT, allow_redirects=False) as response:
                text = (await read_body(response, 200))[:200]
                if response.status == 200:
                    return None
                found = f"status {response.status} ({' '.join(text.decode('utf-8', 'replace').split())})"
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            found = type(err).__name__
        return "AgentNotReady", f"GET {url}: {found}, expected 200"

    async def _report(
        self, edge: _Edge, deployment: Object, problem: Problem | None, stopped: Mapping[str, Problem]
    ) -> None:
        """`stopped` says why a part does not run."""
        now = self._clock.now()
        found = await self._kube.get(_pod_ref(edge.unit.ref))
        if found is not None:
            running = all(part.ran for part in edge.parts.values())
            await self._publish(found, pod_status(found, running, problem, now, stopped))
        await self._publish(deployment, deployment_status(deployment, problem, now))

    async def _publish(self, obj: Object, status: Mapping[str, Any]) -> None:
        """Write a status if it says something new."""
        if status == obj.get("status"):
            return
        try:
            await self._kube.patch_status(ref_of(obj), status, resource_version=obj["metadata"]["resourceVersion"])
        except (Conflict, NotFound):
            logger.debug("%s changed meanwhile; its status is written at the next look", ref_of(obj))

    def _log(self, edge: _Edge, part: str) -> Path:
        return self._state.logs / f"{edge.process(part)}.log"


def is_edge_deployment(deployment: Object) -> bool:
    """Whether a Deployment is an edge."""
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


def _port_fact(part: str) -> str:
    return f"{part}Port"


def _is_pod(found: Object, wanted: Object, uid: str) -> bool:
    """Whether a pod is that of the Deployment and listens where it should; one of an earlier version may lack a port."""
    owners = {owner["uid"] for owner in found["metadata"].get("ownerReferences", ())}
    return uid in owners and bool(found["spec"] == wanted["spec"])


def _content(secret: Object) -> dict[str, bytes]:
    return {key: base64.b64decode(text) for key, text in (secret.get("data") or {}).items()}


def _write_if_new(path: Path, text: str | None) -> bool:
    """Whether the file exists afterwards."""
    if text is None:
        return path.exists()
    content = text.encode()
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
    return True
