"""Revisions: their content and hash, and their ControllerRevisions."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.memo import Memoized
from sundog_operator.core.kubernetes import names

CONTENT_FORMAT = "v1"
HISTORY_LIMIT = 10

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable version of a model and of how it runs.

    Attributes:
        image: image of its pods; not hashed if the spec leaves it to the installation.
        files: digest of the model's files when the revision was created; not hashed, and empty if no one reported it.
    """

    number: int
    hash: str
    content: Mapping[str, Any]
    image: str = ""
    files: str = ""


def content_of(spec: ModelDeploymentSpec, user_config: Json | None = None) -> Json:
    """Return the part of a spec that makes a revision, without values equal to their defaults.

    Without defaults the hash stays the same when a release adds a field. `runtime.userConfig` is applied in place and
    therefore left out. `user_config` is an arm's own one, which is part of the arm's revision.
    """
    dumped = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    content = {part: dumped.get(part, {}) for part in ("model", "runtime", "resources", "scheduling")}
    content["runtime"] = {key: value for key, value in content["runtime"].items() if key != "userConfig"}
    found = {part: kept for part, value in content.items() if (kept := _without_empty(value))}
    if user_config is not None:
        found["runtime"] = {**found.get("runtime", {}), "userConfig": user_config}
    return found


def own_user_config(revision: Revision) -> Json | None:
    """Return the fixed `userConfig` of a revision; None if it follows the ModelDeployment's spec."""
    found = revision.content.get("runtime", {}).get("userConfig")
    return None if found is None else dict(found)


def _without_empty(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: kept for key, item in value.items() if (kept := _without_empty(item)) != {}}


def content_hash(content: Mapping[str, Any], repetition: int = 0) -> str:
    """Return 16 hex digits of SHA-256 over the canonical JSON of (format version, content).

    `repetition` counts earlier arms of the same content, each of which has a revision of its own.
    """
    hashed = [CONTENT_FORMAT, content, repetition] if repetition else [CONTENT_FORMAT, content]
    return hash_json(hashed)


def hash_json(value: Any) -> str:
    """Return 16 hex digits of SHA-256 over the canonical JSON of a value. Stored objects have such hashes, so the form stays."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def spec_of(revision: Revision) -> ModelDeploymentSpec:
    """Return the spec of a revision's content, with every other field at its default."""
    return _SPECS(revision.content)


_SPECS: Final[Memoized[ModelDeploymentSpec]] = Memoized(ModelDeploymentSpec.model_validate)


def find_by_hash(revisions: Iterable[Revision], digest: str) -> Revision | None:
    """Return the newest revision with that hash."""
    return max((r for r in revisions if r.hash == digest), key=lambda r: r.number, default=None)


def find_by_number(revisions: Iterable[Revision], number: int | None) -> Revision | None:
    """Return the revision with that number."""
    return next((r for r in revisions if r.number == number), None)


def next_number(taken: Iterable[int]) -> int:
    """Return the highest number taken plus one; numbers start at 1."""
    return max(taken, default=0) + 1


def find_surplus(revisions: Iterable[Revision], live: set[int], served: Collection[int] = ()) -> list[Revision]:
    """Return the revisions beyond the history limit, which does not count live ones.

    Revisions that never served come first, because an experiment makes one per arm. The oldest come first in each group.
    """
    idle = sorted((r for r in revisions if r.number not in live), key=lambda r: (r.number in served, r.number))
    return idle[: max(0, len(idle) - HISTORY_LIMIT)]


def image_of(content: Mapping[str, Any], default: str) -> str:
    """Return the image of a revision's pods: the spec's image, or `default`."""
    return str(content.get("runtime", {}).get("image") or default)


def make_controller_revision(owner: Json, revision: Revision) -> Json:
    """Return the ControllerRevision that stores a revision.

    The image is stored beside the content and not hashed, so an upgrade of the chart makes no new revision.
    """
    meta = owner["metadata"]
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": names.application(meta["name"], revision.number),
            "namespace": meta["namespace"],
            "labels": {
                **names.labels("sundog-revision"),
                names.LABEL_MODEL_DEPLOYMENT: meta["name"],
                names.LABEL_REVISION: str(revision.number),
            },
            "ownerReferences": [owner_reference(owner, controller=True)],
        },
        "revision": revision.number,
        "data": {
            "format": CONTENT_FORMAT,
            "hash": revision.hash,
            "content": dict(revision.content),
            "image": revision.image,
            **({"files": revision.files} if revision.files else {}),
        },
    }


def parse_controller_revision(obj: Json) -> Revision | None:
    """Return the revision in a ControllerRevision; None if this release cannot read it."""
    data = obj.get("data") or {}
    if data.get("format") != CONTENT_FORMAT or not isinstance(data.get("content"), dict):
        return None
    revision = Revision(
        number=int(obj["revision"]),
        hash=str(data.get("hash", "")),
        content=data["content"],
        image=str(data.get("image", "")),
        files=str(data.get("files", "")),
    )
    try:
        spec_of(revision)
    except ValidationError:
        return None
    return revision


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """A stored ControllerRevision: `revision` is None if this release cannot read it, `owners` are uids."""

    name: str
    owners: tuple[str, ...]
    revision: Revision | None


def parse_stored_revision(obj: Json) -> StoredRevision:
    """Parse a stored ControllerRevision."""
    return StoredRevision(obj["metadata"]["name"], owner_uids(obj), parse_controller_revision(obj))


def revisions_of_owner(stored: Iterable[StoredRevision], uid: str) -> list[Revision]:
    """Return the revisions of one owner from all stored ControllerRevisions."""
    return [each.revision for each in stored if uid in each.owners and each.revision is not None]


def group_by_owner(stored: Iterable[StoredRevision]) -> dict[str, list[Revision]]:
    """Return the revisions of all owners by uid, for callers that look up many owners."""
    found: dict[str, list[Revision]] = {}
    for each in stored:
        if each.revision is not None:
            for uid in each.owners:
                found.setdefault(uid, []).append(each.revision)
    return found


def owner_uids(obj: Json) -> tuple[str, ...]:
    """Return the uids of an object's owners."""
    return tuple(str(ref.get("uid")) for ref in obj["metadata"].get("ownerReferences") or ())


def owner_reference(owner: Json, *, controller: bool) -> Json:
    """Return an owner reference to a stored object. Only the controller's reference blocks the owner's deletion."""
    meta = owner["metadata"]
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {**reference, "controller": True, "blockOwnerDeletion": True} if controller else reference


def is_owned_by(obj: Json, uid: str) -> bool:
    """Whether an owner reference of the object names that uid."""
    return any(ref.get("uid") == uid for ref in obj["metadata"].get("ownerReferences") or ())
