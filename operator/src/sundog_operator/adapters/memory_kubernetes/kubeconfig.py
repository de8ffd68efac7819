"""Writes the kubeconfig of local mode."""

import os
import tempfile
from pathlib import Path

import yaml
from yarl import URL

_NAME = "sundog-local"


def write_kubeconfig(path: Path, url: str, token: str, *, namespace: str = "default") -> None:
    """Write a kubeconfig for the server at `url`. Only its owner can ever read the file."""
    # Without TLS, Go clients such as kubectl send credentials of the URL, but no bearer token.
    server = str(URL(url).with_user(_NAME).with_password(token))
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": _NAME, "cluster": {"server": server}}],
        "users": [{"name": _NAME, "user": {}}],
        "contexts": [{"name": _NAME, "context": {"cluster": _NAME, "user": _NAME, "namespace": namespace}}],
        "current-context": _NAME,
    }
    # mkstemp makes the file with mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yaml.safe_dump(document, file, sort_keys=False)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
