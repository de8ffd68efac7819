"""KServe's protocol of version 1, for clients that support no other: `{"instances": [row, …]}` → `{"predictions": [row, …]}`.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from collections.abc import Mapping
from typing import Any

from sundog_runtime.errors import bad_input
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.messages import Buffer, DecodedRequest, EncodedResponse
from sundog_runtime.protocol.plain_json import (
    check_json_outputs,
    encode_json,
    json_type,
    make_json_batch,
    may_hold_booleans,
    parse_json_object,
)
from sundog_runtime.tensors import Array


def model_list(name: str) -> bytes:
    """Return the answer to `GET /v1/models`. OpenAI's API has the same path: its clients find no model of theirs in `data`."""
    return encode_json({"models": [name], "object": "list", "data": []})


def model_status(name: str) -> bytes:
    """Return the answer to `GET /v1/models/{name}`."""
    return encode_json({"name": name, "ready": True})


def decode_v1(model: LoadedModel, body: Buffer) -> DecodedRequest:
    """Decode the body of `POST /v1/models/{name}:predict`. Raises Problem 400."""
    instances = parse_json_object(body).get("instances")
    if not isinstance(instances, list) or not instances:
        raise bad_input("MissingInputs", 'the body has no "instances"; expected {"instances": [row, …]}')
    batch = make_json_batch(model, _inputs(model, instances), may_hold_booleans(body))
    check_json_outputs(model)
    return DecodedRequest(batch, _encode)


def _inputs(model: LoadedModel, instances: list[Any]) -> Any:
    """Convert rows that name the model's inputs to columns; return other rows unchanged. Raises Problem 400 if their names differ."""
    if not model.signature.inputs or not isinstance(instances[0], dict):
        return instances
    names = instances[0].keys()
    for index, row in enumerate(instances):
        if not isinstance(row, dict):
            raise bad_input(
                "WrongType", f"instances[{index}] is a JSON {json_type(row)}; expected an object, as instances[0] is"
            )
        if row.keys() != names:
            raise bad_input("WrongInputs", f"instances[{index}] has other names than instances[0]; expected the same")
    return {name: [row[name] for row in instances] for name in names}


def _encode(output: Any) -> EncodedResponse:
    return EncodedResponse(encode_json({"predictions": _rows(output)}))


def _rows(output: Any) -> Any:
    """Convert columns of equal length to rows with names; return anything else unchanged."""
    if not isinstance(output, Mapping) or not output or not all(map(_has_rows, output.values())):
        return output
    columns = {name: value.tolist() if not isinstance(value, list) else value for name, value in output.items()}
    if len(set(map(len, columns.values()))) > 1:
        return output
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _has_rows(value: list[Any] | Array | Any) -> bool:
    return isinstance(value, list) or getattr(value, "ndim", 0) > 0
