"""Package a module and weights as a directory that the server is known to load."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sundog_runtime.arguments import ModelArguments, ModelFormat
from sundog_runtime.errors import LoadFailed, Problem, StartError
from sundog_runtime.formats.load import load_model
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.model_yaml import Compile, ModelDescription, read_description, write_description
from sundog_runtime.packaging.staging import (
    add_code,
    add_weights,
    convert_weights,
    staging_directory,
)
from sundog_runtime.packaging.trial_run import choose_batch, infer_signature, run_model
from sundog_runtime.scheduling.batch_assembly import find_unbatchable_reason
from sundog_runtime.signature import Signature, TensorField, check_outputs
from sundog_runtime.sources.file_digests import FileEntry, read_tree, tree_digest
from sundog_runtime.sources.open_model import open_model
from sundog_runtime.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class PackageRequest:
    """Contents of a package. Empty fields come from the directory and its model.yaml, or are inferred."""

    entrypoint: str = ""
    weights: Path | None = None
    code: tuple[Path, ...] = ()
    format: ModelFormat = "auto"
    config: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    example: Any = None
    compile: bool = False
    trust_code: bool = False
    runs: int = 20


@dataclass(frozen=True, slots=True)
class PackageReport:
    """The packaged model. Times are in seconds, of this machine; `latency_s` is None if nothing could be run.

    `unbatchable_reason` is why requests are not batched; empty if they may be.
    """

    path: Path
    found: str
    files: int
    bytes: int
    parameters: int | None
    load_s: float
    latency_s: float | None
    is_streaming: bool
    unbatchable_reason: str
    signature: Signature
    digest: str


def package(directory: Path, request: PackageRequest) -> PackageReport:
    """Write `directory`, load it as the server does, and run it. If that fails, nothing is written.

    Raises a StartError.
    """
    if directory.exists() and not directory.is_dir():
        raise LoadFailed(f"{directory}: found a file; expected a directory")
    with staging_directory(directory) as stage:
        if request.weights is None:
            convert_weights(stage)
        else:
            add_weights(stage, request.weights)
        # Absolute, because messages show these paths.
        search_paths = [Path.cwd(), *([request.weights.absolute().parent] if request.weights else [])]
        found = read_description(stage)
        description = _apply_request(found, request)
        copied = add_code(stage, request.code, description.entrypoint, search_paths)
        if description != found:
            write_description(stage, description)
        try:
            return _load_and_run(directory, stage, request, description)
        except StartError as error:
            raise type(error)(_original_paths(error.message, stage, directory, copied)) from error


def _load_and_run(
    directory: Path, stage: Path, request: PackageRequest, description: ModelDescription
) -> PackageReport:
    """Load and run the staged model, and complete its description. Raises a StartError."""
    model, _ = _load(stage, request)
    batch = choose_batch(model, request.example)
    if batch is not None and not (model.signature.inputs and model.signature.outputs):
        signature = infer_signature(model, batch, run_model(model, batch))
        fields = {kind: list(map(TensorField.of, getattr(signature, kind))) for kind in ("inputs", "outputs")}
        write_description(stage, description.model_copy(update=fields))
    entries = read_tree(stage)
    model, seconds = _load(stage, request, entries)
    latency = None if batch is None else _latency(model, batch, request.runs)
    return _report(directory, model, entries, seconds, latency)


def _original_paths(message: str, stage: Path, directory: Path, copied: Sequence[Path]) -> str:
    """Return a message with the user's own paths: the staged files are gone when the message is read."""
    for path in copied:
        message = message.replace(str(stage / path.name), str(path.absolute()))
    return message.replace(str(stage), str(directory))


def _apply_request(found: ModelDescription, request: PackageRequest) -> ModelDescription:
    update: dict[str, Any] = {}
    if request.inputs:
        update["inputs"] = list(map(TensorField.of, request.inputs))
    if request.compile:
        update["compile"] = Compile(enabled=True, mode=found.compile.mode)
    return found.override(request.format, request.entrypoint, request.config).model_copy(update=update)


def _load(stage: Path, request: PackageRequest, entries: tuple[FileEntry, ...] = ()) -> tuple[LoadedModel, float]:
    """Load as a replica does, with the digest if the files are final. Return the model and the seconds that it took."""
    digest = tree_digest(entries) if entries else ""
    arguments = ModelArguments.model_validate(
        {"uri": f"file://{stage}", "digest": digest, "trustCode": request.trust_code}
    )
    started = time.perf_counter()
    model = load_model(open_model(arguments.uri, arguments.digest), arguments)
    return model, time.perf_counter() - started


def _latency(model: LoadedModel, batch: Any, runs: int) -> float:
    """Return the median of some runs after the first, whose answer is checked like every answer. Raises a StartError."""
    output = run_model(model, batch)
    if not model.is_streaming:
        try:
            check_outputs(model.signature.outputs, output)
        except Problem as problem:
            raise LoadFailed(f"a prediction failed: {problem.detail}") from None
    taken = []
    for _ in range(max(1, runs)):
        started = time.perf_counter()
        run_model(model, batch)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _report(
    directory: Path, model: LoadedModel, entries: tuple[FileEntry, ...], seconds: float, latency: float | None
) -> PackageReport:
    return PackageReport(
        path=directory,
        found=model.found,
        files=len(entries),
        bytes=sum(entry.size for entry in entries),
        parameters=None if model.module is None else sum(each.numel() for each in model.module.parameters()),
        load_s=seconds,
        latency_s=latency,
        is_streaming=model.is_streaming,
        unbatchable_reason=find_unbatchable_reason(model),
        signature=model.signature,
        digest=tree_digest(entries),
    )
