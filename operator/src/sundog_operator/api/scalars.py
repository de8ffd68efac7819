"""The scalar types of both kinds."""

from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from sundog_operator.api import quantities
from sundog_operator.api.model_uri import BUCKET_PATTERN, CLAIM_PATTERN, URI_RULES
from sundog_operator.api.schema.rules import ExpectedNoun, PreserveUnknownFields, Rule, TextOrInteger, TextPattern

MODEL_SCHEMES = ("file", "pvc", "s3", "gs", "https", "hf", "oci")
LOG_SCHEMES = ("file", "pvc", "s3", "gs")

T = TypeVar("T")


def _list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _parse_with(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except ValueError as error:
            raise PydanticCustomError("string_pattern_mismatch", "{error}", {"error": str(error)}) from error

    return read


def _float_to_integer(value: Any) -> Any:
    # kubectl sends 3.0 as 3.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _integer_to_text(value: Any) -> Any:
    value = _float_to_integer(value)
    return str(value) if type(value) is int else value


def _is_whole_network(text: str) -> bool:
    return str(ip_network(text, strict=False)) == text


def _truncate_to_seconds(value: datetime) -> datetime:
    return quantities.parse_timestamp(value.isoformat())


def scheme_rule(schemes: tuple[str, ...]) -> Rule:
    """Make the rule that a URI has one of these schemes and something after it; empty text passes."""
    allowed = ", ".join(f"{scheme}://" for scheme in schemes)
    return Rule(
        cel=f"self == '' || self.matches('^({'|'.join(schemes)})://.')",
        message="{}; expected a URI that starts with one of " + allowed,
    )


NO_PLACEHOLDER_RULE = Rule(
    cel="!self.contains('$')",
    message="contains a $, which nothing replaces here; expected none. The sundog command replaces MANIFEST_DIR in files",
)

# A bucket or a claim, with a path below it.
_LOG_LOCATION = f"((s3|gs)://{BUCKET_PATTERN}|pvc://{CLAIM_PATTERN})(/[A-Za-z0-9._=+,:@~-]+)*"
_LOG_FORM = f"^(file://(/[^/?#$]+)+/?|{_LOG_LOCATION}/?)$"
_DOTS = "/[.][.]?(/|$)"
LOG_URI_RULE = Rule(
    cel=f"!self.matches('^({'|'.join(LOG_SCHEMES)})://.') || self.matches(r'{_LOG_FORM}') && !self.matches(r'{_DOTS}')",
    # Without the value, which may contain a secret.
    message="unknown form; expected s3://bucket/prefix, gs://bucket/prefix, pvc://claim/directory or file:///directory",
)

POSITIVE_DURATION_RULE = Rule(
    cel="self.matches('[1-9]')",
    python=lambda duration: duration > timedelta(),
    message="0s; expected more than 0s",
)

Items = Annotated[tuple[T, ...], BeforeValidator(_list_to_tuple)]
IntegerAsText = BeforeValidator(_integer_to_text)
"""Marks text that JSON may represent as an integer."""
Integer = Annotated[int, BeforeValidator(_float_to_integer)]
Text = Annotated[str, Field(max_length=1024)]
Message = Annotated[str, Field(max_length=32768)]

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
Name = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=f"^{_LABEL}$"),
    ExpectedNoun("a name of lower-case letters, digits and inner dashes"),
]
ObjectName = Annotated[
    str,
    Field(max_length=253, pattern=rf"^({_LABEL}(\.{_LABEL})*)?$"),
    ExpectedNoun("a name of lower-case letters, digits, inner dashes and dots"),
]
"""Name of an object in the same namespace; empty means none."""
Namespace = Annotated[
    str,
    Field(max_length=63, pattern=f"^({_LABEL})?$"),
    ExpectedNoun("a name of lower-case letters, digits and inner dashes"),
]
"""Name of a namespace; empty means the same one."""
Host = Annotated[
    str,
    Field(max_length=253, pattern=rf"^({_LABEL}(\.{_LABEL})*)?$"),
    ExpectedNoun("a lower-case host name such as digits.example.com"),
]
QualifiedName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=317,
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?(/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
    ),
    ExpectedNoun("a label key such as example.com/team"),
]
LabelValue = Annotated[
    str,
    Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"),
    ExpectedNoun("a label value such as gold or v1.2"),
]
DeviceTypeName = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"),
    ExpectedNoun("a type such as l4, or a label value such as NVIDIA-L4"),
]
_NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
Uri = Annotated[
    str,
    Field(max_length=2048, pattern=_NO_CONTROLS),
    ExpectedNoun("a URI without control characters"),
    scheme_rule(MODEL_SCHEMES),
    NO_PLACEHOLDER_RULE,
    *URI_RULES,
]
LogUri = Annotated[
    str,
    Field(max_length=2048, pattern=_NO_CONTROLS),
    ExpectedNoun("a URI without control characters"),
    scheme_rule(LOG_SCHEMES),
    LOG_URI_RULE,
]
LogPlacePrefix = Annotated[
    str,
    Field(max_length=2048, pattern=f"^{_LOG_LOCATION}$"),
    ExpectedNoun("a location prefix such as s3://logs/experiments or pvc://claim/experiments"),
]
HttpUrl = Annotated[
    str, Field(max_length=2048, pattern=r"^https?://[^/ ][^ ]*$"), ExpectedNoun("an http:// or https:// address")
]
Digest = Annotated[
    str,
    Field(max_length=71, pattern=r"^(sha256:[0-9a-f]{64})?$"),
    ExpectedNoun("sha256: and 64 lower-case hexadecimal digits"),
]
Image = Annotated[str, Field(max_length=512, pattern=r"^[^ ]*$"), ExpectedNoun("a container image without spaces")]
Entrypoint = Annotated[
    str,
    Field(max_length=256, pattern=r"^([A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*)?$"),
    ExpectedNoun("module:attribute such as net:Net"),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(_parse_with(quantities.parse_duration)),
    PlainSerializer(quantities.format_duration, return_type=str),
    TextPattern(quantities.DURATION_PATTERN, max_length=32),
    ExpectedNoun("a duration such as 30s, 5m, 1h30m or 14d"),
]
Timestamp = Annotated[
    datetime,
    BeforeValidator(_parse_with(quantities.parse_timestamp)),
    AfterValidator(_truncate_to_seconds),
    PlainSerializer(quantities.format_timestamp, return_type=str),
    ExpectedNoun("a time such as 2026-11-20T09:30:00Z"),
]
PercentText = Annotated[
    str, Field(max_length=12, pattern=quantities.PERCENT_PATTERN), ExpectedNoun("a percentage such as 25%")
]
PercentNumber = Annotated[
    float, Field(ge=0, le=100), AfterValidator(_float_to_integer), PlainSerializer(_float_to_integer)
]
"""Percent of the traffic, in hundredths; a whole number is an integer in Python too."""

