"""Locate a model: a path of this machine, a mounted volume, or a store's model in the cache."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sundog_runtime.errors import DigestMismatch, LoadFailed, ModelNotFound, SourceRefused
from sundog_runtime.sources.cache import CacheLease
from sundog_runtime.sources.file_digests import (
    FileEntry,
    find_changed_file,
    make_os_start_error,
    path_digest,
)
from sundog_runtime.sources.uri import FileUri, PvcUri, parse_uri

PVC_ROOT_VARIABLE: Final = "SUNDOG_PVC_ROOT"

_held: Final[list[CacheLease]] = []
"""Leases of this process: a model's code may open its files long after it was loaded."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The location of a model, and its verified files.

    `root` is the model's directory. For a model of one file, `file_name` is that file's name and `root` its directory, whose
    other files do not belong to the model. `verified` is None for a path without a digest. `seconds` has the durations of
    list, download and verify (with unpacking), without phases that did not happen.
    """

    root: Path
    file_name: str = ""
    verified: tuple[FileEntry, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Return the model's directory or its one file."""
        return self.root / self.file_name if self.file_name else self.root

    def check_unchanged(self) -> None:
        """Raise DigestMismatch if a verified file has changed, because other content may have been loaded."""
        if self.verified is not None and (path := find_changed_file(self.root, self.verified)):
            raise DigestMismatch(f"{path} changed while the model was loaded")


def open_model(uri: str, digest: str, namespace: str = "default") -> ModelFiles:
    """Find a model or download it, and verify its digest, if any, before any of it is used.

    The digest of a directory is `file_digests.tree_digest`, of a file or an archive the sha256 of its bytes, and of an
    artefact that of its manifest. A model of a store stays in the cache as long as this process lives. Raises a StartError.
    """
    source = parse_uri(uri, digest)
    if isinstance(source, FileUri):
        return _open_path(Path(source.path), digest)
    if isinstance(source, PvcUri):
        return _open_path(_mounted(source), digest)
    # Imported late: its libraries take time to import, and a model on a path needs none of them.
    from sundog_runtime.sources.fetch import fetch_model

    found = fetch_model(source, digest, namespace)
    _held.append(found.lease)
    return ModelFiles(found.root, found.file_name, found.verified, found.seconds)


def _open_path(path: Path, digest: str) -> ModelFiles:
    started = time.monotonic()
    try:
        path.stat()
        is_directory = path.is_dir()
    except OSError as error:
        raise make_os_start_error(error, path) from None
    if not is_directory and not path.is_file():
        raise LoadFailed(f"{path} is neither a directory nor a regular file")
    verified = _verify(path, digest) if digest else None
    seconds = {"verify": time.monotonic() - started} if digest else {}
    root, file_name = (path, "") if is_directory else (path.parent, path.name)
    return ModelFiles(root, file_name, verified, seconds)


def _mounted(uri: PvcUri) -> Path:
    """Return the path in the mounted volume. Raises ModelNotFound without a mount, SourceRefused if a link leads out of the volume."""
    root = Path(os.environ.get(PVC_ROOT_VARIABLE, "") or "/mnt/pvc") / uri.claim
    if not root.is_dir():
        raise ModelNotFound(f"no volume of the claim {uri.claim!r} is mounted at {root}")
    path = root / uri.path
    if not path.resolve().is_relative_to(root.resolve()):
        raise SourceRefused(f"pvc://{uri.claim}/{uri.path} is a link that leads out of the volume")
    return path


def _verify(path: Path, digest: str) -> tuple[FileEntry, ...]:
    """Return the files, if they have the digest. Raises a StartError."""
    if path.is_symlink():
        raise DigestMismatch(
            f"{path} is a symbolic link; expected a directory or a regular file for a model with a digest"
        )
    try:
        found, entries = path_digest(path)
    except OSError as error:
        raise make_os_start_error(error, path) from None
    if found != digest:
        raise DigestMismatch(f"{path} has the digest {found}; expected {digest}, which is model.digest")
    return entries
