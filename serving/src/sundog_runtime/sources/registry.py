"""`oci://`: an artefact of a registry, as oras and image builders push them.

A layer with a title is a file of that name; a tar layer is unpacked. The digest is that of the manifest, which holds the
digests of all layers. Registries redirect reads of layers to their storage, on other hosts.

The registry's protocol is three kinds of GET. `http_session` makes them with its guard, limits and resumption, which no
registry client has.
"""

import asyncio
import base64
import hashlib
import json
import os
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from yarl import URL

from sundog_runtime.errors import AccessDenied, DigestMismatch, LoadFailed, ModelTooLarge
from sundog_runtime.sources.archive import check_member_name
from sundog_runtime.sources.download_limits import DownloadLimits
from sundog_runtime.sources.file_digests import MAX_FILES
from sundog_runtime.sources.http_session import WebSession
from sundog_runtime.sources.listing import ModelListing, RemoteObject, make_retrying
from sundog_runtime.sources.uri import ArtefactUri, split_authority

MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
TITLE_ANNOTATION = "org.opencontainers.image.title"
UNPACK_ANNOTATION = "io.deis.oras.content.unpack"

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAR = re.compile(r"application/vnd\.(oci\.image\.layer\.v1\.tar(\+gzip)?|docker\.image\.rootfs\.diff\.tar(\.gzip)?)")


async def list_artefact(uri: ArtefactUri, web: WebSession, limits: DownloadLimits) -> ModelListing:
    """List the layers. Raises a StartError; DigestMismatch if the manifest differs from the expected one."""
    shown = f"oci://{uri.authority}/{uri.repository}@{uri.digest}"
    base = _base(uri)
    access = _Access(uri, base, web, shown)
    async for attempt in make_retrying(limits):
        with attempt:
            await access.renew(access.headers)
            url = base / "manifests" / uri.digest
            accepting = {**access.headers, "Accept": ", ".join(MANIFEST_TYPES)}
            body, _ = await web.read_document(url, shown, accepting, allow_other_hosts=True)
    if (found := "sha256:" + hashlib.sha256(body).hexdigest()) != uri.digest:
        raise DigestMismatch(f"{shown}: the manifest that was sent has the digest {found}; expected {uri.digest}")
    layers = _layers(body, shown)
    return ModelListing(tuple(_remote(layer, number, base, access, web, shown) for number, layer in enumerate(layers)))


class _Access:
    """The headers that authorize requests. Its tokens live for minutes, and a download may take longer."""

    def __init__(self, uri: ArtefactUri, base: URL, web: WebSession, shown: str) -> None:
        self.headers: Mapping[str, str] = {}
        self._authorize = partial(_authorization, uri, base, web, shown)
        self._renewing = asyncio.Lock()

    async def renew(self, refused: Mapping[str, str]) -> None:
        """Renew the headers, unless that happened since `refused` was read."""
        async with self._renewing:
            if self.headers is refused:
                self.headers = await self._authorize()

    async def read(
        self, web: WebSession, url: URL, what: str, start: int, end: int | None, *, size: int
    ) -> AsyncGenerator[bytes, None]:
        """Read like `WebSession.read`. A refused token is replaced once: the refusal comes before the first byte."""
        sent = self.headers
        reading = partial(web.read, url, what, start, end, size=size, allow_other_hosts=True)
        try:
            async with aclosing(reading(headers=sent)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except AccessDenied:
            if not sent.get("Authorization", "").startswith("Bearer "):
                raise
            await self.renew(sent)
            async with aclosing(reading(headers=self.headers)) as chunks:
                async for chunk in chunks:
                    yield chunk


def _base(uri: ArtefactUri) -> URL:
    # As in every client, a registry on this machine is called without TLS. It must be listed to be reached at all.
    host, _ = split_authority(uri.authority)
    scheme = "http" if host in ("localhost", "127.0.0.1", "::1") else "https"
    return URL(f"{scheme}://{uri.authority}/v2/{uri.repository}", encoded=True)


async def _authorization(uri: ArtefactUri, base: URL, web: WebSession, shown: str) -> Mapping[str, str]:
    """Return the headers that the registry requires: none, a password, or a token that is fetched for it."""
    login = _login(uri.authority)
    async with web.get(base.origin() / "v2/", shown) as response:
        challenge = response.headers.get("WWW-Authenticate", "") if response.status == 401 else ""
    if not challenge:
        return {}
    if challenge.lower().startswith("basic"):
        return login
    wanted = dict(_PARAMETER.findall(challenge))
    realm = URL(wanted.get("realm", ""))
    if realm.scheme not in ("https", base.scheme) or not realm.host:
        raise AccessDenied(f"{shown}: the registry requires an authorization that is not supported")
    query = {
        "scope": f"repository:{uri.repository}:pull",
        **({"service": wanted["service"]} if "service" in wanted else {}),
    }
    body, _ = await web.read_document(realm.update_query(query), shown, login)
    try:
        answer = json.loads(body)
        return {"Authorization": f"Bearer {answer.get('token') or answer['access_token']}"}
    except (ValueError, KeyError, AttributeError, RecursionError):
        raise AccessDenied(f"{shown}: the registry's authorization service sent no token") from None


def _login(authority: str) -> Mapping[str, str]:
    """Return the registry's credentials of `$DOCKER_CONFIG/config.json`, if there are any."""
    path = Path(os.environ.get("DOCKER_CONFIG", "") or Path.home() / ".docker") / "config.json"
    try:
        text = str(json.loads(path.read_bytes())["auths"][authority]["auth"])
        base64.b64decode(text, validate=True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {"Authorization": f"Basic {text}"}


def _layers(body: bytes, shown: str) -> list[Any]:
    try:
        manifest = json.loads(body)
        index, layers = "manifests" in manifest, manifest.get("layers") or []
        usable = all(_DIGEST.fullmatch(layer["digest"]) and int(layer["size"]) >= 0 for layer in layers)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        index, usable, layers = False, False, []
    if index:
        raise LoadFailed(f"{shown} is an index of several images; pin the digest of one of them")
    if not usable or not layers:
        raise LoadFailed(f"{shown}: its manifest has no usable layers")
    if len(layers) > MAX_FILES:
        raise ModelTooLarge(f"{shown} has more than {MAX_FILES} layers")
    return list(layers)


def _remote(layer: Any, number: int, base: URL, access: _Access, web: WebSession, shown: str) -> RemoteObject:
    notes = layer.get("annotations") or {}
    digest, kind, title = str(layer["digest"]), str(layer.get("mediaType", "")), str(notes.get(TITLE_ANNOTATION, ""))
    tar = notes.get(UNPACK_ANNOTATION) == "true" or (not title and _TAR.fullmatch(kind) is not None)
    if not tar and not title:
        raise LoadFailed(f"{shown}: layer {number} is neither a tar archive nor a file with a title ({kind[:100]!r})")
    name = f"layer-{number}.tar" if tar else check_member_name(title, shown)
    read = partial(access.read, web, base / "blobs" / digest, f"{shown} layer {number}", size=int(layer["size"]))
    return RemoteObject(name, int(layer["size"]), digest, read, sha256=digest.removeprefix("sha256:"), unpack=tar)
