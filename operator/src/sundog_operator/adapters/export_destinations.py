"""Stores the files of an exposure log in a directory, in a mounted claim, or below a prefix of a bucket."""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sundog_operator.errors import SundogError

BUCKET_SCHEMES: Final = ("s3", "gs")
# A mount whose server is unreachable blocks its thread. A thread of its own keeps the default pool free for others.
_COPIER: Final = ThreadPoolExecutor(1, thread_name_prefix="log-copies")
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class DestinationRefused(SundogError):
    """The files cannot be stored at that destination."""


async def put_files(files: Sequence[Path], destination: str, claims: Path | None = None) -> None:
    """Store files at a place, in that order: a directory, `file://`, `s3://`, `gs://`, or `pvc://` with `claims`.

    A file of the same name is replaced atomically. `claims` is the directory with the mounted claims, each by its name.
    Credentials of a bucket come from the environment. Raises DestinationRefused, which names the place and the problem.
    """
    parts = urlsplit(destination)
    if parts.scheme in BUCKET_SCHEMES:
        await _upload(files, parts.scheme, parts.netloc, parts.path.strip("/"))
    elif parts.scheme in ("", "file") and not parts.netloc:
        await _in_thread(_copy, files, Path(parts.path if parts.scheme else destination))
    elif parts.scheme == "pvc" and claims is not None:
        await _in_thread(_copy_to_claim, files, claims / parts.netloc, parts.path.strip("/"), destination)
    else:
        known = ", ".join(f"{scheme}://" for scheme in ("file", *BUCKET_SCHEMES))
        raise DestinationRefused(f"{destination}: unknown destination; expected a directory or one of {known}")


async def _in_thread(work: Callable[..., None], *arguments: Any) -> None:
    await asyncio.get_running_loop().run_in_executor(_COPIER, work, *arguments)


def _copy_to_claim(files: Sequence[Path], claim: Path, directory: str, destination: str) -> None:
    # The mount creates this directory. Files written into one of ours would be lost.
    if not claim.is_dir():
        raise DestinationRefused(f"{destination}: claim {claim.name} is not mounted at {claim}")
    _copy(files, claim / directory)


def _copy(files: Sequence[Path], directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in files:
            draft = directory / f".{file.name}.part"
            shutil.copyfile(file, draft)
            draft.replace(directory / file.name)
    except OSError as error:
        raise DestinationRefused(f"{directory}: cannot be written: {error.strerror or error}") from None


async def _upload(files: Sequence[Path], scheme: str, bucket: str, prefix: str) -> None:
    shown = f"{scheme}://{bucket}/{prefix}".rstrip("/")
    try:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import GCSStore, S3Store
    except ModuleNotFoundError:
        raise DestinationRefused(
            f"{shown}: obstore is not installed, which buckets need. Run pip install 'sundog[buckets]'"
        ) from None
    if not bucket:
        raise DestinationRefused(f"{shown}: no bucket name; expected {scheme}://BUCKET/PREFIX")
    try:
        # Plain HTTP is allowed where the endpoint has it, and for gs, where a key file may name it.
        endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), "")
        where: Any = {"endpoint": endpoint} if endpoint else {}
        client: Any = {"allow_http": scheme == "gs" or endpoint.startswith("http://")}
        store: Any = (
            S3Store(bucket, client_options=client, **where)
            if scheme == "s3"
            else GCSStore(bucket, client_options=client)
        )
        for file in files:
            # Limits the pieces of a large file that are in memory.
            await obstore.put_async(store, f"{prefix}/{file.name}".lstrip("/"), file, max_concurrency=2)
    except (BaseError, ValueError, OSError) as error:
        # The text of the error may contain credentials.
        raise DestinationRefused(f"{shown}: cannot be written ({type(error).__name__})") from None
