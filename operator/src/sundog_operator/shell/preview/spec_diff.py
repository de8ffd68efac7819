"""What differs between two specs, in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.core.rollout import webhook_urls

_SHOWN: Final = 6


@dataclass(frozen=True, slots=True)
class SpecChange:
    """One value that differs. `path` is below `spec`."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        # What is planned is often logged, and secrets are in the addresses of webhooks.
        before, after = (
            _spoken(each) if self.path.startswith("rollout") else each for each in (self.before, self.after)
        )
        return f"spec.{self.path}: {_shown(before)} → {_shown(after)}"


def find_changes(before: Any, after: Any) -> list[SpecChange]:
    """Which single values differ, in the order of what is there afterwards."""
    old, new = dict(_flat(before)), dict(_flat(after))
    paths = [*new, *(path for path in old if path not in new)]
    return [SpecChange(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def format_causes(changes: Sequence[str]) -> str:
    """Some of them in parentheses; empty where there is none."""
    if not changes:
        return ""
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return f" ({'; '.join(changes[:_SHOWN])}{more})"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif value not in ({}, []):
        yield path, value


def _spoken(value: Any) -> Any:
    """The same with the scheme and host alone of each address."""
    if isinstance(value, Mapping):
        return {key: _spoken(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spoken(item) for item in value]
    is_address = isinstance(value, str) and value.lower().startswith(("http://", "https://"))
    return webhook_urls.url_origin(value) if is_address else value


def _shown(value: Any) -> str:
    text = "none" if value in (None, "", {}, []) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
