"""Reads manifests: YAML files with one document or several, or folders of them.

A `file://` URI in a manifest is absolute, or begins with `file://${MANIFEST_DIR}`, which stands for the folder of the manifest: examples
then work from any checkout, and no working directory decides what is served.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from sundog_operator.api import API_VERSION, RESOURCE_TYPES
from sundog_operator.api.schema import strict_yaml
from sundog_operator.api.schema.validation import format_value
from sundog_operator.ports import SECRET, Object, Ref, ref_of

MANIFEST_DIR_PLACEHOLDER: Final = "${MANIFEST_DIR}"
MAX_MANIFEST_BYTES: Final = 3 * 2**20
_FILE: Final = "file://"
_SUFFIXES: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class ManifestObject:
    """One object of a manifest. `source` names its file for messages; `path` is None for standard input."""

    source: str
    path: Path | None
    object: Object

    @property
    def ref(self) -> Ref:
        """The object's reference."""
        return ref_of(self.object)


def is_unchanged(before: Object | None, after: Object) -> bool:
    """Whether an apply left an object as it was; its status, which others write meanwhile, does not count."""
    return before is not None and _content(before) == _content(after)


def _content(obj: Object) -> tuple[Any, ...]:
    meta = obj["metadata"]
    return meta["uid"], meta.get("generation"), meta.get("labels"), meta.get("annotations")


@dataclass(frozen=True, slots=True)
class ManifestProblem:
    """What is wrong with a file or a document of it.

    `skipped`: an object of a kind that is not served here, which need be no mistake; `name` is then its name.
    """

    source: str
    message: str
    skipped: bool = False
    name: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


@dataclass(frozen=True, slots=True)
class ManifestReading:
    """What was found below a path.

    `empty`: files that are there and describe nothing, such as those of comments alone.
    """

    documents: tuple[ManifestObject, ...]
    problems: tuple[ManifestProblem, ...]
    empty: frozenset[Path] = frozenset()

    def can_contain(self, path: Path, name: str) -> bool:
        """Whether a file may describe an object although no document does.

        It, or a folder around it, cannot be read in full; or a document has that name, and perhaps a mistake in its kind.
        """
        unsure = {problem.source for problem in self.problems if not problem.skipped}
        if not unsure.isdisjoint(map(str, (path, *path.parents))):
            return True
        return any(problem.source == str(path) and problem.name == name for problem in self.problems if problem.skipped)


def find_manifest_files(root: Path) -> tuple[list[Path], list[ManifestProblem]]:
    """The manifests at a path, in order: the file itself, or all `*.yaml` and `*.yml` below the folder, hidden ones left out.

    With them, the folders that cannot be read.
    """
    if not root.is_dir():
        return ([root] if root.exists() else []), []
    found: list[Path] = []
    refused: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in names if is_manifest(name)]
    return sorted(found), [ManifestProblem(str(err.filename), err.strerror or "cannot be read") for err in refused]


def is_manifest(name: str) -> bool:
    """Whether a file of that name holds manifests."""
    return name.endswith(_SUFFIXES) and not name.startswith(".")


def read_manifests(root: Path, namespace: str, *, force_namespace: bool = False) -> ManifestReading:
    """Read every manifest at a path. An object that two documents describe counts once, as in the first."""
    paths, refused = find_manifest_files(root)
    return _gather(
        ((path, *read_manifest_file(path, namespace, force_namespace=force_namespace)) for path in paths), refused
    )


def _gather(
    files: Iterable[tuple[Path, list[ManifestObject], list[ManifestProblem]]], refused: list[ManifestProblem]
) -> ManifestReading:
    documents: dict[Ref, ManifestObject] = {}
    problems = list(refused)
    empty: set[Path] = set()
    for path, found, wrong in files:
        problems += wrong
        if not found and not wrong:
            empty.add(path)
        for document in found:
            first = documents.setdefault(document.ref, document)
            if first is not document:
                problems.append(ManifestProblem(str(path), f"{document.ref} is in {first.source} too, which counts"))
    return ManifestReading(tuple(documents.values()), tuple(problems), frozenset(empty))


def read_manifest_file(
    path: Path, namespace: str, *, force_namespace: bool = False
) -> tuple[list[ManifestObject], list[ManifestProblem]]:
    """The documents of one file, and what is wrong with it. Never raises for what a file holds."""
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            return [], [ManifestProblem(str(path), f"is larger than {MAX_MANIFEST_BYTES} bytes")]
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        return [], [
            ManifestProblem(str(path), err.strerror or str(err) if isinstance(err, OSError) else "is not UTF-8 text")
        ]
    return parse_manifest(text, str(path), path, namespace, force_namespace=force_namespace)


def parse_manifest(
    text: str, source: str, path: Path | None, namespace: str, *, force_namespace: bool = False
) -> tuple[list[ManifestObject], list[ManifestProblem]]:
    """The documents of a text, and what is wrong with it.

    `namespace` is that of objects that name none; with `force_namespace` objects of another one are refused.
    """
    documents: list[ManifestObject] = []
    problems: list[ManifestProblem] = []
    try:
        for raw in strict_yaml.load_all(text):
            for item in _items(raw):
                made = _document(item, source, path, namespace, force_namespace)
                (documents if isinstance(made, ManifestObject) else problems).append(made)  # type: ignore[arg-type]
    except strict_yaml.InvalidYaml as err:
        problems.append(ManifestProblem(source, str(err)))
    return documents, problems


