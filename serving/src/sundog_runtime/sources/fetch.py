"""Fetch a model of a store to this node's disk: from the cache, or downloaded once for all replicas."""

import asyncio
import hashlib
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
    """A verified model in the cache, and the seconds of each phase. `lease` keeps it in the cache."""

    root: Path
    file_name: str
    verified: tuple[FileEntry, ...]
    lease: CacheLease
    seconds: dict[str, float]


def fetch_model(uri: StoreUri, digest: str, namespace: str) -> FetchedModel:
    """Fetch a model. Not to be called in a thread with a running event loop. Raises a StartError."""
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
    """The files that this fetch itself has put into the cache, and hashed."""

    async def run(self) -> FetchedModel:
        """Return the model. With a digest, the cache is searched without a request to the store; otherwise the store is asked first."""
        pinned = self._pinned_identity()
        if pinned and (found := await asyncio.to_thread(self._cached, _key(pinned))):
            return found
        started = time.monotonic()
        async with self._listing() as listing:
            self.seconds["list"] = time.monotonic() - started
            key = _key(pinned or self._identity(listing))
            return await self._wait_or_make(key, listing)

    def _pinned_identity(self) -> str:
        """Return the identity that the digest gives the model; empty without a digest."""
        if isinstance(self.uri, ArtefactUri):
            return self.uri.digest
        # An archive's digest does not cover its unpacked files. They have entries of their own, so that a cached entry that
        # must have the digest itself is never taken for one of them. Other replicas may still use an entry of that kind.
        return f"archive:{self.digest}" if self.digest and self._names_archive() else self.digest

    def _names_archive(self) -> bool:
        if isinstance(self.uri, WebUri):
            return is_archive(self.uri.path)
        return isinstance(self.uri, BucketUri) and not self.uri.directory and is_archive(self.uri.key)

    def _identity(self, listing: ModelListing) -> str:
        # A model without identity can be loaded but not shared, because a later change could not be detected.
        text = listing.identity or uuid.uuid4().hex
        return "id:" + hashlib.sha256(f"{self.uri!r}\n{listing.file_name}\n{text}".encode()).hexdigest()

    @asynccontextmanager
    async def _listing(self) -> AsyncIterator[ModelListing]:
        async with AsyncExitStack() as stack:
            web = await stack.enter_async_context(WebSession(self.guard, self.limits))
            try:
                # A store that sends a listing byte by byte never runs into the timeout for silence.
                async with asyncio.timeout(self.limits.listing_s):
                    listing = await _list(self.uri, web, self.guard, self.limits)
            except TimeoutError:
                raise SourceUnavailable(
                    f"the store's listing did not arrive within {self.limits.listing_s:g} s"
                ) from None
            yield listing

    async def _wait_or_make(self, key: str, listing: ModelListing) -> FetchedModel:
        deadline = time.monotonic() + 2 * self.limits.total_s
        while time.monotonic() < deadline:
            if found := await asyncio.to_thread(self._cached, key):
                return found
            if lease := self.cache.acquire_exclusive(key):
                try:
                    if not self.cache.entry(key).is_dir():
                        await self._make(key, listing)
                finally:
                    # Another process may remove the entry before the next check; then it is made again.
                    lease.release()
                continue
            await asyncio.sleep(_POLL_S)
        raise SourceUnavailable(f"another process has been loading the same model for {2 * self.limits.total_s:g} s")

    def _cached(self, key: str) -> FetchedModel | None:
        """Return the cached model, hashed again: a disk error or another process may have changed it."""
        lease = self.cache.acquire_shared(key)
        if lease is None:
            return None
        started = time.monotonic()
        root, facts = self.cache.entry(key) / layout.MODEL_DIRECTORY, self.cache.read_facts(key)
        try:
            # Bytes that this fetch hashed are not hashed again unless a stamp shows a change.
            fresh = bool(self.made) and not find_changed_file(root, self.made)
            entries = self.made if fresh else read_tree(root)
            is_valid = (
                facts is not None
                and tree_digest(entries) == facts.tree
                # Artefacts and archives were compared with the digest when the entry was made.
                and (
                    isinstance(self.uri, ArtefactUri)
                    or self._names_archive()
                    or self._has_expected_digest(entries, facts.file_name)
                )
            )
        except StartError:
            is_valid = False
        if facts is None or not is_valid:
            lease.release()
            self._discard(key)
            return None
        self.seconds["verify"] = self.seconds.get("verify", 0) + time.monotonic() - started
        return FetchedModel(root, facts.file_name, entries, lease, self.seconds)

    def _has_expected_digest(self, entries: tuple[FileEntry, ...], file_name: str) -> bool:
        """Whether the files themselves have the model's digest, if it has one."""
        return not self.digest or self.digest == (f"sha256:{entries[0].sha256}" if file_name else tree_digest(entries))

    def _is_verified(self, listing: ModelListing) -> bool:
        """Whether the downloaded bytes were compared with the digest before they were unpacked: an artefact, or one archive.

        The listing decides: the store may hold a directory with the name of an archive.
        """
        if isinstance(self.uri, ArtefactUri):
            return True
        first = listing.objects[0]
        return len(listing.objects) == 1 and first.unpack and self.digest == f"sha256:{first.sha256}"

    def _discard(self, key: str) -> None:
        lease = self.cache.acquire_exclusive(key)
        if lease is None:
            raise DigestMismatch(f"the cached copy {self.cache.entry(key)} was changed, and other replicas use it")
        try:
            self.cache.discard(key)
        finally:
            lease.release()

    async def _make(self, key: str, listing: ModelListing) -> None:
        if self.digest and listing.file_name and not isinstance(self.uri, ArtefactUri):
            expected = replace(listing.objects[0], sha256=self.digest.removeprefix("sha256:"))
            listing = replace(listing, objects=(expected,))
        partial = self.cache.partial(key)
        try:
            started = time.monotonic()
            transfer = Transfer(listing, partial, self.limits)
            await transfer.run(lambda needed: self.cache.free_space(needed, self.limits.cache_bytes))
            self.seconds["download"] = time.monotonic() - started
            started = time.monotonic()
            facts = await asyncio.to_thread(self._assemble, partial, listing)
            self.seconds["verify"] = time.monotonic() - started
        except BaseException as error:
            if not _is_resumable(error):
                layout.remove_path(partial)
            raise
        self.cache.publish(key, facts)

    def _assemble(self, partial: Path, listing: ModelListing) -> CacheEntryFacts:
        """Move the downloaded files to their place, archives unpacked, and hash them."""
        root = partial / layout.MODEL_DIRECTORY
        layout.remove_path(root)
        if any(remote.unpack for remote in listing.objects):
            _unpack(partial / DOWNLOAD_DIRECTORY, root, listing, self.limits)
        else:
            (partial / DOWNLOAD_DIRECTORY).rename(root)
        layout.make_read_only(root)
        entries = read_tree(root)
        _check_hashes(entries, listing)
        file_name = "" if any(remote.unpack for remote in listing.objects) else listing.file_name
        if not self._is_verified(listing) and not self._has_expected_digest(entries, file_name):
            found = tree_digest(entries)
            raise DigestMismatch(
                f"the downloaded model has the digest {found}; expected {self.digest}, which is model.digest"
            )
        for entry in entries:
            layout.sync_path(root / entry.path)
        self.made = entries
        return CacheEntryFacts(tree_digest(entries), file_name, sum(entry.size for entry in entries))


async def _list(uri: StoreUri, web: WebSession, guard: AddressGuard, limits: DownloadLimits) -> ModelListing:
    # Imported late: each store's libraries take time to import, and most servers need none of them.
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
            raise LoadFailed(f"{remote.path} exists twice: as a file, and in an archive")
        path.rename(target)


def _check_hashes(entries: tuple[FileEntry, ...], listing: ModelListing) -> None:
    expected = {remote.path: remote.sha256 for remote in listing.objects if not remote.unpack}
    for entry in entries:
        _check_hash(entry.path, entry.sha256, expected.get(entry.path, ""))


def _check_hash(path: str, found: str, expected: str) -> None:
    if expected and found != expected:
        raise DigestMismatch(f"{path} has the digest sha256:{found}; expected sha256:{expected}")


def _key(identity: str) -> str:
    return identity.replace(":", "-")


def _is_resumable(error: BaseException) -> bool:
    """Whether the received parts are worth keeping: the store may come back, or a credential may be renewed."""
    if isinstance(error, ObjectChanged):
        return False
    return isinstance(error, SourceUnavailable | AccessDenied) or not isinstance(error, Exception)
