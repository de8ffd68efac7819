"""What the replicas of a node share: one transfer, one copy, nothing half done, nothing taken away from under a model."""

import asyncio
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from model_stores import Handler, Server, answer, well_behaved
from sundog_runtime.errors import DigestMismatch, LoadFailed
from sundog_runtime.sources import cache as layout
from sundog_runtime.sources.open_model import open_model
from sundog_runtime.sources.transfer import DOWNLOAD_DIRECTORY, JOURNAL_FILE
from waiting import eventually

PART = 64 * 1024
BODY = os.urandom(10 * PART)
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()
KEY = SHA.replace(":", "-")

SCRIPT = f"""
import sys
from sundog_runtime.sources import fetch
from sundog_runtime.sources.open_model import open_model
from sundog_runtime.sources.download_limits import DownloadLimits
fetch.read_limits = lambda: DownloadLimits(part_bytes={PART}, connections=3)
print(open_model(sys.argv[1], sys.argv[2]).path, flush=True)
sys.stdin.read()
"""

Serve = Callable[[Handler], Server]


@contextmanager
def replica(uri: str, digest: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that opens the model, says where it is, and lives until its input ends."""
    command = (sys.executable, "-c", SCRIPT, uri, digest)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool]) -> None:
    eventually(condition, "the condition")


def journal(cache: Path) -> list[str]:
    path = cache / "models" / "default" / "partial" / KEY / JOURNAL_FILE
    return path.read_text().splitlines()[1:] if path.exists() else []


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("models/*/entries/*"))


class Gate:
    """Answers `free` parts, and the others once it is opened."""

    def __init__(self, free: int, etag: str = '"v1"') -> None:
        self.free = free
        self.etag = etag
        self.opened = threading.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Range") != "bytes=0-0":
            self.free -= 1
            if self.free < 0:
                await asyncio.to_thread(self.opened.wait, 60)
        return answer(request, BODY, self.etag)


def killed_after_four_parts(serve: Serve, cache: Path, etag: str = '"v1"') -> tuple[Gate, Server, str]:
    """A store, and the URI of a model in it, of which a killed process has downloaded four parts."""
    gate = Gate(4, etag)
    server = serve(gate)
    uri = f"https://{server.authority}/m.pt2"
    with replica(uri, SHA) as process:
        until(lambda: len(journal(cache)) == 4)
        assert not entries(cache)
        process.send_signal(signal.SIGKILL)
        process.wait()
    return gate, server, uri


@pytest.mark.parametrize("digest", [SHA, ""], ids=["by digest", "by identity"])
def test_two_processes_make_one_transfer_and_one_copy(digest: str, serve: Serve, cache: Path) -> None:
    gate = Gate(0)
    server = serve(gate)
    uri = f"https://{server.authority}/m.pt2"
    with replica(uri, digest) as one, replica(uri, digest) as other:
        until(lambda: len(server.requests) - len(server.ranges()) == 2)
        gate.opened.set()
        assert one.stdout is not None
        assert other.stdout is not None
        paths = {one.stdout.readline(), other.stdout.readline()}
        assert len(paths) == 1
        assert Path(paths.pop().strip()).read_bytes() == BODY
    assert len(server.ranges()) == len(set(server.ranges())) == 10
    assert len(entries(cache)) == 1


def test_a_killed_download_is_resumed_and_never_seen_half_done(serve: Serve, cache: Path) -> None:
    gate, server, uri = killed_after_four_parts(serve, cache)
    assert not entries(cache)
    before = len(server.ranges())
    gate.opened.set()
    assert open_model(uri, SHA).path.read_bytes() == BODY
    # The killed process may have asked for one of them that the server sees only now.
    assert len(set(server.ranges()[before:])) == 6
    assert entries(cache) == [KEY]
    assert not list(cache.glob("models/*/partial/*"))


def test_parts_of_two_versions_are_never_joined(serve: Serve, cache: Path) -> None:
    gate, server, uri = killed_after_four_parts(serve, cache, etag='"old"')
    partial = cache / "models" / "default" / "partial" / KEY / DOWNLOAD_DIRECTORY / "m.pt2"
    partial.write_bytes(bytes(len(BODY)))
    gate.etag = '"new"'
    gate.opened.set()
    before = len(server.ranges())
    assert open_model(uri, SHA).path.read_bytes() == BODY
    assert len(set(server.ranges()[before:])) == 10


def test_a_crash_on_the_last_step_is_no_hole(serve: Serve, cache: Path) -> None:
    gate, _, uri = killed_after_four_parts(serve, cache)
    # As after a crash between the last byte and the rename that shows the entry.
    partial = cache / "models" / "default" / "partial" / KEY
    (partial / DOWNLOAD_DIRECTORY).rename(partial / layout.MODEL_DIRECTORY)
    gate.opened.set()
    assert open_model(uri, SHA).path.read_bytes() == BODY


def test_an_entry_is_read_only_and_verified(serve: Serve) -> None:
    server = serve(well_behaved({"m.pt2": BODY}))
    found = open_model(f"https://{server.authority}/m.pt2", SHA)
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o444
    assert stat.S_IMODE(found.root.stat().st_mode) == 0o555
    assert [entry.sha256 for entry in found.verified or ()] == [SHA.removeprefix("sha256:")]
    found.check_unchanged()
    found.path.chmod(0o644)
    with pytest.raises(DigestMismatch, match="changed while the model was loaded"):
        found.check_unchanged()


def test_with_a_digest_the_store_is_asked_once(serve: Serve) -> None:
    server = serve(well_behaved({"m.pt2": BODY}))
    first = open_model(f"https://{server.authority}/m.pt2", SHA)
    asked = len(server.requests)
    second = open_model(f"https://{server.authority}/m.pt2", SHA)
    assert second.path == first.path
    assert set(second.seconds) == {"verify"}
    assert len(server.requests) == asked


def test_a_copy_that_rotted_is_brought_anew(serve: Serve, release: Callable[[], None]) -> None:
    server = serve(well_behaved({"m.pt2": BODY}))
    uri = f"https://{server.authority}/m.pt2"
    path = open_model(uri, SHA).path
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    with pytest.raises(DigestMismatch, match="was changed, and other replicas use it"):
        open_model(uri, SHA)
    release()
    assert open_model(uri, SHA).path.read_bytes() == BODY


def test_a_copy_whose_facts_were_forged_is_brought_anew(serve: Serve, release: Callable[[], None]) -> None:
    """Who can write into the cache can make tree and facts agree; the digest of the manifest is not in the cache."""
    server = serve(well_behaved({"m.pt2": BODY, "evil.pt2": b"evil"}))
    uri = f"https://{server.authority}/m.pt2"
    good = open_model(uri, SHA).root.parent
    evil = open_model(f"https://{server.authority}/evil.pt2", "").root.parent
    release()
    layout.remove_path(good)
    evil.rename(good)
    (good / "model").chmod(0o755)
    (good / "model" / "evil.pt2").rename(good / "model" / "m.pt2")
    assert open_model(uri, SHA).path.read_bytes() == BODY


def test_each_namespace_has_its_own(serve: Serve) -> None:
    server = serve(well_behaved({"m.pt2": BODY}))
    uri = f"https://{server.authority}/m.pt2"
    paths = {open_model(uri, SHA, namespace).path for namespace in ("one", "two", "one")}
    assert len(paths) == 2
    assert len(server.ranges()) == 20


@pytest.mark.parametrize("namespace", ["../other", "", "a/b", ".", "A"])
def test_a_namespace_is_no_path(namespace: str, cache: Path) -> None:
    with pytest.raises(LoadFailed, match="namespace"):
        open_model("https://localhost/m.pt2", "", namespace)
    assert not cache.exists()


def test_what_was_used_least_recently_goes_first_and_what_is_in_use_stays(
    serve: Serve, cache: Path, release: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = {name: os.urandom(300_000) for name in "abcd"}
    server = serve(well_behaved(bodies))

    def bring(name: str) -> Path:
        digest = "sha256:" + hashlib.sha256(bodies[name]).hexdigest()
        return open_model(f"https://{server.authority}/{name}", digest, name).path

    monkeypatch.setenv("SUNDOG_CACHE_MAX_BYTES", "1000000")
    paths = {name: bring(name) for name in "abc"}
    release()
    bring("a")
    release()
    paths["d"] = bring("d")
    assert {name for name, path in paths.items() if path.exists()} == {"a", "c", "d"}
    held = bring("a")
    bring("b")
    assert held.exists()
    assert not paths["c"].exists()
    # All three are in use now: a fourth one is kept beyond the budget.
    bring("c")
    assert sorted(path.parent.parent.parent.parent.name for path in cache.glob("models/*/entries/*/model/?")) == [
        *"abcd"
    ]


def kept(root: Path, namespace: str, key: str) -> layout.ModelCache:
    """A namespace's cache with one entry, as a replica leaves it that has ended."""
    cache = layout.ModelCache(root, namespace)
    lease = cache.acquire_exclusive(key)
    assert lease is not None
    code = cache.partial(key) / layout.MODEL_DIRECTORY / "code"
    code.mkdir(parents=True)
    (code / "net.py").write_bytes(b"x" * 10_000)
    cache.publish(key, layout.CacheEntryFacts("", "", 10_000))
    lease.release()
    return cache


@pytest.mark.parametrize("where", ["locks", "entries/a", "entries/a/model", "entries/a/model/code"])
def test_what_goes_just_before_the_sweep_looks_into_it_is_passed_over(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another replica removes it, that holds the lock of its entry; a sweep holds none."""
    kept(tmp_path, "one", "a")
    swept = kept(tmp_path, "two", "b")
    going = tmp_path / "models" / "one" / where

    def removing(read: Callable[..., Any]) -> Callable[..., Any]:
        def instead(path: Any = ".") -> Any:
            if str(path) == str(going) and going.exists():
                going.rename(tmp_path / "gone")
            return read(path)

        return instead

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, removing(getattr(os, name)))
    swept.free_space(0, 0)
    assert (tmp_path / "gone").exists()
    assert not swept.entry("b").exists()


def test_a_namespace_that_goes_before_its_turn_hinders_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, "one", "a")
    swept = kept(tmp_path, "two", "b")
    statvfs = os.statvfs

    def removing(path: Any) -> os.statvfs_result:
        shutil.rmtree(tmp_path / "models" / "one", ignore_errors=True)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", removing)
    swept.free_space(0, 0)
    assert not swept.entry("b").exists()


def test_another_processs_model_is_in_use_too(
    serve: Serve, release: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = os.urandom(10 * PART)
    server = serve(well_behaved({"m.pt2": BODY, "other.pt2": other}))
    monkeypatch.setenv("SUNDOG_CACHE_MAX_BYTES", "700000")
    uri = f"https://{server.authority}/m.pt2"
    with replica(uri, SHA) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        open_model(f"https://{server.authority}/other.pt2", "")
        assert path.read_bytes() == BODY
    release()
    open_model(f"https://{server.authority}/other.pt2", "", "else")
    assert not path.exists()
