"""Formats `exported` (torch.export, .pt2) and `torchscript`: network and weights in one archive.

Both run code of the archive: a `.pt2` holds pickles, a TorchScript archive a program for torch's interpreter. So they are
opened only if the manifest has `trustCode: true`.
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
from sundog_runtime.formats.torch_module import make_load_error, make_network_model, needs_channels_last
from sundog_runtime.model_yaml import MODEL_YAML, ModelDescription
from sundog_runtime.signature import Axis, Signature
from sundog_runtime.tensors import OIP_TYPES, TensorSpec, to_numpy


def check_code_trusted(found: DetectedFile, trusted: bool) -> None:
    """Check that the manifest trusts the archive's code. Raises CodeNotTrusted with the setting."""
    if not trusted:
        raise CodeNotTrusted(
            f"{found.name} is {found.content}, which can run code when it is loaded. "
            "If you trust its source, set spec.model.trustCode: true, or use `sundog package --trust-code`."
        )


def load_exported(
    path: Path, archive: DetectedFile, description: ModelDescription, device: Device = CPU
) -> LoadedModel:
    """Read a program that was saved with `torch.export.save`. Raises a StartError."""
    try:
        # Opened here: with a path, torch complains about a name that does not end in .pt2.
        with path.open("rb") as file:
            program = torch.export.load(file)
        inputs = _program_inputs(program, archive.name)
        signature = _under(description.signature, Signature(inputs.specs, _program_outputs(program), inputs.axes))
        names = [spec.name for spec in signature.inputs]
        example = _example(program, inputs, names)
        # A program also has devices in its steps, which a module's `to` would not change.
        module = (program if device.is_cpu else move_to_device_pass(program, device.where)).module()
    except Exception as error:
        raise make_load_error(f"reading {archive.name}", error) from error
    return make_network_model(
        module,
        archive,
        description,
        signature,
        device,
        channels_last=_channels_last(module, description),
        example=example,
        arrange=partial(inputs.arrange, names),
    )


def load_torchscript(
    path: Path, archive: DetectedFile, description: ModelDescription, device: Device = CPU
) -> LoadedModel:
    """Read a module that was saved with `torch.jit.save`. Raises a StartError."""
    try:
        with warnings.catch_warnings():
            # Deprecated since torch 2.10 but still available, and users have such archives.
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
        raise LoadFailed(
            f"{MODEL_YAML}: compile is set; expected none for TorchScript, which has its own compiler. Remove it."
        )
    channels_last = _channels_last(module, description)
    model = make_network_model(module, archive, description, description.signature, device, channels_last=channels_last)
    return replace(model, parameters=parameters, module=None)


def _channels_last(module: torch.nn.Module, description: ModelDescription) -> bool:
    """Whether inputs use channels-last order, only on request: an archive's weights keep their order."""
    return description.channels_last is True and needs_channels_last(module, description)


_TENSOR = object()
"""A leaf of a program's arguments that comes from the request. All others are constants."""

_NO_LIMIT = 2**31


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The input tensors of a program, in its order and with its names, and their positions among its arguments.

    `leaves` are those of the tree of its arguments, positional and keyword. `axes` are sizes that the program shares.
    """

    specs: tuple[TensorSpec, ...]
    axes: tuple[Axis, ...]
    leaves: tuple[Any, ...]
    tree: Any

    def arrange(self, names: Sequence[str], call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `call`, a program, to take tensors by name, or a single one by position. `names` replace those of `specs`."""

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
    """Return the signature of model.yaml, completed by the program's; shared sizes are the program's. Raises LoadFailed."""
    if declared.inputs and len(declared.inputs) != len(found.inputs):
        names = ", ".join(spec.name for spec in found.inputs)
        raise LoadFailed(
            f"{MODEL_YAML}: inputs has {len(declared.inputs)} tensors; expected {len(found.inputs)} as in the program: {names}"
        )
    inputs = declared.inputs or found.inputs
    renamed = {own.name: spec.name for own, spec in zip(found.inputs, inputs, strict=True)}
    axes = tuple(
        replace(axis, dimensions=tuple((renamed[name], dimension) for name, dimension in axis.dimensions))
        for axis in found.axes
    )
    return Signature(inputs, declared.outputs or found.outputs, axes)


def _program_inputs(program: torch.export.ExportedProgram, archive: str) -> _Inputs:
    """Return the program's inputs. Raises LoadFailed for an input that no request can provide."""
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
                f"of {', '.join(OIP_TYPES)}. Export a module that wraps it and takes only such inputs."
            )
        leaves.append(_TENSOR)
        specs.append(spec)
    return _Inputs(tuple(specs), _axes(program, specs), tuple(leaves), program.call_spec.in_spec)


def _axes(program: torch.export.ExportedProgram, specs: Sequence[TensorSpec]) -> tuple[Axis, ...]:
    """Return the free sizes. None of them may be 0, because a program is exported for sizes of 1 and more."""
    values, dimensions = _placeholders(program), dict[Any, list[tuple[str, int]]]()
    for spec in specs:
        for dimension, size in enumerate(values[spec.name].shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                dimensions.setdefault(size.node.expr, []).append((spec.name, dimension))
    return tuple(Axis(tuple(where), *_limits(program, symbol)) for symbol, where in dimensions.items())


def _limits(program: torch.export.ExportedProgram, symbol: Any) -> tuple[int, int]:
    """Return the minimum and maximum of a size. A minimum of 2 only comes from tracing, and torch does not check it."""
    limits = program.range_constraints.get(symbol)
    if limits is None:
        return 1, 0
    least = int(limits.lower) if limits.lower.is_Integer and limits.lower > 2 else 1
    return least, int(limits.upper) if limits.upper.is_Integer and limits.upper < _NO_LIMIT else 0


def _program_outputs(program: torch.export.ExportedProgram) -> tuple[TensorSpec, ...]:
    """Return the program's outputs by the keys of a dict, or as `output`, or `output_0` and so on for several."""
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
    """Return name, type and shape of a tensor of the graph; a symbolic size is any size."""
    if not isinstance(value, torch.Tensor) or not value.ndim:
        return None
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in OIP_TYPES:
        return None
    return TensorSpec(name, dtype, tuple(size if isinstance(size, int) else -1 for size in value.shape))


def _example(program: torch.export.ExportedProgram, inputs: _Inputs, names: list[str]) -> Callable[[], Any] | None:
    """Return the arguments that the program was exported with, as a batch."""
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
    """Return the parameters of forward, from its schema."""
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
