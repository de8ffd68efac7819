"""Common parts of both kinds: metadata, status, parsing."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError

from sundog_operator.api.base import ApiBase
from sundog_operator.api.memo import Memoized
from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.api.scalars import Items, Timestamp
from sundog_operator.api.schema.validation import Violation, validate
from sundog_operator.errors import SpecError

API_VERSION: Literal["serving.sundog.dev/v1alpha1"] = "serving.sundog.dev/v1alpha1"


class OwnerReference(ApiBase):
    """An owner of the object."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""


class Metadata(ApiBase):
    """The fields of an object's metadata that Sundog reads."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = Field({})
    annotations: dict[str, str] = Field({})
    owner_references: Items[OwnerReference] = ()
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None


class Status(ApiBase):
    """A status. The operator wrote it, but others may have changed it, so every content is accepted."""

    @classmethod
    def parse(cls, obj: object) -> Self:
        """Parse a stored status without errors: an invalid part counts as absent. Equal input returns the same object."""
        parsed = _STATUSES(obj, cls)
        assert isinstance(parsed, cls)
        return parsed


def _read_status(obj: object, cls: type[Status]) -> Status:
    remaining = _plain(obj) if isinstance(obj, Mapping) else {}
    while True:
        try:
            return cls.from_json(remaining)
        except ValidationError as error:
            # One at a time, because removing a list item shifts the others.
            _drop(remaining, error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"])


_STATUSES: Final = Memoized(_read_status)


class Resource(ApiBase):
    """An object of the API."""

    api_version: Literal["serving.sundog.dev/v1alpha1"] = API_VERSION
    metadata: Metadata

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> Self:
        """Parse an object; its status leniently.

        Raises SpecError, reason InvalidSpec, with one sentence per violation; reason NotYetSupported if there is nothing else to correct.
        """
        value, found = validate(cls, _without_status(obj))
        if value is None:
            is_unsupported = all(violation.is_unsupported for violation in found)
            reason = DeploymentReason.NOT_YET_SUPPORTED if is_unsupported else DeploymentReason.INVALID_SPEC
            raise SpecError(reason, "; ".join(str(violation) for violation in found))
        return value.model_copy(update={"status": cls.status_type().parse(obj.get("status"))})

    @classmethod
    def violations(cls, obj: Mapping[str, Any]) -> list[Violation]:
        """Return the violations that `parse` would raise."""
        return validate(cls, _without_status(obj))[1]

    @classmethod
    def status_type(cls) -> type[Status]:
        """Return the type of `status`."""
        type_ = cls.model_fields["status"].annotation
        assert isinstance(type_, type)
        assert issubclass(type_, Status)
        return type_


def _without_status(obj: Any) -> Any:
    return {name: value for name, value in obj.items() if name != "status"} if isinstance(obj, Mapping) else obj


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _drop(obj: Any, location: tuple[int | str, ...]) -> None:
    """Remove the innermost removable part on the path to `location`; a missing field removes its parent."""
    path: list[tuple[Any, int | str]] = []
    for key in location:
        inside = (isinstance(obj, dict) and key in obj) or (
            isinstance(obj, list) and isinstance(key, int) and key < len(obj)
        )
        if not inside:
            break
        path.append((obj, key))
        obj = obj[key]
    container, key = path[-1]
    del container[key]
