"""Follow manifests on disk: apply edits, and delete objects that no manifest describes any more."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import orjson
from watchfiles import Change, awatch

from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.errors import Conflict, Invalid, SundogError
from sundog_operator.ports import Clock, Object, Ref
from sundog_operator.shell import manifests
from sundog_operator.shell.exit_codes import one_line
from sundog_operator.shell.local.manifest_origins import ManifestOrigin, OriginStore
from sundog_operator.shell.local.model_files import ModelFiles
from sundog_operator.shell.local.views import InstanceView
from sundog_operator.shell.manifests import ManifestObject, ManifestReading
from sundog_operator.shell.server_connection import FIELD_MANAGER

log = logging.getLogger("sundog.local")

_RESCAN_MS: Final = 2000
_GRACE_S: Final = 5.0
_Key = TypeVar("_Key")


class ManifestFiles:
    """Apply the manifests at a path, and follow their changes.

    A document is applied at the start and when it changes. An object that `sundog apply` changed stays so until then.
    An error is shown once, and the present object is kept.

    An object is deleted only if it came from a file at this path that was removed, or that is readable and describes
    other objects. A start with another path deletes nothing, and neither does an emptied file. A deletion is announced,
    and happens after the file has not changed for 5 s, because an editor may write it in pieces.
    """

    def __init__(
        self,
        root: Path,
        kube: MemoryKubernetes,
        origins: OriginStore,
        clock: Clock,
        view: InstanceView,
        *,
        namespace: str,
        models: ModelFiles | None = None,
        save_problems: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """Args:
        root: a file, or a folder of files.
        kube: the server that the manifests are applied to.
        origins: the file of each object.
        clock: measures how long a file has not changed.
        view: shows changes and problems.
        namespace: the namespace of objects without one.
        models: adds the digests of models; None adds none.
        save_problems: called with all problems of the manifests when they change.
        """
        self._root = root
        self._is_folder = root.is_dir()
        self._kube = kube
        self._origins = origins
        self._clock = clock
        self._view = view
        self._namespace = namespace
        self._models = models
        self._digests: dict[Ref, str] = {}
        self._applied: set[Ref] = set()
        self._shown_problems: set[str] = set()
        self._shown_empty_files: set[str] = set()
        self._refused: dict[Ref, str] = {}
        self._save_problems = save_problems
        self._problems: list[str] | None = None
        self._removed_since: dict[tuple[Ref, int], float] = {}
        self._empty_since: dict[str, float] = {}

    async def run(self) -> None:
        """Follow the manifests until cancelled."""
        await self.begin()
        folder = self._root if self._is_folder else self._root.parent
        # Some editors replace files and some file systems send no events: watch the folder, and rescan it as well.
        async for _ in awatch(
            folder,
            watch_filter=self._is_relevant,
            recursive=self._is_folder,
            rust_timeout=_RESCAN_MS,
            yield_on_timeout=True,
            debounce=200,
        ):
            await self.sync()

    async def begin(self) -> None:
        """Apply all manifests, delete objects that were removed meanwhile, and show objects of other paths."""
        reading = await self._apply_all()
        self._show_objects_of_other_paths({document.ref for document in reading.documents})
        await self._delete_removed(reading)

    async def sync(self) -> None:
        """Apply changes, and delete objects that have been removed for long enough."""
        await self._delete_removed(await self._apply_all())

    async def _delete_removed(self, reading: ManifestReading) -> None:
        """Announce objects that were removed from the manifests, and delete those whose file has not changed since."""
        now = self._clock.monotonic()
        before = {ref for ref, _ in self._removed_since}
        removed = {(ref, self._modified_ns(ref)) for ref in self._find_removed(reading)}
        self._removed_since = _track(removed, self._removed_since, now)
        self._empty_since = _track(await self._describe_empty_files(reading), self._empty_since, now)
        for ref in sorted({ref for ref, _ in self._removed_since} - before):
            self._view.notice(
                f"{ref}: no manifest describes it any more; it is deleted in {_GRACE_S:g} s unless one does again"
            )
        await self._delete({ref for ref, _ in _stable_keys(self._removed_since, now)})
        self._show_empty_files(_stable_keys(self._empty_since, now))
        self._update_problems(reading)

    def _update_problems(self, reading: ManifestReading) -> None:
        """Show and save the present problems if they changed."""
        present = {document.ref for document in reading.documents}
        self._refused = {ref: line for ref, line in self._refused.items() if ref in present}
        mistakes = [str(problem) for problem in reading.problems if not problem.skipped]
        problems = sorted({*mistakes, *self._refused.values(), *self._shown_empty_files})
        if problems != self._problems:
            self._problems = problems
            self._save_problems(problems)
            self._view.show_problems(problems)

    def _modified_ns(self, ref: Ref) -> int:
        """Return when the file of an object was last modified, in nanoseconds; 0 if it is gone."""
        try:
            return Path(self._origins.all()[ref].path).stat().st_mtime_ns
        except OSError:
            return 0

    def _is_relevant(self, _change: Change, path: str) -> bool:
        return manifests.is_manifest(Path(path).name) if self._is_folder else Path(path) == self._root

    async def _apply_all(self) -> ManifestReading:
        reading = manifests.read_manifests(self._root, self._namespace)
        lines = {f"skipped: {problem}" if problem.skipped else str(problem) for problem in reading.problems}
        for line in sorted(lines - self._shown_problems):
            self._view.problem(line)
        self._shown_problems = lines
        for document in [await self._with_model_digest(each) for each in reading.documents]:
            digest = hashlib.sha256(orjson.dumps(document.object, option=orjson.OPT_SORT_KEYS)).hexdigest()
            if self._digests.get(document.ref) != digest:
                self._digests[document.ref] = digest
                await self._apply(document)
            elif document.ref in self._applied:
                await self._check_unchanged(document)
        return reading

    async def _with_model_digest(self, document: ManifestObject) -> ManifestObject:
        return (
            document if self._models is None else replace(document, object=await self._models.add_to(document.object))
        )

    async def _check_unchanged(self, document: ManifestObject) -> None:
        """Update the file of an object whose document did not change, or show that the object was deleted."""
        stored = await self._kube.get(document.ref)
        if stored is not None:
            self._record_origin(document, stored)
            return
        self._applied.discard(document.ref)
        self._view.notice(
            f"{document.ref} was deleted; {document.source} still describes it, so an edit or the next start creates it again"
        )

    def _record_origin(self, document: ManifestObject, stored: Object) -> None:
        path = "" if document.path is None else str(document.path.absolute())
        self._origins.remember(document.ref, ManifestOrigin(path, stored["metadata"]["uid"]))

    async def _apply(self, document: ManifestObject) -> None:
        ref = document.ref
        try:
            before = await self._kube.get(ref)
            stored = await self._kube.apply(document.object, manager=FIELD_MANAGER, strict=True)
        except SundogError as err:
            self._refuse(document, f"{ref}: {'; '.join(err.causes)}" if isinstance(err, Invalid) else one_line(err))
            return
        except Exception as err:
            # One object must not end an instance that serves others.
            log.exception("%s cannot be applied", ref)
            self._refuse(
                document, f"{ref}: in sundog itself: {type(err).__name__}: {one_line(err)}. The log has the traceback"
            )
            return
        self._refused.pop(ref, None)
        self._record_origin(document, stored)
        self._applied.add(ref)
        if not manifests.is_unchanged(before, stored):
            self._view.notice(f"{ref} {'changed' if before else 'created'} from {document.source}")

    def _refuse(self, document: ManifestObject, reason: str) -> None:
        self._refused[document.ref] = f"{document.source}: {reason}"
        self._view.problem(self._refused[document.ref])

    def _find_removed(self, reading: ManifestReading) -> set[Ref]:
        """Return objects that came from a file and are in no manifest any more. Unreadable and empty files remove none."""
        present = {document.ref for document in reading.documents}
        if self._is_folder and not self._root.is_dir():
            return set()
        return {
            ref
            for ref, origin in self._origins.all().items()
            if ref not in present
            and self._is_below_root(origin)
            and Path(origin.path) not in reading.empty
            and not reading.can_contain(Path(origin.path), ref.name)
        }

    async def _describe_empty_files(self, reading: ManifestReading) -> set[str]:
        """Return a line for each file that was emptied, with the objects that it described."""
        present = {document.ref for document in reading.documents}
        kept: dict[str, list[str]] = {}
        for ref, origin in sorted(self._origins.all().items()):
            if ref not in present and Path(origin.path) in reading.empty and await self._kube.get(ref) is not None:
                kept.setdefault(origin.path, []).append(str(ref))
        return {
            f"{path}: the file is empty; its objects are kept until you remove it: {', '.join(refs)}"
            for path, refs in kept.items()
        }

    def _is_below_root(self, origin: ManifestOrigin) -> bool:
        path, root = Path(origin.path).absolute(), self._root.absolute()
        return path.is_relative_to(root) if self._is_folder else path == root

    def _show_objects_of_other_paths(self, present: set[Ref]) -> None:
        for ref, origin in sorted(self._origins.all().items()):
            if ref not in present and not self._is_below_root(origin):
                self._view.notice(
                    f"{ref} is kept although it came from {origin.path}, not from {self._root}. Use `sundog delete` to delete it"
                )

    def _show_empty_files(self, lines: set[str]) -> None:
        for line in sorted(lines - self._shown_empty_files):
            self._view.problem(line)
        self._shown_empty_files = lines

    async def _delete(self, refs: set[Ref]) -> None:
        for ref in sorted(refs):
            origin = self._origins.all()[ref]
            self._digests.pop(ref, None)
            self._applied.discard(ref)
            self._origins.forget(ref)
            # Another uid: a user deleted the object and created a new one, which must stay.
            with contextlib.suppress(Conflict):
                await self._kube.delete(ref, uid=origin.uid)
                self._view.notice(f"{ref} deleted: it came from {origin.path}, and no manifest describes it any more")


def _track(keys: Collection[_Key], before: Mapping[_Key, float], now: float) -> dict[_Key, float]:
    """Return since when each key has been there, by the monotonic clock in seconds."""
    return {key: before.get(key, now) for key in keys}


def _stable_keys(since: Mapping[_Key, float], now: float) -> set[_Key]:
    """Return keys that have been there longer than a file takes to be written."""
    return {key for key, begun in since.items() if now - begun >= _GRACE_S}
