"""`s3://` and `gs://`: objects of a bucket, listed and read by `http_session` from URLs that obstore signs.

obstore knows both stores' credentials and signatures, and reads them from the environment. Its HTTP client follows
redirects to any host and takes proxies from the environment. A user chooses the endpoint of S3, so obstore sends no
requests to it. For Google's storage with credentials, obstore sends the requests: signing needs a key, which workload
identities do not have. These requests use only TLS, also after redirects, and no metadata service has TLS.
"""

import asyncio
import os
import re
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

import aiohttp
import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import GCSStore, S3Store
from yarl import URL

from sundog_runtime.errors import AccessDenied, LoadFailed, ModelNotFound, ModelTooLarge, StartError
from sundog_runtime.sources.address_guard import AddressGuard, check_addresses
from sundog_runtime.sources.archive import check_member_name, is_archive
from sundog_runtime.sources.bucket_listing import BucketObject, ListingPage, page_query, parse_page
from sundog_runtime.sources.download_limits import DownloadLimits
from sundog_runtime.sources.file_digests import CHUNK_BYTES, MAX_FILES
from sundog_runtime.sources.http_session import WebSession, check_status
from sundog_runtime.sources.listing import (
    ModelListing,
    ObjectChanged,
    RemoteObject,
    TransientSourceError,
    retry,
)
from sundog_runtime.sources.uri import BucketUri

_SIGNATURE_LIFETIME = timedelta(minutes=15)
_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3})")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_GOOGLE = "https://storage.googleapis.com"


@dataclass(frozen=True, slots=True)
class _UnsignedUrls:
    """The URLs of a bucket that requires no credentials. `base` is that of the bucket."""

    base: URL

    async def object(self, key: str) -> URL:
        return self.base.joinpath(quote(key), encoded=True)

    async def page(self, query: str) -> URL:
        return URL(f"{self.base}?{query}", encoded=True)


@dataclass(frozen=True, slots=True)
class _SignedUrls:
    """The URLs of an S3 bucket, signed for some minutes. `options` are those of `store`."""

    bucket: str
    store: S3Store
    base: URL
    options: dict[str, Any]

    async def object(self, key: str) -> URL:
        return await _sign(self.store, key)

    async def page(self, query: str) -> URL:
        # obstore signs URLs of objects: the endpoint and, after a slash, the key. A key after a '#' is not signed and not sent.
        # The option that is given here overrides all other names of the endpoint, and the environment.
        where = {**self.options, "aws_endpoint_url_s3": f"{self.base}?{query}#", "virtual_hosted_style_request": True}
        return (await _sign(S3Store(self.bucket, **where), "listing")).with_fragment(None)


async def _sign(store: S3Store, key: str) -> URL:
    return URL(await obstore.sign_async(store, "GET", key, expires_in=_SIGNATURE_LIFETIME), encoded=True)


@dataclass(frozen=True, slots=True)
class _WebBucket:
    """A bucket whose objects `http_session` lists and reads."""

    urls: _UnsignedUrls | _SignedUrls
    web: WebSession

    async def find(self, key: str, shown: str) -> BucketObject:
        with _as_start_error(shown):
            return BucketObject(key, *await self.web.probe(await self.urls.object(key), shown))

    async def below(self, prefix: str, shown: str, limits: DownloadLimits) -> list[BucketObject]:
        found, listed, token = list[BucketObject](), 0, ""
        while True:
            page = await retry(limits, partial(self._page, page_query(prefix, token), shown))
            listed += len(page.objects)
            found += (one for one in page.objects if not _is_directory(one.key))
            if len(found) > MAX_FILES or listed > 2 * MAX_FILES:
                raise _too_many(shown)
            if not page.continuation_token:
                return found
            token = page.continuation_token

    async def _page(self, query: str, shown: str) -> ListingPage:
        with _as_start_error(shown):
            body, _ = await self.web.read_document(await self.urls.page(query), shown, check=_check_bucket)
        return parse_page(body, shown)

    async def read(self, found: BucketObject, shown: str, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        with _as_start_error(shown):
            url = await self.urls.object(found.key)
        async with aclosing(self.web.read(url, shown, start, end, etag=found.etag, size=found.size)) as chunks:
            async for chunk in chunks:
                yield chunk


@dataclass(frozen=True, slots=True)
class _GoogleBucket:
    """A bucket of Google's storage with credentials, whose objects obstore lists and reads."""

    store: GCSStore

    async def find(self, key: str, shown: str) -> BucketObject:
        with _as_start_error(shown):
            return _found(await obstore.head_async(self.store, key))

    async def below(self, prefix: str, shown: str, limits: DownloadLimits) -> list[BucketObject]:
        return await retry(limits, partial(self._list, prefix, shown))

    async def _list(self, prefix: str, shown: str) -> list[BucketObject]:
        found: list[BucketObject] = []
        with _as_start_error(shown):
            async for batch in obstore.list(self.store, prefix=prefix):
                found += (_found(meta) for meta in batch if not _is_directory(meta["path"]))
                if len(found) > MAX_FILES:
                    raise _too_many(shown)
        return found

    async def read(self, found: BucketObject, shown: str, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        options: Any = {"range": {"offset": start} if end is None else (start, end)}
        if found.etag:
            options["if_match"] = found.etag
        with _as_start_error(shown):
            result = await obstore.get_async(self.store, found.key, options=options)
            if result.range[0] != start or (end is not None and result.range[1] > end):
                raise TransientSourceError(
                    f"{shown}: the store sent bytes from {result.range[0]}; expected bytes from {start}"
                )
            async for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)


async def list_bucket(uri: BucketUri, web: WebSession, guard: AddressGuard, limits: DownloadLimits) -> ModelListing:
    """List the object itself, or all objects below it. Raises a StartError."""
    bucket = await _open(uri, web, guard, limits)
    root = f"{uri.scheme}://{uri.bucket}"
    shown = f"{root}/{uri.key}"

    def remote(found: BucketObject, name: str, *, unpack: bool = False) -> RemoteObject:
        read = partial(bucket.read, found, f"{root}/{found.key}")
        return RemoteObject(name, found.size, found.etag, read, supports_ranges=found.supports_ranges, unpack=unpack)

    if not uri.directory:
        with suppress(ModelNotFound):
            found = await retry(limits, partial(bucket.find, uri.key, shown))
            name = uri.key.rpartition("/")[2]
            return ModelListing((remote(found, name, unpack=is_archive(name)),), name)
    prefix = f"{uri.key}/"
    below = sorted(await bucket.below(prefix, shown, limits), key=lambda one: one.key)
    if not below:
        raise ModelNotFound(f"{shown}: no such object, and nothing below it")
    return ModelListing(tuple(remote(one, check_member_name(one.key.removeprefix(prefix), shown)) for one in below))


async def _open(
    uri: BucketUri, web: WebSession, guard: AddressGuard, limits: DownloadLimits
) -> _WebBucket | _GoogleBucket:
    # obstore does not retry; `retry` does, also after an answer that ends too early.
    options: dict[str, Any] = {
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=limits.idle_s)},
        "client_options": {
            "connect_timeout": timedelta(seconds=limits.connect_s),
            "read_timeout": timedelta(seconds=limits.idle_s),
            "timeout": timedelta(seconds=limits.total_s),
        },
    }
    try:
        urls = await (_google(uri.bucket, guard, options) if uri.scheme == "gs" else _s3(uri.bucket, options))
        return _GoogleBucket(urls) if isinstance(urls, GCSStore) else _WebBucket(urls, web)
    except (BaseError, ValueError) as error:
        # The message of obstore may hold its arguments, including credentials.
        raise LoadFailed(
            f"{uri.scheme}://{uri.bucket}: the credentials in the environment are not usable ({type(error).__name__})"
        ) from None


