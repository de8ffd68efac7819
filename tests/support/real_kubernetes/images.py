"""Images without a registry: docker archives that the tests write, without any download."""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from real_kubernetes.instance import ClusterError
from waiting import PATIENCE_S

PAUSE = "docker.io/local/pause:1"
BASE = "docker.io/local/base:1"
"""Empty folders, and links to /usr: with the machine's /usr mounted it is a system to run programs in."""

_PAUSE_C = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
_LINKS = {name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")}
_FOLDERS = ("dev", "etc", "home", "opt", "proc", "root", "run", "sys", "tmp", "usr", "var", "var/tmp", "work")
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nsundog:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"


def write_pause_image(folder: Path) -> Path:
    """The program that holds a pod's namespaces: it waits for ever. Raises ClusterError without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ClusterError("the pause image is compiled by cc, which is not installed (apt-get install gcc libc6-dev)")
    source, program = folder / "pause.c", folder / "pause"
    source.write_text(_PAUSE_C)
    subprocess.run(
        (compiler, "-static", "-Os", "-o", program, source), check=True, capture_output=True, timeout=PATIENCE_S
    )
    return write_image(folder / "pause.tar", PAUSE, {"pause": program.read_bytes()}, entrypoint=["/pause"])


def write_base_image(folder: Path, name: str = BASE, more: Mapping[str, bytes] | None = None) -> Path:
    """The image to mount the machine's programs into, with `more` files where they are wanted."""
    files = {"etc/passwd": _PASSWD.encode(), "etc/group": b"root:x:0:\nsundog:x:1000:\n", **(more or {})}
    return write_image(folder / "base.tar", name, files, links=_LINKS, folders=_FOLDERS)


def write_image(
    archive: Path,
    name: str,
    files: Mapping[str, bytes],
    *,
    links: Mapping[str, str] | None = None,
    folders: Iterable[str] = (),
    entrypoint: list[str] | None = None,
    user: str = "",
) -> Path:
    """A docker-archive of one layer, as `ctr images import` and `docker load` take it."""
    layer = _layer(files, links or {}, folders)
    digest = hashlib.sha256(layer).hexdigest()
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    config = json.dumps(
        {
            "architecture": _ARCHITECTURE,
            "os": "linux",
            "config": {"Env": environment, "User": user, **({"Entrypoint": entrypoint} if entrypoint else {})},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for path, data in (
            (config_name, config),
            (f"{digest}.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            _add_file(tar, path, data, 0o644)
    return archive


_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")


def _layer(files: Mapping[str, bytes], links: Mapping[str, str], folders: Iterable[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in folders:
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if path.endswith("tmp") else 0o755
            tar.addfile(entry)
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            tar.addfile(entry)
        for path, data in files.items():
            _add_file(tar, path, data, 0o755 if "/" not in path else 0o644)
    return buffer.getvalue()


def _add_file(tar: tarfile.TarFile, path: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
