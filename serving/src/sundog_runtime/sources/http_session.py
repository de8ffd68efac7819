"""HTTP GET for models: every hop is guarded, and proxies and .netrc of the environment are ignored."""

import asyncio
import re
import ssl
from asyncio.trsock import TransportSocket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
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
from sundog_runtime.sources.file_digests import CHUNK_BYTES
from sundog_runtime.sources.listing import ObjectChanged, TransientSourceError

MAX_REDIRECTS = 5
_MAX_METADATA_BYTES = 4 * 1024 * 1024

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
            # Honours SSL_CERT_FILE, with which an administrator adds a certificate authority.
            ssl=ssl.create_default_context(),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            response_class=_recording_response(self._connections),
            trust_env=False,
            # Store and hash exactly the bytes that are sent.
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "sundog"},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._limits.connect_s, sock_read=self._limits.idle_s
            ),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        # The session forgets an abandoned connection, which then waits for the store to close it. A silent store could keep it
        # open for any time.
        for transport, socket in self._connections.items():
            transport.abort()
            # aiohttp closes a connection twice if its data is not HTTP; such a connection can no longer be aborted.
            with suppress(OSError):
                socket.shutdown(SHUT_RDWR)
        # The loop reads the end of a connection in one turn, and closes it in the next.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def get(
        self, url: URL, what: str, headers: Mapping[str, str] | None = None, *, allow_other_hosts: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the answer after all redirects, with any status. Redirects stay on the host, unless `allow_other_hosts`.

        `Authorization` goes to the first host only. Raises SourceRefused, or TransientSourceError for network errors.
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
                    target = self._redirect_target(
                        url, response.headers.get("Location", ""), what, allow_other_hosts=allow_other_hosts
                    )
                if target.origin() != url.origin():
                    sent.pop("Authorization", None)
                url = target
        except StartError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransientSourceError(f"{what}: {_describe_error(error)}") from None
        raise SourceRefused(f"{what}: more than {MAX_REDIRECTS} redirects")

    async def read_document(
        self,
        url: URL,
        what: str,
        headers: Mapping[str, str] | None = None,
        *,
        check: "Callable[[aiohttp.ClientResponse, str], None] | None" = None,
        allow_other_hosts: bool = False,
    ) -> tuple[bytes, aiohttp.ClientResponse]:
        """Return a body of metadata, and its answer. `check` checks the answer's status, by default as `check_status`.

        Raises what `check` raises, ModelTooLarge, or TransientSourceError if the body breaks off.
        """
        async with self.get(url, what, headers, allow_other_hosts=allow_other_hosts) as response:
            (check or check_status)(response, what)
            return await _read_whole_body(response, what), response

    async def probe(self, url: URL, what: str) -> tuple[int | None, str, bool]:
        """Return size, strong ETag and whether ranges are supported, by a request for the first byte."""
        async with self.get(url, what, {"Range": "bytes=0-0"}) as response:
            etag = _strong(response.headers.get("ETag", ""))
            total = _total(response)
            if response.status == 416 and total == 0:
                return 0, etag, True
            # An empty object has no first byte, and not every store reports its size with this answer.
            if response.status == 416:
                return await self._whole(url, what)
            if response.status == 206:
                return total, etag, total is not None
            check_status(response, what)
            return response.content_length, etag, False

    async def _whole(self, url: URL, what: str) -> tuple[int | None, str, bool]:
        async with self.get(url, what) as response:
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
        """Yield bytes `start` to before `end`. Raises ObjectChanged if the object has another ETag or size."""
        wanted = dict(headers or {})
        if is_part := start > 0 or (end is not None and end != size):
            wanted["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            if etag:
                wanted["If-Range"] = etag
        async with self.get(url, what, wanted, allow_other_hosts=allow_other_hosts) as response:
            check_status(response, what)
            found = _strong(response.headers.get("ETag", ""))
            if etag and found and found != etag:
                raise ObjectChanged(f"{what}: changed while it was read")
            if is_part and response.status == 206:
                _check_range(response, what, start, end, size)
            elif is_part:
                raise ObjectChanged(
                    f"{what}: all of it was sent; expected a part. It changed, or the store ignores ranges."
                )
            try:
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    yield chunk
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise TransientSourceError(f"{what}: {_describe_error(error)}") from None

    def _redirect_target(self, url: URL, location: str, what: str, *, allow_other_hosts: bool) -> URL:
        try:
            target = url.join(URL(location))
            same = target.origin() == url.origin()
        except ValueError:
            raise SourceRefused(f"{what}: redirected to an invalid address") from None
        if target.scheme != url.scheme or target.user or target.password:
            raise SourceRefused(f"{what}: redirected to another scheme, or with credentials")
        if not same and not allow_other_hosts and not self._guard.is_listed(target.host or ""):
            raise SourceRefused(f"{what}: redirected to another host, {target.host}; expected the same host")
        return target


def _recording_response(connections: dict[asyncio.Transport, TransportSocket]) -> type[aiohttp.ClientResponse]:
    """Return a response class that records its connection, before its first byte."""

    class RecordingResponse(aiohttp.ClientResponse):
        async def start(self, connection: Connection) -> aiohttp.ClientResponse:
            if connection.transport is not None:
                connections[connection.transport] = connection.transport.get_extra_info("socket")
            return await super().start(connection)

    return RecordingResponse


def check_status(response: aiohttp.ClientResponse, what: str) -> None:
    """Check the status. Raises the StartError for it."""
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
        raise TransientSourceError(f"{what}: the store answered {status}", _retry_after_s(response))
    raise LoadFailed(f"{what}: the store answered {status}")


async def _read_whole_body(response: aiohttp.ClientResponse, what: str) -> bytes:
    """Return a body of metadata. Raises ModelTooLarge, or TransientSourceError if it breaks off."""
    body = bytearray()
    try:
        async for chunk in response.content.iter_chunked(64 * 1024):
            body += chunk
            if len(body) > _MAX_METADATA_BYTES:
                raise ModelTooLarge(f"{what}: the answer has more than {_MAX_METADATA_BYTES} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TransientSourceError(f"{what}: {_describe_error(error)}") from None
    return bytes(body)


def _check_range(response: aiohttp.ClientResponse, what: str, start: int, end: int | None, size: int | None) -> None:
    sent = response.headers.get("Content-Range", "")
    found = _RANGE.fullmatch(sent)
    if found is None or found[1] is None or int(found[1]) != start or (end is not None and int(found[2]) >= end):
        raise TransientSourceError(f"{what}: the store sent {sent[:60]!r}; expected bytes from {start}")
    if size is not None and found[3] != "*" and int(found[3]) != size:
        raise ObjectChanged(f"{what}: has {found[3]} bytes; expected {size}")


def _total(response: aiohttp.ClientResponse) -> int | None:
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(found[3]) if found is not None and found[3] != "*" else None


def _strong(etag: str) -> str:
    """Return a strong ETag, otherwise "": weak ETags can stay the same when bytes change."""
    return "" if etag.startswith("W/") else etag


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _describe_error(error: BaseException) -> str:
    """Describe an error without the URL that some of these errors hold."""
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
    return f"the store's answer is not valid HTTP ({type(error).__name__})"
