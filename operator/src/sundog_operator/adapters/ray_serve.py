"""Reads and writes Serve's REST API of a Ray cluster, over aiohttp."""

import base64
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
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
MAX_CONFIG_BYTES: Final = 8 * 2**20
"""What the deployed configurations of an answer may take, as JSON.

They are kept, because an application whose revision was lost is deployed again as it is.
"""
MAX_MESSAGE_CHARS: Final = 16_384
"""Characters of a message that are kept; its middle is cut out. The report of the model server has at most 4000."""
MAX_NAME_CHARS: Final = 512
MAX_REPLICAS: Final = 1_000_000
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
    """Parse Serve's status document. An empty `controller_info` means that the controller does not run or is unknown.

    Raises TypeError or ValueError for a field of another type or size than Serve's, because tenants' code may have written it.
    """
    applications = {
        _text(name, MAX_NAME_CHARS): _application(name, _object(app))
        for name, app in _object(answer["applications"]).items()
    }
    configs = sum(len(app.config.text) for app in applications.values() if isinstance(app.config, StoredConfig))
    if configs > MAX_CONFIG_BYTES:
        raise ValueError(f"configurations of {configs} bytes")
    return ServeState(known=bool(answer.get("controller_info")), applications=applications)


class StoredConfig(Mapping[str, Any]):
    """A deployed configuration as JSON, which is decoded when it is read: decoded, it takes many times as much memory."""

    __slots__ = ("text",)

    def __init__(self, config: Mapping[str, Any]) -> None:
        # A copy: the result of orjson is a buffer that may be 24 times as large as its content.
        self.text: Final = bytes(memoryview(orjson.dumps(config)))

    def __getitem__(self, key: str) -> Any:
        return _decode(self.text)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(_decode(self.text))

    def __len__(self) -> int:
        return len(_decode(self.text))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StoredConfig):
            return self.text == other.text
        return isinstance(other, Mapping) and _decode(self.text) == other

    def __hash__(self) -> int:
        return hash(self.text)


@lru_cache(maxsize=2)
def _decode(text: bytes) -> dict[str, Any]:
    # Two, because callers read several fields of one application after the other.
    decoded: dict[str, Any] = orjson.loads(text)
    return decoded


def _application(name: str, app: Mapping[str, Any]) -> ApplicationState:
    return ApplicationState(
        name=name,
        status=_text(app["status"], MAX_NAME_CHARS),
        message=_message(app),
        config=StoredConfig(_checked_config(_object(app.get("deployed_app_config") or {}))),
        deployments=tuple(_deployment(n, _object(d)) for n, d in _object(app.get("deployments") or {}).items()),
    )


def _deployment(name: str, deployment: Mapping[str, Any]) -> DeploymentState:
    replicas = tuple(
        ReplicaState(_text(r["replica_id"], MAX_NAME_CHARS), _text(r["state"], MAX_NAME_CHARS))
        for r in map(_object, deployment.get("replicas") or ())
    )
    target = deployment.get("target_num_replicas") or 0
    if type(target) is not int or not 0 <= target <= MAX_REPLICAS:
        raise ValueError("target_num_replicas")
    return DeploymentState(
        name=_text(name, MAX_NAME_CHARS),
        status=_text(deployment["status"], MAX_NAME_CHARS),
        message=_message(deployment),
        target_replicas=target,
        replicas=replicas,
    )


def _checked_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration whose fields that the operator reads have the types of those that it wrote."""
    arguments = _object(config.get("args") or {})
    _text(arguments.get("revisionHash") or "", MAX_NAME_CHARS)
    deployments = config.get("deployments") or []
    if not isinstance(deployments, list):
        raise TypeError("deployments")
    for each in map(_object, deployments):
        scaling = _object(each.get("autoscaling_config") or {})
        counts = (each.get("num_replicas"), scaling.get("min_replicas"), scaling.get("max_replicas"))
        if not all(count in (None, "auto") or type(count) is int for count in counts):
            raise TypeError("number of replicas")
        _object(each.get("user_config") or {})
        _object(each.get("ray_actor_options") or {})
    return config


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _text(value: Any, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise TypeError("not a short text")
    return value


def _message(part: Mapping[str, Any]) -> str:
    """Return the message without its middle: the cause is in its last lines, and its patterns are matched."""
    text = part.get("message") or ""
    if not isinstance(text, str):
        raise TypeError("message")
    half = MAX_MESSAGE_CHARS // 2
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[:half]}\n…\n{text[-half:]}"
