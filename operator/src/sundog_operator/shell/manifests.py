"""Read manifests: YAML files with one or more documents, or folders of them.

A `file://` URI in a manifest is absolute, or begins with `file://${MANIFEST_DIR}`, which stands for the folder of the manifest.
Examples then work from any checkout and any working directory.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
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
    """One object of a manifest. `source` names its file in messages; `path` is None for standard input."""

    source: str
    path: Path | None
    object: Object

    @property
    def ref(self) -> Ref:
        """Reference of the object."""
        return ref_of(self.object)


def is_unchanged(before: Object | None, after: Object) -> bool:
    """Report whether an apply left an object unchanged. The status is ignored, because others write it meanwhile."""
    return before is not None and _content(before) == _content(after)


def _content(obj: Object) -> tuple[Any, ...]:
    meta = obj["metadata"]
    # Secrets have no generation.
    content = meta.get("generation") or [obj.get(field) for field in ("data", "type", "immutable")]
    return meta["uid"], content, meta.get("labels"), meta.get("annotations")


@dataclass(frozen=True, slots=True)
class ManifestProblem:
    """A problem of a file or of one of its documents.

    `skipped`: the object's kind is not served here, which need not be a mistake; `name` is then its name.
    """

    source: str
    message: str
    skipped: bool = False
    name: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"

    def print(self) -> None:
        """Print the problem on standard error."""
        click.echo(f"{'skipped' if self.skipped else 'error'}: {self}", err=True)


@dataclass(frozen=True, slots=True)
class ManifestReading:
    """Objects and problems below a path.

    `empty`: files that exist and describe no object, such as files with comments only.
    """

    documents: tuple[ManifestObject, ...]
    problems: tuple[ManifestProblem, ...]
    empty: frozenset[Path] = frozenset()

    def can_contain(self, path: Path, name: str) -> bool:
        """Report whether a file may describe an object although none of the read documents does.

        That is so if the file, or a folder around it, cannot be read in full. It is also so if a skipped document
        has that name: its kind may be misspelt.
        """
        unreadable = {problem.source for problem in self.problems if not problem.skipped}
        if not unreadable.isdisjoint(map(str, (path, *path.parents))):
            return True
        return any(problem.source == str(path) and problem.name == name for problem in self.problems if problem.skipped)


def has_mistakes(problems: Iterable[ManifestProblem]) -> bool:
    """Report whether any of these problems is a mistake, not a skipped object."""
    return any(not problem.skipped for problem in problems)


def find_manifest_files(root: Path) -> tuple[list[Path], list[ManifestProblem]]:
    """Return (manifests, unreadable folders) at a path.

    The manifests are the file itself, or all `*.yaml` and `*.yml` below the folder in order, except hidden ones.
    """
    if not root.is_dir():
        return ([root] if root.exists() else []), []
    found: list[Path] = []
    errors: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in names if is_manifest(name)]
    return sorted(found), [ManifestProblem(str(err.filename), err.strerror or "cannot be read") for err in errors]


def is_manifest(name: str) -> bool:
    """Report whether a file of that name holds manifests."""
    return name.endswith(_SUFFIXES) and not name.startswith(".")


def read_manifests(root: Path, namespace: str) -> ManifestReading:
    """Read every manifest at a path. If two documents describe an object, the first one counts."""
    paths, unreadable = find_manifest_files(root)
    return _merge(((path, *read_manifest_file(path, namespace)) for path in paths), unreadable)


def read_all_manifests(files: Sequence[Path], namespace: str) -> tuple[list[ManifestObject], list[ManifestProblem]]:
    """Return (documents, problems) of all paths. `-` is standard input."""
    documents: list[ManifestObject] = []
    problems: list[ManifestProblem] = []
    for file in files:
        if str(file) == "-":
            text = sys.stdin.read()
            found, found_problems = parse_manifest(text, "standard input", None, namespace)
        else:
            reading = read_manifests(file, namespace)
            found, found_problems = list(reading.documents), list(reading.problems)
        documents += found
        problems += found_problems
    return documents, problems


def _merge(
    files: Iterable[tuple[Path, list[ManifestObject], list[ManifestProblem]]], unreadable: list[ManifestProblem]
) -> ManifestReading:
    documents: dict[Ref, ManifestObject] = {}
    problems = list(unreadable)
    empty: set[Path] = set()
    for path, found, found_problems in files:
        problems += found_problems
        if not found and not found_problems:
            empty.add(path)
        for document in found:
            first = documents.setdefault(document.ref, document)
            if first is not document:
                problems.append(ManifestProblem(str(path), f"{document.ref} is also in {first.source}, which counts"))
    return ManifestReading(tuple(documents.values()), tuple(problems), frozenset(empty))


def read_manifest_file(path: Path, namespace: str) -> tuple[list[ManifestObject], list[ManifestProblem]]:
    """Return (documents, problems) of one file. Never raises for the content of a file."""
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            return [], [ManifestProblem(str(path), f"file is larger than {MAX_MANIFEST_BYTES} bytes")]
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        return [], [
            ManifestProblem(
                str(path), err.strerror or str(err) if isinstance(err, OSError) else "file is not UTF-8 text"
            )
        ]
    return parse_manifest(text, str(path), path, namespace)


def parse_manifest(
    text: str, source: str, path: Path | None, namespace: str
) -> tuple[list[ManifestObject], list[ManifestProblem]]:
    """Return (documents, problems) of a text. Objects without a namespace get `namespace`."""
    documents: list[ManifestObject] = []
    problems: list[ManifestProblem] = []
    try:
        for raw in strict_yaml.load_all(text):
            for item in _items(raw):
                result = _parse_document(item, source, path, namespace)
                (documents if isinstance(result, ManifestObject) else problems).append(result)  # type: ignore[arg-type]
    except strict_yaml.InvalidYaml as err:
        problems.append(ManifestProblem(source, str(err)))
    return documents, problems


def _items(raw: Any) -> Iterator[Any]:
    """Yield the objects of a document: none if it is empty, the items of a List as `get -o yaml` prints it."""
    if raw is None:
        return
    if isinstance(raw, dict) and raw.get("kind") == "List" and isinstance(raw.get("items"), list):
        yield from raw["items"]
    else:
        yield raw


def _parse_document(raw: Any, source: str, path: Path | None, namespace: str) -> ManifestObject | ManifestProblem:
    if not isinstance(raw, dict):
        return ManifestProblem(
            source, f"document is a {type(raw).__name__}; expected an object with apiVersion and kind"
        )
    try:
        obj: Object = orjson.loads(orjson.dumps(raw))
    except TypeError as err:
        return ManifestProblem(source, f"{raw.get('kind', 'a document')} cannot be written as JSON: {err}")
    if problem := _kind_problem(obj):
        return ManifestProblem(source, problem, skipped=not _is_ours(obj), name=_name_of(obj))
    if problem := _metadata_problem(obj):
        return ManifestProblem(source, problem)
    obj["metadata"]["namespace"] = obj["metadata"].get("namespace") or namespace
    obj.pop("status", None)
    problems: list[str] = []
    spec = obj.get("spec")
    if isinstance(spec, dict):
        obj["spec"] = _expand(spec, "spec", path, problems)
    if problems:
        return ManifestProblem(source, f"{obj['kind']} {obj['metadata']['name']}: {problems[0]}")
    return ManifestObject(source, path, obj)


def _is_ours(obj: Object) -> bool:
    """Report whether an object is of our API group, or lacks the kind or apiVersion that would name another one."""
    kind, version = obj.get("kind"), obj.get("apiVersion")
    return not kind or not version or str(version).partition("/")[0] == API_VERSION.partition("/")[0]


def _name_of(obj: Object) -> str:
    meta = obj.get("metadata")
    return str(meta.get("name", "")) if isinstance(meta, dict) else ""


def _kind_problem(obj: Object) -> str:
    """Return why an object's kind is not served here; empty if it is."""
    kind, version = obj.get("kind"), obj.get("apiVersion")
    if (version, kind) == (SECRET.api_version, SECRET.kind):
        return ""
    if not kind or not version:
        missing = " and ".join(name for name in ("apiVersion", "kind") if not obj.get(name))
        return f"found no {missing}; expected {', '.join(RESOURCE_TYPES)} of {API_VERSION}, or Secret of v1"
    if str(kind) not in RESOURCE_TYPES or not _is_ours(obj):
        return (
            f"kind {kind!r} of {version!r} is not supported; "
            f"expected {', '.join(RESOURCE_TYPES)} of {API_VERSION}, or Secret of v1"
        )
    return "" if version == API_VERSION else f"apiVersion: found {version!r}; expected {API_VERSION}"


