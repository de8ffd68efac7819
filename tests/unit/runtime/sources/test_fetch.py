"""The digest of a fetched model, whatever the store holds at its URI."""

import hashlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from model_stores import tar_of
from sundog_runtime.errors import DigestMismatch
from sundog_runtime.sources import fetch
from sundog_runtime.sources.cache import ENTRY_FILE, ModelCache, cache_root
from sundog_runtime.sources.fetch import FetchedModel, fetch_model
from sundog_runtime.sources.file_digests import read_tree, tree_digest
from sundog_runtime.sources.http_session import WebSession
from sundog_runtime.sources.listing import ModelListing, RemoteObject
from sundog_runtime.sources.uri import BucketUri

URI = BucketUri("s3", "models", "digits.tar.gz", directory=False)


def remote(path: str, body: bytes, *, unpack: bool = False) -> RemoteObject:
    async def read(start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        yield body[start:end]

    return RemoteObject(path, len(body), hashlib.sha256(body).hexdigest(), read, unpack=unpack)


ARCHIVE = tar_of({"predictor.py": b"good = True"})
DIGEST = "sha256:" + hashlib.sha256(ARCHIVE).hexdigest()
OBJECT = ModelListing((remote("digits.tar.gz", ARCHIVE, unpack=True),), "digits.tar.gz")
DIRECTORY = ModelListing((remote("predictor.py", b"evil = True"),))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[ModelListing]:
    """The answers of the store to further listings."""
    listings: list[ModelListing] = []

    async def list_next(*_: object) -> ModelListing:
        return listings.pop(0)

    monkeypatch.setattr(fetch, "_list", list_next)
    return listings


def fetched(digest: str) -> FetchedModel:
    found = fetch_model(URI, digest, "vision")
    found.lease.release()
    return found


def test_an_archive_is_verified_by_its_bytes_and_cached(held: list[ModelListing]) -> None:
    held += [OBJECT]
    first, second = fetched(DIGEST), fetched(DIGEST)
    assert (first.root / "predictor.py").read_bytes() == b"good = True"
    assert (second.root, second.verified) == (first.root, first.verified)


def test_a_directory_in_the_place_of_an_archive_needs_the_digest_itself(held: list[ModelListing]) -> None:
    held += [DIRECTORY, DIRECTORY]
    with pytest.raises(DigestMismatch, match=DIGEST):
        fetched(DIGEST)
    assert not list(cache_root().glob("models/*/entries/*"))
    row = ["predictor.py", 11, hashlib.sha256(b"evil = True").hexdigest()]
    body = json.dumps([row], separators=(",", ":")).encode()
    assert (fetched("sha256:" + hashlib.sha256(body).hexdigest()).root / "predictor.py").is_file()


def test_an_entry_of_an_earlier_version_is_not_taken_for_an_archive(held: list[ModelListing]) -> None:
    cache, key = ModelCache(cache_root(), "vision"), DIGEST.replace(":", "-")
    root: Path = cache.entry(key) / "model"
    root.mkdir(parents=True)
    (root / "predictor.py").write_bytes(b"evil = True")
    facts = {"tree": tree_digest(read_tree(root)), "only": "", "size": 11}
    (cache.entry(key) / ENTRY_FILE).write_text(json.dumps(facts))
    lease = cache.acquire_shared(key)
    assert lease is not None
    held += [OBJECT]
    assert (fetched(DIGEST).root / "predictor.py").read_bytes() == b"good = True"
    lease.release()


def test_an_object_whose_size_the_store_does_not_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")

    async def probe(*_: object) -> tuple[int | None, str, bool]:
        return None, '"v1"', False

    async def read(*_: object, **__: object) -> AsyncGenerator[bytes, None]:
        yield b"weights"

    monkeypatch.setattr(WebSession, "probe", probe)
    monkeypatch.setattr(WebSession, "read", read)
    found = fetch_model(BucketUri("s3", "models", "m.pt2", directory=False), "", "vision")
    assert (found.root / "m.pt2").read_bytes() == b"weights"
