"""Digests of files and trees, and their limits."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from sundog_runtime.errors import (
    AccessDenied,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    NoSpace,
    StartError,
)
from sundog_runtime.sources import file_digests
from sundog_runtime.sources.file_digests import make_os_start_error, read_tree, tree_digest


def test_tree_digest_is_the_documented_formula(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes(b"beta")
    (tmp_path / "sub" / "a.txt").write_bytes(b"alpha")
    rows = [
        ["b.txt", 4, hashlib.sha256(b"beta").hexdigest()],
        ["sub/a.txt", 5, hashlib.sha256(b"alpha").hexdigest()],
    ]
    body = json.dumps(rows, separators=(",", ":"), ensure_ascii=True).encode()
    assert tree_digest(read_tree(tmp_path)) == "sha256:" + hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, ModelNotFound),
        (errno.EACCES, AccessDenied),
        (errno.EPERM, AccessDenied),
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EIO, LoadFailed),
    ],
)
def test_system_errors_have_reasons(number: int, kind: type[StartError]) -> None:
    error = make_os_start_error(OSError(number, "x"), "/m")
    assert type(error) is kind
    assert error.message == f"/m: {os.strerror(number)}"


def test_trees_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digests, "MAX_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelTooLarge, match="more than 2 files"):
        read_tree(tmp_path)
    monkeypatch.setattr(file_digests, "MAX_FILES", 10)
    monkeypatch.setattr(file_digests, "MAX_DEPTH", 2)
    (tmp_path / "1" / "2").mkdir(parents=True)
    with pytest.raises(ModelTooLarge, match="deeper than 2"):
        read_tree(tmp_path)
