"""Real stores as processes: an S3 server, a GCS emulator, an OCI registry.

`python -m store_processes` builds ahead what Go builds. Where Go or a Debian package is missing, tests are skipped.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / ".tools"

Put = Callable[[str, bytes], None]
"""Puts an object into a bucket, by its key."""

BUILD_S = 600
VERSITYGW = ("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
FAKE_GCS = ("fake-gcs-server", "github.com/fsouza/fake-gcs-server", "v1.56.1")


def go_tool(name: str, package: str, version: str) -> Path:
    """The program, built once per checkout. Skips without Go. Raises RuntimeError where it cannot be built."""
    target = TOOLS / f"{name}-{version}"
    go = shutil.which("go")
    if not target.exists() and go is None:
        pytest.skip(f"{name} is built by Go, which is not installed")
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(str(go), name, f"{package}@{version}", target)
    return target


def _build(go: str, name: str, module: str, target: Path) -> None:
    scratch = TOOLS / f"build-{name}"
    environment = {**os.environ, "GOBIN": str(scratch), "GOFLAGS": "-buildvcs=false"}
    command = (go, "install", module)
    # Outside the checkout: a module file of somebody else's must not decide.
    built = subprocess.run(command, env=environment, cwd="/", capture_output=True, check=False, timeout=BUILD_S)
    if built.returncode:
        raise RuntimeError(f"{name} cannot be built: {built.stderr.decode().strip().splitlines()[-1][:200]}")
    (scratch / name).rename(target)


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
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} does not answer on port {port}: {log.read_text()[-2000:]}")


if __name__ == "__main__":
    # An end by signal is one for Go's compiler as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for tool in (VERSITYGW, FAKE_GCS):
        go_tool(*tool)
