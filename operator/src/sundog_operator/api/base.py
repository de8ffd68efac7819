"""The base of all typed parts of a resource."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from sundog_operator.api.schema.rules import Rule


class ApiBase(BaseModel):
    """A frozen object: snake_case in Python, camelCase in JSON, unknown fields dropped as the API server drops them."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        extra="ignore",
        strict=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with camelCase names; absent values are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Self:
        """Read JSON names only. Raises pydantic.ValidationError; checks shapes, no rules."""
        return cls.model_validate(obj, by_alias=True, by_name=False)
