"""From verified files to a model in memory."""

import logging
from pathlib import Path
from typing import Any

from sundog_runtime.arguments import Model
from sundog_runtime.errors import EntrypointMissing, FormatNotRecognised, LoadFailed
from sundog_runtime.formats.code import ModelCode
from sundog_runtime.formats.detect import WEIGHTS, Content, Found, sniff
from sundog_runtime.formats.model import LoadedModel
from sundog_runtime.formats.python_class import is_predictor, load_python
from sundog_runtime.formats.torch_state import load_torch
from sundog_runtime.signature import FILE_NAME, MAX_BYTES, Signature, parse_signature
from sundog_runtime.sources.files import ModelFiles
from sundog_runtime.sources.tree import from_os_error

SUPPORTED = "safetensors or a torch state dict with an entrypoint (format torch), or a predictor class (format python)"

_MAX_LISTED = 1000
_logger = logging.getLogger("ray.serve.sundog")


def load_model(files: ModelFiles, model: Model) -> LoadedModel:
    """Load in the format that is asked for, or for `auto` the one found. Raises a StartError."""
    if model.format not in ("auto", "torch", "python"):
        raise FormatNotRecognised(f"format {model.format!r} is not supported; supported: {SUPPORTED}")
    try:
        loaded = _load(files, model)
    except OSError as error:
        raise from_os_error(error, error.filename or files.path) from error
    files.still_verified()
    _logger.info("format %s: found %s in %s", model.format, loaded.found, files.path)
    return loaded


def _load(files: ModelFiles, model: Model) -> LoadedModel:
    signature = _signature(files)
    candidates = [Found(path.name, sniff(path)) for path in _weight_files(files)]
    weights = [found for found in candidates if found.content in WEIGHTS]
    if not model.entrypoint:
        if weights:
            raise EntrypointMissing(
                f"{weights[0].name} is {weights[0].content}: model.entrypoint must name its module, such as net:Net"
            )
        raise FormatNotRecognised(_nothing(files, candidates))
    if model.format == "torch" and not weights:
        raise FormatNotRecognised(_nothing(files, candidates))
    target = ModelCode(files).resolve(model.entrypoint)
    if model.format == "python" or (model.format == "auto" and is_predictor(target)):
        return load_python(files.path, model.entrypoint, target, model.config, signature)
    return _load_torch(files, candidates, weights, target, model, signature)


def _load_torch(
    files: ModelFiles, candidates: list[Found], weights: list[Found], target: Any, model: Model, signature: Signature
) -> LoadedModel:
    if not weights:
        raise FormatNotRecognised(_nothing(files, candidates))
    if len(weights) > 1:
        names = ", ".join(found.name for found in weights[:5])
        raise LoadFailed(f"{files.path} holds {len(weights)} weight files ({names}); expected one")
    return load_torch(files.root / weights[0].name, weights[0], target, model.config, signature)


def _signature(files: ModelFiles) -> Signature:
    path = files.root / FILE_NAME
    if files.only or not path.is_file():
        return Signature()
    with path.open("rb") as file:
        return parse_signature(file.read(MAX_BYTES + 1))


def _weight_files(files: ModelFiles) -> list[Path]:
    """The files at the top of the model that could hold weights, by name. Code and descriptions could not."""
    if files.only:
        return [files.path] if not files.only.endswith(".py") else []
    found = sorted(
        path for path in files.root.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc", ".yaml", ".md")
    )
    if len(found) > _MAX_LISTED:
        raise LoadFailed(f"{files.root} holds more than {_MAX_LISTED} files beside its code; expected one with weights")
    return found


def _nothing(files: ModelFiles, candidates: list[Found]) -> str:
    listed = ", ".join(
        f"{found.name} is {found.content}" for found in candidates[:5] if found.content is not Content.OTHER
    )
    others = ", ".join(found.name for found in candidates[:5])
    return f"{files.path}: found {listed or others or 'no weights'}; supported: {SUPPORTED}"
