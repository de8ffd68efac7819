"""The part that all formats with a torch module share: how it is called, and facts about it."""

from collections.abc import Callable
from typing import Any

import torch

from sundog_runtime.errors import LoadFailed, ModelTooLarge, StartError, is_out_of_memory
from sundog_runtime.formats.detect import DetectedFile
from sundog_runtime.formats.device import CPU, Device
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.to_tensors import to_tensors
from sundog_runtime.formats.torch_compile import (
    CompiledNetwork,
    can_recompile_later,
    compile_on_batches,
    make_compile_batches,
)
from sundog_runtime.model_yaml import ModelDescription
from sundog_runtime.signature import Signature, is_batchable

_EMBEDDINGS = frozenset({"Embedding", "EmbeddingBag"})


def make_load_error(action: str, error: Exception) -> StartError:
    """Return the start error for an exception of the model or of torch."""
    if isinstance(error, StartError):
        return error
    if is_out_of_memory(error) or "allocate memory" in str(error):
        return ModelTooLarge(f"{action}: not enough memory: {error}")
    return LoadFailed(f"{action} raised {type(error).__name__}: {error}")


def place_module(module: torch.nn.Module, device: Device, name: str) -> torch.nn.Module:
    """Return the module on the device. Raises a StartError that names what was loaded."""
    try:
        return device.place_module(module)
    except Exception as error:
        raise make_load_error(f"placing {name} on {device.name}", error) from error


def default_dtypes(module: torch.nn.Module) -> tuple[str, str]:
    """Return the types for undeclared floating-point numbers and integers.

    Floating-point numbers get the type of the first floating parameter. Integers do too, because JSON writers omit `.0`,
    unless the first layer is an embedding, which takes indices.
    """
    floating = (parameter.dtype for parameter in module.parameters() if parameter.dtype.is_floating_point)
    numbers = {torch.float64: "float64", torch.float16: "float16"}.get(next(floating, torch.float32), "float32")
    first = find_first_layer(module)
    return numbers, "int64" if first is not None and _kind(first) in _EMBEDDINGS else numbers


def find_first_layer(module: torch.nn.Module) -> torch.nn.Module | None:
    """Return the first layer that has parameters of its own."""
    return next((layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None), None)


def _kind(layer: torch.nn.Module) -> str:
    """Return the name of the layer's class. A part of a TorchScript module only stores that name."""
    kinds = [kind.__name__ for kind in type(layer).__mro__]
    found = getattr(layer, "original_name", "")
    return str(found) if found else next((kind for kind in kinds if kind in _EMBEDDINGS | {"Conv2d"}), kinds[0])


def needs_channels_last(module: torch.nn.Module, description: ModelDescription) -> bool:
    """Whether 4-D weights and inputs use channels-last order: as model.yaml requests, by default where it is known to help.

    Convolutions on CPU and GPU compute in that order, and otherwise convert in each layer.
    """
    if description.channels_last is not None:
        return description.channels_last
    first = find_first_layer(module)
    images = any(len(spec.shape) == 4 for spec in description.signature.inputs)
    return images and first is not None and _kind(first) == "Conv2d"


def make_network_model(
    module: torch.nn.Module,
    found: DetectedFile,
    description: ModelDescription,
    signature: Signature,
    device: Device,
    *,
    channels_last: bool,
    example: Callable[[], Any] | None = None,
    arrange: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda call: call,
) -> LoadedModel:
    """Return the model of a network that was read from `found`, compiled now if model.yaml enables it.

    `arrange` wraps a call that takes the network's own arguments into one that takes inputs by name, or one input.
    """
    batchable = is_batchable(description.batchable, signature)
    compiles = description.compile.enabled
    network = CompiledNetwork(module, description.compile.mode) if compiles else module
    predict = make_predict(arrange(network), signature, device, channels_last=channels_last, half=is_bfloat16(module))
    if isinstance(network, CompiledNetwork):
        compile_on_batches(network, predict, make_compile_batches(example, signature, batchable=batchable))
    float_dtype, integer_dtype = default_dtypes(module)
    return LoadedModel(
        platform="pytorch",
        found=f"{found.name}, which is {found.content}",
        predict=predict,
        signature=signature,
        example=example,
        float_dtype=float_dtype,
        integer_dtype=integer_dtype,
        is_batchable=batchable,
        # A request may call the compiler, or the graphs that CUDA replays, which only one thread may run.
        needs_model_thread=compiles and (not device.is_cpu or can_recompile_later(signature, batchable=batchable)),
        module=module,
        device=device.name,
    )


def make_predict(
    module: Callable[..., Any],
    signature: Signature,
    device: Device = CPU,
    *,
    channels_last: bool,
    half: bool = False,
) -> Callable[[Any], Any]:
    """Return `predict` of a module: one positional tensor for one input, keyword arguments for several, no gradients.

    A tuple with as many tensors as declared outputs gets their names. Inputs that are declared as bfloat16 are converted
    from float32, because numpy has no bfloat16. With `half`, so are all undeclared floating-point inputs.
    """
    names = [spec.name for spec in signature.outputs]
    halved = {spec.name for spec in signature.inputs if spec.dtype == "bfloat16"}
    every = bool(halved) if len(signature.inputs) == 1 else half and not signature.inputs
    moves = not device.is_cpu

    def predict(batch: Any) -> Any:
        with torch.inference_mode():
            given = to_tensors(batch)
            if moves:
                given = device.to_device(given)
            if every or halved:
                given = _halved(given, halved, every=every)
            if channels_last:
                given = _channels_last(given)
            output = module(**given) if isinstance(given, dict) else module(given)
        return name_outputs(output, names)

    return predict


def name_outputs(output: Any, names: list[str]) -> Any:
    """Name the values of a tuple or list with as many values as declared names; return anything else unchanged."""
    if len(names) > 1 and isinstance(output, list | tuple) and len(output) == len(names):
        return dict(zip(names, output, strict=True))
    return output


def _halved(given: Any, names: set[str], *, every: bool) -> Any:
    if isinstance(given, dict):
        return {name: _halved(value, names, every=every or name in names) for name, value in given.items()}
    is_float = isinstance(given, torch.Tensor) and given.dtype == torch.float32
    return given.to(torch.bfloat16) if every and is_float else given


def is_bfloat16(module: torch.nn.Module) -> bool:
    """Whether the weights are bfloat16."""
    found = next((each.dtype for each in module.parameters() if each.dtype.is_floating_point), None)
    return found is torch.bfloat16


def _channels_last(given: Any) -> Any:
    if isinstance(given, dict):
        return {name: _channels_last(value) for name, value in given.items()}
    if isinstance(given, torch.Tensor) and given.ndim == 4:
        return given.contiguous(memory_format=torch.channels_last)
    return given
