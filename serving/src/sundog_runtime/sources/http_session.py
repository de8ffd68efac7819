"""HTTP as models are read by: GET, every hop guarded, nothing taken from the environment's proxies or .netrc."""

import asyncio
import re
import ssl
from asyncio.trsock import TransportSocket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from socket import SHUT_RDWR
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from sundog_runtime.errors import AccessDenied, LoadFailed, ModelNotFound, ModelTooLarge, SourceRefused, StartError
from sundog_runtime.sources.address_guard import AddressGuard, GuardedResolver
from sundog_runtime.sources.download_limits import DownloadLimits
from sundog_runtime.sources.listing import ObjectChanged, TransientSourceError

MAX_REDIRECTS = 5
CHUNK_BYTES = 1024 * 1024
_MOST_TOLD = 4 * 1024 * 1024

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


class WebSession:
    """A session. `what` in its methods names the object in errors: a URL can hold a signature, and is never shown."""

    def __init__(self, guard: AddressGuard, limits: DownloadLimits) -> None:
        self._guard = guard
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None
        self._connections: dict[asyncio.Transport, TransportSocket] = {}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(self._guard),
            use_dns_cache=False,
            limit=self._limits.connections,
            # Honours SSL_CERT_FILE, by which an administrator adds an authority of his own.
            ssl=ssl.create_default_context(),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            response_class=_remembering(self._connections),
            trust_env=False,
            # What is sent is what is stored and hashed.
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "sundog"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect, sock_read=self._limits.idle),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        # The session forgets a connection that was given up, which then waits for the store's farewell: a silent one
        # would keep it open for as long as it likes.
        for transport, socket in self._connections.items():
            transport.abort()
            # One that was closed twice, as aiohttp does it with what is no HTTP, no longer knows how to abort.
            with suppress(OSError):
                socket.shutdown(SHUT_RDWR)
        # Its end is read in a turn of the loop, and the connection is taken apart in the next.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def get(
        self, url: URL, what: str, headers: Mapping[str, str] | None = None, *, allow_other_hosts: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer behind all redirects, whatever its status; without `roam` they stay on the host.

        `Authorization` goes to the first host only. Raises SourceRefused, or Transient for trouble on the way.
        """
        assert self._session is not None
        sent = dict(headers or {})
        try:
            for _ in range(MAX_REDIRECTS + 1):
                self._guard.check_literal(url.host or "")
                async with self._session.get(url, headers=sent, allow_redirects=False) as response:
                    if response.status not in _REDIRECTS:
                        yield response
                        return
                    following = self._follow(
                        url, response.headers.get("Location", ""), what, allow_other_hosts=allow_other_hosts
                    )
                if following.origin() != url.origin():
                    sent.pop("Authorization", None)
                url = following
        except StartError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransientSourceError(f"{what}: {_told(error)}") from None
        raise SourceRefused(f"{what}: more than {MAX_REDIRECTS} redirects")

    async def probe(
        self, url: URL, what: str, headers: Mapping[str, str] | None = None, *, allow_other_hosts: bool = False
    ) -> tuple[int | None, str, bool]:
        """Size, strong ETag and whether ranges are answered, by asking for the first byte."""
        async with self.get(
            url, what, {**(headers or {}), "Range": "bytes=0-0"}, allow_other_hosts=allow_other_hosts
        ) as response:
            etag = _strong(response.headers.get("ETag", ""))
            total = _total(response)
            if response.status == 416 and total == 0:
                return 0, etag, True
            # An empty object has no first byte, and not every store tells its size beside saying so.
            if response.status == 416:
                return await self._whole(url, what, headers, allow_other_hosts=allow_other_hosts)
            if response.status == 206:
                return total, etag, total is not None
            check_status(response, what)
            return response.content_length, etag, False

    async def _whole(
        self, url: URL, what: str, headers: Mapping[str, str] | None, *, allow_other_hosts: bool
    ) -> tuple[int | None, str, bool]:
        async with self.get(url, what, headers, allow_other_hosts=allow_other_hosts) as response:
            check_status(response, what)
            return response.content_length, _strong(response.headers.get("ETag", "")), False

    async def read(
        self,
        url: URL,
        what: str,
        start: int,
        end: int | None,
        *,
        etag: str = "",
        size: int | None = None,
        headers: Mapping[str, str] | None = None,
        allow_other_hosts: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """Bytes `start` to before `end`. Raises Changed where the object is not the one with that ETag and size."""
        wanted = dict(headers or {})
        if partly := start > 0 or (end is not None and end != size):
            wanted["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            if etag:
                wanted["If-Range"] = etag
        async with self.get(url, what, wanted, allow_other_hosts=allow_other_hosts) as response:
            check_status(response, what)
            found = _strong(response.headers.get("ETag", ""))
            if etag and found and found != etag:
                raise ObjectChanged(f"{what}: changed while it was read")
            if partly and response.status == 206:
                _check_range(response, what, start, end, size)
            elif partly:
                raise ObjectChanged(
                    f"{what}: all of it was sent where a part was asked for; it changed, or ranges are ignored"
                )
            try:
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    yield chunk
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise TransientSourceError(f"{what}: {_told(error)}") from None

    def _follow(self, url: URL, location: str, what: str, *, allow_other_hosts: bool) -> URL:
        try:
            following = url.join(URL(location))
            same = following.origin() == url.origin()
        except ValueError:
            raise SourceRefused(f"{what}: redirected to what is no address") from None
        if following.scheme != url.scheme or following.user or following.password:
            raise SourceRefused(f"{what}: redirected to another scheme, or with credentials")
        if not same and not allow_other_hosts and not self._guard.lists(following.host or ""):
            raise SourceRefused(f"{what}: redirected to another host, {following.host}, which is not followed")
        return following


def _remembering(connections: dict[asyncio.Transport, TransportSocket]) -> type[aiohttp.ClientResponse]:
    """Answers that note over which connections they come, before their first byte."""

    class Answer(aiohttp.ClientResponse):
        async def start(self, connection: Connection) -> aiohttp.ClientResponse:
            if connection.transport is not None:
                connections[connection.transport] = connection.transport.get_extra_info("socket")
            return await super().start(connection)

    return Answer


def check_status(response: aiohttp.ClientResponse, what: str) -> None:
    """Raises the StartError that the status stands for."""
    status = response.status
    if status in (200, 206):
        return
    if status in (401, 403):
        raise AccessDenied(f"{what}: the store answered {status}")
    if status in (404, 410):
        raise ModelNotFound(f"{what}: the store answered {status}")
    if status in (412, 416):
        raise ObjectChanged(f"{what}: changed while it was read (the store answered {status})")
    if status in _TRANSIENT:
        raise TransientSourceError(f"{what}: the store answered {status}", _after(response))
    raise LoadFailed(f"{what}: the store answered {status}")


async def read_whole_body(response: aiohttp.ClientResponse, what: str) -> bytes:
    """The body of what tells about models. Raises ModelTooLarge, or Transient where it breaks off."""
    body = bytearray()
    try:
        async for chunk in response.content.iter_chunked(64 * 1024):
            body += chunk
            if len(body) > _MOST_TOLD:
                raise ModelTooLarge(f"{what}: the answer has more than {_MOST_TOLD} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TransientSourceError(f"{what}: {_told(error)}") from None
    return bytes(body)


def _check_range(response: aiohttp.ClientResponse, what: str, start: int, end: int | None, size: int | None) -> None:
    sent = response.headers.get("Content-Range", "")
    found = _RANGE.fullmatch(sent)
    if found is None or found[1] is None or int(found[1]) != start or (end is not None and int(found[2]) >= end):
        raise TransientSourceError(f"{what}: {sent[:60]!r} was sent where bytes from {start} were asked for")
    if size is not None and found[3] != "*" and int(found[3]) != size:
        raise ObjectChanged(f"{what}: has {found[3]} bytes now, and had {size}")


def _total(response: aiohttp.ClientResponse) -> int | None:
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(found[3]) if found is not None and found[3] != "*" else None


def _strong(etag: str) -> str:
    """Weak ETags stay the same where bytes change."""
    return "" if etag.startswith("W/") else etag


def _after(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _told(error: BaseException) -> str:
    """What went wrong, without the URL that some of these errors carry."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "the store was silent for too long"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the store closed the connection before the end"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "the store's TLS certificate is not valid for it"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the store's name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"the store cannot be reached: {error.os_error.strerror or type(error.os_error).__name__}"
    return f"the store does not answer as HTTP wants it ({type(error).__name__})"
