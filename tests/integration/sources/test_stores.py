"""Every store by its own protocol: a real S3 server, Google's emulator, a hub, a registry."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from yarl import URL

from model_stores import Handler, Server, answer, tar_of
from ports import free_port
from store_processes import BUILD_S, Put, program, running
from sundog_runtime.errors import (
    AccessDenied,
    DigestMismatch,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    SourceRefused,
    SourceUnavailable,
    StartError,
)
from sundog_runtime.sources import bucket as bucket_source
from sundog_runtime.sources.bucket_listing import page_query
from sundog_runtime.sources.open_model import open_model
from waiting import PATIENCE_S

# The first test of a store waits until its server is built.
pytestmark = pytest.mark.timeout(BUILD_S + PATIENCE_S)

BIG = os.urandom(300_000)
MODEL = {"model.safetensors": BIG, "model.yaml": b"format: torch\n", "code/net.py": b"class Net: ...\n"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tree_digest(files: dict[str, bytes]) -> str:
    """The documented formula, written down once more."""
    rows = [[name, len(body), hashlib.sha256(body).hexdigest()] for name, body in sorted(files.items())]
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def sha(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def read(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def put_all(put: Put, prefix: str, files: dict[str, bytes]) -> None:
    for name, body in files.items():
        put(f"{prefix}/{name}", body)


def test_a_directory_of_a_bucket(bucket: tuple[str, Put]) -> None:
    start, put = bucket
    put_all(put, "a/v1", MODEL)
    put("a/v10/other", b"not of this model")
    plain = open_model(f"{start}/a/v1", "")
    assert read(plain.root) == MODEL
    assert set(plain.seconds) == {"list", "download", "verify"}
    assert open_model(f"{start}/a/v1/", "").root == plain.root
    assert read(open_model(f"{start}/a/v1", tree_digest(MODEL)).root) == MODEL
    with pytest.raises(DigestMismatch, match=tree_digest(MODEL)):
        open_model(f"{start}/a/v1", "sha256:" + "0" * 64)


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_the_endpoint_of_s3_alone_goes_before_that_of_all_services(
    bucket: tuple[str, Put], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, put = bucket
    put_all(put, "endpoint", MODEL)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{free_port()}")
    assert read(open_model(f"{start}/endpoint", "").root) == MODEL


def test_an_object_of_a_bucket(bucket: tuple[str, Put]) -> None:
    start, put = bucket
    put("b/ü x=1+.pt2", BIG)
    found = open_model(f"{start}/b/ü x=1+.pt2", sha(BIG))
    assert found.path.read_bytes() == BIG
    assert found.file_name == "ü x=1+.pt2"


def test_an_empty_object_of_a_bucket(bucket: tuple[str, Put]) -> None:
    start, put = bucket
    put("empty/x", b"")
    assert open_model(f"{start}/empty/x", sha(b"")).path.read_bytes() == b""
    assert read(open_model(f"{start}/empty/", "").root) == {"x": b""}


def test_an_archive_in_a_bucket(bucket: tuple[str, Put]) -> None:
    start, put = bucket
    archive = tar_of(MODEL)
    put("c/model.tar.gz", archive)
    found = open_model(f"{start}/c/model.tar.gz", sha(archive))
    assert (read(found.root), found.file_name) == (MODEL, "")
    assert open_model(f"{start}/c/model.tar.gz", sha(archive)).root == found.root


def test_a_changed_object_of_a_bucket_is_another_model(bucket: tuple[str, Put]) -> None:
    start, put = bucket
    put("d/m", b"one")
    old = open_model(f"{start}/d/m", "")
    put("d/m", b"two")
    assert (old.path.read_bytes(), open_model(f"{start}/d/m", "").path.read_bytes()) == (b"one", b"two")


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_listing_of_a_bucket_in_several_pages(bucket: tuple[str, Put], monkeypatch: pytest.MonkeyPatch) -> None:
    start, put = bucket
    files = {f"part {number} ü+=&": str(number).encode() for number in range(5)}
    put_all(put, "pages ü+=&", files)
    pages: list[str] = []

    def two(prefix: str, following: str = "") -> str:
        pages.append(following)
        return f"{page_query(prefix, following)}&max-keys=2"

    monkeypatch.setattr(bucket_source, "page_query", two)
    assert read(open_model(f"{start}/pages ü+=&", "").root) == files
    assert len(pages) == 3
    assert all(pages[1:])


def test_nothing_in_a_bucket(bucket: tuple[str, Put]) -> None:
    start, _ = bucket
    with pytest.raises(ModelNotFound, match="no such object, and nothing below it"):
        open_model(f"{start}/nothing", "")
    # The emulator answers 500 where Google answers 404.
    if start.startswith("s3"):
        with pytest.raises(ModelNotFound, match="no such bucket"):
            open_model("s3://no-such-bucket/x", "")


def test_too_much_in_a_bucket(bucket: tuple[str, Put], monkeypatch: pytest.MonkeyPatch) -> None:
    start, put = bucket
    put_all(put, "e", MODEL)
    monkeypatch.setenv("SUNDOG_MODEL_MAX_BYTES", "1000")
    with pytest.raises(ModelTooLarge, match="expected at most 1000"):
        open_model(f"{start}/e", "")


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_wrong_credentials_are_denied_and_not_shown(bucket: tuple[str, Put], monkeypatch: pytest.MonkeyPatch) -> None:
    start, put = bucket
    put_all(put, "f", MODEL)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(AccessDenied, match="the store answered 403") as caught:
        open_model(f"{start}/f", "")
    assert "another-secret" not in str(caught.value)


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_the_endpoint_of_an_s3_is_guarded_too(bucket: tuple[str, Put], monkeypatch: pytest.MonkeyPatch) -> None:
    start, _ = bucket
    monkeypatch.setenv("SUNDOG_SOURCE_ALLOW_HOSTS", "")
    with pytest.raises(SourceRefused, match="localhost leads to a private address"):
        open_model(f"{start}/x", "")


@dataclass
class Elsewhere:
    """Where nothing may lead, and whether it was asked there. Only a neighbour of the model server could tell."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture(params=["metadata", "neighbour"])
