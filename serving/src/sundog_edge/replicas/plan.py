"""Following an application's replicas: what Serve says, what HAProxy has, and the commands that lead from one to the other."""

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from sundog_edge.errors import ServeUnavailable
from sundog_edge.haproxy.backends import render_server_options
from sundog_edge.haproxy.client import ServerState
from sundog_edge.haproxy.names import FALLBACK_PREFIX
from sundog_edge.http_body import read_body
from sundog_edge.split.document import Cluster
from sundog_edge.split.layout import CHECK_MS, SlotServer

MAX_ANSWER_BYTES = 16 << 20
POLL_TIMEOUT_S = 3.0
FORGET_DOWN_S = 30
"""A replica that Serve does not name, and that fails its check for this long, is gone."""

CHECK_PATIENCE_S = 5
"""How long a new replica may take to pass its check before it no longer keeps the replaced ones."""

MIN_DRAIN_S = 60.0
_DRAIN_MARGIN_S = 10.0

_PROTOCOLS = ("HTTP", "gRPC")

ReplicaAddresses = Mapping[str, tuple[str, ...]]
"""Application → addresses of its replicas; empty where Serve names none but its own proxy."""

GrpcPorts = Mapping[str, Mapping[str, int]]
"""Application → address of each replica's gRPC port → its HTTP port."""


@dataclass(frozen=True, slots=True)
class ServeTarget:
    """A replica's port as Serve names it. `address` is `<numeric address>:<port>` and nothing else."""

    application: str
    protocol: str
    name: str
    address: str
    port: int


def parse_http_targets(answer: Any, cluster: Cluster) -> ReplicaAddresses:
    """The replicas in the answer of `GET /api/serve/applications/`. Raises ServeUnavailable for an answer of another shape."""
    found: dict[str, list[str]] = {}
    for target in _read(answer, cluster):
        if target.protocol == "HTTP":
            addresses = found.setdefault(target.application, [])
            if not _is_proxy(target, cluster):
                addresses.append(target.address)
    return {application: tuple(addresses) for application, addresses in found.items()}


def parse_grpc_targets(answer: Any, cluster: Cluster) -> GrpcPorts:
    """The gRPC ports in the same answer, for replicas that have an HTTP port too; Serve's own proxy is none. Raises ServeUnavailable."""
    targets = _read(answer, cluster)
    http = {
        (target.application, target.name): target.port
        for target in targets
        if target.protocol == "HTTP" and not _is_proxy(target, cluster)
    }
    found: dict[str, dict[str, int]] = {}
    for target in targets:
        key = (target.application, target.name)
        if target.protocol == "gRPC" and key in http:
            found.setdefault(target.application, {})[target.address] = http[key]
    return found


def _is_proxy(target: ServeTarget, cluster: Cluster) -> bool:
    """Whether a target is Serve's own proxy, which Serve names while an application has no replica."""
    return str(target.port) == cluster.fallback.rpartition(":")[2]


