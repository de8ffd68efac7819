"""Preview the models of a manifest that are files of this machine: local mode would load them."""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson

from sundog_operator.shell.preview.model_deployment import Preview

_FILE: Final = "file://"
_MODULE: Final = "sundog_runtime.shell.entrypoint"
_TIMEOUT_S: Final = 60.0


async def add_local_models(spec: Mapping[str, Any], preview: Preview) -> Preview:
    """Add to the preview of a valid spec what the entrypoint of each local model is, or why none of its replicas can start.

    Imports the entrypoint in a process of its own, so that the code of a model cannot harm this one.
    """
    found = [await _preview(field, model) for field, model in _models(spec)]
    lines, problems = (tuple(filter(None, each)) for each in zip(("", ""), *found, strict=True))
    return replace(preview, lines=(*preview.lines, *lines), problems=(*preview.problems, *problems))


def _models(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (field, model) of each local model."""
    models = {"spec.model": spec.get("model")} | {
        f"spec.arms[{index}].model": arm.get("model") for index, arm in enumerate(spec.get("arms") or ())
    }
    for field, model in models.items():
        if model and str(model.get("uri", "")).startswith(_FILE):
            yield field, model


async def _preview(field: str, model: Mapping[str, Any]) -> tuple[str, str]:
    """Return (what the entrypoint is, why no replica can start), each empty if unknown."""
    path = Path(model["uri"].removeprefix(_FILE))
    if not await asyncio.to_thread(path.exists):
        return "", f"{field}.uri: {path} does not exist on this machine. No replica starts until you create it"
    result = await _import_entrypoint(model)
    if problem := result.get("problem"):
        return "", f"{field}: {problem}. No replica starts until you fix it"
    return (f"{field}.entrypoint: {found}" if (found := result.get("found")) else ""), ""


async def _import_entrypoint(model: Mapping[str, Any]) -> dict[str, str]:
    """Return what the entrypoint is as `found`, or why it cannot be imported as `problem`; empty if that is unknown."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", _MODULE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            answer, _ = await process.communicate(orjson.dumps(model))
    except TimeoutError:
        return {"problem": f"importing the entrypoint takes longer than {_TIMEOUT_S:.0f} s"}
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode == 0:
        found: dict[str, str] = orjson.loads(answer)
        return found
    # Python ends with 1 if the model server is not installed here. Other codes and signals are of the model's code.
    return (
        {} if process.returncode == 1 else {"problem": f"importing the entrypoint ended Python ({process.returncode})"}
    )
