"""Real stores as processes: an S3 server, a GCS emulator, an OCI registry.

Tests are skipped if Go or a Debian package is missing.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from real_kubernetes.binaries import VERSITYGW, Binaries, Build
from waiting import PATIENCE_S, patience

Put = Callable[[str, bytes], None]
"""Put an object into a bucket, by its key."""

BUILD_S = patience(600)
"""The time that a test allows for the build of its store."""


def go_tool(build: Build) -> Path:
    """Return the program of a build, which is built where it is missing. Skips without Go. Raises ClusterError."""
    binaries = Binaries.of_environment()
    if reason := binaries.refusal((build,)):
        pytest.skip(reason)
    binaries.build((build,))
    return binaries.path(build.programs[0])


S3_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hidden-secret", "AWS_REGION": "us-east-1"}
"""The variables with which a client may use `s3_server`, beside those of its address."""


@contextmanager
def s3_server(buckets: Path, port: int, log: Path) -> Iterator[None]:
    """A real S3 server, whose buckets are the folders of a folder. Skips without Go. Raises ClusterError."""
    keys = ("--access", S3_KEYS["AWS_ACCESS_KEY_ID"], "--secret", S3_KEYS["AWS_SECRET_ACCESS_KEY"])
    command = (str(go_tool(VERSITYGW)), "--port", f"127.0.0.1:{port}", *keys, "posix", str(buckets))
    with running(command, port, log):
        yield


def program(name: str, package: str) -> str:
    """A program of the PATH. Skips without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's package {package})")
    return found


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """The process, from when its port answers until the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(environment or {})})
        try:
            _wait(process, port, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} does not answer on port {port}: {log.read_text()[-2000:]}")
