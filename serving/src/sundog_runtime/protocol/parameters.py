"""`parameters` of a request and of its tensors: the ones that this server handles, refuses, or leaves to the model.

The protocol allows any parameters. The model can read those that the server does not know, as `context.parameters`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sundog_runtime.context import Parameter, Parameters, parameters_of
from sundog_runtime.errors import bad_input

_UNSUPPORTED = "classification"
_UNSUPPORTED_PREFIXES = ("shared_memory_", "sequence_")
_TENSOR_FORMAT = frozenset({"binary_data", "binary_data_output", "binary_data_size"})


def check_parameters(names: Iterable[str], where: str) -> None:
    """Check parameter names. Raises Problem 400 for one that requests another kind of answer than this server gives."""
    for name in names:
        if name == _UNSUPPORTED or name.startswith(_UNSUPPORTED_PREFIXES):
            raise bad_input("UnsupportedParameter", f"{where} has the parameter {name[:60]!r}, which is not supported")


def parse_parameters(holder: Mapping[str, Any], where: str) -> dict[str, Parameter]:
    """Return the `parameters` of a JSON object. Raises Problem 400."""
    value = holder.get("parameters")
    if value is None:
        return {}
    if not isinstance(value, dict) or any(isinstance(item, dict | list) for item in value.values()):
        raise bad_input("WrongType", f"{where}: parameters is not an object of strings, numbers and booleans")
    check_parameters(value, where)
    return value


def model_parameters(
    request: Mapping[str, Parameter], inputs: Mapping[str, Mapping[str, Parameter]]
) -> Parameters | None:
    """Return the parameters for the model, of the request and by input; None if there are none."""
    remaining = _for_model(request)
    of_inputs = {name: found for name, given in inputs.items() if (found := _for_model(given))}
    return parameters_of(remaining, of_inputs) if remaining or of_inputs else None


def _for_model(given: Mapping[str, Parameter]) -> dict[str, Parameter]:
    return {name: value for name, value in given.items() if name not in _TENSOR_FORMAT}
