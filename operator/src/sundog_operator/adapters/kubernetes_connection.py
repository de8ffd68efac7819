"""How requests reach an API server, and who asks: by the client library, or plainly, where that would only take time to import."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson
import yaml
from yarl import URL

from sundog_operator.errors import DependencyError

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

Query = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Login:
    """How to reach an API server and who asks, for another client."""

    server: str
    verify: bool
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None
    authorization: str | None = field(repr=False)


class Connection(Protocol):
    """An API server that can be asked. Errors of the network are those of aiohttp, TimeoutError and OSError."""

    @property
    def host(self) -> str:
        """Its URL."""

    async def request(
        self,
        method: str,
        path: str,
        query: Query,
        headers: Mapping[str, str],
        body: Any,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send a request; `path` is quoted, `body` JSON or None. Raises DependencyError for a login that cannot be renewed."""

    def run(self, path: str, query: Query) -> AsyncGenerator[aiohttp.WSMessage, None]:
        """The messages of a WebSocket by which a command is run in a container."""

    async def login(self) -> Login:
        """What this logs in with now; a token that is renewed is read anew."""

    async def close(self) -> None:
        """Close the connections."""


class PlainConnection:
    """A server without TLS whose URL has the credentials, such as that of local mode."""

    def __init__(self, server: str) -> None:
        self._server = server.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def of(cls, kubeconfig: Path) -> "PlainConnection":
        """The server of a kubeconfig that local mode wrote. Raises DependencyError."""
        try:
            document = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
            return cls(str(document["clusters"][0]["cluster"]["server"]))
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
            raise DependencyError(f"{kubeconfig}: is no kubeconfig of local mode: {error}") from error

    @property
    def host(self) -> str:
        """See Connection."""
        return str(URL(self._server).with_user(None))

    async def request(
        self,
        method: str,
        path: str,
        query: Query,
        headers: Mapping[str, str],
        body: Any,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """See Connection."""
        if self._session is None:
            # What runs on this machine is not reached through a proxy of the environment, as in Go clients.
            self._session = aiohttp.ClientSession(trust_env=False)
        url = URL(f"{self._server}{path}", encoded=True)
        url = url.with_query(list(query)) if query else url
        data = None if body is None else orjson.dumps(body)
        return await self._session.request(method, url, headers=headers, data=data, timeout=timeout)

    def run(self, path: str, query: Query) -> AsyncGenerator[aiohttp.WSMessage, None]:  # noqa: ARG002
        """See Connection. Raises DependencyError: local mode has no containers."""
        raise DependencyError(f"{self.host}{path}: local mode has no containers")

    async def login(self) -> Login:
        """See Connection."""
        return Login(self._server, True, None, None, None, None)

    async def close(self) -> None:
        """See Connection."""
        if self._session is not None:
            await self._session.close()


class LibraryConnection:
    """Any server that a kubeconfig can describe, by the client library, which renews logins."""

    def __init__(self, api: "ApiClient") -> None:
        self._api = api

    @classmethod
    async def of(cls, kubeconfig: Path | None, context: str | None) -> "LibraryConnection":
        """The server of a kubeconfig, or without one of the cluster that this pod runs in. Raises DependencyError."""
        # It takes half a second of a core to import.
        from kubernetes.aio.client import ApiClient, Configuration
        from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

        configuration = Configuration()
        try:
            if kubeconfig is None:
                load_incluster_config(client_configuration=configuration)
            else:
                await load_kube_config(
                    config_file=str(kubeconfig),
                    context=context,
                    client_configuration=configuration,
                    persist_config=False,
                )
            if _is_loopback(configuration.host):
                # What runs on this machine is not reached through a proxy of the environment, as in Go clients.
                configuration.client_session_kwargs = {"trust_env": False}
            return cls(ApiClient(configuration))
        except (ConfigException, OSError, yaml.YAMLError) as error:
            raise DependencyError(f"no configuration for a Kubernetes API server: {error}") from error

    @property
    def host(self) -> str:
        """See Connection."""
        return str(self._api.configuration.host)

    async def request(
        self,
        method: str,
        path: str,
        query: Query,
        headers: Mapping[str, str],
        body: Any,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """See Connection."""
        method, url, sent, data = await self._serialized(method, path, query, headers, body)
        answer = await self._api.call_api(method, url, sent, data, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def run(self, path: str, query: Query) -> AsyncGenerator[aiohttp.WSMessage, None]:
        """See Connection."""
        from kubernetes.aio.stream import WsApiClient

        api = WsApiClient(self._api.configuration)
        try:
            method, url, sent, _ = await self._serialized("GET", path, query, {}, None)
            answer = await api.call_api(method, url, sent, _preload_content=False)
            async with answer.response as socket:
                async for message in socket:
                    yield message
        finally:
            await api.close()

    async def _serialized(
        self, method: str, path: str, query: Query, headers: Mapping[str, str], body: Any
    ) -> tuple[str, str, dict[str, str], Any]:
        from kubernetes.aio.config import ConfigException

        try:
            method, url, sent, data, _ = await self._api.param_serialize(
                method,
                path,
                query_params=list(query),
                header_params=dict(headers),
                body=body,
                auth_settings=["BearerToken"],
            )
        except ConfigException as error:
            raise DependencyError(f"{self.host}: the login cannot be renewed: {error}") from error
        return method, url, sent, data

    async def login(self) -> Login:
        """See Connection."""
        configuration = self._api.configuration
        return Login(
            server=configuration.host,
            verify=configuration.verify_ssl,
            ca_file=configuration.ssl_ca_cert,
            certificate_file=configuration.cert_file,
            key_file=configuration.key_file,
            authorization=await configuration.get_api_key_with_prefix("BearerToken"),
        )

    async def close(self) -> None:
        """See Connection."""
        await self._api.close()


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
