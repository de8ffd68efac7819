"""`s3://` and `gs://`: objects of a bucket, listed and signed by obstore.

obstore knows both stores' credentials and signatures, and reads them from the environment. Its HTTP client follows
redirects to anywhere and takes proxies from the environment, so S3's bytes are read by `web` instead, from URLs that
obstore signs: the endpoint of an S3 is anybody's. Google's are read by obstore: signing needs a key that workload
identities do not have, and the endpoint is always Google's, or the one in the administrator's key file.
"""

import asyncio
import os
import re
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import GCSStore, S3Store
from yarl import URL

from sundog_runtime.errors import AccessDenied, LoadFailed, ModelNotFound, ModelTooLarge, StartError
from sundog_runtime.sources.archive import is_archive, plain_name
from sundog_runtime.sources.guard import Guard, check_all
from sundog_runtime.sources.limits import Limits
from sundog_runtime.sources.remote import Changed, Listing, Read, Remote, Transient, retrying
from sundog_runtime.sources.tree import MAX_FILES
from sundog_runtime.sources.uri import BucketUri
from sundog_runtime.sources.web import Web

_SIGNED_FOR = timedelta(minutes=15)
_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3})")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_CHUNK = 1024 * 1024

Store = S3Store | GCSStore


@dataclass(frozen=True, slots=True)
class _Signer:
    """Makes the URLs by which S3's objects are read. Without credentials they are bare."""

    store: S3Store
    anonymous: bool

    async def url(self, key: str) -> URL:
        signed = URL(await obstore.sign_async(self.store, "GET", key, expires_in=_SIGNED_FOR), encoded=True)
        return signed.with_query(None) if self.anonymous else signed


async def list_bucket(uri: BucketUri, web: Web, guard: Guard, limits: Limits) -> Listing:
    """The object itself, or all below it. Raises a StartError."""
    store, signer = await _open(uri, guard, limits)
    shown = f"{uri.scheme}://{uri.bucket}/{uri.key}"
    if not uri.directory:
        found = await _find(store, signer, uri.key, shown, web, limits)
        if found is not None:
            name = uri.key.rpartition("/")[2]
            remote = _remote(store, signer, uri, found, name, web)
            return Listing((remote,), name)
    metas = await _below(store, uri.key, shown, limits)
    if not metas:
        raise ModelNotFound(f"{shown}: no such object, and nothing below it")
    return Listing(tuple(_remote(store, signer, uri, meta, _below_name(meta, uri), web) for meta in metas))


async def _open(uri: BucketUri, guard: Guard, limits: Limits) -> tuple[Store, _Signer | None]:
    # One kind of retry is enough, and it is ours: it also counts an answer that ends too early.
    retries: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=limits.idle)}
    client: Any = {
        "connect_timeout": timedelta(seconds=limits.connect),
        "read_timeout": timedelta(seconds=limits.idle),
        "timeout": timedelta(seconds=limits.seconds),
    }
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), "")
    try:
        if uri.scheme == "gs":
            # Plain HTTP is where a key file says so, which is an administrator's.
            client["allow_http"] = True
            return GCSStore(uri.bucket, client_options=client, retry_config=retries), None
        where: Any = {}
        if endpoint:
            await _check_endpoint(endpoint, guard)
            where, client["allow_http"] = {"endpoint": endpoint}, endpoint.startswith("http://")
        store = S3Store(uri.bucket, client_options=client, retry_config=retries, **where)
        anonymous = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes")
        if not anonymous:
            return store, _Signer(store, anonymous=False)
        nobody: Any = {"access_key_id": "nobody", "secret_access_key": "none", "skip_signature": False}
        return store, _Signer(S3Store(uri.bucket, client_options=client, **where, **nobody), anonymous=True)
    except (BaseError, ValueError) as error:
        # What obstore says may hold what it was given, credentials among it.
        raise LoadFailed(
            f"{uri.scheme}://{uri.bucket}: the credentials in the environment are not usable ({type(error).__name__})"
        ) from None


async def _check_endpoint(endpoint: str, guard: Guard) -> None:
    """Obstore resolves on its own; this keeps it from an endpoint that leads to a forbidden address."""
    host = URL(endpoint).host or ""
    guard.check_literal(host)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise Transient(f"the name of the endpoint {host} cannot be resolved") from None
    check_all(guard, host, [str(address[4][0]) for address in found])


async def _find(
    store: Store, signer: _Signer | None, key: str, shown: str, web: Web, limits: Limits
) -> Mapping[str, Any] | None:
    """Name, size and ETag of one object, None without it."""
    try:
        async for attempt in retrying(limits):
            with attempt, _Told(shown):
                if signer is None:
                    return {**await obstore.head_async(store, key)}
                size, etag, _ = await web.probe(await signer.url(key), shown)
                return {"path": key, "size": size or 0, "e_tag": etag}
    except ModelNotFound:
        pass
    return None


async def _below(store: Store, key: str, shown: str, limits: Limits) -> list[Any]:
    async for attempt in retrying(limits):
        with attempt, _Told(shown):
            metas: list[Any] = []
            async for batch in obstore.list(store, prefix=f"{key}/"):
                # A store's console makes directories by empty objects whose names end in a slash.
                metas += [meta for meta in batch if not meta["path"].endswith("/")]
                if len(metas) > MAX_FILES:
                    raise ModelTooLarge(f"{shown} holds more than {MAX_FILES} objects")
    return sorted(metas, key=lambda meta: str(meta["path"]))


def _below_name(meta: Any, uri: BucketUri) -> str:
    return plain_name(str(meta["path"]).removeprefix(f"{uri.key}/"), f"{uri.scheme}://{uri.bucket}/{uri.key}")


def _remote(store: Store, signer: _Signer | None, uri: BucketUri, meta: Any, name: str, web: Web) -> Remote:
    key, size, etag = str(meta["path"]), int(meta["size"]), str(meta["e_tag"] or "")
    shown = f"{uri.scheme}://{uri.bucket}/{key}"
    read: Read
    if signer is not None:
        read = partial(_read_signed, signer, key, shown, etag, size, web)
    else:
        read = partial(_read_stream, store, key, shown, etag)
    return Remote(name, size, etag, read, unpack=key == uri.key and is_archive(name))


async def _read_signed(
    signer: _Signer, key: str, shown: str, etag: str, size: int, web: Web, start: int, end: int | None
) -> AsyncGenerator[bytes, None]:
    with _Told(shown):
        url = await signer.url(key)
    async with aclosing(web.read(url, shown, start, end, etag=etag, size=size)) as chunks:
        async for chunk in chunks:
            yield chunk


async def _read_stream(
    store: Store, key: str, shown: str, etag: str, start: int, end: int | None
) -> AsyncGenerator[bytes, None]:
    options: Any = {"range": {"offset": start} if end is None else (start, end)}
    if etag:
        options["if_match"] = etag
    with _Told(shown):
        result = await obstore.get_async(store, key, options=options)
        if result.range[0] != start or (end is not None and result.range[1] > end):
            raise Transient(f"{shown}: bytes from {result.range[0]} were sent where bytes from {start} were asked for")
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
            return Changed(f"{self._shown}: changed while it was read")
        found = _STATUS.search(str(error))
        status = next(filter(None, found.groups()), "") if found else ""
        if status == "404":
            return ModelNotFound(f"{self._shown}: nothing is there")
        if status in ("401", "403"):
            return AccessDenied(f"{self._shown}: the store refuses it with these credentials")
        told = f"the store answered {status}" if status else "the store cannot be reached, or broke off its answer"
        return Transient(f"{self._shown}: {told}")
