"""Which objects a request is about: label and field selectors by equality."""

from collections.abc import Mapping
from dataclasses import dataclass

from sundog_operator.adapters.memory_kubernetes.history import Change
from sundog_operator.ports import Kind, Object, Ref

_FIELDS = frozenset({"metadata.name", "metadata.namespace"})


class BadSelector(ValueError):
    """The selector is malformed or not by equality."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A kind, perhaps one namespace, and what labels and fields must equal."""

    kind: Kind
    namespace: str | None
    labels: Mapping[str, str]
    fields: Mapping[str, str]

    def has(self, obj: Object) -> bool:
        """Whether an object of the kind is selected by its fields."""
        metadata = obj["metadata"]
        return self._named(metadata.get("namespace", ""), metadata["name"])

    def event_type(self, change: Change) -> str | None:
        """What a change is to those who see only the selection; None when they see nothing of it."""
        if not self._places(change.ref):
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

    def _labelled(self, labels: Mapping[str, str]) -> bool:
        return self.labels.items() <= labels.items()


def selection(kind: Kind, namespace: str | None, labels: str, fields: str) -> Selection:
    """Reads the two query parameters. Raises BadSelector."""
    chosen = _equalities(fields)
    if unknown := chosen.keys() - _FIELDS:
        raise BadSelector(f"field selector: {sorted(unknown)} are not among {sorted(_FIELDS)}")
    return Selection(kind, namespace, _equalities(labels), chosen)


def _equalities(selector: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for term in filter(None, selector.split(",")):
        key, operator, value = term.partition("==") if "==" in term else term.partition("=")
        if not operator or key.endswith("!") or "=" in value:
            raise BadSelector(f"selector {selector!r}: only key=value is understood, found {term!r}")
        pairs[key.strip()] = value.strip()
    return pairs
