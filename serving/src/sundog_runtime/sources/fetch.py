"""A model of a store, on this node's disk: found in the cache, or brought there once for all replicas."""

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sundog_runtime.errors import AccessDenied, DigestMismatch, LoadFailed, SourceUnavailable, StartError
from sundog_runtime.sources import cache as layout
from sundog_runtime.sources.address_guard import AddressGuard, read_guard
from sundog_runtime.sources.archive import is_archive, unpack
from sundog_runtime.sources.cache import CacheEntryFacts, CacheLease, ModelCache
from sundog_runtime.sources.download_limits import DownloadLimits, read_limits
from sundog_runtime.sources.file_digests import (
    FileEntry,
    find_changed_file,
    make_os_start_error,
    read_entry,
    read_tree,
    tree_digest,
)
from sundog_runtime.sources.http_session import WebSession
from sundog_runtime.sources.listing import ModelListing, ObjectChanged
from sundog_runtime.sources.transfer import DOWNLOAD_DIRECTORY, Transfer
from sundog_runtime.sources.uri import ArtefactUri, BucketUri, HubUri, WebUri

StoreUri = WebUri | BucketUri | HubUri | ArtefactUri

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A verified model in the cache, and how long which phase took, in seconds. `lease` keeps it there."""

    root: Path
    only: str
    verified: tuple[FileEntry, ...]
    lease: CacheLease
    seconds: dict[str, float]


def fetch_model(uri: StoreUri, digest: str, namespace: str) -> FetchedModel:
    """Raises a StartError. Not to be called where an event loop runs."""
    cache = ModelCache(layout.cache_root(), namespace)
    try:
        return asyncio.run(_Fetch(uri, digest, cache, read_limits(), read_guard()).run())
    except OSError as error:
        raise make_os_start_error(error, error.filename or f"the cache {layout.cache_root()}") from None


@dataclass(slots=True)
class _Fetch:
    """One model for one replica."""

    uri: StoreUri
    digest: str
    cache: ModelCache
    limits: DownloadLimits
    guard: AddressGuard
    seconds: dict[str, float] = field(default_factory=dict)
    made: tuple[FileEntry, ...] = ()
    """What this fetch itself has just put into the cache, and hashed."""

    async def run(self) -> FetchedModel:
        """From the cache without asking anybody where a digest says what is meant; else the store is asked first."""
        promised = self._promised()
        if promised and (found := await asyncio.to_thread(self._cached, _key(promised))):
            return found
        begun = time.monotonic()
        async with self._listing() as listing:
            self.seconds["list"] = time.monotonic() - begun
            key = _key(promised or self._identity(listing))
            return await self._wait_or_make(key, listing)

    def _promised(self) -> str:
        return self.uri.digest if isinstance(self.uri, ArtefactUri) else self.digest

    def _identity(self, listing: ModelListing) -> str:
        # What has no identity can be loaded, and not be shared: nobody could tell when it is outdated.
        text = listing.identity or uuid.uuid4().hex
        return "id:" + hashlib.sha256(f"{self.uri!r}\n{listing.only}\n{text}".encode()).hexdigest()

    @asynccontextmanager
    async def _listing(self) -> AsyncIterator[ModelListing]:
        async with AsyncExitStack() as stack:
            web = await stack.enter_async_context(WebSession(self.guard, self.limits))
            try:
                # A store that sends a listing byte by byte is never silent.
                async with asyncio.timeout(self.limits.listing):
                    listing = await _list(self.uri, web, self.guard, self.limits)
            except TimeoutError:
                raise SourceUnavailable(
                    f"the store did not tell within {self.limits.listing:g} s what it has"
                ) from None
            yield listing

    async def _wait_or_make(self, key: str, listing: ModelListing) -> FetchedModel:
        deadline = time.monotonic() + 2 * self.limits.seconds
        while time.monotonic() < deadline:
            if found := await asyncio.to_thread(self._cached, key):
                return found
            if lease := self.cache.acquire_exclusive(key):
                try:
                    if not self.cache.entry(key).is_dir():
                        await self._make(key, listing)
                finally:
                    # Another may remove the entry before it is looked up again: then it is made again.
                    lease.release()
                continue
            await asyncio.sleep(_POLL_S)
        raise SourceUnavailable(f"another process has been loading the same model for {2 * self.limits.seconds:g} s")

    def _cached(self, key: str) -> FetchedModel | None:
        """The entry, hashed anew: a disk or a neighbour may have changed it since."""
        lease = self.cache.shared(key)
        if lease is None:
            return None
        begun = time.monotonic()
        root, facts = self.cache.entry(key) / layout.MODEL_DIRECTORY, self.cache.facts(key)
        try:
            # Bytes that were hashed on their way in are not hashed again, if no stamp says that they changed.
            fresh = bool(self.made) and not find_changed_file(root, self.made)
            entries = self.made if fresh else read_tree(root)
            whole = facts is not None and tree_digest(entries) == facts.tree and self._as_promised(entries, facts.only)
        except StartError:
            whole = False
        if facts is None or not whole:
            lease.release()
            self._discard(key)
            return None
        self.seconds["verify"] = self.seconds.get("verify", 0) + time.monotonic() - begun
        return FetchedModel(root, facts.only, entries, lease, self.seconds)

    def _as_promised(self, entries: tuple[FileEntry, ...], only: str) -> bool:
        """Of archives the digest is that of what was sent, which is gone; for them stands what was found in them."""
        if not self.digest or self._pinned_otherwise():
            return True
        return self.digest == (f"sha256:{entries[0].sha256}" if only else tree_digest(entries))

    def _pinned_otherwise(self) -> bool:
        if isinstance(self.uri, ArtefactUri):
            return True
        return (isinstance(self.uri, WebUri) and is_archive(self.uri.path)) or (
            isinstance(self.uri, BucketUri) and not self.uri.directory and is_archive(self.uri.key)
        )

    def _discard(self, key: str) -> None:
        lease = self.cache.acquire_exclusive(key)
        if lease is None:
            raise DigestMismatch(f"the cached copy {self.cache.entry(key)} was changed, and other replicas use it")
        try:
            self.cache.discard(key)
        finally:
            lease.release()

    async def _make(self, key: str, listing: ModelListing) -> None:
        if self.digest and listing.only and not isinstance(self.uri, ArtefactUri):
            promised = replace(listing.objects[0], sha256=self.digest.removeprefix("sha256:"))
            listing = replace(listing, objects=(promised,))
        partial = self.cache.partial(key)
        try:
            begun = time.monotonic()
            transfer = Transfer(listing, partial, self.limits)
            await transfer.run(lambda needed: self.cache.make_room(needed, self.limits.cache_bytes))
            self.seconds["download"] = time.monotonic() - begun
            begun = time.monotonic()
            facts = await asyncio.to_thread(self._assemble, partial, listing)
            self.seconds["verify"] = time.monotonic() - begun
        except BaseException as error:
            if not _resumable(error):
                layout.remove_path(partial)
            raise
        self.cache.publish(key, facts)

    def _assemble(self, partial: Path, listing: ModelListing) -> CacheEntryFacts:
        """Put what was downloaded in its place, archives unpacked, and hash it."""
        root = partial / layout.MODEL_DIRECTORY
        layout.remove_path(root)
        if any(remote.unpack for remote in listing.objects):
            _unpack(partial / DOWNLOAD_DIRECTORY, root, listing, self.limits)
        else:
            (partial / DOWNLOAD_DIRECTORY).rename(root)
        layout.make_read_only(root)
        entries = read_tree(root)
        _check_hashes(entries, listing)
        only = "" if any(remote.unpack for remote in listing.objects) else listing.only
        if not self._as_promised(entries, only):
            found = tree_digest(entries)
            raise DigestMismatch(f"what the store sent has the digest {found}; model.digest is {self.digest}")
        for entry in entries:
            _sync(root / entry.path)
        self.made = entries
        return CacheEntryFacts(tree_digest(entries), only, sum(entry.size for entry in entries))


async def _list(uri: StoreUri, web: WebSession, guard: AddressGuard, limits: DownloadLimits) -> ModelListing:
    # Each store's libraries take time to import, and most servers need none of them.
    match uri:
        case WebUri():
            from sundog_runtime.sources.https import list_file

            return await list_file(uri, web, limits)
        case BucketUri():
            from sundog_runtime.sources.bucket import list_bucket

            return await list_bucket(uri, web, guard, limits)
        case HubUri():
            from sundog_runtime.sources.hub import list_repository

            return await list_repository(uri, web, limits)
        case ArtefactUri():
            from sundog_runtime.sources.registry import list_artefact

            return await list_artefact(uri, web, limits)


def _unpack(downloaded: Path, root: Path, listing: ModelListing, limits: DownloadLimits) -> None:
    root.mkdir()
    left = limits.model_bytes
    for remote in listing.objects:
        path = downloaded / remote.path
        _check_hash(remote.path, read_entry(path, remote.path).sha256, remote.sha256)
        if remote.unpack:
            left -= unpack(path, root, left)
            path.unlink()
            continue
        target = root / remote.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise LoadFailed(f"{remote.path} is there twice: as a file, and in an archive")
        path.rename(target)


def _check_hashes(entries: tuple[FileEntry, ...], listing: ModelListing) -> None:
    promised = {remote.path: remote.sha256 for remote in listing.objects if not remote.unpack}
    for entry in entries:
        _check_hash(entry.path, entry.sha256, promised.get(entry.path, ""))


def _check_hash(path: str, found: str, promised: str) -> None:
    if promised and found != promised:
        raise DigestMismatch(f"{path} has the digest sha256:{found}; expected sha256:{promised}")


def _key(identity: str) -> str:
    return identity.replace(":", "-")


def _resumable(error: BaseException) -> bool:
    """Whether what arrived so far is worth keeping: the store may come back, a credential may be renewed."""
    if isinstance(error, ObjectChanged):
        return False
    return isinstance(error, SourceUnavailable | AccessDenied) or not isinstance(error, Exception)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
