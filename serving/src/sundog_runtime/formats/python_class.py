"""Format `python`: a class with `load` and `predict`. `formats.loaded_model` describes the protocol."""

from pathlib import Path
from typing import Any

import torch

from sundog_runtime.errors import EntrypointMissing, LoadFailed
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.predict_functions import in_inference_mode, is_streaming
from sundog_runtime.formats.torch_module import make_load_error, name_outputs
from sundog_runtime.model_yaml import MODEL_YAML, ModelDescription
from sundog_runtime.signature import is_batchable

_METHODS = ("load", "predict")


def is_predictor(target: Any) -> bool:
    """Whether an entrypoint is a predictor class."""
    return isinstance(target, type) and all(callable(getattr(target, name, None)) for name in _METHODS)


def load_python(path: Path, target: Any, description: ModelDescription) -> LoadedModel:
    """Create the predictor and load its model. Raises a StartError."""
    entrypoint = description.entrypoint
    if not is_predictor(target):
        missing = [name for name in _METHODS if not callable(getattr(target, name, None))]
        raise EntrypointMissing(
            f"entrypoint {entrypoint!r} lacks {', '.join(missing)}; expected a class with {' and '.join(_METHODS)}"
        )
    try:
        with torch.inference_mode():
            predictor = target()
            predictor.load(path, dict(description.config))
    except Exception as error:
        raise make_load_error(f"{entrypoint}.load", error) from error

    streaming = is_streaming(predictor)
    outputs = description.signature.outputs
    if streaming and (raw := [spec.name for spec in outputs if spec.dtype == "bytes"]):
        raise LoadFailed(
            f"{MODEL_YAML}: output {raw[0]!r} is of bytes; expected another type in a stream, whose answers are JSON"
        )
    names = [spec.name for spec in outputs]
    call = in_inference_mode(predictor.predict)
    return LoadedModel(
        platform="python",
        found=f"the predictor class {entrypoint}",
        predict=call if streaming else lambda batch: name_outputs(call(batch), names),
        signature=description.signature,
        example=getattr(predictor, "example", None),
        configure=getattr(predictor, "configure", None),
        is_streaming=streaming,
        is_batchable=not streaming and is_batchable(description.batchable, description.signature),
    )