def _metadata_problem(obj: Object) -> str:
    """Return why the metadata are invalid; empty if they are valid."""
    if problem := _name_problem(obj.get("metadata")):
        return f"{obj['kind']}: {problem}"
    meta = obj["metadata"]
    namespace = meta.get("namespace") or ""
    if not isinstance(namespace, str):
        return f"{obj['kind']} {meta['name']}: metadata.namespace: {namespace!r} is not a string"
    return ""


def _name_problem(meta: Any) -> str:
    """Return why metadata hold no name; empty if they hold one."""
    if meta is not None and not isinstance(meta, dict):
        return f"metadata: {format_value(meta)} is not an object"
    name = (meta or {}).get("name")
    if name is None or name == "":
        return "metadata.name is required"
    if isinstance(name, str):
        return ""
    hint = "" if isinstance(name, dict | list) else ". Put it in quotes"
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
            problems.append(f"{where}: {MANIFEST_DIR_PLACEHOLDER} is for manifests in files, not for standard input")
            return uri
        below = rest.removeprefix(MANIFEST_DIR_PLACEHOLDER).lstrip("/")
        return _FILE + os.path.normpath(Path(os.path.abspath(path.parent), below))  # noqa: PTH100 links are kept
    if not re.match(r"/[^/]|/$", rest):
        problems.append(f"{where}: {uri!r} is not absolute; expected file:///… or file://{MANIFEST_DIR_PLACEHOLDER}/…")
    return uri
