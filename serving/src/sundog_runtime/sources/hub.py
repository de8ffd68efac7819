"""`hf://`: a repository of a Hugging Face hub, at one commit.

huggingface_hub lists the files, and tries again for half a minute where the hub stumbles; their bytes are read by
`web`, which has limits, resumes and is guarded. The hub's address is the administrator's (HF_ENDPOINT). It sends readers
on to its storage, on other hosts.
"""

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

from yarl import URL

from sundog_runtime.errors import AccessDenied, LoadFailed, ModelNotFound, ModelTooLarge, SourceUnavailable, StartError
from sundog_runtime.sources.archive import plain_name
from sundog_runtime.sources.remote import Listing, Remote
from sundog_runtime.sources.tree import MAX_FILES
from sundog_runtime.sources.uri import HubUri
from sundog_runtime.sources.web import Web

ENDPOINT = "HF_ENDPOINT"
_PUBLIC = "https://huggingface.co"
_MAIN = "main"


async def list_repository(uri: HubUri, web: Web) -> Listing:
    """Raises a StartError. Of what the hub keeps as large files, it tells the sha256, which is checked."""
    endpoint = os.environ.get(ENDPOINT, "").rstrip("/") or _PUBLIC
    token = os.environ.get("HF_TOKEN", "")
    shown = f"hf://{uri.repository}@{uri.revision or _MAIN}"
    files = await asyncio.to_thread(_list, uri, endpoint, token, shown)
    below = [file for file in files if not uri.path or file.path == uri.path or file.path.startswith(f"{uri.path}/")]
    if not below:
        raise ModelNotFound(f"{shown} has nothing at {uri.path!r}" if uri.path else f"{shown} is empty")
    only = uri.path.rpartition("/")[2] if [file.path for file in below] == [uri.path] else ""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    objects = []
    for file in below:
        name = only or plain_name(file.path.removeprefix(f"{uri.path}/") if uri.path else file.path, shown)
        url = URL(endpoint) / uri.repository / "resolve" / (uri.revision or _MAIN) / file.path
        sha256 = str(file.lfs.sha256) if file.lfs else ""
        # Without a commit the name of the content is all there is: the branch may move between listing and reading.
        identity = f"{uri.revision}/{sha256 or file.blob_id}"
        read = partial(web.read, url, f"{shown}/{file.path}", size=file.size, headers=headers, roam=True)
        objects.append(Remote(name, int(file.size), identity, read, sha256=sha256))
    return Listing(tuple(objects), only)


def _list(uri: HubUri, endpoint: str, token: str, shown: str) -> Sequence[Any]:
    try:
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
        from huggingface_hub.hf_api import RepoFile
    except ImportError:
        raise LoadFailed("hf:// needs the package huggingface-hub: install sundog[hf]") from None
    try:
        api = HfApi(endpoint=endpoint, token=token or False)
        tree = api.list_repo_tree(uri.repository, revision=uri.revision or _MAIN, recursive=True)
        # Directories are items of the tree too.
        files = [item for item in islice(tree, 2 * MAX_FILES) if isinstance(item, RepoFile)]
    except GatedRepoError:
        raise AccessDenied(f"{shown}: the repository is gated, and this token is not let in") from None
    except HfHubHTTPError as error:
        raise _told(error.response.status_code if error.response is not None else 0, shown) from None
    except (httpx2.HTTPError, OSError) as error:
        raise SourceUnavailable(f"{shown}: the hub cannot be reached ({type(error).__name__})") from None
    if len(files) > MAX_FILES:
        raise ModelTooLarge(f"{shown} holds more than {MAX_FILES} files")
    return files


def _told(status: int, shown: str) -> StartError:
    if status == 404:
        return ModelNotFound(f"{shown}: the hub has no such repository or commit")
    if status in (401, 403):
        return AccessDenied(f"{shown}: the hub answered {status}: it does not exist, or HF_TOKEN is not let in")
    return SourceUnavailable(f"{shown}: the hub answered {status}")
