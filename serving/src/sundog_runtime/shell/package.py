"""`sundog package`."""

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import orjson

from sundog_runtime.arguments import ModelFormat
from sundog_runtime.errors import StartError, one_line
from sundog_runtime.tensors import OIP_TYPES, TensorSpec

if TYPE_CHECKING:
    from sundog_runtime.packaging.package import PackageReport

_FILE = click.Path(exists=True, path_type=Path)
_EXAMPLE = 'The "inputs" of a request, as JSON or @FILE, to run the model with. Bytes are text, or {"base64": "…"}.'
_FORMATS: tuple[str, ...] = get_args(ModelFormat)


class _Input(click.ParamType[TensorSpec]):
    """`name:dtype:shape`, such as `image:float32:-1,64`."""

    name = "name:dtype:shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TensorSpec:
        """Parse one input. Fail the command line if it is invalid."""
        name, _, rest = str(value).partition(":")
        dtype, _, sizes = rest.partition(":")
        if not name or not re.fullmatch(r"-?\d+(,-?\d+)*", sizes):
            self.fail(f"{value!r}: expected name:dtype:shape, such as image:float32:-1,64", param, ctx)
        if dtype not in OIP_TYPES:
            self.fail(f"dtype {dtype!r}: expected one of {', '.join(OIP_TYPES)}", param, ctx)
        shape = tuple(map(int, sizes.split(",")))
        if any(size < -1 for size in shape):
            self.fail(f"{value!r}: found a size below -1; expected sizes, where -1 is any size", param, ctx)
        return TensorSpec(name, dtype, shape)


class _Setting(click.ParamType[tuple[str, Any]]):
    """`key=value`, where the value is JSON, otherwise text."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Parse one setting. Fail the command line if it is invalid."""
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r}: expected key=value", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            return key, text


class _Json(click.ParamType[Any]):
    """JSON, or `@` and the name of a file with JSON."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value. Fail the command line if it is invalid."""
        try:
            text = Path(value[1:]).read_bytes() if str(value).startswith("@") else str(value)
            return orjson.loads(text)
        except OSError as error:
            self.fail(f"{value[1:]}: {error.strerror}", param, ctx)
        except orjson.JSONDecodeError as error:
            self.fail(f"expected JSON: {error}", param, ctx)


@click.command(epilog="Example: sundog package model --entrypoint net:Net --weights weights.pt")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--entrypoint", metavar="MODULE:NAME", default="", help="The class of the network or of the predictor.")
@click.option("--weights", type=_FILE, help="A state dict (.pt or safetensors), a .pt2 or a TorchScript archive.")
@click.option("--code", type=_FILE, multiple=True, help="Copy a module or package. The entrypoint's own is found.")
@click.option("--config", type=_Setting(), multiple=True, help="Set an argument of the entrypoint.")
@click.option("--input", "inputs", type=_Input(), multiple=True, help="Declare an input, such as image:float32:-1,64.")
@click.option("--example", type=_Json(), help=_EXAMPLE)
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="auto", show_default=True)
@click.option("--compile", "compile_", is_flag=True, help="Use torch.compile in the server.")
@click.option("--trust-code", is_flag=True, help="Open an archive that can run code, as spec.model.trustCode does.")
@click.option("--runs", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Number of timed runs.")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
def package(  # one parameter for each option
    directory: Path,
    entrypoint: str,
    weights: Path | None,
    code: tuple[Path, ...],
    config: tuple[tuple[str, Any], ...],
    inputs: tuple[TensorSpec, ...],
    example: Any,
    format_: Any,
    compile_: bool,
    trust_code: bool,
    runs: int,
    output: str,
) -> None:
    """Write a model's directory from code and weights, load it as the server does, and run it.

    Weights become safetensors. Inputs and outputs are inferred from a run and written to model.yaml. An existing DIRECTORY
    is completed and checked. It changes only when the model loads and runs.
    """
    try:
        from sundog_runtime.packaging.package import PackageRequest
        from sundog_runtime.packaging.package import package as write
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"`sundog package` needs {error.name}, which is not installed: pip install 'sundog[runtime]'"
        ) from error
    wanted = PackageRequest(
        entrypoint, weights, code, format_, dict(config), inputs, example, compile_, trust_code, runs
    )
    try:
        # The URI of the directory must not have `..`; links are kept.
        report = write(Path(os.path.abspath(directory)), wanted)  # noqa: PTH100
    except StartError as error:
        raise click.ClickException(f"{error.reason}: {error.message}") from None
    except OSError as error:
        raise click.ClickException(one_line(error)) from None
    if output == "json":
        click.echo(orjson.dumps(render_report(report), option=orjson.OPT_INDENT_2).decode())
    else:
        _print(report)


def render_report(report: "PackageReport") -> dict[str, Any]:
    """Return the report as JSON."""
    return {
        "path": str(report.path),
        "found": report.found,
        "files": report.files,
        "bytes": report.bytes,
        "parameters": report.parameters,
        "loadSeconds": report.load_s,
        "latencySeconds": report.latency_s,
        "streams": report.is_streaming,
        "batchable": not report.unbatchable_reason,
        "inputs": [_tensor(spec) for spec in report.signature.inputs],
        "outputs": [_tensor(spec) for spec in report.signature.outputs],
        "digest": report.digest,
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _print(report: "PackageReport") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    latency = (
        "not run: give --input or --example"
        if report.latency_s is None
        else f"{report.latency_s * 1e3:.2f} ms (median)"
    )
    rows = [
        ("directory", str(report.path)),
        ("found", report.found),
        ("size", f"{report.bytes:,} bytes in {report.files} files"),
        ("parameters", "unknown" if report.parameters is None else f"{report.parameters:,}"),
        ("inputs", _format_specs(report.signature.inputs)),
        ("outputs", _format_specs(report.signature.outputs)),
        ("batchable", f"no: {report.unbatchable_reason}" if report.unbatchable_reason else "yes"),
        ("load", f"{report.load_s:.2f} s"),
        ("prediction", latency),
        ("digest", report.digest),
    ]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _format_specs(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs) or "not declared"
