"""Format `python`: a class with `load` and `predict`. The protocol is described in `formats.model`."""

from pathlib import Path
from typing import Any

import torch

from sundog_runtime.errors import EntrypointMissing
from sundog_runtime.formats.model import LoadedModel
from sundog_runtime.formats.torch_state import failed
from sundog_runtime.signature import Signature

_METHODS = ("load", "predict")


def is_predictor(target: Any) -> bool:
    """Whether an entrypoint is a predictor class."""
    return isinstance(target, type) and all(callable(getattr(target, name, None)) for name in _METHODS)


def load_python(path: Path, entrypoint: str, target: Any, config: dict[str, Any], signature: Signature) -> LoadedModel:
    """Make the predictor and let it load. Raises a StartError."""
    if not is_predictor(target):
        missing = [name for name in _METHODS if not callable(getattr(target, name, None))]
        raise EntrypointMissing(
            f"entrypoint {entrypoint!r} is no class with {' and '.join(_METHODS)}: it lacks {', '.join(missing)}"
        )
    try:
        with torch.inference_mode():
            predictor = target()
            predictor.load(path, dict(config))
    except Exception as error:
        raise failed(f"{entrypoint}.load", error) from error

    def predict(batch: Any) -> Any:
        with torch.inference_mode():
            return predictor.predict(batch)

    return LoadedModel(
        platform="python",
        found=f"the predictor class {entrypoint}",
        predict=predict,
        signature=signature,
        example=getattr(predictor, "example", None),
        configure=getattr(predictor, "configure", None),
    )
