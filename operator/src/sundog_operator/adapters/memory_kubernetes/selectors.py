"""Which objects a request is about: label and field selectors by equality, and the types that a Secret must not have."""

from collections.abc import Mapping
from dataclasses import dataclass

from sundog_operator.adapters.memory_kubernetes.history import ObjectChange
from sundog_operator.ports import SECRET, Kind, Object, Ref

_FIELDS = frozenset({"metadata.name", "metadata.namespace"})
_TYPE = "type"


class BadSelector(ValueError):
    """The selector is malformed or not by equality."""


@dataclass(frozen=True, slots=True)
class ObjectSelection:
    """A kind, perhaps one namespace, and what labels and fields must equal."""

    kind: Kind
    namespace: str | None
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    excluded_types: frozenset[str] = frozenset()

    def has(self, obj: Object) -> bool:
        """Whether an object of the kind is selected by its fields."""
        metadata = obj["metadata"]
        return self._typed(obj) and self._named(metadata.get("namespace", ""), metadata["name"])

    def event_type(self, change: ObjectChange) -> str | None:
        """What a change is to those who see only the selection; None when they see nothing of it."""
        if not self._places(change.ref) or (self.excluded_types and not self._typed(change.load())):
            return None
        before = change.previous_labels is not None and self._labelled(change.previous_labels)
        after = change.type != "DELETED" and self._labelled(change.labels)
        if after:
            return "MODIFIED" if before else "ADDED"
        return "DELETED" if before else None

    def _places(self, ref: Ref) -> bool:
        return (
            ref.kind == self.kind and self.namespace in {None, ref.namespace} and self._named(ref.namespace, ref.name)
        )

    def _named(self, namespace: str, name: str) -> bool:
        found = {"metadata.namespace": namespace, "metadata.name": name}
        return self.fields.items() <= found.items()

    def _typed(self, obj: Object) -> bool:
        return not self.excluded_types or obj.get(_TYPE) not in self.excluded_types

    def _labelled(self, labels: Mapping[str, str]) -> bool:
        return self.labels.items() <= labels.items()


def parse_selection(kind: Kind, namespace: str | None, labels: str, fields: str) -> ObjectSelection:
    """Reads the two query parameters. Raises BadSelector."""
    left_out, rest = _types_left_out(kind, fields)
    chosen = _equalities(rest)
    if unknown := chosen.keys() - _FIELDS:
        raise BadSelector(f"field selector: {sorted(unknown)} are not among {sorted(_FIELDS)}")
    return ObjectSelection(kind, namespace, _equalities(labels), chosen, left_out)


def _types_left_out(kind: Kind, selector: str) -> tuple[frozenset[str], str]:
    """The values of the terms `type!=value` of Secrets, and the other terms."""
    terms = [term.partition("!=") for term in selector.split(",")]
    found = frozenset(value for field, unlike, value in terms if kind == SECRET and unlike and field == _TYPE)
    return found, ",".join("".join(term) for term in terms if term[0] != _TYPE or term[2] not in found)


def _equalities(selector: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for term in filter(None, selector.split(",")):
        key, operator, value = term.partition("==") if "==" in term else term.partition("=")
        if not operator or key.endswith("!") or "=" in value:
            raise BadSelector(f"selector {selector!r}: only key=value is understood, found {term!r}")
        pairs[key.strip()] = value.strip()
    return pairs
