"""See changes of model files behind the `file://` URIs of manifests: by size and time first, then by their digest."""

import asyncio
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sundog_operator.core.kubernetes import names
from sundog_operator.ports import MODEL_DEPLOYMENT, Object, Ref, ref_of

log = logging.getLogger("sundog.local")

MAX_FILES: Final = 10_000
_DIGEST_COMMAND: Final = (sys.executable, "-c", "from sundog_operator.shell.entry import main; main()", "digest")

Signature = tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class _Model:
    """A model's files at the last look, and the digest of those that had settled."""

    signature: Signature | None = None
    digested: Signature | None = None
    digest: str = ""


class ModelFiles:
    """The digests of the models in manifests.

    A changed digest counts once size and time of all files are the same at two looks in a row: a file may still be written.
    """

    def __init__(self, *, watch: bool = False) -> None:
        """`watch`: a change makes a revision, by `model.digest`. Otherwise an annotation reports it."""
        self._watch = watch
        self._models: dict[tuple[Ref, Path], _Model] = {}

    async def add_to(self, document: Object) -> Object:
        """Return a manifest's object with the digest of its model, if it is a ModelDeployment with a `file://` model."""
        path = _find_path(document)
        digest = "" if path is None else await self._digest(ref_of(document), path)
        if not digest:
            return document
        if self._watch and not document["spec"]["model"].get("digest"):
            model = {**document["spec"]["model"], "digest": digest}
            return {**document, "spec": {**document["spec"], "model": model}}
        meta = document["metadata"]
        annotations = {**(meta.get("annotations") or {}), names.ANNOTATION_MODEL_FILES: digest}
        return {**document, "metadata": {**meta, "annotations": annotations}}

    async def _digest(self, ref: Ref, path: Path) -> str:
        """Return the digest of the files that had settled; empty before there is one."""
        model = self._models.setdefault((ref, path), _Model())
        before, model.signature = model.signature, await asyncio.to_thread(_read_signature, path)
        has_settled = not model.digest or model.signature == before
        if model.signature and model.signature != model.digested and has_settled:
            model.digested = model.signature
            model.digest = await _run_digest(path) or model.digest
        return model.digest


def _find_path(document: Object) -> Path | None:
    """Return the path of a ModelDeployment's model on this machine; None for another object or source, or an invalid spec."""
    if ref_of(document).kind != MODEL_DEPLOYMENT:
        return None
    spec = document.get("spec")
    model = spec.get("model") if isinstance(spec, dict) else None
    uri = model.get("uri") if isinstance(model, dict) else None
    if not isinstance(uri, str) or not uri.startswith("file:///"):
        return None
    # As the model server does: nothing is decoded.
    return Path(uri.removeprefix("file://"))


def _read_signature(path: Path) -> Signature:
    """Return (path, size, time) of each file; empty for a model that cannot be read or has too many files."""
    found = []
    try:
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            status = each.stat()
            if not each.is_dir():
                found.append((str(each), status.st_size, status.st_mtime_ns))
            if len(found) > MAX_FILES:
                return ()
    except OSError:
        return ()
    return tuple(found)


async def _run_digest(path: Path) -> str:
    """Return what `sundog digest` prints, in a process of its own, because models are large; empty if it fails."""
    process = await asyncio.create_subprocess_exec(
        *_DIGEST_COMMAND, str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode:
        log.info("the digest of %s is unknown: %s", path, " ".join(errors.decode(errors="replace").split())[:500])
        return ""
    return output.decode().strip()
