"""Plan the servers of an application: read replicas from Serve, and compute commands that bring HAProxy's servers to them."""

import ipaddress
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import orjson

from sundog_edge.errors import ServeUnavailable
from sundog_edge.haproxy.backends import render_server_options
from sundog_edge.haproxy.client import ServerState
from sundog_edge.haproxy.names import FALLBACK_PREFIX
from sundog_edge.haproxy.rules.cold_start import FALLBACK_MAXCONN
from sundog_edge.headers import AUTHORIZATION
from sundog_edge.http_body import read_body
from sundog_edge.replicas.addresses import is_forbidden, is_loopback
from sundog_edge.split.document import Cluster
from sundog_edge.split.layout import CHECK_MS, SlotServer

MAX_ANSWER_BYTES = 16 << 20
POLL_TIMEOUT_S = 3.0
FORGET_DOWN_S = 30
"""A replica that Serve does not list and that fails its check for this long has ended."""

CHECK_PATIENCE_S = 5
"""A new replica that has not passed its check for this long no longer retains the replaced ones."""

MIN_DRAIN_S = 60.0
_DRAIN_MARGIN_S = 10.0

_PROTOCOLS = ("HTTP", "gRPC")

ReplicaAddresses = Mapping[str, tuple[str, ...]]
"""Application → addresses of its replicas; empty if Serve lists only its own proxy."""

GrpcPorts = Mapping[str, Mapping[str, int]]
"""Application → address of each replica's gRPC port → its HTTP port."""


class ServeTargets(NamedTuple):
    """Serve's answer about one cluster: the replicas' HTTP and gRPC ports, what is scaled to zero, and its own proxy's port for gRPC."""

    http: ReplicaAddresses
    grpc: GrpcPorts
    at_zero: frozenset[str] = frozenset()
    grpc_port: int = 0


@dataclass(frozen=True, slots=True)
class ServeTarget:
    """A replica's port in Serve's answer. `address` is always `<numeric address>:<port>`."""

    application: str
    protocol: str
    name: str
    address: str
    port: int


def parse_http_targets(answer: Any, cluster: Cluster) -> ReplicaAddresses:
    """Parse the replicas in the answer of `GET /api/serve/applications/`. Raises ServeUnavailable for another shape."""
    found: dict[str, list[str]] = {}
    for target in _parse_targets(answer, cluster):
        if target.protocol == "HTTP":
            addresses = found.setdefault(target.application, [])
            if not _is_proxy(target, cluster):
                addresses.append(target.address)
    return {application: tuple(addresses) for application, addresses in found.items()}


def parse_grpc_targets(answer: Any, cluster: Cluster) -> GrpcPorts:
    """Parse the gRPC ports of replicas with an HTTP port, without Serve's own proxy. Raises ServeUnavailable."""
    targets = _parse_targets(answer, cluster)
    http_ports = {
        (target.application, target.name): target.port
        for target in targets
        if target.protocol == "HTTP" and not _is_proxy(target, cluster)
    }
    found: dict[str, dict[str, int]] = {}
    for target in targets:
        key = (target.application, target.name)
        if target.protocol == "gRPC" and key in http_ports:
            found.setdefault(target.application, {})[target.address] = http_ports[key]
    return found


def parse_scaled_to_zero(answer: Any) -> frozenset[str]:
    """Parse the applications whose deployments Serve has scaled to zero. An application of another shape is none of them."""
    applications = answer.get("applications") if isinstance(answer, dict) else None
    return frozenset(
        name for name, each in (applications or {}).items() if isinstance(each, dict) and _has_no_target(each)
    )


def parse_grpc_port(answer: Any) -> int:
    """Parse the port at which Serve's own proxy takes gRPC; 0 if it takes none, or for another shape."""
    options = answer.get("grpc_options") if isinstance(answer, dict) else None
    # Serve opens the port only with such functions.
    if not isinstance(options, dict) or not options.get("grpc_servicer_functions"):
        return 0
    port = options.get("port")
    return port if type(port) is int and 0 < port < 1 << 16 else 0


