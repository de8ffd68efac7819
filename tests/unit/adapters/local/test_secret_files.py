"""Secrets as files: all keys at once, private, and removed with their Secret."""

import os
import stat
from pathlib import Path

import pytest

from sundog_operator.adapters.local import secret_files


def shown(directory: Path) -> dict[str, dict[str, bytes]]:
    """Read a Secret's files as `sundog-edge` does."""
    return {
        secret.name: {key.name: key.read_bytes() for key in secret.iterdir()}
        for secret in directory.iterdir()
        if not secret.name.startswith(".")
    }


def test_secrets_appear_change_and_go(tmp_path: Path) -> None:
    for wanted in (
        {"keys": {"ann": b"1", "bob": b"2"}},
        {"keys": {"ann": b"1"}, "cert": {"tls.crt": b"c", "tls.key": b"k"}},
        {"keys": {}},
        {},
    ):
        secret_files.write_secret_files(tmp_path / "secrets", wanted)
        assert shown(tmp_path / "secrets") == wanted
        versions = list((tmp_path / "secrets" / ".versions").iterdir())
        assert len(versions) == len(wanted), "nothing of an earlier version is left"


def test_only_this_user_can_read_them(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        secret_files.write_secret_files(tmp_path / "secrets", {"keys": {"ann": b"1"}})
    finally:
        os.umask(old)
    for path in ((tmp_path / "secrets"), *(tmp_path / "secrets").rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_unchanged_secrets_are_not_written_again(tmp_path: Path) -> None:
    secret_files.write_secret_files(tmp_path, {"keys": {"ann": b"1"}, "more": {"a": b"b"}})
    before = (tmp_path / "keys").readlink()
    secret_files.write_secret_files(tmp_path, {"keys": {"ann": b"1"}})
    assert (tmp_path / "keys").readlink() == before


def test_a_reader_sees_one_version_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash before the exchange leaves the previous version, and the next pass completes it."""
    secret_files.write_secret_files(tmp_path, {"cert": {"tls.crt": b"1", "tls.key": b"1"}})

    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", crash)
        with pytest.raises(OSError, match="No space"):
            secret_files.write_secret_files(tmp_path, {"cert": {"tls.crt": b"2", "tls.key": b"2"}})
    assert shown(tmp_path) == {"cert": {"tls.crt": b"1", "tls.key": b"1"}}
    secret_files.write_secret_files(tmp_path, {"cert": {"tls.crt": b"2", "tls.key": b"2"}})
    assert shown(tmp_path) == {"cert": {"tls.crt": b"2", "tls.key": b"2"}}
    assert len(list((tmp_path / ".versions").iterdir())) == 1
