"""`parameters` of a request and of its tensors: what this server acts on, what it refuses, and what is left to the model.

The protocol lets clients say what they like. What nobody here knows is the model's to read, as `context.parameters`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sundog_runtime.context import Parameter, Parameters, parameters_of
from sundog_runtime.errors import bad_input

_CHANGES_THE_ANSWER = ("classification", "shared_memory_", "sequence_")
_HOW_TENSORS_ARE_SENT = frozenset({"binary_data", "binary_data_output", "binary_data_size"})


def check_parameters(names: Iterable[str], where: str) -> None:
    """Refuse what asks for another answer than this server gives. Raises Problem 400."""
    for name in names:
        if name.startswith(_CHANGES_THE_ANSWER):
            raise bad_input("UnsupportedParameter", f"{where} has the parameter {name[:60]!r}, which is not supported")


def parse_parameters(holder: Mapping[str, Any], where: str) -> dict[str, Parameter]:
    """The `parameters` of an object in JSON. Raises Problem 400."""
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
    """Those that are not this server's, of the request and by input. None where there are none."""
    left = _left(request)
    of_inputs = {name: found for name, given in inputs.items() if (found := _left(given))}
    return parameters_of(left, of_inputs) if left or of_inputs else None


def _left(given: Mapping[str, Parameter]) -> dict[str, Parameter]:
    return {name: value for name, value in given.items() if name not in _HOW_TENSORS_ARE_SENT}
