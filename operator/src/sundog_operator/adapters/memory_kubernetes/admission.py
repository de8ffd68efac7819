"""Decides which objects are stored: schemas, the API server's own rules, and a validator for the content."""

from collections.abc import Callable, Mapping, Sequence

import orjson

from sundog_operator.adapters.memory_kubernetes import field_ownership, schemas, validation
from sundog_operator.errors import Invalid
from sundog_operator.ports import Object, Ref

Admit = Callable[[Object, Object | None], Sequence[str]]
"""Checks an object before it is stored, given the stored one. Returns one line per violation."""


class Admission:
    """The admission of one server. Methods raise Invalid."""

    def __init__(self, schemas: Mapping[str, schemas.Schema], admit: Admit | None) -> None:
        self._schemas = schemas
        self._admit = admit

    def prune(self, ref: Ref, obj: Object, *, strict: bool) -> None:
        """Remove, in place, the fields that the schema lacks; with `strict` they are invalid."""
        schema = self._schemas.get(ref.kind.kind)
        unknown = schemas.prune(obj, schema) if schema else []
        if strict and unknown:
            raise Invalid(str(ref), unknown)

    def apply_defaults(self, ref: Ref, obj: Object) -> None:
        """Fill in, in place, the defaults of the schema."""
        if schema := self._schemas.get(ref.kind.kind):
            schemas.apply_defaults(obj, schema)

    def check(self, ref: Ref, after: Object, before: Object | None) -> None:
        """Check an object by the rules of the server and by the validator."""
        found = validation.find_violations(after, before)
        # Like ratcheting: content that is stored stays valid, so that its metadata and status can change.
        if self._admit and (
            before is None or field_ownership.authored_content(after) != field_ownership.authored_content(before)
        ):
            found += self._admit(orjson.loads(orjson.dumps(after)), before)
        if found:
            raise Invalid(str(ref), found)

    def check_status(self, ref: Ref, after: Object, before: Object) -> None:
        """Check a status by the schema of its kind, as the API server does. A stored status stays valid."""
        schema = self._schemas.get(ref.kind.kind, {}).get("properties", {}).get("status")
        if schema is None or "status" not in after or after["status"] == before.get("status"):
            return
        if found := list(schemas.find_violations(after["status"], schema, "status")):
            raise Invalid(str(ref), found)
