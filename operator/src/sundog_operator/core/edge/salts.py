"""Who of a namespace fixes the salt by which units fall to arms, and who has the same one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

SALT_REUSED: Final = "SaltReused"

SaltOwnerKind = Literal["Experiment", "ModelDeployment"]

_UNITS: Final[Mapping[SaltOwnerKind, tuple[str, ...]]] = {
    "Experiment": ("spec", "unit"),
    "ModelDeployment": ("spec", "rollout", "unit"),
}
_SOURCES: Final = ("header", "cookie", "jsonPath", "jwtClaim")


@dataclass(frozen=True, slots=True, order=True)
class SaltOwner:
    """An Experiment of a user's own, or a ModelDeployment for its rollouts, that fixes a salt."""

    kind: SaltOwnerKind
    name: str
    salt: str


def find_salt_owner(kind: SaltOwnerKind, obj: Mapping[str, Any]) -> SaltOwner | None:
    """What an object fixes, whatever else its spec says; None without a salt, and where each request is a unit, which chance assigns."""
    unit: Any = obj
    for part in _UNITS[kind]:
        unit = unit.get(part) if isinstance(unit, Mapping) else None
    salt = unit.get("salt") if isinstance(unit, Mapping) else None
    if not isinstance(salt, str) or not salt or not any(unit.get(source) for source in _SOURCES):
        return None
    return SaltOwner(kind, str(obj["metadata"]["name"]), salt)


def make_reuse_message(kind: SaltOwnerKind, name: str, known: Collection[SaltOwner]) -> str:
    """What is said of one of those that are known whose salt others have, of which the first is named; empty where there is none.

    Who is with an arm there is then with one here again: of assignments by the same salt none is independent of the other.
    """
    own = {each.salt for each in known if (each.kind, each.name) == (kind, name)}
    same = [each for each in known if each.salt in own and (each.kind, each.name) != (kind, name)]
    if not same:
        return ""
    field, first = ".".join((*_UNITS[kind], "salt")), min(same)
    return f"{field} is that of {first.kind} {first.name}: who was with one of its arms is with one here again"
