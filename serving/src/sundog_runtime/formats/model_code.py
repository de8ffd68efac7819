"""Import a model's own Python modules from its directory, isolated from all other models.

Two revisions may both have a module `net`, with different code. So modules live in `sys.modules` below a package name that
no other load shares, and `sys.path` stays unchanged. Inside the model's code `import helper` means its own `helper.py`.
Nothing is written into the model's directory: bytecode would change the digest.

Import statements are covered, also inside functions; `importlib.import_module("helper")` is not, and extension modules are
not loaded from a model's directory.
"""

import builtins
import importlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from sundog_runtime.errors import EntrypointMissing, LoadFailed, StartError
from sundog_runtime.sources.open_model import ModelFiles

_numbers = itertools.count(1)
_codes: dict[str, "ModelCode"] = {}


class ModelCode:
    """The importable modules of one loaded model. `close` removes them."""

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self._verified = (
            None
            if files.verified is None
            else {entry.path: entry.source for entry in files.verified if entry.source is not None}
        )
        self.package = f"_sundog_model_{next(_numbers)}"
        _codes[self.package] = self
        if _Finder not in sys.meta_path:
            sys.meta_path.append(_Finder)
        root = ModuleType(self.package)
        root.__path__ = []
        sys.modules[self.package] = root

    def resolve(self, entrypoint: str) -> Any:
        """Return the object that `module:attribute` names, in the model's directory or installed in the image.

        Raises EntrypointMissing, or LoadFailed if the module itself raises.
        """
        module_name, colon, attribute = entrypoint.partition(":")
        if not colon or not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
            raise EntrypointMissing(f"entrypoint {entrypoint!r}: expected the form module:attribute")
        target: Any = self._import(module_name, entrypoint)
        for part in attribute.split("."):
            if not hasattr(target, part):
                raise EntrypointMissing(
                    f"entrypoint {entrypoint!r}: module {module_name!r} has no attribute {attribute!r}"
                )
            target = getattr(target, part)
        return target

    def close(self) -> None:
        """Remove the modules. Objects made of them still work; their later imports do not."""
        del _codes[self.package]
        for name in [name for name in sys.modules if name == self.package or name.startswith(f"{self.package}.")]:
            del sys.modules[name]

    def source(self, path: str) -> bytes | None:
        """Return the bytes of a Python file by its relative path; with a digest, exactly the verified ones."""
        if self._verified is not None:
            return self._verified.get(path)
        if self._files.file_name and path != self._files.file_name:
            return None
        file = self._files.root / path
        return file.read_bytes() if file.is_file() else None

    def is_directory(self, path: str) -> bool:
        """Whether the model has that directory; `path` is relative."""
        if self._verified is not None:
            return any(name.startswith(f"{path}/") for name in self._verified)
        return not self._files.file_name and (self._files.root / path).is_dir()

    def has_module(self, top_level: str) -> bool:
        """Whether the model's directory has a module or package of that name."""
        return self.source(f"{top_level}.py") is not None or self.is_directory(top_level)

    def location(self, path: str) -> Path:
        """Return the path of a file by its relative path, for tracebacks and `__file__`."""
        return self._files.root / path

    def import_for_model(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 (the names are those of builtins.__import__)
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import for the model's modules: from their own directory first, as with `python model/net.py`."""
        top_level = name.partition(".")[0]
        if level or not self.has_module(top_level):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if fromlist:
            return builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{self.package}.{name}")
        return sys.modules[f"{self.package}.{top_level}"]

    def _import(self, name: str, entrypoint: str) -> ModuleType:
        own = self.has_module(name.partition(".")[0])
        full_name = f"{self.package}.{name}" if own else name
        try:
            return importlib.import_module(full_name)
        except StartError:
            raise
        except ModuleNotFoundError as error:
            if error.name and (full_name == error.name or full_name.startswith(f"{error.name}.")):
                where = "" if own else f" and no package of this image is called {name!r}"
                raise EntrypointMissing(
                    f"entrypoint {entrypoint!r}: {self._files.path} has no module {name!r}{where}"
                ) from None
            missing = (error.name or str(error)).removeprefix(f"{self.package}.")
            raise LoadFailed(f"importing {name!r}: no module named {missing!r} in the model or the image") from error
        except Exception as error:
            raise LoadFailed(f"importing {name!r} raised {type(error).__name__}: {error}") from error


class _Loader(SourceLoader):
    """A loader that reads the model's bytes. It has no method `path_stats`, so no bytecode is read or written."""

    def __init__(self, code: ModelCode, path: str) -> None:
        self._code = code
        self._path = path

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 (one loader, one module)
        return str(self._code.location(self._path))

    def get_data(self, path: str | bytes) -> bytes:  # noqa: ARG002
        source = self._code.source(self._path)
        if source is None:
            raise OSError(f"{self._path} no longer exists")
        return source

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._code.import_for_model}
        super().exec_module(module)


class _Finder:
    """A finder for the modules below the packages of loaded models, and no others."""

    @classmethod
    def find_spec(
        cls,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG003 (given by the import system)
        target: ModuleType | None = None,  # noqa: ARG003
    ) -> ModuleSpec | None:
        package, _, relative = fullname.partition(".")
        code = _codes.get(package)
        if code is None or not relative:
            return None
        relative = relative.replace(".", "/")
        for candidate, is_package in ((f"{relative}/__init__.py", True), (f"{relative}.py", False)):
            if code.source(candidate) is not None:
                spec = ModuleSpec(fullname, _Loader(code, candidate), is_package=is_package)
                spec.origin, spec.has_location = str(code.location(candidate)), True
                return spec
        return ModuleSpec(fullname, None, is_package=True) if code.is_directory(relative) else None
