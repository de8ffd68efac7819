"""Format `torch`: a state dict (safetensors, or a zip archive read with `weights_only`) and an entrypoint."""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from sundog_runtime.errors import EntrypointMissing, FormatNotRecognised, LoadFailed
from sundog_runtime.formats.detect import Content, DetectedFile
from sundog_runtime.formats.device import CPU, Device
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.torch_module import (
    make_load_error,
    make_network_model,
    needs_channels_last,
    place_module,
)
from sundog_runtime.model_yaml import ModelDescription
from sundog_runtime.scheduling.cpu_affinity import thread_count
from sundog_runtime.signature import forbid_empty_inputs


def set_torch_threads(cpu: float) -> None:
    """Let a forward pass on this thread use as many threads as the replica has cores, rounded up.

    OpenMP keeps the number per thread, so every thread that runs the model must call this.
    """
    torch.set_num_threads(thread_count(cpu))
    # Calls run one at a time, so nothing runs in parallel to one. Torch accepts this only once in a process, before any work.
    with contextlib.suppress(RuntimeError):
        if torch.get_num_interop_threads() != 1:
            torch.set_num_interop_threads(1)


def load_torch(
    path: Path, weights: DetectedFile, factory: Any, description: ModelDescription, device: Device = CPU
) -> LoadedModel:
    """Build the module, load the weights of `path`, place it. Raises a StartError."""
    if not callable(factory):
        raise EntrypointMissing(
            f"the entrypoint is a {type(factory).__name__}; expected a torch.nn.Module class or a function"
        )
    module = build_module(factory, description.config)
    state = read_state_dict(path, weights)
    _check_types(module, state, weights.name)
    try:
        # strict: with a missing or extra tensor, the model would answer with other weights than it was trained with.
        module.load_state_dict(state, strict=True)
    except Exception as error:
        if isinstance(error, RuntimeError):
            raise LoadFailed(f"{weights.name} does not fit the entrypoint's module: {_one_line(error)}") from error
        raise make_load_error(f"loading {weights.name}", error) from error
    module = place_module(module.eval().requires_grad_(False), device, weights.name)
    channels_last = needs_channels_last(module, description)
    if channels_last:
        module.to(memory_format=torch.channels_last)
    # The compiler was not run for an empty batch, so an empty request would start it.
    signature = forbid_empty_inputs(description.signature) if description.compile.enabled else description.signature
    example = getattr(module, "example", None)
    model = make_network_model(
        module, weights, description, signature, device, channels_last=channels_last, example=example
    )
    return replace(model, configure=getattr(module, "configure", None), parameters=inspect.signature(module.forward))


def build_module(factory: Callable[..., Any], config: dict[str, Any]) -> torch.nn.Module:
    """Call the entrypoint. Raises a StartError."""
    try:
        module = factory(**config)
    except Exception as error:
        raise make_load_error("the entrypoint", error) from error
    if not isinstance(module, torch.nn.Module):
        raise EntrypointMissing(f"the entrypoint returned a {type(module).__name__}; expected a torch.nn.Module")
    return module


def _check_types(module: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuse integer weights where the module has floating-point ones. Raises LoadFailed.

    Torch would convert them. Quantised weights are meaningless without their scales, and the model would still answer.
    """
    for key, wanted in module.state_dict().items():
        found = state.get(key)
        if found is None or not wanted.is_floating_point() or found.is_floating_point():
            continue
        if found.dtype is not torch.bool and not found.is_complex():
            raise LoadFailed(
                f"{name}: tensor {key!r} is {_dtype(found)}; expected {_dtype(wanted)}, as in the entrypoint's module. "
                "Save the weights before they are quantised."
            )


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def read_state_dict(path: Path, weights: DetectedFile) -> dict[str, torch.Tensor]:
    """Read the tensors by name. No code in the file runs. Raises a StartError."""
    try:
        if weights.content is Content.SAFETENSORS:
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        check_only_tensors(path, weights.name)
        raise make_load_error(f"reading {weights.name}", error) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise FormatNotRecognised(
            f"{weights.name} holds a {type(state).__name__}; expected a state dict, names to tensors"
        )
    return state


def check_only_tensors(path: Path, name: str) -> None:
    """Refuse a torch archive with pickled objects, such as a whole module. No code in it runs. Raises FormatNotRecognised."""
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 (not an archive of torch: its loader names the problem)
        return
    if classes:
        listed = ", ".join(sorted(classes)[:3]) + (" and more" if len(classes) > 3 else "")
        raise FormatNotRecognised(
            f"{name} holds pickled objects ({listed}), whose code would run when it is read; expected a state dict. Save "
            "it with safetensors.torch.save_file(model.state_dict(), …) or torch.save(model.state_dict(), …)."
        )


def _one_line(error: Exception) -> str:
    """Return torch's message on one line, without its heading: the list of tensors below it is more specific."""
    heading, _, rest = str(error).partition("\n")
    return " ".join((rest or heading).split())
