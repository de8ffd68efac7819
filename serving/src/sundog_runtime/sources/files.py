"""Models that are on this machine's file system."""

from dataclasses import dataclass
from pathlib import Path

from sundog_runtime.errors import DigestMismatch, LoadFailed
from sundog_runtime.sources.tree import Entry, changed, from_os_error, read_entry, read_tree, tree_digest
from sundog_runtime.sources.uri import FileUri, parse_uri


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model is, and what was verified about it.

    `root` is the model's directory; for a model of one file, `only` is that file's name and `root` the directory around
    it, of which nothing else belongs to the model. `verified` is None without a digest.
    """

    root: Path
    only: str = ""
    verified: tuple[Entry, ...] | None = None

    @property
    def path(self) -> Path:
        """The model's directory or its one file."""
        return self.root / self.only if self.only else self.root

    def still_verified(self) -> None:
        """Raises DigestMismatch when a verified file changed since: what was loaded may then be something else."""
        if self.verified is not None and (path := changed(self.root, self.verified)):
            raise DigestMismatch(f"{path} changed while the model was loaded")


def open_model(uri: str, digest: str) -> ModelFiles:
    """Find a model and, with a digest, verify it before anything reads it as a model.

    A directory's digest is `tree.tree_digest`, a file's the sha256 of its bytes. Raises a StartError.
    """
    source = parse_uri(uri, digest)
    if not isinstance(source, FileUri):
        raise LoadFailed(f"{uri.partition('://')[0]}:// is not supported yet; file:// is")
    path = Path(source.path)
    try:
        path.stat()
        is_directory = path.is_dir()
    except OSError as error:
        raise from_os_error(error, path) from None
    if not is_directory and not path.is_file():
        raise LoadFailed(f"{path} is neither a directory nor a regular file")
    if is_directory:
        return ModelFiles(path, verified=_verified_tree(path, digest) if digest else None)
    return ModelFiles(path.parent, path.name, _verified_file(path, digest) if digest else None)


def _verified_tree(path: Path, digest: str) -> tuple[Entry, ...]:
    if path.is_symlink():
        raise DigestMismatch(f"{path} is a symbolic link; a model with a digest is a directory or a regular file")
    entries = read_tree(path)
    _compare(path, tree_digest(entries), digest)
    return entries


def _verified_file(path: Path, digest: str) -> tuple[Entry, ...]:
    if path.is_symlink():
        raise DigestMismatch(f"{path} is a symbolic link; a model with a digest is a directory or a regular file")
    try:
        entry = read_entry(path, path.name)
    except OSError as error:
        raise from_os_error(error, path) from None
    _compare(path, f"sha256:{entry.sha256}", digest)
    return (entry,)


def _compare(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise DigestMismatch(f"{path} has the digest {found}; model.digest is {expected}")