def _read(answer: Any, cluster: Cluster) -> list[ServeTarget]:
    """All targets of all applications.

    The answer comes from a process that models run in: what becomes part of a command for HAProxy is parsed, not passed on. With a
    dashboard on loopback the replicas listen on loopback too, whatever address of the node Serve gives. Raises ServeUnavailable.
    """
    host = urlsplit(cluster.dashboard).hostname or ""
    loopback = host if _is_loopback(host) else ""
    try:
        return [
            _target(group, target, loopback)
            for group in answer["target_groups"]
            if group["protocol"] in _PROTOCOLS and group.get("app_name")
            for target in group["targets"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServeUnavailable(f"Serve's answer has no usable target_groups: {type(error).__name__} {error}") from None


def _target(group: Mapping[str, Any], target: Mapping[str, Any], loopback: str) -> ServeTarget:
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
    # A scope is whatever follows a %: Python checks none of it.
    if address is None or getattr(address, "scope_id", None):
        raise ValueError(f"ip of {application[:60]!r}: found {str(host)[:60]!r}; expected a numeric address")
    return ServeTarget(application, group["protocol"], str(target.get("name", "")), f"{address}:{port}", port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ServeClient:
    """Reads `target_groups` from Serve's REST API."""

    def __init__(self, session: aiohttp.ClientSession, token_file: Path | None) -> None:
        self._session = session
        self._token_file = token_file

    def _headers(self) -> dict[str, str]:
        # Read every time: a mounted Secret changes when the token is rotated.
        if self._token_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
        except OSError as error:
            raise ServeUnavailable(f"Ray token file {self._token_file} cannot be read: {error.strerror}") from None

    async def targets(self, cluster: Cluster) -> tuple[ReplicaAddresses, GrpcPorts]:
        """The replicas' HTTP and gRPC ports. Raises ServeUnavailable: then nothing is known, which is not the same as no replicas."""
        url = f"{cluster.dashboard.rstrip('/')}/api/serve/applications/"
        timeout = aiohttp.ClientTimeout(total=POLL_TIMEOUT_S)
        headers = self._headers()
        try:
            async with self._session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
                if response.status != 200:
                    raise ServeUnavailable(f"Serve answered {response.status} at {url}")
                body = await read_body(response, MAX_ANSWER_BYTES)
                if len(body) > MAX_ANSWER_BYTES:
                    raise ServeUnavailable(f"Serve's answer is larger than {MAX_ANSWER_BYTES} bytes")
            answer = orjson.loads(body)
            return parse_http_targets(answer, cluster), parse_grpc_targets(answer, cluster)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A ValueError is an answer that is no JSON, or a host that Python cannot encode.
            raise ServeUnavailable(f"Serve does not answer at {url}: {type(error).__name__}") from None


@dataclass(frozen=True, slots=True)
class DesiredSlot:
    """What one slot should have. `listed` is None while Serve's answer is not known, and empty when it names no replica.

    `check_ports` by address, where that is a gRPC port. `request_s` is the longest that a request may take, in seconds.
    """

    slot: str
    listed: tuple[str, ...] | None
    fallback: str
    maxconn: int
    check_ms: int = CHECK_MS
    fallback_check_ms: int = CHECK_MS
    check_ports: Mapping[str, int] = field(default_factory=dict)
    request_s: float = 0.0


def desired_servers(wish: DesiredSlot, present: Sequence[ServerState]) -> dict[str, SlotServer]:
    """The servers of a slot by name.

    While an application is rebuilt Serve names no replica although the old ones still answer, and Serve itself may be gone: healthy
    replicas then stay, and those that are down stay until it is certain that they are gone. Replicas that Serve has replaced
    stay while they are healthy until the new ones have passed their check, so that there is no moment without a server.
    """
    listed = dict.fromkeys(wish.listed or ())
    candidates = [server for server in present if _is_candidate(server)]
    if not listed:
        kept = [server for server in candidates if _worth_keeping(server, certain=wish.listed is not None)]
    elif _still_starting(listed, candidates):
        kept = [server for server in candidates if server.running]
    else:
        kept = []
    addresses = dict.fromkeys([*listed, *(server.address for server in kept)])
    ports = {server.address: server.check_port for server in present} | dict(wish.check_ports)
    servers = {
        address: SlotServer(wish.slot, address, address, wish.maxconn, False, wish.check_ms, ports.get(address, 0))
        for address in addresses
    }
    if wish.fallback:
        name = f"{FALLBACK_PREFIX}-{wish.fallback}"
        servers[name] = SlotServer(wish.slot, name, wish.fallback, 0, True, wish.fallback_check_ms)
    return servers


def _is_candidate(server: ServerState) -> bool:
    return not (server.name.startswith(FALLBACK_PREFIX) or server.draining or server.maintenance)


def _worth_keeping(server: ServerState, *, certain: bool) -> bool:
    return server.running or not certain or server.since_s < FORGET_DOWN_S


def _still_starting(listed: Iterable[str], candidates: Iterable[ServerState]) -> bool:
    """Whether a replica that Serve lists has yet to pass its check, or none has passed it."""
    known = {server.address: server for server in candidates}
    pending = [
        address
        for address in listed
        if address not in known or not (known[address].running or _given_up(known[address]))
    ]
    return bool(pending) or not any(address in known and known[address].running for address in listed)


def _given_up(server: ServerState) -> bool:
    return server.since_s >= CHECK_PATIENCE_S


def plan_slow_replicas(wish: DesiredSlot, present: Sequence[ServerState], proven: Collection[str]) -> list[str]:
    """Commands that keep replicas in whose checks only come too late, where no other answers in time.

    To take out all that are slow would fail every request, as on a machine without CPU. One that refuses connections or answers for another
    application goes all the same, and so does one that Serve no longer names or that has never passed a check (is not `proven`).
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
        and (wish.listed is None or server.name in wish.listed)
    ]


def find_proven(before: Collection[str], present: Sequence[ServerState]) -> frozenset[str]:
    """The servers of a slot that have passed a check and, since then, failed none but by being slow. `before`: those of the last look."""
    return frozenset(server.name for server in present if server.running or (server.slow and server.name in before))


def drain_limit_s(request_s: float) -> float:
    """Seconds that a leaving replica has for its requests, of which each may take `request_s`."""
    return max(MIN_DRAIN_S, request_s + _DRAIN_MARGIN_S)


def plan_commands(
    slot: str,
    want: Mapping[str, SlotServer],
    present: Sequence[ServerState],
    running: Mapping[tuple[str, str], int],
    draining_s: Mapping[tuple[str, str], float],
    limit_s: float = MIN_DRAIN_S,
) -> list[str]:
    """Commands that bring one slot of one worker closer to `want`.

    A server leaves in steps that HAProxy's own state records, so that any agent can go on: drain, then maintenance once its
    requests are done or `limit_s` have passed, then deletion. `drained_for` has seconds since a server was first seen draining.
    """
    commands: list[str] = []
    names = {server.name for server in present}
    for server in present:
        commands += _keep(server) if server.name in want else _remove(server, running, draining_s, limit_s)
    for name, wish in want.items():
        if name not in names:
            commands += _add(slot, wish)
    return commands


def _keep(server: ServerState) -> list[str]:
    where = f"{server.slot}/{server.name}"
    if server.maintenance:
        # Nobody checks a server in maintenance, so its address may be another application's by now: it comes back as a new one.
        return [f"del server {where}"]
    return [f"set server {where} state ready"] if server.draining else []


def _remove(
    server: ServerState,
    running: Mapping[tuple[str, str], int],
    draining_s: Mapping[tuple[str, str], float],
    limit_s: float,
) -> list[str]:
    key = (server.slot, server.name)
    where = f"{server.slot}/{server.name}"
    if server.maintenance:
        return [f"del server {where}"]
    if not server.draining:
        return [f"set server {where} state drain"]
    if running.get(key, 0) == 0:
        return [f"set server {where} state maint"]
    if draining_s.get(key, 0.0) > limit_s:
        return [f"shutdown sessions server {where}", f"set server {where} state maint"]
    return []


def _add(slot: str, server: SlotServer) -> list[str]:
    # HAProxy takes a new server for healthy until a check fails. Weight 0 keeps requests away until it is marked down, and
    # then the first check that finds the application's own prefix raises it.
    where = f"{slot}/{server.name}"
    return [
        f"add server {where} {render_server_options(server)} weight 0",
        f"enable health {where}",
        f"enable server {where}",
        f"set server {where} health down",
        f"set weight {where} 1",
    ]
