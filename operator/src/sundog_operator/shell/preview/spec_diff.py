"""Describe the differences between two specs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.core.trial.rollout import webhook_urls

_SHOWN: Final = 6


@dataclass(frozen=True, slots=True)
class SpecChange:
    """One changed value. `path` is below `spec`."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        # Output of `plan` is often logged, and addresses of webhooks contain secrets.
        before, after = (
            _redact_urls(each) if self.path.startswith("rollout") else each for each in (self.before, self.after)
        )
        return f"spec.{self.path}: {_format_value(before)} → {_format_value(after)}"


def find_changes(before: Any, after: Any) -> list[SpecChange]:
    """Return the changed values in the order of `after`, then the removed ones."""
    old, new = dict(_flatten(before)), dict(_flatten(after))
    paths = [*new, *(path for path in old if path not in new)]
    return [SpecChange(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def format_causes(changes: Sequence[str]) -> str:
    """Format the first changes in parentheses; empty without changes."""
    if not changes:
        return ""
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return f" ({'; '.join(changes[:_SHOWN])}{more})"


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{path}.{key}" if path else str(key))
    elif value not in ({}, []):
        yield path, value


def _redact_urls(value: Any) -> Any:
    """Return the value with each address reduced to its scheme and host."""
    if isinstance(value, Mapping):
        return {key: _redact_urls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_urls(item) for item in value]
    is_address = isinstance(value, str) and value.lower().startswith(("http://", "https://"))
    return webhook_urls.url_origin(value) if is_address else value


def _format_value(value: Any) -> str:
    text = "none" if value in (None, "", {}, []) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