def _has_no_target(application: Mapping[str, Any]) -> bool:
    deployments = application.get("deployments")
    if not isinstance(deployments, dict) or not deployments:
        return False
    return all(isinstance(each, dict) and each.get("target_num_replicas") == 0 for each in deployments.values())


def _is_proxy(target: ServeTarget, cluster: Cluster) -> bool:
    """Return whether a target is Serve's own proxy, which Serve lists while an application has no replica."""
    return str(target.port) == cluster.fallback.rpartition(":")[2]


def _parse_targets(answer: Any, cluster: Cluster) -> list[ServeTarget]:
    """Parse all targets of all applications. Raises ServeUnavailable.

    The answer comes from a process that runs models. So every part of a later HAProxy command is parsed here, and a replica of a cluster is
    at no address of the edge's own pod. With a dashboard on loopback, in local mode, the replicas listen on loopback too, whatever node
    address Serve gives.
    """
    host = urlsplit(cluster.dashboard).hostname or ""
    loopback = host if is_loopback(host) else ""
    try:
        return [
            _parse_target(group, target, loopback)
            for group in answer["target_groups"]
            if group["protocol"] in _PROTOCOLS and group.get("app_name")
            for target in group["targets"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServeUnavailable(f"Serve's answer has no usable target_groups: {type(error).__name__} {error}") from None


def _parse_target(group: Mapping[str, Any], target: Mapping[str, Any], loopback: str) -> ServeTarget:
    application, port = group["app_name"], target["port"]
    if not isinstance(application, str):
        raise TypeError(f"app_name: found {str(application)[:60]!r}; expected a string")
    if type(port) is not int or not 0 < port < 1 << 16:
        raise ValueError(f"port of {application[:60]!r}: found {str(port)[:60]!r}; expected an integer from 1 to 65535")
    host = loopback or target["ip"]
    try:
        address = ipaddress.ip_address(host if isinstance(host, str) else "")
    except ValueError:
        address = None
    # Python does not check a scope, the text after a %.
    if address is None or getattr(address, "scope_id", None):
        raise ValueError(f"ip of {application[:60]!r}: found {str(host)[:60]!r}; expected a numeric address")
    if not loopback and is_forbidden(address):
        raise ValueError(f"ip of {application[:60]!r}: found {address}; expected the address of a pod")
    return ServeTarget(application, group["protocol"], str(target.get("name", "")), f"{address}:{port}", port)


class ServeClient:
    """Client that reads `target_groups` from Serve's REST API.

    Attributes:
        parse_s: CPU time that parsing of all answers has taken, in seconds.
    """

    def __init__(self, session: aiohttp.ClientSession, token_file: Path | None) -> None:
        self.parse_s = 0.0
        self._session = session
        self._token_file = token_file

    def _headers(self) -> dict[str, str]:
        # Read every time: a rotation of the token changes the mounted Secret.
        if self._token_file is None:
            return {}
        try:
            return {AUTHORIZATION: f"Bearer {self._token_file.read_text().strip()}"}
        except OSError as error:
            raise ServeUnavailable(f"--ray-token-file {self._token_file}: cannot be read: {error.strerror}") from None

    async def targets(self, cluster: Cluster) -> ServeTargets:
        """Return the replicas. Raises ServeUnavailable: they are unknown, which differs from no replicas."""
        url = f"{cluster.dashboard.rstrip('/')}/api/serve/applications/"
        timeout = aiohttp.ClientTimeout(total=POLL_TIMEOUT_S)
        headers = self._headers()
        try:
            async with self._session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
                if response.status != 200:
                    raise ServeUnavailable(f"Serve answered {response.status} at {url}; expected 200")
                body = await read_body(response, MAX_ANSWER_BYTES)
                if len(body) > MAX_ANSWER_BYTES:
                    raise ServeUnavailable(f"Serve's answer is larger than {MAX_ANSWER_BYTES} bytes")
            return self._parse(body, cluster)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A ValueError means that the answer is not JSON, or that Python cannot encode the host.
            raise ServeUnavailable(f"Serve does not answer at {url}: {type(error).__name__}") from None

    def _parse(self, body: bytes, cluster: Cluster) -> ServeTargets:
        began = time.thread_time()
        try:
            answer = orjson.loads(body)
            http, grpc = parse_http_targets(answer, cluster), parse_grpc_targets(answer, cluster)
            return ServeTargets(http, grpc, parse_scaled_to_zero(answer), parse_grpc_port(answer))
        finally:
            self.parse_s += time.thread_time() - began


@dataclass(frozen=True, slots=True)
class DesiredSlot:
    """The desired state of one slot.

    Attributes:
        listed: addresses of replicas from Serve; None while Serve does not answer, empty if it lists no replica.
        fallback: address of Serve's own proxy; empty for none.
        check_ports: port of the health check by address, for gRPC ports, the fallback's included.
        request_s: longest duration of a request, in seconds.
        may_be_cold: whether the application may scale to zero.
        at_zero: whether Serve has scaled the application to zero.
    """

    slot: str
    listed: tuple[str, ...] | None
    fallback: str
    maxconn: int
    check_ms: int = CHECK_MS
    fallback_check_ms: int = CHECK_MS
    check_ports: Mapping[str, int] = field(default_factory=dict)
    request_s: float = 0.0
    may_be_cold: bool = False
    at_zero: bool = False


def desired_servers(desired: DesiredSlot, present: Sequence[ServerState]) -> dict[str, SlotServer]:
    """Return the desired servers of a slot by name.

    While Serve rebuilds an application, it lists no replica although old ones still answer; Serve itself may be away. Then healthy replicas
    stay, and failed ones stay until they have certainly ended. Healthy replaced replicas stay until the new ones have passed their check,
    so that the slot always has a server. At zero no replica stays: the last one is about to end.
    """
    listed = dict.fromkeys(desired.listed or ())
    candidates = [server for server in present if _is_candidate(server)]
    if desired.at_zero:
        retained = []
    elif not listed:
        retained = [
            server for server in candidates if _is_worth_retaining(server, serve_answers=desired.listed is not None)
        ]
    elif _is_starting(listed, candidates):
        retained = [server for server in candidates if server.running]
    else:
        retained = []
    addresses = dict.fromkeys([*listed, *(server.address for server in retained)])
    ports = {server.address: server.check_port for server in present} | dict(desired.check_ports)
    servers = {
        address: SlotServer(
            desired.slot, address, address, desired.maxconn, False, desired.check_ms, ports.get(address, 0)
        )
        for address in addresses
    }
    if desired.fallback:
        name = f"{FALLBACK_PREFIX}-{desired.fallback}"
        limit = FALLBACK_MAXCONN if desired.may_be_cold else 0
        check_port = ports.get(desired.fallback, 0)
        servers[name] = SlotServer(
            desired.slot, name, desired.fallback, limit, True, desired.fallback_check_ms, check_port
        )
    return servers


def _is_candidate(server: ServerState) -> bool:
    return not (server.name.startswith(FALLBACK_PREFIX) or server.draining or server.maintenance)


def _is_worth_retaining(server: ServerState, *, serve_answers: bool) -> bool:
    return server.running or not serve_answers or server.since_s < FORGET_DOWN_S


def _is_starting(listed: Iterable[str], candidates: Iterable[ServerState]) -> bool:
    """Return whether a listed replica still has to pass its check, or no listed one has passed."""
    known = {server.address: server for server in candidates}
    pending = [
        address
        for address in listed
        if address not in known or not (known[address].running or _has_failed_to_start(known[address]))
    ]
    return bool(pending) or not any(address in known and known[address].running for address in listed)


def _has_failed_to_start(server: ServerState) -> bool:
    return server.since_s >= CHECK_PATIENCE_S


def plan_slow_replicas(desired: DesiredSlot, present: Sequence[ServerState], proven: Collection[str]) -> list[str]:
    """Return commands that retain slow replicas if no replica answers its checks in time.

    On an overloaded machine, removing all slow replicas would fail every request. Some replicas are removed all the same: those that refuse
    connections, answer for another application, are no longer listed by Serve, or have never passed a check (are not `proven`).
    """
    candidates = [server for server in present if _is_candidate(server)]
    if any(server.running and not server.slow for server in candidates):
        return []
    return [
        f"set server {server.slot}/{server.name} health up"
        for server in candidates
        if server.slow
        and server.failing
        and server.name in proven
        and (desired.listed is None or server.name in desired.listed)
    ]


def find_proven(before: Collection[str], present: Sequence[ServerState]) -> frozenset[str]:
    """Return the servers that have passed a check and since then failed only by slowness. `before`: the result of the last call."""
    return frozenset(server.name for server in present if server.running or (server.slow and server.name in before))


def drain_limit_s(request_s: float) -> float:
    """Return the seconds that a draining replica has for its requests, each of which may take `request_s`."""
    return max(MIN_DRAIN_S, request_s + _DRAIN_MARGIN_S)


def plan_commands(
    slot: str,
    servers: Mapping[str, SlotServer],
    present: Sequence[ServerState],
    running: Mapping[tuple[str, str], int],
    draining_s: Mapping[tuple[str, str], float],
    limit_s: float = MIN_DRAIN_S,
    *,
    cold: bool = False,
    leaving_load: int | None = None,
) -> list[str]:
    """Return commands that bring one slot of one worker closer to `servers`, the desired ones by name.

    HAProxy's own state records the steps of a removal, so that any agent can continue: drain, then maintenance after the last request or
    `limit_s`, then deletion. `draining_s`: seconds since a server was first seen draining or in a slot that is leaving. In a `cold` slot
    requests wait for the first replica, which is up as soon as Serve lists it, half a second before HAProxy's first check.
    `leaving_load`: running and waiting requests of a slot that is leaving; None for any other slot.
    """
    commands: list[str] = []
    names = {server.name for server in present}
    for server in present:
        commands += (
            _restore(server)
            if server.name in servers
            else _remove(server, running, draining_s, limit_s, leaving_load=leaving_load)
        )
    for name, server_to_add in servers.items():
        if name not in names:
            commands += _add(slot, server_to_add)
            if cold and not server_to_add.backup:
                commands.append(f"set server {slot}/{name} health up")
    return commands


def _restore(server: ServerState) -> list[str]:
    where = f"{server.slot}/{server.name}"
    if server.maintenance:
        # HAProxy does not check a server in maintenance, so another application may have its address by now. Delete it, and add it again.
        return [f"del server {where}"]
    return [f"set server {where} state ready"] if server.draining else []


def _remove(
    server: ServerState,
    running: Mapping[tuple[str, str], int],
    draining_s: Mapping[tuple[str, str], float],
    limit_s: float,
    *,
    leaving_load: int | None,
) -> list[str]:
    key = (server.slot, server.name)
    where = f"{server.slot}/{server.name}"
    if server.maintenance:
        return [f"del server {where}"]
    # A draining server takes no request from its slot's queue. No new request comes to a slot that is leaving: it needs no draining.
    if leaving_load is None and not server.draining:
        return [f"set server {where} state drain"]
    if (running.get(key, 0) if leaving_load is None else leaving_load) == 0:
        return [f"set server {where} state maint"]
    if draining_s.get(key, 0.0) > limit_s:
        return [f"shutdown sessions server {where}", f"set server {where} state maint"]
    return []


def _add(slot: str, server: SlotServer) -> list[str]:
    # HAProxy treats a new server as healthy until a check fails. Weight 0 keeps requests away until the server is marked down. Then the
    # first check that finds the application's own prefix marks it up.
    where = f"{slot}/{server.name}"
    return [
        f"add server {where} {render_server_options(server)} weight 0",
        f"enable health {where}",
        f"enable server {where}",
        f"set server {where} health down",
        f"set weight {where} 1",
    ]