PercentUpTo100Text = Annotated[
    str, Field(max_length=12, pattern=quantities.SHARE_PATTERN), ExpectedNoun("a percentage from 0% to 100%")
]
Cpu = Annotated[
    str,
    IntegerAsText,
    Field(max_length=32, pattern=quantities.CPU_PATTERN),
    TextOrInteger(),
    ExpectedNoun("a quantity of cores above 0 such as 500m or 2"),
]
Bytes = Annotated[
    str,
    IntegerAsText,
    Field(max_length=32, pattern=quantities.BYTES_PATTERN),
    TextOrInteger(),
    ExpectedNoun("a quantity of bytes above 0 such as 512Mi or 8Gi"),
]
MinimumBytes = Annotated[
    str,
    IntegerAsText,
    Field(max_length=32, pattern=rf"^({quantities.BYTES_PATTERN[1:-1]})?$"),
    TextOrInteger(),
    ExpectedNoun("a quantity of bytes above 0 such as 512Mi or 8Gi"),
]
"""Empty means no minimum."""
Json = Annotated[dict[str, Any], Field(max_length=256), PreserveUnknownFields()]
Alpha = Annotated[float, Field(gt=0, le=0.5)]
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPv4Network = Annotated[
    str,
    # Edges listen on IPv4.
    Field(max_length=18, pattern=rf"^({_BYTE}\.){{3}}{_BYTE}/(3[0-2]|[12]?[0-9])$"),
    ExpectedNoun("an IPv4 network such as 10.0.0.0/8"),
    Rule(
        cel="cidr(self) == cidr(self).masked()",
        python=_is_whole_network,
        message="{} has bits set beyond its prefix; expected zeros there",
    ),
]
