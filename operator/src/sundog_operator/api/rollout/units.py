"""What is counted as one: a request, or a unit that stays with its arm."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.defaults import JSON_PATH, JSON_PATH_NOUN, set_fields
from sundog_operator.api.schema.rules import ExpectedNoun, Rule


class PerRequestUnit(ApiBase):
    """Each request is assigned on its own."""


class Unit(ApiBase):
    """What is assigned to an arm and stays there: at most one source; none means the request."""

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
    ) = Field(None, description="The cookie that names the unit; the edge gives one to who has none.")
    json_path: (
        Annotated[
            str,
            Field(max_length=200, pattern=JSON_PATH),
            ExpectedNoun(JSON_PATH_NOUN),
        ]
        | None
    ) = Field(None, description="Where the unit is in the request's JSON body, such as $.user.id.")
    jwt_claim: (
        Annotated[
            str, Field(max_length=63, pattern=r"^[A-Za-z0-9_:-]+$"), ExpectedNoun("the name of a claim such as sub")
        ]
        | None
    ) = Field(
        None,
        description="The claim that names the unit, of a token that the edge has verified by endpoint.auth.jwt, which has to be set.",
    )
    request: PerRequestUnit | None = Field(None, description="Each request is a unit of its own; the default.")
    salt: Annotated[
        str,
        Field(max_length=63, pattern=r"^[A-Za-z0-9._-]*$"),
        ExpectedNoun("letters, digits, dots, dashes and underscores"),
    ] = Field(
        "",
        description="Fixes the assignment over several attempts; empty means a new one for each. That another Experiment or ModelDeployment"
        " of the namespace has the same one is told, as SaltReused of SpecAccepted.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "[has(self.header), has(self.cookie), has(self.jsonPath), has(self.jwtClaim), has(self.request)]"
                ".filter(x, x).size() <= 1"
            ),
            holds=lambda unit: len(set_fields(unit, ("header", "cookie", "json_path", "jwt_claim", "request"))) <= 1,
            message="at most one of header, cookie, jsonPath, jwtClaim and request can be given",
        ),
    )

    @property
    def kind(self) -> Literal["header", "cookie", "jsonPath", "jwtClaim", "request"]:
        """Which source is in force."""
        if self.header is not None:
            return "header"
        if self.cookie is not None:
            return "cookie"
        if self.json_path is not None:
            return "jsonPath"
        return "jwtClaim" if self.jwt_claim is not None else "request"
