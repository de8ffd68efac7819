"""Formats `exported` (torch.export, .pt2) and `torchscript`: network and weights in one archive.

Both run what the archive says: a `.pt2` holds pickles, a TorchScript archive a program for torch's interpreter. So they
are opened only where the manifest says `trustCode: true`.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.export.passes import move_to_device_pass
from torch.utils._pytree import tree_leaves, tree_unflatten

from sundog_runtime.errors import CodeNotTrusted, LoadFailed
from sundog_runtime.formats.detect import DetectedFile
from sundog_runtime.formats.device import CPU, Device
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.torch_module import (
    default_dtypes,
    is_bfloat16,
    make_load_error,
    make_network_predict,
    make_predict,
    needs_channels_last,
    needs_model_thread,
)
from sundog_runtime.model_yaml import MODEL_YAML, ModelDescription
from sundog_runtime.signature import Axis, Signature, is_batchable
from sundog_runtime.tensors import OIP_TYPES, TensorSpec, to_numpy


def check_code_trusted(found: DetectedFile, trusted: bool) -> None:
    """Raises CodeNotTrusted naming what to set."""
    if not trusted:
        raise CodeNotTrusted(
            f"{found.name} is {found.content}, which can run code when it is loaded: "
            "if you trust where it comes from, set spec.model.trustCode: true"
        )


def load_exported(
    path: Path, archive: DetectedFile, description: ModelDescription, device: Device = CPU
) -> LoadedModel:
    """Read a program that was saved with `torch.export.save`. Raises a StartError."""
    try:
        # By descriptor: given a path, torch complains of a name that does not end in .pt2.
        with path.open("rb") as file:
            program = torch.export.load(file)
        inputs = _program_inputs(program, archive.name)
        signature = _under(description.signature, Signature(inputs.specs, _program_outputs(program), inputs.axes))
        names = [spec.name for spec in signature.inputs]
        example = _example(program, inputs, names)
        # A program remembers devices in its steps as well, which `to` of a module would not change.
        module = (program if device.is_cpu else move_to_device_pass(program, device.where)).module()
    except Exception as error:
        raise make_load_error(f"reading {archive.name}", error) from error
    numbers, whole_numbers = default_dtypes(module)
    batches = is_batchable(description.batchable, signature)
    predict = make_network_predict(
        module,
        description,
        signature,
        example,
        device,
        batches=batches,
        channels_last=_channels_last(module, description),
        arrange=partial(inputs.arranged, names),
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
        needs_model_thread=needs_model_thread(description, signature, device, batches=batches),
        module=module,
        device=device.name,
    )


def load_torchscript(
    path: Path, archive: DetectedFile, description: ModelDescription, device: Device = CPU
) -> LoadedModel:
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
        raise make_load_error(f"reading {archive.name}", error) from error
    if description.compile.enabled:
        raise LoadFailed(f"{MODEL_YAML}: compile is not for TorchScript, which has a compiler of its own; remove it")
    numbers, whole_numbers = default_dtypes(module)
    channels_last = _channels_last(module, description)
    return LoadedModel(
        platform="pytorch",
        found=f"{archive.name}, which is {archive.content}",
        predict=make_predict(
            module, description.signature, device, channels_last=channels_last, half=is_bfloat16(module)
        ),
        signature=description.signature,
        parameters=parameters,
        numbers=numbers,
        whole_numbers=whole_numbers,
        batches=is_batchable(description.batchable, description.signature),
        device=device.name,
    )


def _channels_last(module: torch.nn.Module, description: ModelDescription) -> bool:
    """An archive's weights stay in the order they were saved in; its inputs follow only where that is asked for."""
    return description.channels_last is True and needs_channels_last(module, description)


_TENSOR = object()
"""A leaf of a program's arguments that requests give. All others are constants."""

