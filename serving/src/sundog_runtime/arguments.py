"""Settings that the operator sends: `args`, fixed for a revision, and `user_config`, which changes in place."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from sundog_runtime.errors import LoadFailed

ARGUMENTS_VERSION = 1
"""The version of the contract that this server reads."""

ModelFormat = Literal["auto", "torch", "exported", "torchscript", "transformers", "python"]

ObjectName = Annotated[str, Field(min_length=1, max_length=253)]


class _Contract(BaseModel):
    # Unknown fields are ignored: an older server must start under a newer operator of the same contract version.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class ModelArguments(_Contract):
    """The model to serve. `digest` is empty or `sha256:` and 64 lower-case hex digits."""

    uri: Annotated[str, Field(min_length=1, max_length=4096)]
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    format: ModelFormat = "auto"
    entrypoint: Annotated[str, Field(max_length=512)] = ""
    config: dict[str, Any] = {}
    trust_code: Annotated[bool, Field(alias="trustCode")] = False


class Batching(_Contract):
    """How requests are batched: rows in one pass, and how long a lone request waits for others. One row means no batching."""

    max_size: Annotated[int, Field(alias="maxSize", ge=1, le=4096)] = 1
    max_delay_seconds: Annotated[float, Field(alias="maxDelaySeconds", ge=0, allow_inf_nan=False)] = 0.002


class Warmup(_Contract):
    """Predictions before the replica counts as ready."""

    requests: Annotated[int, Field(ge=0, le=10_000)] = 4
    timeout_seconds: Annotated[float, Field(alias="timeoutSeconds", gt=0)] = 300.0


class Gpu(_Contract):
    """Number and vendor of the replica's devices. Where replicas share a device, `memory_fraction` is the part for this one."""

    count: Annotated[int, Field(ge=0)] = 0
    vendor: Annotated[str, Field(max_length=63)] = "nvidia"
    memory_fraction: Annotated[float | None, Field(alias="memoryFraction", gt=0, le=1)] = None


class Arguments(_Contract):
    """`args` of the Serve application. `cpu` is in cores."""

    version: Literal[1]
    namespace: ObjectName
    service: ObjectName
    revision: Annotated[int, Field(ge=1)]
    revision_hash: Annotated[str, Field(alias="revisionHash")] = ""
    model: ModelArguments
    batching: Batching = Batching()
    warmup: Warmup = Warmup()
    cpu: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    gpu: Gpu = Gpu()


class ReplicaSettings(_Contract):
    """`user_config` of the deployment. `max_request_bytes` is in bytes."""

    user_config: Annotated[dict[str, Any], Field(alias="userConfig")] = {}
    max_request_bytes: Annotated[int, Field(alias="maxRequestBytes", ge=1)] = 10 * 1024 * 1024


def parse_arguments(args: Any) -> Arguments:
    """Parse `args`. Raises LoadFailed naming every field that is wrong."""
    found = args.get("version") if isinstance(args, dict) else None
    if isinstance(args, dict) and (found != ARGUMENTS_VERSION or isinstance(found, bool)):
        raise LoadFailed(f"args.version: {found!r}; expected {ARGUMENTS_VERSION}")
    try:
        return Arguments.model_validate(args)
    except ValidationError as error:
        raise LoadFailed(describe_validation_error(error, "args")) from None


def parse_settings(user_config: Any) -> ReplicaSettings:
    """Parse `user_config`; None means all defaults. Raises LoadFailed naming every field that is wrong."""
    try:
        return ReplicaSettings.model_validate({} if user_config is None else user_config)
    except ValidationError as error:
        raise LoadFailed(describe_validation_error(error, "user_config")) from None


def describe_validation_error(
    error: ValidationError, *root: str, describe: Callable[[ErrorDetails], str] = lambda _: ""
) -> str:
    """Return one clause per wrong field. Values are left out because a configuration may hold secrets.

    `describe` returns the text of some errors, and an empty one for the others.
    """
    return "; ".join(
        ": ".join(
            filter(
                None,
                [
                    ".".join([*root, *map(str, found["loc"])]),
                    describe(found) or f"{found['msg'][0].lower()}{found['msg'][1:]}",
                ],
            )
        )
        for found in error.errors(include_url=False, include_input=False)
    )
