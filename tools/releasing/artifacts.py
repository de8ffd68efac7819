"""Build what a release publishes besides images: the wheel, the chart, and a bill of materials for each image."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from releasing import locks
from releasing.programs import CheckError, go_program, python, run

BILLS: Final = {"operator-edge": ("operator-edge",), "runtime": ("torch", "runtime")}
"""The locks that each image installs."""


@dataclass(frozen=True)
class SigningKey:
    """A PGP key: the name of its holder, key rings of both parts, and whether it is that of the project."""

    name: str
    secret: Path
    public: Path
    passphrase: str
    is_of_project: bool


def commit_time(root: Path) -> int:
    """Return SOURCE_DATE_EPOCH, or the time of the checkout's last commit, in seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct", cwd=root))


def export(root: Path, target: Path, time: int) -> Path:
    """Copy the files of a checkout that Git does not ignore, with one time, and return the folder."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=root)
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)
            (target / name).chmod(0o755 if os.access(root / name, os.X_OK) else 0o644)
            os.utime(target / name, (time, time))
    return target


def build_wheel(source: Path, output: Path, time: int, umask: int = 0o022) -> Path:
    """Build the wheel from an exported checkout, by the locked backend. Raises CheckError."""
    backend = ("--require-hashes", "--build-constraint", source / locks.LOCKS / "build.txt")
    arguments = ("build", "--quiet", "--wheel", *backend, "--out-dir", output, source)
    python("uv", *arguments, cwd=source, environment={"SOURCE_DATE_EPOCH": str(time)}, umask=umask)
    (wheel,) = output.glob("*.whl")
    return wheel


def package_chart(source: Path, output: Path) -> Path:
    """Package the chart of an exported checkout. Its files keep their times. Raises CheckError."""
    run(go_program("helm"), "package", source / "helm" / "sundog", "--destination", output)
    (package,) = output.glob("*.tgz")
    return package


def sign_chart(source: Path, output: Path, key: SigningKey) -> Path:
    """Package the chart of an exported checkout, sign it and return the signature, beside the package.

    Verifies it as users do, and a changed package too, which must fail. Raises CheckError.
    """
    helm, chart = go_program("helm"), source / "helm" / "sundog"
    signed = ("--sign", "--key", key.name, "--keyring", key.secret, "--passphrase-file", "-")
    run(helm, "package", chart, "--destination", output, *signed, stdin=f"{key.passphrase}\n")
    (package,) = output.glob("*.tgz")
    verify = (helm, "verify", package, "--keyring", key.public)
    run(*verify)
    content = package.read_bytes()
    package.write_bytes(content + b"\0")
    try:
        run(*verify)
    except CheckError:
        package.write_bytes(content)
        return package.with_name(f"{package.name}.prov")
    raise CheckError(f"{package.name}: helm verify accepts a changed package")


@contextmanager
def signing_key() -> Iterator[SigningKey]:
    """Yield the key of SUNDOG_CHART_KEYRING, or one that is made for this check. Needs gpg. Raises CheckError."""
    with tempfile.TemporaryDirectory() as folder:
        rings = Path(folder)
        given = os.environ.get("SUNDOG_CHART_KEYRING")
        name = os.environ.get("SUNDOG_CHART_KEY", "") if given else "Sundog test"
        passphrase = os.environ.get("SUNDOG_CHART_PASSPHRASE", "") if given else ""
        gpg = ("gpg", "--homedir", rings, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
        try:
            if given:
                run(*gpg, "--import", given)
            else:
                run(*gpg, "--quick-generate-key", name, "rsa2048", "sign", "1d")
                # Helm reads key rings of the older form.
                run(*gpg, "--output", rings / "secret.gpg", "--export-secret-keys", name)
            run(*gpg, "--output", rings / "public.gpg", "--export", name)
            yield SigningKey(name, Path(given or rings / "secret.gpg"), rings / "public.gpg", passphrase, bool(given))
        finally:
            run("gpgconf", "--homedir", rings, "--kill", "all")


def write_bill(source: Path, image: str, output: Path) -> Path:
    """Write the CycloneDX bill of materials of an image: its Python packages, with hashes. Raises CheckError.

    The packages of the base image are not in it.
    """
    path = output / f"{image}.cdx.json"
    texts = ((source / locks.LOCKS / f"{lock}.txt").read_text(encoding="utf-8") for lock in BILLS[image])
    locked = {name: part for text in texts for name, part in locks.split(text).items()}
    with tempfile.TemporaryDirectory() as folder:
        together = Path(folder) / "packages.txt"
        together.write_text("".join(locked.values()), encoding="utf-8")
        options = ("--pyproject", source / "pyproject.toml", "--output-reproducible", "--output-format", "JSON")
        # cyclonedx-bom warns that a list of packages has no graph of dependencies.
        quiet = {"PYTHONWARNINGS": "ignore"}
        python("cyclonedx_py", "requirements", *options, "--output-file", path, together, environment=quiet)
    bill: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    bill["metadata"]["component"]["name"] = f"sundog-{image}"
    for component in bill["components"]:
        # It repeats the line of the lock.
        component.pop("description", None)
    path.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    listed = {locks.normalize(component["name"]) for component in bill["components"]}
    if listed != locked.keys():
        difference = ", ".join(sorted(listed ^ locked.keys()))
        raise CheckError(f"{path.name}: found other packages than in the locks of {image}: {difference}")
    return path


def build_twice(build: Callable[[Path, Path, int], Path], root: Path, output: Path) -> str:
    """Build a file from two copies of a checkout, keep the first one and return its name and digest.

    The copies have different folders, and builds different masks. Raises CheckError if the files differ.
    """
    time, digests = commit_time(root), []
    with tempfile.TemporaryDirectory() as folder:
        for number, umask in enumerate((0o022, 0o077)):
            source = export(root, Path(folder) / f"copy-{'x' * number}" / "source", time)
            target = Path(folder) / f"built-{number}"
            target.mkdir()
            built = build(source, target, umask)
            digests.append(digest(built))
            if not number:
                shutil.copy(built, output)
    if len(set(digests)) > 1:
        raise CheckError(f"{built.name}: two builds have the digests {' and '.join(digests)}; expected one")
    return f"{built.name} {digests[0]}"


def digest(path: Path) -> str:
    """Return the digest of a file, as `sha256:…`."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