async def _s3(bucket: str, options: dict[str, Any]) -> _UnsignedUrls | _SignedUrls:
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), "")
    if endpoint:
        options["endpoint"] = endpoint
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
    # The address of a bucket depends on its region, its endpoint and their style; obstore computes it with any credentials.
    placeholder: Any = {"access_key_id": "nobody", "secret_access_key": "none", "skip_signature": False}
    base = (await _sign(S3Store(bucket, **options, **placeholder), "key")).parent
    if _is_unsigned("AWS_SKIP_SIGNATURE"):
        return _UnsignedUrls(base)
    return _SignedUrls(bucket, S3Store(bucket, **options), base, options)


async def _google(bucket: str, guard: AddressGuard, options: dict[str, Any]) -> _UnsignedUrls | GCSStore:
    endpoint = os.environ.get("GOOGLE_BASE_URL", "")
    if _is_unsigned("GOOGLE_SKIP_SIGNATURE"):
        return _UnsignedUrls(URL(endpoint or _GOOGLE) / bucket)
    if endpoint.startswith("http://"):
        raise LoadFailed(
            f"gs://{bucket}: GOOGLE_BASE_URL begins with http://; expected https://. Plain HTTP works only without"
            " credentials (GOOGLE_SKIP_SIGNATURE=true)."
        )
    if endpoint:
        await _check_endpoint(endpoint, guard)
    return GCSStore(bucket, **options)


def _is_unsigned(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


async def _check_endpoint(endpoint: str, guard: AddressGuard) -> None:
    """Check the addresses of an endpoint, which obstore resolves itself. Raises SourceRefused for a forbidden one."""
    host = URL(endpoint).host or ""
    guard.check_literal(host)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise TransientSourceError(f"the name of the endpoint {host} cannot be resolved") from None
    check_addresses(guard, host, [str(address[4][0]) for address in found])


def _check_bucket(response: aiohttp.ClientResponse, shown: str) -> None:
    if response.status == 404:
        raise ModelNotFound(f"{shown}: the store has no such bucket")
    check_status(response, shown)


def _is_directory(key: str) -> bool:
    """Whether an object stands for a directory: consoles of stores make empty objects whose names end in a slash."""
    return key.endswith("/")


def _too_many(shown: str) -> ModelTooLarge:
    return ModelTooLarge(f"{shown} holds more than {MAX_FILES} objects")


def _found(meta: Any) -> BucketObject:
    return BucketObject(str(meta["path"]), int(meta["size"]), str(meta["e_tag"] or ""))


@contextmanager
def _as_start_error(shown: str) -> Iterator[None]:
    """Convert errors of obstore in the block to start errors. Its own messages hold URLs and the store's answers."""
    try:
        yield
    except StartError:
        raise
    except (BaseError, OSError) as error:
        raise _start_error(error, shown) from None


def _start_error(error: Exception, shown: str) -> StartError:
    if isinstance(error, NotFoundError | FileNotFoundError):
        return ModelNotFound(f"{shown}: not found")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        return AccessDenied(f"{shown}: the store refuses these credentials")
    if isinstance(error, PreconditionError):
        return ObjectChanged(f"{shown}: changed while it was read")
    found = _STATUS.search(str(error))
    status = next(filter(None, found.groups()), "") if found else ""
    if status == "404":
        return ModelNotFound(f"{shown}: not found")
    if status in ("401", "403"):
        return AccessDenied(f"{shown}: the store refuses these credentials")
    problem = f"the store answered {status}" if status else "the store cannot be reached, or broke off its answer"
    return TransientSourceError(f"{shown}: {problem}")
