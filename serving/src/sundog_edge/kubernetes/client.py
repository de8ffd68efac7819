"""Read and watch one object of the Kubernetes API by name, with the pod's ServiceAccount.

The agent only lists and watches two objects. aiohttp is enough for that, without the memory and start time of a client library.
"""

import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from sundog_edge.errors import ApiUnavailable, SettingsError
from sundog_edge.headers import AUTHORIZATION

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_BYTES = 8 << 20
_WATCH_S = 300
_LIST_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)
# The server ends a watch after _WATCH_S. A dead connection is found much earlier, see `_open_socket`.
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=5, sock_read=_WATCH_S + 30)


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """The API server's URL and the pod's identity. The token is read for every request: the kubelet replaces it about once an hour."""

    url: str
    token: Path
    authorities: Path

    @classmethod
    def of_pod(
        cls, environment: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT_DIR
    ) -> "ServiceAccount":
        """Return the account of this pod. Raises SettingsError outside a pod."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise SettingsError("--config-map is for a pod in a cluster: KUBERNETES_SERVICE_HOST is not set")
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", directory / "token", directory / "ca.crt")


@dataclass(frozen=True, slots=True)
class ObservedObject:
    """An object from a list or a watch, None if it does not exist, and the resourceVersion from which to watch."""

    object: Mapping[str, Any] | None
    version: str


class ApiServer:
    """Client for objects of one namespace.

    Every method raises ApiUnavailable, with one line that names the request and holds no token.
    """

    def __init__(self, account: ServiceAccount, namespace: str) -> None:
        self._account = account
        self._namespace = namespace
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections. The next request opens new ones and reads the CA certificates again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def read(self, plural: str, name: str) -> ObservedObject:
        """Return the present object."""
        body = b""
        async with self._get(plural, name, {}, _LIST_TIMEOUT) as response:
            async for chunk in response.content.iter_any():
                body = self._append(body, chunk)
        listed = _json(body)
        items = listed.get("items") or []
        return ObservedObject(items[0] if items else None, _version(listed))

    async def watch(self, plural: str, name: str, version: str) -> AsyncGenerator[ObservedObject]:
        """Yield changes after `version`. Ends when the object must be read again."""
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(_WATCH_S)}
        async with self._get(plural, name, query, _WATCH_TIMEOUT) as response:
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = self._append(rest, chunk).split(b"\n")
                for event in map(_json, lines):
                    if event.get("type") == "ERROR":
                        return
                    found = event.get("object") or {}
                    yield ObservedObject(None if event.get("type") == "DELETED" else found, _version(found))

    @asynccontextmanager
    async def _get(
        self, plural: str, name: str, query: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        # A list by name, not a GET: for a missing object too, it returns the version from which to watch.
        url = f"{self._account.url}/api/v1/namespaces/{self._namespace}/{plural}"
        selected = {"fieldSelector": f"metadata.name={name}", **query}
        try:
            headers = {AUTHORIZATION: f"Bearer {self._account.token.read_text().strip()}"}
            async with self._connections().get(
                url, params=selected, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise ApiUnavailable(f"API server answered {response.status} for {plural} {name}; expected 200")
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ApiUnavailable(f"API server is not available for {plural} {name}: {_reason(error)}") from None

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            https = self._account.url.startswith("https:")
            context = ssl.create_default_context(cafile=self._account.authorities) if https else True
            connector = aiohttp.TCPConnector(ssl=context, socket_factory=_open_socket)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session

    def _append(self, before: bytes, chunk: bytes) -> bytes:
        if len(before) + len(chunk) > MAX_BYTES:
            raise ApiUnavailable(f"API server's answer exceeds {MAX_BYTES} bytes")
        return before + chunk


def _open_socket(address: tuple[int, int, int, str, Any]) -> socket.socket:
    """Return a socket with keep-alive probes, which detect a lost API server within half a minute."""
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return opened


def _json(text: bytes) -> Mapping[str, Any]:
    found = orjson.loads(text)
    if not isinstance(found, dict):
        raise ApiUnavailable("API server's answer is not a JSON object")
    return found


def _version(found: Mapping[str, Any]) -> str:
    return str((found.get("metadata") or {}).get("resourceVersion", ""))


def _reason(error: Exception) -> str:
    # The text of a client error may be of any length; `strerror` of an OSError is short.
    return str(getattr(error, "strerror", None) or type(error).__name__)
