"""Sends requests to an API server with a login: through the client library, or without it, which imports faster."""

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
    """Address and credentials of an API server, for another client."""

    server: str
    verify: bool
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None
    authorization: str | None = field(repr=False)


class Connection(Protocol):
    """A connection to an API server. Network errors are those of aiohttp, TimeoutError and OSError."""

    @property
    def host(self) -> str:
        """The URL of the server."""

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
        """Run a command in a container; yield the messages of its WebSocket."""

    async def login(self) -> Login:
        """Return the current login; a renewed token is read again."""

    async def close(self) -> None:
        """Close the connections."""


class PlainConnection:
    """A server without TLS whose URL holds the credentials, such as the one of local mode."""

    def __init__(self, server: str) -> None:
        self._server = server.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def of(cls, kubeconfig: Path) -> "PlainConnection":
        """Connect to the server of a kubeconfig that local mode wrote. Raises DependencyError."""
        try:
            document = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
            return cls(str(document["clusters"][0]["cluster"]["server"]))
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
            raise DependencyError(f"{kubeconfig}: not a kubeconfig of local mode: {error}") from error

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
            # As in Go clients, a proxy of the environment is not used for this machine.
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
    """Any server that a kubeconfig describes, through the client library, which renews logins."""

    def __init__(self, api: "ApiClient") -> None:
        self._api = api

    @classmethod
    async def of(cls, kubeconfig: Path | None, context: str | None) -> "LibraryConnection":
        """Connect to the server of a kubeconfig, or without one to the cluster of this pod. Raises DependencyError."""
        # This import takes half a second of a core.
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
                # As in Go clients, a proxy of the environment is not used for this machine.
                configuration.client_session_kwargs = {"trust_env": False}
            return cls(ApiClient(configuration))
        except (ConfigException, OSError, yaml.YAMLError) as error:
            raise DependencyError(f"no configuration for a Kubernetes API server: {error}") from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The library reads an empty or mistyped file without a check.
            raise DependencyError(f"{kubeconfig or 'the cluster of this pod'}: not a kubeconfig: {error}") from error

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
        method, url, sent, data = await self._serialize(method, path, query, headers, body)
        answer = await self._api.call_api(method, url, sent, data, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def run(self, path: str, query: Query) -> AsyncGenerator[aiohttp.WSMessage, None]:
        """See Connection."""
        from kubernetes.aio.stream import WsApiClient

        api = WsApiClient(self._api.configuration)
        try:
            method, url, sent, _ = await self._serialize("GET", path, query, {}, None)
            answer = await api.call_api(method, url, sent, _preload_content=False)
            async with answer.response as socket:
                async for message in socket:
                    yield message
        finally:
            await api.close()

    async def _serialize(
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
