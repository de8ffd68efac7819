"""`hf://`: a repository of a Hugging Face hub, at one commit.

The hub's protocol is one kind of GET for the listing, page by page, and one for the files. `http_session` makes them with
its guard, limits and resumption. The hub's own client would follow a listing to any host, and take proxies from the
environment. The administrator sets the hub's address (HF_ENDPOINT). The hub redirects file reads to its storage, on other hosts.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from sundog_runtime.errors import AccessDenied, LoadFailed, ModelNotFound, ModelTooLarge, SourceRefused
from sundog_runtime.sources.archive import check_member_name
from sundog_runtime.sources.download_limits import DownloadLimits
from sundog_runtime.sources.file_digests import MAX_FILES
from sundog_runtime.sources.http_session import WebSession, check_status
from sundog_runtime.sources.listing import ModelListing, RemoteObject, retry
from sundog_runtime.sources.uri import HubUri

ENDPOINT_VARIABLE = "HF_ENDPOINT"
_PUBLIC = "https://huggingface.co"
_MAIN = "main"


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the listing. `content` is the hub's name of its content; `sha256` is only set for large files."""

    path: str
    size: int
    content: str
    sha256: str


async def list_repository(uri: HubUri, web: WebSession, limits: DownloadLimits) -> ModelListing:
    """List a repository. Large files have the hub's sha256, which is checked. Raises a StartError."""
    endpoint = URL(os.environ.get(ENDPOINT_VARIABLE, "").rstrip("/") or _PUBLIC)
    token = os.environ.get("HF_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    revision = uri.revision or _MAIN
    shown = f"hf://{uri.repository}@{revision}"
    files = await _files(_tree(endpoint, uri.repository, revision), headers, shown, web, limits)
    below = [file for file in files if not uri.path or file.path == uri.path or file.path.startswith(f"{uri.path}/")]
    if not below:
        raise ModelNotFound(f"{shown} has nothing at {uri.path!r}" if uri.path else f"{shown} is empty")
    file_name = uri.path.rpartition("/")[2] if [file.path for file in below] == [uri.path] else ""
    objects = []
    for file in below:
        name = file_name or check_member_name(file.path.removeprefix(f"{uri.path}/") if uri.path else file.path, shown)
        url = endpoint / uri.repository / "resolve" / revision / file.path
        # Without a commit only the name of the content identifies a file: the branch may move between listing and reading.
        identity = f"{uri.revision}/{file.sha256 or file.content}"
        read = partial(web.read, url, f"{shown}/{file.path}", size=file.size, headers=headers, allow_other_hosts=True)
        objects.append(RemoteObject(name, file.size, identity, read, sha256=file.sha256))
    return ModelListing(tuple(objects), file_name)


def _tree(endpoint: URL, repository: str, revision: str) -> URL:
    # A branch may have slashes in its name.
    tree = (endpoint / "api" / "models" / repository / "tree").joinpath(quote(revision, safe=""), encoded=True)
    return tree.with_query(recursive="true", expand="false")


async def _files(
    first: URL, headers: Mapping[str, str], shown: str, web: WebSession, limits: DownloadLimits
) -> list[_File]:
    """Return all files of a repository. Directories are items of the listing too."""
    found, item_count = list[_File](), 0
    page: URL | None = first
    while page is not None:
        request = partial(web.read_document, page, shown, headers, check=_check)
        body, response = await retry(limits, request)
        items = _items(body, shown)
        item_count += len(items)
        found += _files_of(items, shown)
        if len(found) > MAX_FILES or item_count > 2 * MAX_FILES:
            raise ModelTooLarge(f"{shown} holds more than {MAX_FILES} files")
        next_link = response.links.get("next")
        page = None if next_link is None else URL(next_link["url"])
        # The other host would get the token as well.
        if page is not None and page.origin() != first.origin():
            raise SourceRefused(f"{shown}: the listing goes on at another host, {page.host}; expected the same host")
    return found


def _items(body: bytes, shown: str) -> list[Any]:
    try:
        items = json.loads(body)
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list):
        raise LoadFailed(f"{shown}: the hub's answer is not a listing")
    return items


def _files_of(items: list[Any], shown: str) -> list[_File]:
    try:
        return [
            _File(str(item["path"]), int(item["size"]), str(item["oid"]), str((item.get("lfs") or {}).get("oid", "")))
            for item in items
            if item["type"] == "file"
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise LoadFailed(f"{shown}: the hub's listing has an item that is not a valid file") from None


def _check(response: aiohttp.ClientResponse, shown: str) -> None:
    """Check the status. Raises the StartError for it."""
    status = response.status
    if response.headers.get("X-Error-Code") == "GatedRepo":
        raise AccessDenied(f"{shown}: the repository is gated, and HF_TOKEN has no access. Request access at the hub.")
    if status == 404:
        raise ModelNotFound(f"{shown}: the hub has no such repository or commit")
    if status in (401, 403):
        raise AccessDenied(f"{shown}: the hub answered {status}: it does not exist, or HF_TOKEN has no access")
    check_status(response, shown)
