"""Kinds and object names on the command line."""

from typing import Final

import click

from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Kind

_NAMES: Final = {
    **dict.fromkeys(("mdep", "modeldeployment", "modeldeployments"), MODEL_DEPLOYMENT),
    **dict.fromkeys(("mexp", "experiment", "experiments"), EXPERIMENT),
}


def parse_kind_and_names(arguments: tuple[str, ...]) -> tuple[Kind, tuple[str, ...]]:
    """Return (kind, names) of arguments such as `digits`, `mexp digits-r8` or `modeldeployment/digits`.

    The default kind is ModelDeployment.
    """
    if not arguments:
        return MODEL_DEPLOYMENT, ()
    if all("/" in argument for argument in arguments):
        kinds = {argument.partition("/")[0].lower().partition(".")[0] for argument in arguments}
        kind = _NAMES.get(kinds.pop()) if len(kinds) == 1 else None
        if kind is None:
            raise click.UsageError(f"{arguments[0]!r}: expected KIND/NAME with one kind out of {', '.join(_NAMES)}")
        return kind, tuple(argument.partition("/")[2] for argument in arguments)
    kind = _NAMES.get(arguments[0].lower())
    return (MODEL_DEPLOYMENT, arguments) if kind is None else (kind, arguments[1:])


def parse_name(_context: click.Context, _parameter: click.Parameter, argument: str) -> str:
    """Return the name in `digits`, `mdep/digits` or `mexp/digits`, for commands that find the kind. Raises UsageError."""
    return parse_kind_and_names((argument,))[1][0] if "/" in argument else argument


def parse_deployment_name(context: click.Context, parameter: click.Parameter, argument: str) -> str:
    """Return the name in `digits` or `mdep/digits`. Raises UsageError for another kind."""
    if "/" in argument and parse_kind_and_names((argument,))[0] is not MODEL_DEPLOYMENT:
        raise click.UsageError(f"{argument!r}: expected a ModelDeployment, as NAME or mdep/NAME")
    return parse_name(context, parameter, argument)
