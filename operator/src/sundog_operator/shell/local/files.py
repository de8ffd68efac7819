"""Manifests on disk as the truth of an instance: an edit is an apply, what is taken out is deleted."""

import contextlib
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
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
from sundog_operator.shell.local.views import InstanceView
from sundog_operator.shell.manifests import ManifestObject, ManifestReading
from sundog_operator.shell.server_connection import FIELD_MANAGER

_RESCAN_MS: Final = 2000
_GRACE_S: Final = 5.0
_Key = TypeVar("_Key")


class ManifestFiles:
    """Applies the manifests at a path, and follows them.

    A document is applied at the start and whenever it changed, so what `sundog apply` did meanwhile stays until then.
    An error is shown once, and what serves is kept. An object is deleted only if it came from a file at this very path
    that was removed, or that can be read and describes others: who starts with another path by mistake loses nothing, and
    neither does who empties a file. A deletion is announced, and happens when the file has not changed for 5 s, for an
    editor may write it in pieces.
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
        keep: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """Args:
        root: a file, or a folder of files.
        kube: what the manifests are applied to.
        origins: which object came from which file.
        clock: tells how long a file has been stable.
        view: where it is shown what happens.
        namespace: of objects that name none.
        keep: called with all problems of the manifests whenever they change, for others to read.
        """
        self._root = root
        self._is_folder = root.is_dir()
        self._kube = kube
        self._origins = origins
        self._clock = clock
        self._view = view
        self._namespace = namespace
        self._digests: dict[Ref, str] = {}
        self._applied: set[Ref] = set()
        self._told: set[str] = set()
        self._told_empty: set[str] = set()
        self._refused: dict[Ref, str] = {}
        self._keep = keep
        self._standing: list[str] | None = None
        self._gone_since: dict[tuple[Ref, int], float] = {}
        self._empty_since: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        await self.begin()
        folder = self._root if self._is_folder else self._root.parent
        # Some editors replace a file and some file systems tell nothing: the folder is watched, and looked through besides.
        async for _ in awatch(
            folder,
            watch_filter=self._concerns_us,
            recursive=self._is_folder,
            rust_timeout=_RESCAN_MS,
            yield_on_timeout=True,
            debounce=200,
        ):
            await self.sync()

    async def begin(self) -> None:
        """Apply everything, delete what was taken out meanwhile, and tell what came from elsewhere."""
        reading = await self._apply_all()
        self._tell_of_others({document.ref for document in reading.documents})
        await self._let_go(reading)

    async def sync(self) -> None:
        """Apply what changed, and delete what has been taken out for long enough."""
        await self._let_go(await self._apply_all())

    async def _let_go(self, reading: ManifestReading) -> None:
        """Announce what is taken out, and delete what still is when its file has been stable."""
        now = self._clock.monotonic()
        before = {ref for ref, _ in self._gone_since}
        self._gone_since = _since({(ref, self._stamp(ref)) for ref in self._gone(reading)}, self._gone_since, now)
        self._empty_since = _since(await self._kept(reading), self._empty_since, now)
        for ref in sorted({ref for ref, _ in self._gone_since} - before):
            self._view.notice(
                f"{ref}: no manifest describes it any more; it is deleted in {_GRACE_S:g} s unless one does again"
            )
        await self._delete({ref for ref, _ in _lasting(self._gone_since, now)})
        self._tell_of_empty(_lasting(self._empty_since, now))
        self._show_standing(reading)

    def _show_standing(self, reading: ManifestReading) -> None:
        """Show what is wrong now, and keep it."""
        present = {document.ref for document in reading.documents}
        self._refused = {ref: told for ref, told in self._refused.items() if ref in present}
        mistakes = [str(problem) for problem in reading.problems if not problem.skipped]
        standing = sorted({*mistakes, *self._refused.values(), *self._told_empty})
        if standing != self._standing:
            self._standing = standing
            self._keep(standing)
            self._view.standing(standing)

    def _stamp(self, ref: Ref) -> int:
        """When the file that described an object was changed last, in nanoseconds; 0 where it is gone."""
        try:
            return Path(self._origins.all()[ref].path).stat().st_mtime_ns
        except OSError:
            return 0

    def _concerns_us(self, _change: Change, path: str) -> bool:
        return manifests.is_manifest(Path(path).name) if self._is_folder else Path(path) == self._root

    async def _apply_all(self) -> ManifestReading:
        reading = manifests.read_manifests(self._root, self._namespace)
        lines = {f"skipped: {problem}" if problem.skipped else str(problem) for problem in reading.problems}
        for line in sorted(lines - self._told):
            self._view.problem(line)
        self._told = lines
        for document in reading.documents:
            digest = hashlib.sha256(orjson.dumps(document.object, option=orjson.OPT_SORT_KEYS)).hexdigest()
            if self._digests.get(document.ref) != digest:
                self._digests[document.ref] = digest
                await self._apply(document)
            elif document.ref in self._applied:
                await self._look_after(document)
        return reading

    async def _look_after(self, document: ManifestObject) -> None:
        """Of an object that is described as it was: that it was deleted meanwhile, or where it is described now."""
        stored = await self._kube.get(document.ref)
        if stored is not None:
            self._remember(document, stored)
            return
        self._applied.discard(document.ref)
        self._view.notice(
            f"{document.ref} was deleted; {document.source} still describes it, so an edit or the next start makes it again"
        )

    def _remember(self, document: ManifestObject, stored: Object) -> None:
        path = "" if document.path is None else str(document.path.absolute())
        self._origins.remember(document.ref, ManifestOrigin(path, stored["metadata"]["uid"]))

    async def _apply(self, document: ManifestObject) -> None:
        ref = document.ref
        try:
            before = await self._kube.get(ref)
            stored = await self._kube.apply(document.object, manager=FIELD_MANAGER, strict=True)
        except SundogError as err:
            told = f"{ref}: {'; '.join(err.causes)}" if isinstance(err, Invalid) else one_line(err)
            self._refused[ref] = f"{document.source}: {told}"
            self._view.problem(self._refused[ref])
            return
        self._refused.pop(ref, None)
        self._remember(document, stored)
        self._applied.add(ref)
        if not manifests.is_unchanged(before, stored):
            self._view.notice(f"{ref} {'changed' if before else 'created'} from {document.source}")

    def _gone(self, reading: ManifestReading) -> set[Ref]:
        """Objects that came from a file and are in no manifest any more. What cannot be read, or is empty, takes nothing with it."""
        present = {document.ref for document in reading.documents}
        if self._is_folder and not self._root.is_dir():
            return set()
        return {
            ref
            for ref, origin in self._origins.all().items()
            if ref not in present
            and self._is_here(origin)
            and Path(origin.path) not in reading.empty
            and not reading.can_contain(Path(origin.path), ref.name)
        }

    async def _kept(self, reading: ManifestReading) -> set[str]:
        """Of each file that describes nothing any more, what is told of the objects that it described."""
        present = {document.ref for document in reading.documents}
        kept: dict[str, list[str]] = {}
        for ref, origin in sorted(self._origins.all().items()):
            if ref not in present and Path(origin.path) in reading.empty and await self._kube.get(ref) is not None:
                kept.setdefault(origin.path, []).append(str(ref))
        return {
            f"{path}: describes nothing; kept until the file is removed: {', '.join(refs)}"
            for path, refs in kept.items()
        }

    def _is_here(self, origin: ManifestOrigin) -> bool:
        path, root = Path(origin.path).absolute(), self._root.absolute()
        return path.is_relative_to(root) if self._is_folder else path == root

    def _tell_of_others(self, present: set[Ref]) -> None:
        for ref, origin in sorted(self._origins.all().items()):
            if ref not in present and not self._is_here(origin):
                self._view.notice(
                    f"{ref} stays, though it came from {origin.path} and not from {self._root}; sundog delete takes it away"
                )

    def _tell_of_empty(self, kept: set[str]) -> None:
        for line in sorted(kept - self._told_empty):
            self._view.problem(line)
        self._told_empty = kept

    async def _delete(self, refs: set[Ref]) -> None:
        for ref in sorted(refs):
            origin = self._origins.all()[ref]
            self._digests.pop(ref, None)
            self._applied.discard(ref)
            self._origins.forget(ref)
            # Where somebody deleted it and made another one, that is not ours to delete.
            with contextlib.suppress(Conflict):
                await self._kube.delete(ref, uid=origin.uid)
                self._view.notice(f"{ref} deleted: no manifest describes it any more, it came from {origin.path}")


def _since(keys: Collection[_Key], before: Mapping[_Key, float], now: float) -> dict[_Key, float]:
    """Since when each holds, by the monotonic clock in seconds."""
    return {key: before.get(key, now) for key in keys}


def _lasting(since: Mapping[_Key, float], now: float) -> set[_Key]:
    """Those that have held for as long as a file may take to be written."""
    return {key for key, begun in since.items() if now - begun >= _GRACE_S}