def _items(raw: Any) -> Iterator[Any]:
    """The objects of a document: none of an empty one, those of a List, as `get -o yaml` prints it."""
    if raw is None:
        return
    if isinstance(raw, dict) and raw.get("kind") == "List" and isinstance(raw.get("items"), list):
        yield from raw["items"]
    else:
        yield raw


def _document(
    raw: Any, source: str, path: Path | None, namespace: str, force: bool
) -> ManifestObject | ManifestProblem:
    if not isinstance(raw, dict):
        return ManifestProblem(
            source, f"a document is a {type(raw).__name__}, expected an object with apiVersion and kind"
        )
    try:
        obj: Object = orjson.loads(orjson.dumps(raw))
    except TypeError as err:
        return ManifestProblem(source, f"{raw.get('kind', 'a document')} cannot be written as JSON: {err}")
    if problem := _foreign(obj):
        return ManifestProblem(source, problem, skipped=not _is_ours(obj), name=_name_of(obj))
    if problem := _place(obj, namespace, force):
        return ManifestProblem(source, problem)
    problems: list[str] = []
    spec = obj.get("spec")
    if isinstance(spec, dict):
        obj["spec"] = _expand(spec, "spec", path, problems)
    if problems:
        return ManifestProblem(source, f"{obj['kind']} {obj['metadata']['name']}: {problems[0]}")
    return ManifestObject(source, path, obj)


def _is_ours(obj: Object) -> bool:
    """Whether an object says that it is one of ours, or nothing that could be anybody's."""
    kind, version = obj.get("kind"), obj.get("apiVersion")
    return not kind or not version or str(version).partition("/")[0] == API_VERSION.partition("/")[0]


def _name_of(obj: Object) -> str:
    meta = obj.get("metadata")
    return str(meta.get("name", "")) if isinstance(meta, dict) else ""


def _foreign(obj: Object) -> str:
    kind, version = obj.get("kind"), obj.get("apiVersion")
    if (version, kind) == (SECRET.api_version, SECRET.kind):
        return ""
    if kind not in RESOURCE_TYPES or not _is_ours(obj) or not version:
        return (
            f"kind {kind!r} of {version!r} is not one of {', '.join(RESOURCE_TYPES)} of {API_VERSION}, or Secret of v1"
        )
    return "" if version == API_VERSION else f"apiVersion: {version!r} is not {API_VERSION}"


def _place(obj: Object, namespace: str, force: bool) -> str:
    """Fill in the namespace; what is wrong with the metadata."""
    if problem := _nameless(obj.get("metadata")):
        return f"{obj['kind']}: {problem}"
    meta = obj["metadata"]
    found = meta.get("namespace") or namespace
    if not isinstance(found, str):
        return f"{obj['kind']} {meta['name']}: metadata.namespace: {found!r} is not a string"
    if force and found != namespace:
        return f"{obj['kind']} {meta['name']}: metadata.namespace is {found!r}, expected {namespace!r}"
    meta["namespace"] = found
    obj.pop("status", None)
    return ""


def _nameless(meta: Any) -> str:
    """Why metadata hold no name; empty where they do."""
    if meta is not None and not isinstance(meta, dict):
        return f"metadata: {format_value(meta)} is not an object"
    name = (meta or {}).get("name")
    if name is None or name == "":
        return "metadata.name is required"
    if isinstance(name, str):
        return ""
    hint = "" if isinstance(name, dict | list) else ", quotes make it one"
    return f"metadata.name: {format_value(name)} is not a string{hint}"


def _expand(value: Any, where: str, path: Path | None, problems: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, f"{where}.{key}", path, problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, f"{where}[{index}]", path, problems) for index, item in enumerate(value)]
    if isinstance(value, str) and where.endswith(".uri") and value.startswith(_FILE):
        return _file_uri(value, where, path, problems)
    return value


def _file_uri(uri: str, where: str, path: Path | None, problems: list[str]) -> str:
    rest = uri.removeprefix(_FILE)
    if rest == MANIFEST_DIR_PLACEHOLDER or rest.startswith(f"{MANIFEST_DIR_PLACEHOLDER}/"):
        if path is None:
            problems.append(f"{where}: {MANIFEST_DIR_PLACEHOLDER} needs a manifest in a file")
            return uri
        below = rest.removeprefix(MANIFEST_DIR_PLACEHOLDER).lstrip("/")
        return _FILE + os.path.normpath(Path(os.path.abspath(path.parent), below))  # noqa: PTH100 links are kept
    if not re.match(r"/[^/]|/$", rest):
        problems.append(f"{where}: {uri!r} is not absolute: write file:///… or file://{MANIFEST_DIR_PLACEHOLDER}/…")
    return uri
