"""Salts that specs set for the assignment of units to arms, and the specs of a namespace that share one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

SaltOwnerKind = Literal["Experiment", "ModelDeployment"]

_UNITS: Final[Mapping[SaltOwnerKind, tuple[str, ...]]] = {
    "Experiment": ("spec", "unit"),
    "ModelDeployment": ("spec", "rollout", "unit"),
}
_SOURCES: Final = ("header", "cookie", "jsonPath", "jwtClaim")


@dataclass(frozen=True, slots=True, order=True)
class SaltOwner:
    """A user's Experiment, or a ModelDeployment with its rollouts, whose spec sets a salt."""

    kind: SaltOwnerKind
    name: str
    salt: str


def find_salt_owner(kind: SaltOwnerKind, obj: Mapping[str, Any]) -> SaltOwner | None:
    """Return the salt that an object's spec sets.

    Return None without a salt, and where each request is a unit: those are assigned at random. The rest of the spec may be invalid.
    """
    unit: Any = obj
    for part in _UNITS[kind]:
        unit = unit.get(part) if isinstance(unit, Mapping) else None
    salt = unit.get("salt") if isinstance(unit, Mapping) else None
    if not isinstance(salt, str) or not salt or not any(unit.get(source) for source in _SOURCES):
        return None
    return SaltOwner(kind, str(obj["metadata"]["name"]), salt)


def make_reuse_message(kind: SaltOwnerKind, name: str, known: Collection[SaltOwner]) -> str:
    """Return a warning that names the first other owner of an object's salt; empty where there is none.

    Assignments by the same salt depend on each other: units that shared an arm there share one here again.

    Args:
        kind: kind of the object.
        name: name of the object.
        known: all owners of the namespace, the object among them.
    """
    own = {each.salt for each in known if (each.kind, each.name) == (kind, name)}
    others = [each for each in known if each.salt in own and (each.kind, each.name) != (kind, name)]
    if not others:
        return ""
    field, first = ".".join((*_UNITS[kind], "salt")), min(others)
    return f"{field}: {first.kind} {first.name} has the same salt, so both assign units alike; choose another for independent arms"
