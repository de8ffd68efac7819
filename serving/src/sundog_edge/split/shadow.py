"""Shadow traffic in the split document: the arm that gets copies, their share, and how answers are compared."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sundog_edge.split.fields import DocumentPart, JsonPath, Name

MAX_PARTS = 8


class _ComparedPart(DocumentPart):
    atol: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)] = 0.0
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)] = 0.0
    path: JsonPath | Literal[""] = ""


class PartComparator(_ComparedPart):
    """When a part of two answers to the same request agrees.

    `exact` compares JSON values. `tolerance` allows `atol + rtol·|stable's number|` for each number. `argmax` wants the largest
    number of each row in the same place, and a row's only number to be equal. `path` selects the part; empty selects the whole answer.
    """

    kind: Literal["exact", "tolerance", "argmax"] = "exact"


class Comparator(_ComparedPart):
    """When two answers to the same request agree: as a part does, or with `custom` where each of `parts` agrees."""

    kind: Literal["exact", "tolerance", "argmax", "custom"] = "exact"
    parts: Annotated[tuple[PartComparator, ...], Field(max_length=MAX_PARTS, strict=False)] = ()

    @model_validator(mode="after")
    def _parts_are_custom(self) -> Self:
        if (self.kind == "custom") != bool(self.parts):
            raise ValueError("expected parts with kind custom, and none with another kind")
        return self


class Shadow(DocumentPart):
    """The arm that gets copies of `percent` % of the other arms' requests. Its answers are compared; no client gets them."""

    arm: Name
    percent: Annotated[int, Field(ge=1, le=100)]
    comparator: Comparator = Comparator()
