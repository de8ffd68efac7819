"""Build a model's directory beside its final place, and move it there in one step once it works."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch

from sundog_runtime.errors import FormatNotRecognised, LoadFailed
from sundog_runtime.formats.detect import CONVERSION_HINTS, Content, DetectedFile, detect_content
from sundog_runtime.formats.torch_module import make_load_error
from sundog_runtime.formats.torch_state import check_only_tensors

WEIGHTS_NAME = "model.safetensors"
_WEIGHTS = frozenset({Content.SAFETENSORS, Content.STATE_DICT, Content.EXPORTED, Content.TORCHSCRIPT})
_NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training loops keep the state dict in a checkpoint."""


@contextmanager
def staging_directory(directory: Path) -> Iterator[Path]:
    """Yield a copy of `directory`, or an empty directory, and move it to `directory` if the block succeeds.

    Files are linked if the file system supports it, so a large model is not copied. `directory` does not change before the end.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as scratch:
        stage, old = Path(scratch) / "new", Path(scratch) / "old"
        if directory.is_dir():
            shutil.copytree(directory, stage, copy_function=_link, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            stage.mkdir()
        yield stage
        _make_readable(stage)
        if directory.exists():
            directory.rename(old)
        try:
            stage.rename(directory)
        except OSError:
            old.rename(directory)
            raise


def add_code(stage: Path, files: Sequence[Path], entrypoint: str, search_paths: Sequence[Path]) -> tuple[Path, ...]:
    """Copy modules and packages. Without the entrypoint's own, copy it from `search_paths`. Return what was copied."""
    for path in files:
        _copy(path, stage / path.name)
    module = entrypoint.partition(":")[0].partition(".")[0]
    if not module or (stage / f"{module}.py").exists() or (stage / module).exists():
        return tuple(files)
    found = next(
        (path for folder in search_paths for path in (folder / f"{module}.py", folder / module) if _is_code(path)), None
    )
    if found is None:
        return tuple(files)
    _copy(found, stage / found.name)
    return (*files, found)


def add_weights(stage: Path, path: Path) -> str:
    """Put weights into the directory in place of those that are there, a state dict as safetensors. Return their name there.

    Raises a StartError.
    """
    name = _add(stage, path)
    for other in [each for each in stage.iterdir() if each.is_file() and each.name != name]:
        if detect_content(other) in _WEIGHTS:
            other.unlink()
    return name


def _add(stage: Path, path: Path) -> str:
    content = detect_content(path)
    match content:
        case Content.SAFETENSORS:
            _copy(path, stage / WEIGHTS_NAME)
            return WEIGHTS_NAME
        case Content.STATE_DICT | Content.PICKLE:
            convert_to_safetensors(path, stage / WEIGHTS_NAME)
            return WEIGHTS_NAME
        case Content.EXPORTED | Content.TORCHSCRIPT:
            _copy(path, stage / path.name)
            return path.name
        case _:
            hint = f": {CONVERSION_HINTS[content]}" if content in CONVERSION_HINTS else ""
            raise FormatNotRecognised(
                f"{path.name} is {content}{hint}; expected a state dict, a .pt2 or a TorchScript archive"
            )


def convert_weights(stage: Path) -> None:
    """Convert a state dict to safetensors if it is the only one in the directory."""
    found = [DetectedFile(path.name, detect_content(path)) for path in stage.iterdir() if path.is_file()]
    states = [each.name for each in found if each.content is Content.STATE_DICT]
    if len(states) == 1 and not any(each.content is Content.SAFETENSORS for each in found):
        convert_to_safetensors(stage / states[0], stage / WEIGHTS_NAME)
        (stage / states[0]).unlink()


def convert_to_safetensors(source: Path, target: Path) -> None:
    """Write a state dict as safetensors. No code in the source runs. Raises a StartError."""
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        check_only_tensors(source, source.name)
        raise make_load_error(f"reading {source.name}", error) from error
    if isinstance(state, dict):
        state = next((state[key] for key in _NESTED if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        kinds = sorted({type(value).__name__ for value in state.values()}) if isinstance(state, dict) else []
        found = f"a dict of {', '.join(kinds)}" if kinds else f"a {type(state).__name__}"
        raise FormatNotRecognised(f"{source.name} holds {found}; expected a state dict, names to tensors")
    # One copy each: the format has no tensors that share memory, such as tied weights.
    safetensors.torch.save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, target)


def _make_readable(stage: Path) -> None:
    """Let all users read the directory: the server may run as another user, and safetensors writes files for their owner alone."""
    stage.chmod(0o755)
    for path in stage.rglob("*"):
        mode = path.stat().st_mode
        if not path.is_symlink() and mode & 0o444 != 0o444:
            path.chmod(mode | (0o755 if path.is_dir() else 0o444))


def _is_code(path: Path) -> bool:
    return path.is_file() if path.suffix == ".py" else (path / "__init__.py").is_file()


def _copy(source: Path, target: Path) -> None:
    """Copy a file over an existing one, or a package to a new name. Raises LoadFailed."""
    if source.is_dir():
        if target.exists():
            raise LoadFailed(f"the model's directory already has a {target.name}")
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        return
    # Never write into the existing file: it may be a link to the one in the model's place.
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=True)
    except OSError:
        shutil.copy2(source, target)
