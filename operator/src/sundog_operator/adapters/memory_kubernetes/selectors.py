"""Selects objects by equality of labels and fields, and Secrets by types that they must not have."""

from collections.abc import Mapping
from dataclasses import dataclass

from sundog_operator.adapters.memory_kubernetes.history import ObjectChange
from sundog_operator.ports import SECRET, Kind, Object, Ref

_FIELDS = frozenset({"metadata.name", "metadata.namespace"})
_TYPE = "type"


class BadSelector(ValueError):
    """The selector is malformed, or does not test equality."""


@dataclass(frozen=True, slots=True)
class ObjectSelection:
    """A selection of objects of one kind.

    Attributes:
        namespace: None for all.
        labels: the labels that the objects must have.
        fields: the values of `metadata.name` and `metadata.namespace`.
        excluded_types: types that a Secret must not have.
    """

    kind: Kind
    namespace: str | None
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    excluded_types: frozenset[str] = frozenset()

    def has(self, obj: Object) -> bool:
        """Return whether the fields and the type of an object of the kind match. Labels are not compared."""
        metadata = obj["metadata"]
        return self._has_type(obj) and self._has_name(metadata.get("namespace", ""), metadata["name"])

    def event_type(self, change: ObjectChange) -> str | None:
        """Return the type of a change for a watcher of the selection; None when it does not concern the selection."""
        if not self._has_ref(change.ref) or (self.excluded_types and not self._has_type(change.load())):
            return None
        before = change.previous_labels is not None and self._has_labels(change.previous_labels)
        after = change.type != "DELETED" and self._has_labels(change.labels)
        if after:
            return "MODIFIED" if before else "ADDED"
        return "DELETED" if before else None

    def _has_ref(self, ref: Ref) -> bool:
        return (
            ref.kind == self.kind
            and self.namespace in {None, ref.namespace}
            and self._has_name(ref.namespace, ref.name)
        )

    def _has_name(self, namespace: str, name: str) -> bool:
        found = {"metadata.namespace": namespace, "metadata.name": name}
        return self.fields.items() <= found.items()

    def _has_type(self, obj: Object) -> bool:
        return not self.excluded_types or obj.get(_TYPE) not in self.excluded_types

    def _has_labels(self, labels: Mapping[str, str]) -> bool:
        return self.labels.items() <= labels.items()


def parse_selection(kind: Kind, namespace: str | None, labels: str, fields: str) -> ObjectSelection:
    """Parse the parameters labelSelector and fieldSelector. Raises BadSelector."""
    excluded, rest = _split_excluded_types(kind, fields)
    equal = _parse_equalities(rest)
    if unknown := equal.keys() - _FIELDS:
        raise BadSelector(f"fieldSelector: {', '.join(sorted(unknown))}; expected {' or '.join(sorted(_FIELDS))}")
    return ObjectSelection(kind, namespace, _parse_equalities(labels), equal, excluded)


def _split_excluded_types(kind: Kind, selector: str) -> tuple[frozenset[str], str]:
    """Return the values of the terms `type!=value` of Secrets, and the other terms."""
    terms = [term.partition("!=") for term in selector.split(",")]
    found = frozenset(value for field, unlike, value in terms if kind == SECRET and unlike and field == _TYPE)
    return found, ",".join("".join(term) for term in terms if term[0] != _TYPE or term[2] not in found)


def _parse_equalities(selector: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for term in filter(None, selector.split(",")):
        key, operator, value = term.partition("==") if "==" in term else term.partition("=")
        if not operator or key.endswith("!") or "=" in value:
            raise BadSelector(f"selector {selector!r}: term {term!r}; expected key=value")
        pairs[key.strip()] = value.strip()
    return pairs
