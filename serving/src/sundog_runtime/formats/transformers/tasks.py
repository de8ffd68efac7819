"""Inputs and outputs of each task of a transformers model, except the tokens of a generation."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from sundog_runtime.errors import LoadFailed, bad_input
from sundog_runtime.formats.to_tensors import to_tensors
from sundog_runtime.formats.transformers.model import TransformersModel
from sundog_runtime.signature import Signature, forbid_empty_inputs
from sundog_runtime.tensors import TensorSpec


def complete_signature(model: TransformersModel, declared: Signature) -> Signature:
    """Return the declared signature, completed by the inputs and outputs of the task."""
    known = Signature(declared.inputs or _inputs(model), declared.outputs or _outputs(model), declared.axes)
    return forbid_empty_inputs(known)


def check_declared_inputs(model: TransformersModel, signature: Signature) -> None:
    """Check that the model has every declared input. Raises LoadFailed."""
    parameters = inspect.signature(model.network.forward).parameters
    names = [spec.name for spec in signature.inputs]
    if names == ["text"] and model.tokenizer is not None:
        return
    if model.task == "generation" and names != ["input_ids"]:
        expected = f"{'text or ' if model.tokenizer else ''}input_ids"
        raise LoadFailed(f"the declared inputs are {names}; expected {expected} for generation")
    if unknown := [name for name in names if name not in parameters]:
        raise LoadFailed(
            f"the declared input {unknown[0]!r} is none of {type(model.network).__name__}; expected some of "
            + ", ".join(name for name in parameters if name not in ("kwargs", "args"))
        )


def make_predictor(model: TransformersModel, signature: Signature) -> Callable[[Any], Any]:
    """Return `predict` for every task except generation."""
    names = [spec.name for spec in signature.inputs] or [model.network.main_input_name]

    def predict(batch: Any) -> Any:
        arguments = prepare_arguments(model, batch, names)
        needs_hidden = model.task == "embeddings"
        output = model.network(**arguments, **({"output_hidden_states": True} if needs_hidden else {}))
        return _convert_output(model, arguments, output)

    return predict


def prepare_arguments(model: TransformersModel, batch: Any, names: list[str]) -> dict[str, Any]:
    """Return the network's keyword arguments, checked before they move to its device. Raises Problem 400."""
    if names == ["text"] and model.tokenizer is not None:
        return dict(model.device.to_device(_tokenize(model, batch)))
    arguments = to_tensors(batch if isinstance(batch, dict) else {names[0]: batch})
    for name, limit in model.index_limits.items():
        indexes = arguments.get(name)
        if isinstance(indexes, torch.Tensor) and (int(indexes.min()) < 0 or int(indexes.max()) >= limit):
            raise bad_input("OutOfRange", f"input {name!r} holds a value outside of 0 to {limit - 1}")
    ids = arguments.get("input_ids")
    if isinstance(ids, torch.Tensor):
        if model.max_length and ids.shape[-1] > model.max_length:
            found = f"input 'input_ids' has {ids.shape[-1]} tokens"
            raise bad_input("WrongShape", f"{found}; expected at most {model.max_length}")
        _check_companions(arguments, ids)
    return {name: _to_weights_type(model, value) for name, value in model.device.to_device(arguments).items()}


def _inputs(model: TransformersModel) -> tuple[TensorSpec, ...]:
    if model.tokenizer is not None:
        return (TensorSpec("text", "string", (1 if model.task == "generation" else -1,)),)
    config, main = model.network.config, model.network.main_input_name
    match main:
        case "input_ids":
            return (TensorSpec(main, "int64", (1 if model.task == "generation" else -1, -1)),)
        case "pixel_values":
            size, channels = getattr(config, "image_size", -1), getattr(config, "num_channels", -1)
            height, width = size if isinstance(size, list | tuple) else (size, size)
            return (TensorSpec(main, "float32", (-1, channels, height, width)),)
        case _:
            return ()


