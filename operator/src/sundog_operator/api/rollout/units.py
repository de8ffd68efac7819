"""The unit of assignment: a request, or an entity such as a user that stays with its arm."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.common import JSON_PATH, JSON_PATH_NOUN
from sundog_operator.api.schema.rules import ExpectedNoun, Rule


class PerRequestUnit(ApiBase):
    """Each request is assigned separately."""


class Unit(ApiBase):
    """Source of the value whose requests stay with one arm: at most one; default each request."""

    header: (
        Annotated[
            str,
            Field(max_length=63, pattern=r"^[A-Za-z0-9][-A-Za-z0-9_]*$"),
            ExpectedNoun("a header name such as x-user-id"),
        ]
        | None
    ) = Field(None, description="The request header that names the unit, such as x-user-id.")
    cookie: (
        Annotated[
            str,
            Field(max_length=63, pattern=r"^[A-Za-z0-9_-]+$"),
            ExpectedNoun("a cookie name of letters, digits, dashes and underscores"),
        ]
        | None
    ) = Field(None, description="The cookie that names the unit. The edge sets one if it is missing.")
    json_path: (
        Annotated[
            str,
            Field(max_length=200, pattern=JSON_PATH),
            ExpectedNoun(JSON_PATH_NOUN),
        ]
        | None
    ) = Field(None, description="JSON path of the unit in the request's body, such as $.user.id.")
    jwt_claim: (
        Annotated[
            str, Field(max_length=63, pattern=r"^[A-Za-z0-9_:-]+$"), ExpectedNoun("the name of a claim such as sub")
        ]
        | None
    ) = Field(
        None,
        description="The claim that names the unit, in a token that the edge verifies by endpoint.auth.jwt, which must be set.",
    )
    request: PerRequestUnit | None = Field(None, description="Each request is a unit; the default.")
    salt: Annotated[
        str,
        Field(max_length=63, pattern=r"^[A-Za-z0-9._-]*$"),
        ExpectedNoun("letters, digits, dots, dashes and underscores"),
    ] = Field(
        "",
        description="Keeps the assignment over several attempts; default a new one for each. If another Experiment or"
        " ModelDeployment of the namespace uses the same salt, SpecAccepted has the reason SaltReused.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "[has(self.header), has(self.cookie), has(self.jsonPath), has(self.jwtClaim), has(self.request)]"
                ".filter(x, x).size() <= 1"
            ),
            message="expected at most one of header, cookie, jsonPath, jwtClaim and request",
        ),
    )

    @property
    def kind(self) -> Literal["header", "cookie", "jsonPath", "jwtClaim", "request"]:
        """The source of the unit."""
        if self.header is not None:
            return "header"
        if self.cookie is not None:
            return "cookie"
        if self.json_path is not None:
            return "jsonPath"
        return "jwtClaim" if self.jwt_claim is not None else "request"
