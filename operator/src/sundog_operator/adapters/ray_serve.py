"""Reads and writes Serve's REST API of a Ray cluster, over aiohttp."""

import base64
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from sundog_operator.adapters.http_body import read_body
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ApplicationState, DeploymentState, ReplicaState, ServeState
from sundog_operator.errors import RayUnavailable, ServeRefused
from sundog_operator.ports import SECRET, Clock, Kubernetes, Ref

MAX_RESPONSE_BYTES: Final = 16 * 2**20
MAX_RESPONSE_VALUES: Final = 1_000_000
"""Limits of an answer. 200 applications (100 ModelDeployments during rollouts), each with ten replicas, ten that ended and 4 kB of
configuration, take 4.5 MiB and 100 000 values. Values are limited too, because small ones take 25 times their bytes in memory.
"""
STATE_TTL_S: Final = 60.0
"""Dashboards that were not read for this long are forgotten."""
_PATH: Final = "/api/serve/applications/"
_ADVERTISEMENT: Final = "For further information visit"
TOKEN_TTL_S: Final = 30.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10, connect=2)


TokenSource = Callable[[str], Awaitable[str]]
"""Returns the token of a namespace's clusters; empty where there is none. Raises DependencyError."""


@dataclass(frozen=True, slots=True)
class _ParsedAnswer:
    """The last answer of a dashboard: its digest, its parsed state, and the monotonic time at which it was read."""

    digest: bytes
    state: ServeState
    at: float


class RayServe:
    """`ports.Serve`. The clusters of a namespace share one token.

    Answers come from pods that run tenants' code. So their size and time are limited, and redirects and addresses in them are not followed.
    """

    def __init__(
        self, session: aiohttp.ClientSession, tokens: TokenSource, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._session = session
        self._tokens = tokens
        self._monotonic = monotonic
        self._answers: dict[str, _ParsedAnswer] = {}
        """By dashboard: without a rollout, answers hardly ever change."""

    async def read(self, dashboard: str, namespace: str) -> ServeState:
        """Return the deployed applications. Raises RayUnavailable."""
        known = self._answers.pop(dashboard, None)
        body = await self._request("GET", dashboard, namespace)
        digest, now = hashlib.sha256(body).digest(), self._monotonic()
        state = known.state if known is not None and known.digest == digest else _parse(dashboard, body)
        self._answers = {each: old for each, old in self._answers.items() if now - old.at < STATE_TTL_S}
        self._answers[dashboard] = _ParsedAnswer(digest, state, now)
        return state

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        """Replace the whole application list. Raises RayUnavailable, ServeRefused."""
        await self._request("PUT", dashboard, namespace, document)

    async def _request(
        self, method: str, dashboard: str, namespace: str, document: Mapping[str, Any] | None = None
    ) -> bytes:
        url = dashboard + _PATH
        data = None if document is None else orjson.dumps(document)
        token = await self._tokens(namespace)
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), "Content-Type": "application/json"}
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                body = await read_body(response, MAX_RESPONSE_BYTES)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise RayUnavailable(f"{method} {url}: {type(err).__name__}") from err
        if len(body) > MAX_RESPONSE_BYTES:
            raise RayUnavailable(f"{method} {url}: the answer has over {MAX_RESPONSE_BYTES} bytes")
        if status == 400 and method == "PUT":
            raise ServeRefused(f"PUT {url}: {last_line(body)}")
        if status != 200:
            raise RayUnavailable(f"{method} {url}: status {status}, expected 200")
        return body


def fixed_token(token: str) -> TokenSource:
    """Return a source with one token for all namespaces, as in local mode."""

    async def tokens(_namespace: str) -> str:
        return token

    return tokens


class SecretTokens:
    """Reads tokens from each namespace's Secret, again after `TOKEN_TTL_S`: a namespace may be recreated with a new one."""

    def __init__(self, kube: Kubernetes, clock: Clock) -> None:
        self._kube = kube
        self._clock = clock
        self._known: dict[str, tuple[float, str]] = {}

    async def __call__(self, namespace: str) -> str:
        """Return the token of a namespace. See TokenSource."""
        read_at, token = self._known.get(namespace, (-TOKEN_TTL_S, ""))
        if token and self._clock.monotonic() - read_at < TOKEN_TTL_S:
            return token
        stored = await self._kube.get(Ref(SECRET, namespace, names.RAY))
        encoded = ((stored or {}).get("data") or {}).get(names.RAY_TOKEN_KEY, "")
        try:
            token = base64.b64decode(encoded, validate=True).decode()
        except ValueError as error:
            raise RayUnavailable(f"Secret {namespace}/{names.RAY}: {names.RAY_TOKEN_KEY} is not base64 text") from error
        self._known[namespace] = (self._clock.monotonic(), token)
        return token


def last_line(body: bytes, limit: int = 300) -> str:
    """Return the last non-empty line of an error text. In a traceback that is the exception."""
    stripped = (line.strip() for line in body.decode("utf-8", "replace").splitlines())
    lines = [line for line in stripped if line and not line.startswith(_ADVERTISEMENT)]
    return lines[-1][:limit] if lines else "no reason given"


def _parse(dashboard: str, body: bytes) -> ServeState:
    # A comma, brace or bracket in a text counts too, which is a small part of a real answer.
    if body.count(b",") + body.count(b"{") + body.count(b"[") > MAX_RESPONSE_VALUES:
        raise RayUnavailable(f"{dashboard}{_PATH}: the answer has over {MAX_RESPONSE_VALUES} values")
    try:
        return parse_serve_state(orjson.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise RayUnavailable(f"{dashboard}{_PATH}: the answer is not a Serve status ({type(err).__name__})") from err


def parse_serve_state(answer: Mapping[str, Any]) -> ServeState:
    """Parse Serve's status document. An empty `controller_info` means that the controller does not run or is unknown."""
    applications = {name: _application(name, app) for name, app in answer["applications"].items()}
    return ServeState(known=bool(answer.get("controller_info")), applications=applications)


def _application(name: str, app: Mapping[str, Any]) -> ApplicationState:
    return ApplicationState(
        name=name,
        status=app["status"],
        message=app.get("message") or "",
        config=app.get("deployed_app_config") or {},
        deployments=tuple(_deployment(n, d) for n, d in (app.get("deployments") or {}).items()),
    )


def _deployment(name: str, deployment: Mapping[str, Any]) -> DeploymentState:
    replicas = tuple(ReplicaState(r["replica_id"], r["state"]) for r in deployment.get("replicas") or ())
    return DeploymentState(
        name=name,
        status=deployment["status"],
        message=deployment.get("message") or "",
        target_replicas=int(deployment.get("target_num_replicas") or 0),
        replicas=replicas,
    )