def elsewhere(
    request: pytest.FixtureRequest, serve_plainly: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> Elsewhere:
    """The metadata service, or a server of this machine at an address that nobody has listed."""
    found = Elsewhere("http://169.254.169.254/latest/meta-data")

    async def handle(request: web.Request) -> web.StreamResponse:
        found.asked.append(request.path_qs)
        return web.json_response([])

    if request.param == "neighbour":
        found.url = f"http://127.0.0.1:{serve_plainly(handle).port}/secret"
    monkeypatch.setenv("SUNDOG_SOURCE_ALLOW_HOSTS", "localhost")
    return found


def leading_to(place: Elsewhere) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": place.url})

    return handle


def listing_of(*keys: str, following: str = "") -> web.Response:
    """A page as an S3 answers it."""
    items = "".join(f'<Contents><Key>{key}</Key><ETag>"v1"</ETag><Size>{len(BIG)}</Size></Contents>' for key in keys)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{following}</NextContinuationToken>"
    return web.Response(text=f"<ListBucketResult>{items}{more if following else ''}</ListBucketResult>")


BucketAt = Callable[[str, Server, str], None]


@pytest.fixture
def bucket_at(monkeypatch: pytest.MonkeyPatch) -> BucketAt:
    """Makes a server the store of a scheme: `https` or `http`. Google's is one without credentials."""

    def use(scheme: str, server: Server, transport: str) -> None:
        endpoint = f"{transport}://{server.authority}"
        monkeypatch.setenv("AWS_ENDPOINT_URL" if scheme == "s3" else "GOOGLE_BASE_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")

    return use


@pytest.fixture(params=["https", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve_by(transport: str, request: pytest.FixtureRequest) -> Callable[[Handler], Server]:
    """Starts a server with that transport."""
    made: Callable[[Handler], Server] = request.getfixturevalue("serve" if transport == "https" else "serve_plainly")
    return made


@pytest.mark.parametrize("key", ["prefix/", "m.pt2"])
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_that_leads_elsewhere(
    scheme: str,
    key: str,
    transport: str,
    elsewhere: Elsewhere,
    serve_by: Callable[[Handler], Server],
    bucket_at: BucketAt,
) -> None:
    """By its listing, and where one object is asked for."""
    server = serve_by(leading_to(elsewhere))
    bucket_at(scheme, server, transport)
    with pytest.raises(SourceRefused, match="redirected to another"):
        open_model(f"{scheme}://models/{key}", "")
    assert len(server.requests) == 1
    assert elsewhere.asked == []


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_whose_objects_lead_elsewhere(
    scheme: str,
    transport: str,
    elsewhere: Elsewhere,
    serve_by: Callable[[Handler], Server],
    bucket_at: BucketAt,
    cache: Path,
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return listing_of("prefix/m.pt2") if "list-type" in request.query else await leading_to(elsewhere)(request)

    server = serve_by(handle)
    bucket_at(scheme, server, transport)
    with pytest.raises(SourceRefused, match="redirected to another"):
        open_model(f"{scheme}://models/prefix/", "")
    assert len(server.requests) > 1
    assert elsewhere.asked == []
    assert not list(cache.glob("models/*/entries/*"))


def test_a_google_with_credentials_that_leads_elsewhere(
    elsewhere: Elsewhere, serve: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is asked by obstore, which follows: to what has TLS, as no metadata service has."""
    server = serve(leading_to(elsewhere))
    key = {"gcs_base_url": f"https://{server.authority}", "disable_oauth": True}
    (tmp_path / "key.json").write_text(json.dumps({**key, "client_email": "", "private_key": "", "private_key_id": ""}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "key.json"))
    with pytest.raises(SourceUnavailable, match="the store cannot be reached, or broke off its answer"):
        open_model("gs://models/prefix/", "")
    assert server.requests
    assert elsewhere.asked == []


def test_google_storage_gets_no_credentials_over_plain_http(
    serve_plainly: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve_plainly(leading_to(Elsewhere("")))
    monkeypatch.setenv("GOOGLE_BASE_URL", f"http://{server.authority}")
    with pytest.raises(LoadFailed, match="GOOGLE_BASE_URL begins with http://; expected https://"):
        open_model("gs://models/prefix/", "")
    assert server.requests == []


def test_a_google_at_a_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BASE_URL", "https://127.0.0.1")
    with pytest.raises(SourceRefused, match="leads to a private address"):
        open_model("gs://models/prefix/", "")


def test_proxies_of_the_environment_are_not_asked_for_a_listing(
    transport: str, serve_by: Callable[[Handler], Server], bucket_at: BucketAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def handle(request: web.Request) -> web.StreamResponse:
        return listing_of("prefix/m.pt2") if "list-type" in request.query else answer(request, BIG)

    bucket_at("s3", serve_by(handle), transport)
    assert read(open_model("s3://models/prefix/", "").root) == {"m.pt2": BIG}


@pytest.mark.parametrize("body", [b"", b"<html/>", b"<ListBucketResult><Contents/></ListBucketResult>", b"{}"])
def test_an_s3_that_sends_no_listing(
    body: bytes, serve_plainly: Callable[[Handler], Server], s3_at: Callable[[Server], None]
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    s3_at(serve_plainly(handle))
    with pytest.raises(LoadFailed, match="s3://models/prefix: the store's answer is not a listing"):
        open_model("s3://models/prefix/", "")


def test_an_s3_whose_listing_never_ends(
    serve_plainly: Callable[[Handler], Server], s3_at: Callable[[Server], None]
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return listing_of(*(f"prefix/{number}/" for number in range(9_000)), following="more")

    s3_at(serve_plainly(handle))
    with pytest.raises(ModelTooLarge, match="holds more than 10000 objects"):
        open_model("s3://models/prefix/", "")


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (403, AccessDenied, "answered 403"),
        (500, SourceUnavailable, "answered 500"),
        (503, SourceUnavailable, "503"),
    ],
)
def test_an_s3_that_refuses(
    code: int,
    kind: type[StartError],
    message: str,
    serve_plainly: Callable[[Handler], Server],
    s3_at: Callable[[Server], None],
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text="<Error><Message>secret</Message></Error>")

    s3_at(serve_plainly(handle))
    with pytest.raises(kind, match=message) as caught:
        open_model("s3://models/m.pt2", "")
    assert "secret" not in caught.value.message


def test_without_signatures_nothing_is_signed(
    serve_plainly: Callable[[Handler], Server], s3_at: Callable[[Server], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append((request.path_qs, "Authorization" in request.headers))
        return answer(request, BIG)

    s3_at(serve_plainly(handle))
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert open_model("s3://models/m.pt2", sha(BIG)).path.read_bytes() == BIG
    assert set(seen) == {("/models/m.pt2", False)}


@pytest.fixture
def s3_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], None]:
    def use(server: Server) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.authority}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")

    return use


@dataclass
class Hub:
    """A stand-in that speaks the two parts of the hub's API that are used. Bytes come from another host, as they do there."""

    files: dict[str, bytes]
    wanted_token: str = ""
    fail: int = 0
    page: int = 1000
    tokens_at_storage: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.path.startswith("/storage/"):
            self.tokens_at_storage.append(token)
            return answer(request, self.files[request.path.removeprefix("/storage/")], '"storage"')
        if self.fail:
            self.fail -= 1
            return web.Response(status=500)
        if token != self.wanted_token:
            return web.json_response({"error": "Invalid credentials"}, status=401)
        if request.path == f"/api/models/owner/name/tree/{COMMIT}":
            return self._listing(request)
        name = request.path.removeprefix(f"/owner/name/resolve/{COMMIT}/")
        if name not in self.files:
            return web.json_response({"error": "not found"}, status=404)
        port = request.url.port
        return web.Response(status=302, headers={"Location": f"http://127.0.0.1:{port}/storage/{name}"})

    def _listing(self, request: web.Request) -> web.Response:
        start = int(request.query.get("cursor", "0"))
        items = [self._item(name, body) for name, body in self.files.items()]
        following = request.url.update_query(cursor=start + self.page)
        more = {"Link": f'<{following}>; rel="next"'} if start + self.page < len(items) else {}
        return web.json_response(items[start : start + self.page], headers=more)

    def _item(self, name: str, body: bytes) -> dict[str, Any]:
        item = {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
        if len(body) > 1000:
            item["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return item


@pytest.fixture
def hub(serve_plainly: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(dict(MODEL))
    server = serve_plainly(found.handle)
    monkeypatch.setenv("HF_ENDPOINT", f"http://localhost:{server.port}")
    monkeypatch.setenv("SUNDOG_SOURCE_ALLOW_HOSTS", "localhost,127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return found


def test_a_commit_of_a_hub(hub: Hub) -> None:
    found = open_model(f"hf://owner/name@{COMMIT}", "")
    assert (read(found.root), found.file_name) == (MODEL, "")
    assert open_model(f"hf://owner/name@{COMMIT}", tree_digest(MODEL)).verified is not None


def test_parts_of_a_hubs_repository(hub: Hub) -> None:
    assert read(open_model(f"hf://owner/name@{COMMIT}/code", "").root) == {"net.py": MODEL["code/net.py"]}
    one = open_model(f"hf://owner/name@{COMMIT}/model.safetensors", sha(BIG))
    assert (one.file_name, one.path.read_bytes()) == ("model.safetensors", BIG)
    with pytest.raises(ModelNotFound, match="has nothing at 'other'"):
        open_model(f"hf://owner/name@{COMMIT}/other", "")


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.wanted_token = "hf_secret"
    with pytest.raises(AccessDenied, match="HF_TOKEN"):
        open_model(f"hf://owner/name@{COMMIT}", "")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert read(open_model(f"hf://owner/name@{COMMIT}", "").root) == MODEL
    assert hub.tokens_at_storage
    assert set(hub.tokens_at_storage) == {""}


def test_what_the_hub_does_not_have(hub: Hub) -> None:
    with pytest.raises(ModelNotFound, match="no such repository or commit"):
        open_model(f"hf://owner/other@{COMMIT}", "")


def test_a_hub_that_stumbles_once(hub: Hub) -> None:
    hub.fail = 1
    assert read(open_model(f"hf://owner/name@{COMMIT}", "").root) == MODEL
    hub.fail = 1000
    with pytest.raises(SourceUnavailable, match="answered 500"):
        open_model(f"hf://owner/name@{COMMIT}/code", "")


def test_a_hub_that_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://localhost:{free_port()}")
    with pytest.raises(SourceUnavailable, match="the store cannot be reached"):
        open_model(f"hf://owner/name@{COMMIT}", "")


def test_a_hub_whose_listing_leads_elsewhere(
    elsewhere: Elsewhere, serve_plainly: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://{serve_plainly(leading_to(elsewhere)).authority}")
    with pytest.raises(SourceRefused, match="redirected to another host"):
        open_model(f"hf://owner/name@{COMMIT}", "")
    assert elsewhere.asked == []


def test_a_hub_whose_listing_goes_on_elsewhere(
    elsewhere: Elsewhere, serve_plainly: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        item = {"type": "file", "path": "x", "size": 1, "oid": "1"}
        return web.json_response([item], headers={"Link": f'<{elsewhere.url}>; rel="next"'})

    monkeypatch.setenv("HF_ENDPOINT", f"http://{serve_plainly(handle).authority}")
    with pytest.raises(SourceRefused, match="the listing goes on at another host"):
        open_model(f"hf://owner/name@{COMMIT}", "")
    assert elsewhere.asked == []


def test_the_hub_s_own_address_is_guarded_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUNDOG_SOURCE_ALLOW_HOSTS", "")
    with pytest.raises(SourceRefused, match="localhost leads to a private address"):
        open_model(f"hf://owner/name@{COMMIT}", "")


def test_a_listing_of_several_pages(hub: Hub) -> None:
    hub.page = 2
    hub.files |= {f"more/{number}": str(number).encode() for number in range(3)}
    assert read(open_model(f"hf://owner/name@{COMMIT}", "").root) == hub.files


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'[{"type": "file"}]', b"[" * 100_000])
def test_a_hub_that_sends_no_listing(
    body: bytes, serve_plainly: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    monkeypatch.setenv("HF_ENDPOINT", f"http://{serve_plainly(handle).authority}")
    with pytest.raises(LoadFailed, match="hub"):
        open_model(f"hf://owner/name@{COMMIT}", "")


def test_a_hub_whose_listing_never_ends(
    serve_plainly: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        items = [{"type": "directory", "path": str(number), "oid": "1", "size": 0} for number in range(9_000)]
        return web.json_response(items, headers={"Link": '<?cursor=more>; rel="next"'})

    monkeypatch.setenv("HF_ENDPOINT", f"http://{serve_plainly(handle).authority}")
    with pytest.raises(ModelTooLarge, match="holds more than 10000 files"):
        open_model(f"hf://owner/name@{COMMIT}", "")


def test_a_gated_repository(serve_plainly: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403, headers={"X-Error-Code": "GatedRepo"})

    monkeypatch.setenv("HF_ENDPOINT", f"http://{serve_plainly(handle).authority}")
    with pytest.raises(AccessDenied, match="the repository is gated"):
        open_model(f"hf://owner/name@{COMMIT}", "")


def test_a_hub_whose_storage_has_other_bytes(hub: Hub) -> None:
    promised = dict(hub.files)
    hub.files["model.safetensors"] = os.urandom(len(BIG))
    listed = hub._item
    hub._item = lambda name, body: listed(name, promised[name])  # type: ignore[method-assign]
    with pytest.raises(DigestMismatch, match=r"model\.safetensors has the digest"):
        open_model(f"hf://owner/name@{COMMIT}", "")


@dataclass
class Registry:
    """A registry, by its authority."""

    authority: str

    def put_blob(self, body: bytes) -> dict[str, Any]:
        base = f"http://{self.authority}"
        begun = httpx.post(f"{base}/v2/team/digits/blobs/uploads/", timeout=PATIENCE_S)
        begun.raise_for_status()
        where = URL(begun.headers["Location"]).update_query(digest=sha(body))
        where = where if where.is_absolute() else URL(base).join(where)
        httpx.put(
            str(where), content=body, headers={"Content-Type": "application/octet-stream"}, timeout=PATIENCE_S
        ).raise_for_status()
        return {"mediaType": "application/octet-stream", "digest": sha(body), "size": len(body)}

    def put_manifest(self, layers: list[dict[str, Any]], tag: str = "v1") -> str:
        kind = "application/vnd.oci.image.manifest.v1+json"
        config = {**self.put_blob(b"{}"), "mediaType": "application/vnd.oci.empty.v1+json"}
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}).encode()
        url = f"http://{self.authority}/v2/team/digits/manifests/{tag}"
        httpx.put(url, content=body, headers={"Content-Type": kind}, timeout=PATIENCE_S).raise_for_status()
        return sha(body)

    def uri(self, digest: str) -> str:
        return f"oci://{self.authority}/team/digits@{digest}"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory, port = tmp_path_factory.mktemp("registry"), free_port()
    config = directory / "config.yml"
    storage = {"filesystem": {"rootdirectory": str(directory / "data")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}}))
    with running((program("docker-registry", "docker-registry"), "serve", str(config)), port, directory / "log"):
        yield Registry(f"localhost:{port}")


def titled(layer: dict[str, Any], title: str) -> dict[str, Any]:
    return {**layer, "annotations": {"org.opencontainers.image.title": title}}


def test_an_artefact_of_files(registry: Registry) -> None:
    layers = [titled(registry.put_blob(body), name) for name, body in MODEL.items()]
    digest = registry.put_manifest(layers)
    found = open_model(registry.uri(digest), "")
    assert read(found.root) == MODEL
    assert open_model(f"oci://{registry.authority}/team/digits:v1", digest).root == found.root


@pytest.mark.parametrize(
    "kind", ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar"]
)
def test_an_image_of_layers(registry: Registry, kind: str) -> None:
    mode = "w:gz" if kind.endswith("gzip") else "w"
    first, second = tar_of({"a/x": BIG}, mode), tar_of({"a/y": b"y"}, mode)
    layers = [{**registry.put_blob(body), "mediaType": kind} for body in (first, second)]
    assert read(open_model(registry.uri(registry.put_manifest(layers)), "").root) == {"a/x": BIG, "a/y": b"y"}


def test_a_registry_without_the_artefact(registry: Registry) -> None:
    with pytest.raises(ModelNotFound, match="answered 404"):
        open_model(registry.uri(sha(b"nothing")), "")


@pytest.mark.parametrize(
    ("layer", "kind", "message"),
    [
        ({"annotations": {"org.opencontainers.image.title": "../../etc/cron.d/x"}}, SourceRefused, "absolute names"),
        ({"annotations": {"org.opencontainers.image.title": "/etc/passwd"}}, SourceRefused, "absolute names"),
        ({}, LoadFailed, "neither a tar archive nor a file"),
    ],
)
def test_an_artefact_of_a_stranger(
    registry: Registry, layer: dict[str, Any], kind: type[StartError], message: str
) -> None:
    digest = registry.put_manifest([{**registry.put_blob(b"x"), **layer}])
    with pytest.raises(kind, match=message):
        open_model(registry.uri(digest), "")


Decide = Callable[[web.Request], web.StreamResponse | None]


@dataclass
class PlainRegistry:
    """A registry with one artefact. `decide` may answer a request in its place, such as for a token."""

    serve_plainly: Callable[[Handler], Server]
    decide: Decide = lambda request: None
    blob: bytes = BIG
    manifest: bytes = json.dumps(
        {"schemaVersion": 2, "layers": [titled({"mediaType": "x", "digest": sha(BIG), "size": len(BIG)}, "m.pt2")]}
    ).encode()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if (decided := self.decide(request)) is not None:
            return decided
        if "/manifests/" in request.path:
            return web.Response(body=self.manifest)
        return answer(request, self.blob) if "/blobs/" in request.path else web.Response()

    def uri(self, digest: str = "") -> str:
        self.authority = self.serve_plainly(self.handle).authority
        return f"oci://{self.authority}/team/digits@{digest or sha(self.manifest)}"


def challenge(request: web.Request, service: str = "") -> web.Response:
    realm = f'Bearer realm="http://localhost:{request.url.port}/token"{service}'
    return web.Response(status=401, headers={"WWW-Authenticate": realm})


def test_a_registry_that_sends_another_manifest_and_other_bytes(serve_plainly: Callable[[Handler], Server]) -> None:
    registry = PlainRegistry(serve_plainly, blob=os.urandom(len(BIG)))
    with pytest.raises(DigestMismatch, match="the manifest that was sent has the digest"):
        open_model(registry.uri(sha(b"other")), "")
    with pytest.raises(DigestMismatch, match=r"m\.pt2 has the digest"):
        open_model(registry.uri(), "")


def test_a_registry_that_wants_a_token(
    serve_plainly: Callable[[Handler], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def decide(request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            asked.append((request.query["scope"], request.headers.get("Authorization", "")))
            return web.json_response({"token": "t"})
        if request.headers.get("Authorization") != "Bearer t":
            return challenge(request, ',service="registry"')
        return None

    registry = PlainRegistry(serve_plainly, decide)
    uri = registry.uri()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.authority: {"auth": "dXNlcjpwYXNz"}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert read(open_model(uri, "").root) == {"m.pt2": BIG}
    assert asked == [("repository:team/digits:pull", "Basic dXNlcjpwYXNz")]


def test_a_token_that_runs_out_is_renewed(serve_plainly: Callable[[Handler], Server]) -> None:
    given, left = [0], [0]

    def decide(request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            given[0] += 1
            left[0] = 3
            return web.json_response({"token": f"t{given[0]}"})
        left[0] -= 1
        is_valid = left[0] >= 0 and request.headers.get("Authorization") == f"Bearer t{given[0]}"
        return None if is_valid else challenge(request)

    assert read(open_model(PlainRegistry(serve_plainly, decide).uri(), "").root) == {"m.pt2": BIG}
    assert given[0] > 1


def test_a_registry_that_refuses_a_layer_is_not_asked_for_ever(serve_plainly: Callable[[Handler], Server]) -> None:
    def decide(request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            return web.json_response({"token": "t"})
        is_allowed = "/manifests/" in request.path and request.headers.get("Authorization")
        return None if is_allowed else challenge(request)

    with pytest.raises(AccessDenied, match="layer 0: the store answered 401"):
        open_model(PlainRegistry(serve_plainly, decide).uri(), "")


def test_an_index_of_several_images(serve_plainly: Callable[[Handler], Server]) -> None:
    index = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    with pytest.raises(LoadFailed, match="is an index of several images"):
        open_model(PlainRegistry(serve_plainly, manifest=index).uri(), "")


def test_a_mounted_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUNDOG_PVC_ROOT", str(tmp_path))
    model = tmp_path / "claim" / "digits"
    for name, body in MODEL.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(body)
    assert open_model("pvc://claim/digits", tree_digest(MODEL)).root == model
    assert open_model("pvc://claim/", "").root == tmp_path / "claim"
    (tmp_path / "secret").write_bytes(b"")
    (model / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceRefused, match="leads out of the volume"):
        open_model("pvc://claim/digits/out", "")
    with pytest.raises(ModelNotFound, match="no volume of the claim 'other'"):
        open_model("pvc://other/digits", "")
