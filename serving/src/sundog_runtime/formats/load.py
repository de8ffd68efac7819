"""Load a model from verified files into memory."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from sundog_runtime.arguments import ModelArguments
from sundog_runtime.errors import EntrypointMissing, FormatNotRecognised, LoadFailed
from sundog_runtime.formats.detect import (
    CONVERSION_HINTS,
    WEIGHT_CONTENTS,
    Content,
    DetectedFile,
    detect_content,
    read_transformers_config,
)
from sundog_runtime.formats.device import CPU, Device
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.model_code import ModelCode
from sundog_runtime.formats.python_class import is_predictor, load_python
from sundog_runtime.formats.torch_archives import check_code_trusted, load_exported, load_torchscript
from sundog_runtime.formats.torch_compile import persist_compiled_code
from sundog_runtime.formats.torch_state import check_only_tensors, load_torch
from sundog_runtime.model_yaml import MODEL_YAML, ModelDescription, read_description
from sundog_runtime.sources.file_digests import make_os_start_error
from sundog_runtime.sources.open_model import ModelFiles
from sundog_runtime.telemetry.logs import LOGGER_NAME

SUPPORTED_FORMATS = (
    "safetensors or a torch state dict with an entrypoint (format torch), a torch.export archive (exported), "
    "a TorchScript archive (torchscript), a Hugging Face directory (transformers), or a predictor class (python)"
)

_ARCHIVES = {
    "exported": (Content.EXPORTED, load_exported),
    "torchscript": (Content.TORCHSCRIPT, load_torchscript),
}
"""Formats with network and weights in one file: its content, and the function that loads it."""

_MAX_LISTED = 1000
_NO_WEIGHTS = frozenset({".py", ".pyc", ".yaml", ".md"})
_logger = logging.getLogger(LOGGER_NAME)


def load_model(
    files: ModelFiles, model: ModelArguments, namespace: str = "", device: Callable[[], Device] = lambda: CPU
) -> LoadedModel:
    """Load in the requested format, or for `auto` in the detected one, and compile if model.yaml enables it.

    Compiled code is cached for the namespace, if one is given. `device` is only called if there is a network to place.
    Raises a StartError.
    """
    try:
        description = _describe(files, model)
        if description.compile.enabled:
            persist_compiled_code(namespace)
        loaded = _load(files, description, device, trusted=model.trust_code)
    except OSError as error:
        raise make_os_start_error(error, error.filename or files.path) from error
    files.check_unchanged()
    if description.compile.enabled and loaded.platform != "pytorch":
        raise LoadFailed(
            f"{MODEL_YAML}: compile is set, and found {loaded.found}; expected a network of format torch or exported"
        )
    _logger.info("format %s: found %s in %s, on %s", description.format, loaded.found, files.path, loaded.device)
    return loaded


def describe_entrypoint(files: ModelFiles, model: ModelArguments) -> str:
    """Import the entrypoint and return what it is, such as `class net.Net (torch.nn.Module)`; empty for a format without one.

    Loads no weights. Raises a StartError, also for weights that need an entrypoint.
    """
    description = _describe(files, model)
    if not description.entrypoint:
        _choose_format(files, description, _detect_files(files))
        return ""
    target = _target(files, description)
    name = description.entrypoint.replace(":", ".")
    if not isinstance(target, type):
        return f"function {name}" if callable(target) else f"{name}, a {type(target).__name__}"
    role = (
        "torch.nn.Module"
        if issubclass(target, torch.nn.Module)
        else "predictor"
        if is_predictor(target)
        else "no torch.nn.Module, no predictor"
    )
    return f"class {name} ({role})"


def _load(
    files: ModelFiles, description: ModelDescription, device: Callable[[], Device], *, trusted: bool
) -> LoadedModel:
    candidates = _detect_files(files)
    match _choose_format(files, description, candidates):
        case "transformers":
            # Imported late: its library takes seconds to import.
            from sundog_runtime.formats.transformers.load import load_transformers

            return load_transformers(files, description, device())
        case "exported" | "torchscript" as name:
            content, load = _ARCHIVES[name]
            archive = _only_file(files, candidates, {content})
            check_code_trusted(archive, trusted)
            return load(files.root / archive.name, archive, description, device())
        case "python":
            return load_python(files.path, _target(files, description), description)
        case "torch":
            weights = _only_file(files, candidates, WEIGHT_CONTENTS)
            return load_torch(files.root / weights.name, weights, _target(files, description), description, device())
        case _:
            # An entrypoint that is not a predictor builds a network.
            target = _target(files, description)
            if is_predictor(target):
                return load_python(files.path, target, description)
            weights = _only_file(files, candidates, WEIGHT_CONTENTS)
            return load_torch(files.root / weights.name, weights, target, description, device())


def _detect_files(files: ModelFiles) -> list[DetectedFile]:
    return [DetectedFile(path.name, detect_content(path)) for path in _weight_files(files)]


def _choose_format(files: ModelFiles, description: ModelDescription, candidates: list[DetectedFile]) -> str:
    """Return the requested format, or else the detected one. Raises a StartError if there is none."""
    if description.format != "auto":
        if description.format in ("torch", "python") and not description.entrypoint:
            raise _missing_entrypoint(files, description.format, candidates)
        return description.format
    if description.entrypoint:
        return "auto"
    if not files.file_name and read_transformers_config(files.root) is not None:
        return "transformers"
    for name, (content, _) in _ARCHIVES.items():
        if any(found.content is content for found in candidates):
            return name
    raise _missing_entrypoint(files, "torch", candidates)


def _missing_entrypoint(
    files: ModelFiles, wanted: str, candidates: list[DetectedFile]
) -> EntrypointMissing | FormatNotRecognised:
    weights = [found for found in candidates if found.content in WEIGHT_CONTENTS]
    if weights and wanted == "torch":
        check_only_tensors(files.root / weights[0].name, weights[0].name)
        return EntrypointMissing(
            f"{weights[0].name} is {weights[0].content}: set model.entrypoint to its module, such as net:Net"
        )
    if wanted == "python":
        return EntrypointMissing("format python needs model.entrypoint, such as predictor:Predictor")
    code = _modules(files)
    if code and not candidates:
        return EntrypointMissing(
            f"{code[0].name} is code: set model.entrypoint to the class to load, such as {code[0].stem}:Predictor"
        )
    return FormatNotRecognised(_describe_contents(files, candidates))


def _modules(files: ModelFiles) -> list[Path]:
    """Return the Python modules at the top of the model, by name."""
    if files.file_name:
        return [files.path] if files.file_name.endswith(".py") else []
    return sorted(path for path in files.root.glob("*.py") if path.is_file() and path.stem.isidentifier())


def _only_file(
    files: ModelFiles, candidates: list[DetectedFile], wanted: set[Content] | frozenset[Content]
) -> DetectedFile:
    """Return the one file of that content. Raises FormatNotRecognised or LoadFailed."""
    fitting = [found for found in candidates if found.content in wanted]
    if not fitting:
        raise FormatNotRecognised(_describe_contents(files, candidates))
    if len(fitting) > 1:
        names = ", ".join(found.name for found in fitting[:5])
        raise LoadFailed(f"{files.path} holds {len(fitting)} weight files ({names}); expected one")
    return fitting[0]


def _target(files: ModelFiles, description: ModelDescription) -> object:
    return ModelCode(files).resolve(description.entrypoint)


def _describe(files: ModelFiles, model: ModelArguments) -> ModelDescription:
    """Return the description of the directory, with the manifest's values over it."""
    found = ModelDescription() if files.file_name else read_description(files.root)
    return found.override(model.format, model.entrypoint, model.config)


def _weight_files(files: ModelFiles) -> list[Path]:
    """Return the files at the top of the model that may hold weights, by name: all except code and descriptions."""
    if files.file_name:
        return [files.path] if not files.file_name.endswith(".py") else []
    found = sorted(path for path in files.root.iterdir() if path.is_file() and path.suffix not in _NO_WEIGHTS)
    if len(found) > _MAX_LISTED:
        raise LoadFailed(f"{files.root} holds more than {_MAX_LISTED} files beside its code; expected one with weights")
    return found


def _describe_contents(files: ModelFiles, candidates: list[DetectedFile]) -> str:
    known = [found for found in candidates[:5] if found.content is not Content.OTHER]
    listed = ", ".join(f"{found.name} is {found.content}" for found in known)
    others = ", ".join(found.name for found in candidates[:5])
    hint = next((f" ({CONVERSION_HINTS[found.content]})" for found in known if found.content in CONVERSION_HINTS), "")
    return f"{files.path}: found {listed or others or 'no weights'}{hint}; expected {SUPPORTED_FORMATS}"
