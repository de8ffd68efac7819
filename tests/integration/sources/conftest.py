"""A cache of its own for every test, and limits that make a slow store a matter of milliseconds."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import S3Store

from model_stores import Handler, Server, make_certificate
from ports import free_port
from real_kubernetes.binaries import FAKE_GCS
from store_processes import S3_KEYS, Put, go_tool, running, s3_server
from sundog_runtime.sources import fetch, open_model
from sundog_runtime.sources.download_limits import DownloadLimits, read_limits
from waiting import PATIENCE_S

FAST = DownloadLimits(part_bytes=64 * 1024, min_pause_s=0.001, max_pause_s=0.01, attempts=3, connect_s=10, idle_s=20)

Serve = Callable[[Handler], Server]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SUNDOG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SUNDOG_SOURCE_ALLOW_HOSTS", "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(fetch, "read_limits", _limits)
    yield tmp_path / "cache"
    _release()


@pytest.fixture
def serve(certificate: Path) -> Iterator[Serve]:
    """Starts a server with TLS."""
    with ExitStack() as servers:
        yield lambda handler: servers.enter_context(Server(handler, certificate))


@pytest.fixture
def serve_plainly() -> Iterator[Serve]:
    """Starts a server without TLS, as an administrator's endpoint can be."""
    with ExitStack() as servers:
        yield lambda handler: servers.enter_context(Server(handler))


@pytest.fixture
def release() -> Callable[[], None]:
    """Gives up what this process holds of caches, as the end of a replica does."""
    return _release


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk), capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    _release()
    subprocess.run(("umount", disk), check=True)


@pytest.fixture
def remount(small_disk: Path) -> Callable[[str], None]:
    def remount(how: str) -> None:
        subprocess.run(("mount", "-o", f"remount,{how}", small_disk), check=True)

    return remount


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a real S3 server with the bucket `models`."""
    directory, port = tmp_path_factory.mktemp("s3"), free_port()
    (directory / "data" / "models").mkdir(parents=True)
    with s3_server(directory / "data", port, directory / "log"):
        yield f"http://localhost:{port}"


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an emulator of Google's storage with the bucket `models`."""
    directory, port = tmp_path_factory.mktemp("gcs"), free_port()
    tool = str(go_tool(FAKE_GCS))
    (directory / "data" / "models").mkdir(parents=True)
    (directory / "data" / "models" / "keep").write_bytes(b"")
    url = f"http://localhost:{port}"
    command = (tool, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory")
    places = ("-public-host", f"localhost:{port}", "-external-url", url, "-data", str(directory / "data"))
    with running((*command, *places), port, directory / "log"):
        yield url


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Put]:
    """The beginning of URIs in a bucket that is really there, and how to put an object into it."""
    if request.param == "s3":
        endpoint = request.getfixturevalue("s3")
        for name, value in {**S3_KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        store = S3Store("models", endpoint=endpoint, client_options={"allow_http": True})

        def put(key: str, body: bytes) -> None:
            obstore.put(store, key, body, use_multipart=False)

    else:
        url = request.getfixturevalue("gcs")
        monkeypatch.setenv("GOOGLE_BASE_URL", url)
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")

        def put(key: str, body: bytes) -> None:
            where = f"{url}/upload/storage/v1/b/models/o"
            httpx.post(
                where, params={"uploadType": "media", "name": key}, content=body, timeout=PATIENCE_S
            ).raise_for_status()

    return f"{request.param}://models", put


def _limits() -> DownloadLimits:
    given = read_limits()
    return replace(FAST, model_bytes=given.model_bytes, cache_bytes=given.cache_bytes)


def _release() -> None:
    for lease in open_model._held:
        lease.release()
    open_model._held.clear()
