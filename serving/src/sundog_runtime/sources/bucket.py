"""`s3://` and `gs://`: objects of a bucket, listed and read by `web` from URLs that obstore signs.

obstore knows both stores' credentials and signatures, and reads them from the environment. Its HTTP client follows
redirects to anywhere and takes proxies from the environment, so of an S3, whose endpoint is anybody's, it asks nothing
itself. With credentials Google's storage is asked by obstore: signing needs a key that workload identities do not have.
That goes over TLS alone, also where it is redirected to, and no metadata service has TLS.
"""

import asyncio
import os
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import GCSStore, S3Store
from yarl import URL

from sundog_runtime.errors import AccessDenied, LoadFailed, ModelNotFound, ModelTooLarge, StartError
from sundog_runtime.sources.address_guard import AddressGuard, check_addresses
from sundog_runtime.sources.archive import check_member_name, is_archive
from sundog_runtime.sources.bucket_listing import BucketObject, ListingPage, page_query, parse_page
from sundog_runtime.sources.download_limits import DownloadLimits
from sundog_runtime.sources.file_digests import MAX_FILES
from sundog_runtime.sources.http_session import WebSession, check_status, read_whole_body
from sundog_runtime.sources.listing import (
    ModelListing,
    ObjectChanged,
    ReadRange,
    RemoteObject,
    TransientSourceError,
    make_retrying,
)
from sundog_runtime.sources.uri import BucketUri

_SIGNED_FOR = timedelta(minutes=15)
_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3})")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_GOOGLE = "https://storage.googleapis.com"
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Bare:
    """The URLs of a bucket that asks for no credentials. `base` is that of the bucket."""

    base: URL

    async def object(self, key: str) -> URL:
        return self.base.joinpath(quote(key), encoded=True)

    async def page(self, query: str) -> URL:
        return URL(f"{self.base}?{query}", encoded=True)


@dataclass(frozen=True, slots=True)
class _Signed:
    """The URLs of a bucket of an S3, signed for some minutes. `options` are what `store` was made with."""

    bucket: str
    store: S3Store
    base: URL
    options: dict[str, Any]

    async def object(self, key: str) -> URL:
        return await _sign(self.store, key)

    async def page(self, query: str) -> URL:
        # obstore signs URLs of objects: the endpoint and, behind a slash, the key. Behind a '#' a key is in no signature,
        # and is not sent.
        # Of all that name an endpoint the one that is given here goes first, also before the environment.
        where = {**self.options, "aws_endpoint_url_s3": f"{self.base}?{query}#", "virtual_hosted_style_request": True}
        return (await _sign(S3Store(self.bucket, **where), "listing")).with_fragment(None)


async def _sign(store: S3Store, key: str) -> URL:
    return URL(await obstore.sign_async(store, "GET", key, expires_in=_SIGNED_FOR), encoded=True)


_Guarded = _Bare | _Signed
_Door = _Guarded | GCSStore


async def list_bucket(uri: BucketUri, web: WebSession, guard: AddressGuard, limits: DownloadLimits) -> ModelListing:
    """The object itself, or all below it. Raises a StartError."""
    door = await _open(uri, guard, limits)
    shown = f"{uri.scheme}://{uri.bucket}/{uri.key}"
    if not uri.directory:
        found = await _find(door, uri.key, shown, web, limits)
        if found is not None:
            name = uri.key.rpartition("/")[2]
            return ModelListing((_remote(door, uri, found, name, web),), name)
    below = await _below(door, uri.key, shown, web, limits)
    if not below:
        raise ModelNotFound(f"{shown}: no such object, and nothing below it")
    return ModelListing(tuple(_remote(door, uri, found, _below_name(found, uri), web) for found in below))


