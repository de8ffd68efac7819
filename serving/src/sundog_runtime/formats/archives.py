"""Formats `exported` (torch.export, .pt2) and `torchscript`: network and weights in one archive.

Both run what the archive says: a `.pt2` holds pickles, a TorchScript archive a program for torch's interpreter. So they
are opened only where the manifest says `trustCode: true`.
"""

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from sundog_runtime.description import FILE_NAME, Description
from sundog_runtime.errors import CodeNotTrusted, LoadFailed
from sundog_runtime.formats.detect import Found
from sundog_runtime.formats.device import CPU, Device
from sundog_runtime.formats.model import LoadedModel
from sundog_runtime.formats.module import (
    caller,
    compiles,
    failed,
    is_half,
    natural_types,
    network_caller,
    use_channels_last,
)
from sundog_runtime.signature import Signature, may_batch
from sundog_runtime.tensors import OIP_TYPES, TensorSpec, to_numpy


def require_trust(found: Found, trusted: bool) -> None:
    """Raises CodeNotTrusted naming what to set."""
    if not trusted:
        raise CodeNotTrusted(
            f"{found.name} is {found.content}, which can run code when it is loaded: "
            "if you trust where it comes from, set spec.model.trustCode: true"
        )


def load_exported(path: Path, archive: Found, description: Description, device: Device = CPU) -> LoadedModel:
    """Read a program that was saved with `torch.export.save`. Raises a StartError."""
    try:
        # By descriptor: given a path, torch complains of a name that does not end in .pt2.
        with path.open("rb") as file:
            program = torch.export.load(file)
        signature = _under(description.signature, Signature(_program_inputs(program), _program_outputs(program)))
        names = [spec.name for spec in signature.inputs]
        example = _example(program, names)
        # A program remembers devices in its steps as well, which `to` of a module would not change.
        module = (program if device.is_cpu else move_to_device_pass(program, device.where)).module()
    except Exception as error:
        raise failed(f"reading {archive.name}", error) from error
    numbers, whole_numbers = natural_types(module)
    batches = may_batch(description.batchable, signature)
    predict = network_caller(
        module,
        description,
        signature,
        example,
        device,
        batches=batches,
        channels_last=_channels_last(module, description),
        order=names,
    )
    return LoadedModel(
        platform="pytorch",
        found=f"{archive.name}, which is {archive.content}",
        predict=predict,
        signature=signature,
        example=example,
        numbers=numbers,
        whole_numbers=whole_numbers,
        batches=batches,
        compiles=compiles(description, signature, device, batches=batches),
        module=module,
        device=device.name,
    )


def load_torchscript(path: Path, archive: Found, description: Description, device: Device = CPU) -> LoadedModel:
    """Read a module that was saved with `torch.jit.save`. Raises a StartError."""
    try:
        with warnings.catch_warnings():
            # Deprecated since torch 2.10 and still there: the archives that people have are to be served.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
            module = torch.jit.load(path, map_location=device.where)
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        parameters = _script_parameters(module)
    except Exception as error:
        raise failed(f"reading {archive.name}", error) from error
    if description.compile.enabled:
        raise LoadFailed(f"{FILE_NAME}: compile is not for TorchScript, which has a compiler of its own; remove it")
    numbers, whole_numbers = natural_types(module)
    channels_last = _channels_last(module, description)
    return LoadedModel(
        platform="pytorch",
        found=f"{archive.name}, which is {archive.content}",
        predict=caller(module, description.signature, device, channels_last=channels_last, half=is_half(module)),
        signature=description.signature,
        parameters=parameters,
        numbers=numbers,
        whole_numbers=whole_numbers,
        batches=may_batch(description.batchable, description.signature),
        device=device.name,
    )


def _channels_last(module: torch.nn.Module, description: Description) -> bool:
    """An archive's weights stay in the order they were saved in; its inputs follow only where that is asked for."""
    return description.channels_last is True and use_channels_last(module, description)


def _under(declared: Signature, found: Signature) -> Signature:
    return Signature(declared.inputs or found.inputs, declared.outputs or found.outputs)


def _program_inputs(program: torch.export.ExportedProgram) -> tuple[TensorSpec, ...]:
    """The program's positional inputs with its own names, types and sizes; empty where one is no tensor."""
    values = _placeholders(program)
    specs = [_spec(name, values.get(name)) for name in program.graph_signature.user_inputs if isinstance(name, str)]
    plain = len(specs) == len(program.graph_signature.user_inputs) and not program.call_spec.in_spec.child(1).num_leaves
    return tuple(spec for spec in specs if spec) if plain and all(specs) else ()


def _program_outputs(program: torch.export.ExportedProgram) -> tuple[TensorSpec, ...]:
    """The program's outputs: the keys of a dict, else `output`, or `output_0` and so on for several."""
    node = next(node for node in program.graph.nodes if node.op == "output")
    wanted = set(program.graph_signature.user_outputs)
    values = [value for value in node.args[0] if getattr(value, "name", None) in wanted]
    tree = program.call_spec.out_spec
    if tree is None or len(values) != len(program.graph_signature.user_outputs) or tree.num_leaves != len(values):
        return ()
    if tree.type is dict:
        names = [str(key) for key in tree.context]
    elif len(values) == 1:
        names = ["output"]
    else:
        names = [f"output_{index}" for index in range(len(values))]
    specs = [_spec(name, value.meta.get("val")) for name, value in zip(names, values, strict=False)]
    flat = len(specs) == len(values) and (tree.is_leaf() or all(child.is_leaf() for child in tree.children()))
    return tuple(spec for spec in specs if spec) if flat and all(specs) else ()


def _placeholders(program: torch.export.ExportedProgram) -> dict[str, Any]:
    return {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}


def _spec(name: str, value: Any) -> TensorSpec | None:
    """Name, type and shape of a tensor of the graph; a symbolic size is any size."""
    if not isinstance(value, torch.Tensor) or not value.ndim:
        return None
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in OIP_TYPES:
        return None
    return TensorSpec(name, dtype, tuple(size if isinstance(size, int) else -1 for size in value.shape))


def _example(program: torch.export.ExportedProgram, names: list[str]) -> Callable[[], Any] | None:
    """What the program was exported with, as a batch."""
    args, kwargs = program.example_inputs or ((), {})
    arrays = [to_numpy(value) for value in args]
    if kwargs or not arrays or len(arrays) != len(names):
        return None
    return lambda: arrays[0] if len(arrays) == 1 else dict(zip(names, arrays, strict=True))


def _script_parameters(module: Any) -> inspect.Signature:
    """The parameters of forward, from its schema."""
    arguments = module.forward.schema.arguments[1:]
    return inspect.Signature(
        [
            inspect.Parameter(
                argument.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
            )
            for argument in arguments
        ]
    )
