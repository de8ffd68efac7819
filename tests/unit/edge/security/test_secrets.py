"""Secrets as files, of the kubelet's and of the agent."""

import base64
import json
import os
from pathlib import Path

import pytest

from sundog_edge.security import secrets as security_secrets
from sundog_edge.security.secrets import MAX_FILE_BYTES, ComposedSecrets, SecretsDir


def test_secrets_are_read_from_the_kubelets_layout(tmp_path: Path):
    for version, content in (("1", b"one"), ("2", b"two")):
        folder = tmp_path / "clients" / f"..v{version}"
        folder.mkdir(parents=True)
        (folder / "ada").write_bytes(content)
    (tmp_path / "clients" / "..data").symlink_to("..v1")
    (tmp_path / "clients" / "ada").symlink_to("..data/ada")
    secrets = SecretsDir(tmp_path)
    assert secrets.read(["clients", "gone"]) == {"clients": {"ada": b"one"}, "gone": {}}
    (tmp_path / "clients" / "new").symlink_to("..v2")
    (tmp_path / "clients" / "new").replace(tmp_path / "clients" / "..data")
    assert secrets.read(["clients"]) == {"clients": {"ada": b"two"}}
    (tmp_path / "clients" / "..v2" / "ada").unlink()
    assert secrets.read(["clients"]) == {"clients": {}}
    assert SecretsDir(None).read(["clients"]) == {"clients": {}}


def test_a_too_large_file_or_a_directory_counts_as_missing(tmp_path: Path):
    folder = tmp_path / "clients"
    (folder / "directory").mkdir(parents=True)
    with (folder / "large").open("wb") as file:
        os.truncate(file.fileno(), MAX_FILE_BYTES + 1)
    (folder / "ada").write_bytes(b"x")
    assert SecretsDir(tmp_path).read(["clients"]) == {"clients": {"ada": b"x"}}


def test_a_secret_that_changes_during_a_read_is_read_again(tmp_path, monkeypatch):
    folder = tmp_path / "clients"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(b"old")
    read = security_secrets._content

    def swapped_in_between(file):
        content = read(file)
        if content == b"old":
            for name in ("a", "b"):
                (folder / f".{name}").write_bytes(b"new!")
                (folder / f".{name}").replace(folder / name)
        return content

    monkeypatch.setattr(security_secrets, "_content", swapped_in_between)
    assert SecretsDir(tmp_path).read(["clients"]) == {"clients": {"a": b"new!", "b": b"new!"}}


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"no JSON",
        b"[]",
        json.dumps({"keys": None}).encode(),
        json.dumps({"keys": "%%%"}).encode(),
        json.dumps({"keys": base64.b64encode(b"[]").decode()}).encode(),
        json.dumps({"keys": base64.b64encode(b'{"ada": 7}').decode()}).encode(),
        json.dumps({"keys": base64.b64encode(b'{"ada": "%"}').decode()}).encode(),
    ],
)
def test_unreadable_composed_secrets_count_as_missing(tmp_path, stored):
    file = tmp_path / "secrets.json"
    assert ComposedSecrets(file).read(["keys"]) == {"keys": {}}
    file.write_bytes(stored)
    assert ComposedSecrets(file).read(["keys", "other"]) == {"keys": {}, "other": {}}