async def _open(uri: BucketUri, guard: AddressGuard, limits: DownloadLimits) -> _Door:
    # One kind of retry is enough, and it is ours: it also counts an answer that ends too early.
    options: dict[str, Any] = {
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=limits.idle)},
        "client_options": {
            "connect_timeout": timedelta(seconds=limits.connect),
            "read_timeout": timedelta(seconds=limits.idle),
            "timeout": timedelta(seconds=limits.seconds),
        },
    }
    try:
        if uri.scheme == "gs":
            return await _google(uri.bucket, guard, options)
        return await _s3(uri.bucket, options)
    except (BaseError, ValueError) as error:
        # What obstore says may hold what it was given, credentials among it.
        raise LoadFailed(
            f"{uri.scheme}://{uri.bucket}: the credentials in the environment are not usable ({type(error).__name__})"
        ) from None


async def _s3(bucket: str, options: dict[str, Any]) -> _Guarded:
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), "")
    if endpoint:
        options["endpoint"] = endpoint
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
    # Where a bucket is depends on its region, its endpoint and their style; obstore knows, whoever signs.
    nobody: Any = {"access_key_id": "nobody", "secret_access_key": "none", "skip_signature": False}
    base = (await _sign(S3Store(bucket, **options, **nobody), "key")).parent
    if _unsigned("AWS_SKIP_SIGNATURE"):
        return _Bare(base)
    return _Signed(bucket, S3Store(bucket, **options), base, options)


async def _google(bucket: str, guard: AddressGuard, options: dict[str, Any]) -> _Bare | GCSStore:
    endpoint = os.environ.get("GOOGLE_BASE_URL", "")
    if _unsigned("GOOGLE_SKIP_SIGNATURE"):
        return _Bare(URL(endpoint or _GOOGLE) / bucket)
    if endpoint.startswith("http://"):
        raise LoadFailed(
            f"gs://{bucket}: GOOGLE_BASE_URL begins with http://; in plain HTTP a bucket is asked without credentials"
            " alone (GOOGLE_SKIP_SIGNATURE=true)"
        )
    if endpoint:
        await _check_endpoint(endpoint, guard)
    return GCSStore(bucket, **options)


