"""Where a model is, and that it is what its digest says."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from real_local import without_privilege
from sundog_runtime.errors import (
    DigestMismatch,
    LoadFailed,
    ModelNotFound,
)
from sundog_runtime.sources.file_digests import read_tree, tree_digest
from sundog_runtime.sources.open_model import open_model


@pytest.mark.parametrize("change", ["content", "name", "added", "removed", "hidden"])
def test_every_change_of_a_tree_changes_its_digest(tmp_path: Path, change: str) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    before = tree_digest(read_tree(tmp_path))
    match change:
        case "content":
            (tmp_path / "a").write_bytes(b"3")
        case "name":
            (tmp_path / "a").rename(tmp_path / "c")
        case "added":
            (tmp_path / "c").write_bytes(b"")
        case "removed":
            (tmp_path / "a").unlink()
        case "hidden":
            (tmp_path / ".hidden").write_bytes(b"")
    with pytest.raises(DigestMismatch, match="has the digest"):
        open_model(f"file://{tmp_path}", before)


def test_a_file_is_verified_by_the_hash_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(b"weights")
    digest = "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert open_model(f"file://{file}", digest).path == file
    with pytest.raises(DigestMismatch, match=digest):
        open_model(f"file://{file}", "sha256:" + "0" * 64)


@pytest.mark.parametrize("what", ["file link", "directory link", "dangling link", "pipe", "link in a directory"])
def test_a_verified_tree_holds_regular_files_only(tmp_path: Path, what: str) -> None:
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"outside")
    match what:
        case "file link":
            (root / "x").symlink_to(tmp_path / "outside")
        case "directory link":
            (root / "x").symlink_to(tmp_path)
        case "dangling link":
            (root / "x").symlink_to(tmp_path / "nothing")
        case "pipe":
            os.mkfifo(root / "x")
        case _:
            (root / "sub" / "x").symlink_to(tmp_path / "outside")
    with pytest.raises(DigestMismatch, match=r"x is a (symbolic link|named pipe)"):
        open_model(f"file://{root}", "sha256:" + "0" * 64)


def test_with_a_digest_the_model_itself_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for target in ("real", "file"):
        link = tmp_path / f"{target}-link"
        link.symlink_to(tmp_path / target)
        with pytest.raises(DigestMismatch, match="symbolic link"):
            open_model(f"file://{link}", "sha256:" + "0" * 64)
        assert open_model(f"file://{link}", "").path == link


def test_a_change_after_the_check_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    files = open_model(f"file://{tmp_path}", tree_digest(read_tree(tmp_path)))
    files.check_unchanged()
    facts = (tmp_path / "a").stat()
    (tmp_path / "a").write_bytes(b"2")
    os.utime(tmp_path / "a", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(DigestMismatch, match="a changed while the model was loaded"):
        files.check_unchanged()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="No such file"):
        open_model(f"file://{tmp_path}/nothing", "")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelNotFound, match="Not a directory"):
        open_model(f"file://{tmp_path}/file/below", "")


def test_neither_file_nor_directory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LoadFailed, match="neither a directory nor a regular file"):
        open_model(f"file://{tmp_path}/pipe", "")


def test_not_readable(tmp_path: Path) -> None:
    """Run in a process without root's permission to read everything."""
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a").chmod(0)
    code = "import sys; from sundog_runtime.sources.open_model import open_model; open_model(*sys.argv[1:])"
    command = [*without_privilege(), sys.executable, "-c", code, f"file://{tmp_path}", "sha256:" + "0" * 64]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (tmp_path / "a").chmod(stat.S_IRUSR)
    assert f"sundog: AccessDenied: {tmp_path}/a: Permission denied" in done.stderr.splitlines()


def test_a_start_error_puts_its_reason_at_the_beginning_of_a_line() -> None:
    text = str(DigestMismatch("two\nlines"))
    assert "sundog: DigestMismatch: two lines" in text.splitlines()
    assert len(DigestMismatch("x" * 5000).message) == 1000
