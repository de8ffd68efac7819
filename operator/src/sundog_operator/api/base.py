"""Base class of all typed parts of a resource."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from sundog_operator.api.schema.rules import Rule


class ApiBase(BaseModel):
    """A frozen object: snake_case in Python, camelCase in JSON. Unknown fields are dropped, as the API server does."""

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
        """Return plain JSON with camelCase names, without absent values."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Self:
        """Parse an object with JSON names only. Checks shapes, not rules. Raises pydantic.ValidationError."""
        return cls.model_validate(obj, by_alias=True, by_name=False)