_NO_LIMIT = 2**31


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The tensors that a program takes, in its order, with its own names, and where they stand among its arguments.

    `leaves` are those of the tree of its arguments, by position and by keyword. `axes` are sizes that are one in the program.
    """

    specs: tuple[TensorSpec, ...]
    axes: tuple[Axis, ...]
    leaves: tuple[Any, ...]
    tree: Any

    def arranged(self, names: Sequence[str], call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, a program, with its tensors by name, or the only one by position. `names` stand for those of `specs`."""

        def with_structure(*args: Any, **kwargs: Any) -> Any:
            given = iter(args or [kwargs[name] for name in names])
            positional, by_keyword = tree_unflatten(
                [next(given) if leaf is _TENSOR else leaf for leaf in self.leaves], self.tree
            )
            return call(*positional, **by_keyword)

        def in_order(*args: Any, **kwargs: Any) -> Any:
            return call(*args, *(kwargs[name] for name in names)) if kwargs else call(*args)

        positional, by_keyword = self.tree.child(0), self.tree.child(1)
        is_flat = not by_keyword.num_leaves and positional.num_children == len(self.specs) == len(self.leaves)
        return in_order if is_flat else with_structure


def _under(declared: Signature, found: Signature) -> Signature:
    """What model.yaml declares, else what the program says; sizes in common are the program's. Raises LoadFailed."""
    if declared.inputs and len(declared.inputs) != len(found.inputs):
        taken = ", ".join(spec.name for spec in found.inputs)
        raise LoadFailed(
            f"{MODEL_YAML}: inputs has {len(declared.inputs)} tensors; the program takes {len(found.inputs)}: {taken}"
        )
    inputs = declared.inputs or found.inputs
    names = {own.name: spec.name for own, spec in zip(found.inputs, inputs, strict=True)}
    axes = tuple(
        replace(axis, places=tuple((names[name], dimension) for name, dimension in axis.places)) for axis in found.axes
    )
    return Signature(inputs, declared.outputs or found.outputs, axes)


def _program_inputs(program: torch.export.ExportedProgram, archive: str) -> _Inputs:
    """Raises LoadFailed for an input that no request can give."""
    values, leaves, specs = _placeholders(program), list[Any](), list[TensorSpec]()
    for given in program.graph_signature.input_specs:
        if given.kind is not InputKind.USER_INPUT:
            continue
        if isinstance(given.arg, ConstantArgument):
            leaves.append(given.arg.value)
            continue
        name, value = given.arg.name, values.get(given.arg.name)
        spec = _spec(name, value)
        if spec is None:
            found = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise LoadFailed(
                f"{archive}: input {name!r} of the program is {found}; expected a tensor with at least one dimension, "
                f"of {', '.join(OIP_TYPES)}. Export a module that wraps it and takes such"
            )
        leaves.append(_TENSOR)
        specs.append(spec)
    return _Inputs(tuple(specs), _axes(program, specs), tuple(leaves), program.call_spec.in_spec)


def _axes(program: torch.export.ExportedProgram, specs: Sequence[TensorSpec]) -> tuple[Axis, ...]:
    """The free sizes, of which none may be 0: a program is exported for sizes of 1 and more."""
    values, places = _placeholders(program), dict[Any, list[tuple[str, int]]]()
    for spec in specs:
        for dimension, size in enumerate(values[spec.name].shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                places.setdefault(size.node.expr, []).append((spec.name, dimension))
    return tuple(Axis(tuple(where), *_limits(program, symbol)) for symbol, where in places.items())


def _limits(program: torch.export.ExportedProgram, symbol: Any) -> tuple[int, int]:
    """The least and the most that a program takes as a size. A least of 2 is what it was traced with, and is not checked by torch."""
    limits = program.range_constraints.get(symbol)
    if limits is None:
        return 1, 0
    least = int(limits.lower) if limits.lower.is_Integer and limits.lower > 2 else 1
    return least, int(limits.upper) if limits.upper.is_Integer and limits.upper < _NO_LIMIT else 0


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


def _example(program: torch.export.ExportedProgram, inputs: _Inputs, names: list[str]) -> Callable[[], Any] | None:
    """What the program was exported with, as a batch."""
    if program.example_inputs is None:
        return None
    args, kwargs = program.example_inputs
    values = tree_leaves((args, {name: kwargs[name] for name in inputs.tree.child(1).context}))
    if len(values) != len(inputs.leaves):
        return None
    arrays = [to_numpy(value) for value, leaf in zip(values, inputs.leaves, strict=True) if leaf is _TENSOR]
    if not arrays:
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