def _unsigned(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


async def _check_endpoint(endpoint: str, guard: AddressGuard) -> None:
    """Obstore resolves on its own; this keeps it from an endpoint that leads to a forbidden address."""
    host = URL(endpoint).host or ""
    guard.check_literal(host)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise TransientSourceError(f"the name of the endpoint {host} cannot be resolved") from None
    check_addresses(guard, host, [str(address[4][0]) for address in found])


async def _find(door: _Door, key: str, shown: str, web: WebSession, limits: DownloadLimits) -> BucketObject | None:
    """One object, None without it."""
    try:
        async for attempt in make_retrying(limits):
            with attempt, _Told(shown):
                if isinstance(door, GCSStore):
                    return _found(await obstore.head_async(door, key))
                size, etag, _ = await web.probe(await door.object(key), shown)
                return BucketObject(key, size or 0, etag)
    except ModelNotFound:
        pass
    return None


async def _below(door: _Door, key: str, shown: str, web: WebSession, limits: DownloadLimits) -> list[BucketObject]:
    """All objects whose keys begin with `key/`, by key."""
    prefix = f"{key}/"
    if isinstance(door, GCSStore):
        found = await _listed_by_obstore(door, prefix, shown, limits)
    else:
        found = await _listed(door, prefix, shown, web, limits)
    return sorted(found, key=lambda one: one.key)


async def _listed(
    door: _Guarded, prefix: str, shown: str, web: WebSession, limits: DownloadLimits
) -> list[BucketObject]:
    found, seen, following = list[BucketObject](), 0, ""
    while True:
        page = await _page(door, page_query(prefix, following), shown, web, limits)
        seen += len(page.objects)
        found += (one for one in page.objects if not _is_directory(one.key))
        if len(found) > MAX_FILES or seen > 2 * MAX_FILES:
            raise _too_many(shown)
        if not page.following:
            return found
        following = page.following


async def _page(door: _Guarded, query: str, shown: str, web: WebSession, limits: DownloadLimits) -> ListingPage:
    async for attempt in make_retrying(limits):
        with attempt, _Told(shown):
            async with web.get(await door.page(query), shown) as response:
                if response.status == 404:
                    raise ModelNotFound(f"{shown}: nothing is there, the store has no such bucket")
                check_status(response, shown)
                body = await read_whole_body(response, shown)
    return parse_page(body, shown)


async def _listed_by_obstore(store: GCSStore, prefix: str, shown: str, limits: DownloadLimits) -> list[BucketObject]:
    async for attempt in make_retrying(limits):
        with attempt, _Told(shown):
            found: list[BucketObject] = []
            async for batch in obstore.list(store, prefix=prefix):
                found += (_found(meta) for meta in batch if not _is_directory(meta["path"]))
                if len(found) > MAX_FILES:
                    raise _too_many(shown)
    return found


def _is_directory(key: str) -> bool:
    """A store's console makes directories by empty objects whose names end in a slash."""
    return key.endswith("/")


def _too_many(shown: str) -> ModelTooLarge:
    return ModelTooLarge(f"{shown} holds more than {MAX_FILES} objects")


def _found(meta: Any) -> BucketObject:
    return BucketObject(str(meta["path"]), int(meta["size"]), str(meta["e_tag"] or ""))


def _below_name(found: BucketObject, uri: BucketUri) -> str:
    return check_member_name(found.key.removeprefix(f"{uri.key}/"), f"{uri.scheme}://{uri.bucket}/{uri.key}")


def _remote(door: _Door, uri: BucketUri, found: BucketObject, name: str, web: WebSession) -> RemoteObject:
    shown = f"{uri.scheme}://{uri.bucket}/{found.key}"
    read: ReadRange = (
        partial(_read_by_obstore, door, found, shown)
        if isinstance(door, GCSStore)
        else partial(_read, door, found, shown, web)
    )
    return RemoteObject(name, found.size, found.etag, read, unpack=found.key == uri.key and is_archive(name))


async def _read(
    door: _Guarded, found: BucketObject, shown: str, web: WebSession, start: int, end: int | None
) -> AsyncGenerator[bytes, None]:
    with _Told(shown):
        url = await door.object(found.key)
    async with aclosing(web.read(url, shown, start, end, etag=found.etag, size=found.size)) as chunks:
        async for chunk in chunks:
            yield chunk


async def _read_by_obstore(
    store: GCSStore, found: BucketObject, shown: str, start: int, end: int | None
) -> AsyncGenerator[bytes, None]:
    options: Any = {"range": {"offset": start} if end is None else (start, end)}
    if found.etag:
        options["if_match"] = found.etag
    with _Told(shown):
        result = await obstore.get_async(store, found.key, options=options)
        if result.range[0] != start or (end is not None and result.range[1] > end):
            raise TransientSourceError(
                f"{shown}: bytes from {result.range[0]} were sent where bytes from {start} were asked for"
            )
        async for chunk in result.stream(min_chunk_size=_CHUNK):
            yield bytes(chunk)


class _Told:
    """Turns what obstore raises into start errors. Its own texts hold URLs and the answers of the store."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, StartError) or not isinstance(error, BaseError | OSError):
            return
        raise self._told(error) from None

    def _told(self, error: Exception) -> StartError:
        if isinstance(error, NotFoundError | FileNotFoundError):
            return ModelNotFound(f"{self._shown}: nothing is there")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
            return AccessDenied(f"{self._shown}: the store refuses it with these credentials")
        if isinstance(error, PreconditionError):
            return ObjectChanged(f"{self._shown}: changed while it was read")
        found = _STATUS.search(str(error))
        status = next(filter(None, found.groups()), "") if found else ""
        if status == "404":
            return ModelNotFound(f"{self._shown}: nothing is there")
        if status in ("401", "403"):
            return AccessDenied(f"{self._shown}: the store refuses it with these credentials")
        told = f"the store answered {status}" if status else "the store cannot be reached, or broke off its answer"
        return TransientSourceError(f"{self._shown}: {told}")