def _outputs(model: TransformersModel) -> tuple[TensorSpec, ...]:
    config = model.network.config
    match model.task:
        case "embeddings" if isinstance(size := getattr(config, "hidden_size", None), int):
            return (TensorSpec("embeddings", "float32", (-1, size * len(model.sentences.pooling))),)
        case "classification":
            logits = TensorSpec("logits", "float32", (-1, config.num_labels))
            if _is_regression(config):
                return (logits,)
            if _is_multi_label(config):
                return (TensorSpec("scores", "float32", (-1, config.num_labels)), logits)
            return (TensorSpec("labels", "string", (-1,)), TensorSpec("scores", "float32", (-1,)), logits)
        case "generation" if model.tokenizer is not None:
            return (TensorSpec("text", "string", (1,)),)
        case "generation":
            return (TensorSpec("token", "int64", (1,)),)
        case _:
            return ()


def _is_regression(config: Any) -> bool:
    return bool(config.problem_type == "regression" or config.num_labels == 1)


def _is_multi_label(config: Any) -> bool:
    return bool(config.problem_type == "multi_label_classification")


def _check_companions(arguments: Mapping[str, Any], ids: torch.Tensor) -> None:
    """Check that the inputs beside the tokens fit them. Raises Problem 400."""
    for name in ("attention_mask", "token_type_ids", "position_ids"):
        value = arguments.get(name)
        if isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape != ids.shape:
            found = f"input {name!r} has the shape {list(value.shape)}"
            raise bad_input("WrongShape", f"{found}; expected {list(ids.shape)}, as 'input_ids' has")
    mask = arguments.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2 and not bool(mask.any(dim=1).all()):
        raise bad_input("EmptyInput", "input 'attention_mask' has a row without a token")


def _to_weights_type(model: TransformersModel, value: Any) -> Any:
    """Convert floating-point tensors to the type of the weights; return anything else unchanged."""
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(model.network.dtype) if is_float else value


def _tokenize(model: TransformersModel, texts: Any) -> dict[str, Any]:
    """Convert texts to tokens, padded to the longest text; longer texts than the model accepts are cut at the end."""
    limit = {"truncation": True, "max_length": model.max_length} if model.max_length else {}
    if model.task == "embeddings":
        texts = model.sentences.prepare_texts(texts)
    encoded = model.tokenizer(texts, padding=len(texts) > 1, return_tensors="pt", return_attention_mask=True, **limit)
    if encoded["input_ids"].shape[-1] == 0 or not bool(encoded["attention_mask"].any(dim=1).all()):
        raise bad_input("EmptyInput", "input 'text' holds a text without a token")
    parameters = inspect.signature(model.network.forward).parameters
    # Some tokenizers add inputs that not every network has, such as token types.
    return {name: value for name, value in encoded.items() if name in parameters}


def _convert_output(model: TransformersModel, arguments: dict[str, Any], output: Any) -> Any:
    match model.task:
        case "classification":
            return _classes(model.network.config, output.logits.float())
        case "embeddings":
            return {"embeddings": _pool(model, arguments, output)}
        case _:
            return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}


def _classes(config: Any, logits: torch.Tensor) -> dict[str, Any]:
    if _is_regression(config):
        return {"logits": logits}
    if _is_multi_label(config):
        return {"scores": torch.sigmoid(logits), "logits": logits}
    scores, best = torch.softmax(logits, dim=-1).max(dim=-1)
    labels = [str(config.id2label.get(index, index)) for index in best.tolist()]
    return {"labels": np.array(labels, dtype=object), "scores": scores, "logits": logits}


def _pool(model: TransformersModel, arguments: dict[str, Any], output: Any) -> torch.Tensor:
    """Return one vector for each row: pooled from its tokens, or for an image without tokens the mean over its positions."""
    last = output.hidden_states[-1] if "last_hidden_state" not in output else output.last_hidden_state
    last = last.float()
    if last.ndim != 3:
        return last.flatten(2).mean(dim=2)
    return model.sentences.pool(last, arguments.get("attention_mask"))
