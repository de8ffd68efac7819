"""A model's description of itself, in the optional file `model.yaml` beside its weights.

    format: torch
    entrypoint: net:Net
    config: {hidden: 64}
    inputs:
    - {name: image, dtype: float32, shape: [-1, 64]}
    outputs:
    - {name: scores, dtype: float32, shape: [-1, 10]}
    batchable: true
    channelsLast: false
    compile: {enabled: true, mode: default}

Every field is optional. `spec.model` overrides the file: `format` unless it is `auto`, `entrypoint` unless it is empty,
and `config` key by key. `trustCode` is not a field of the file: a model does not vouch for itself.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from sundog_runtime.arguments import ModelFormat, describe_validation_error
from sundog_runtime.errors import LoadFailed
from sundog_runtime.signature import Signature, TensorField, add_row_axis

MODEL_YAML = "model.yaml"
MAX_MODEL_YAML_BYTES = 64 * 1024
_MERGE = "tag:yaml.org,2002:merge"
_PACKAGES = "install packages in the image of spec.runtime.image, or beside Sundog in local mode"
_OTHER_PLACES = {
    **dict.fromkeys(("dependencies", "requirements", "packages", "pip", "conda"), _PACKAGES),
    "trustcode": "set spec.model.trustCode, because a model does not vouch for itself",
}
"""What to do instead of fields that are elsewhere, by their names in lower case."""

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]


class Compile(BaseModel):
    """Whether and how `torch.compile` is used. The network is compiled before the replica is ready."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    enabled: Annotated[bool, Field(description="Compile the network before the replica is ready.")] = False
    mode: Annotated[CompileMode, Field(description="The mode of `torch.compile`.")] = "default"


class ModelDescription(BaseModel):
    """The fields of `model.yaml`; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, title="model.yaml")

    format: Annotated[
        ModelFormat, Field(description="How the model is stored. `auto` detects it from the content of the files.")
    ] = "auto"
    entrypoint: Annotated[
        str,
        Field(
            max_length=512,
            description="`module:attribute`: a `torch.nn.Module` class, a function that returns a module, or a predictor class.",
        ),
    ] = ""
    config: Annotated[
        dict[str, Any],
        Field(description="Keyword arguments of the entrypoint, or the settings of a transformers model."),
    ] = {}
    inputs: Annotated[
        list[TensorField],
        Field(description="The tensors that a request must hold, in order. Every request is checked."),
    ] = []
    outputs: Annotated[
        list[TensorField], Field(description="The tensors that an answer holds, in order. Every answer is checked.")
    ] = []
    batchable: Annotated[
        bool | None,
        Field(
            description="Whether rows of several requests may be batched along the first dimension. By default yes if every"
            " declared input and output has -1 there. All inputs of one request then need the same number of rows."
        ),
    ] = None
    channels_last: Annotated[
        bool | None,
        Field(
            alias="channelsLast",
            description="Keep 4-D weights and inputs in channels-last memory order. By default on if the first layer is a"
            " Conv2d and a 4-D input is declared.",
        ),
    ] = None
    compile: Annotated[Compile, Field(description="`torch.compile`: off unless enabled.")] = Compile()

    @property
    def signature(self) -> Signature:
        """Return the declared inputs and outputs."""
        inputs, outputs = (tuple(field.spec() for field in fields) for fields in (self.inputs, self.outputs))
        return add_row_axis(self.batchable, Signature(inputs, outputs))

    def override(self, format_: ModelFormat, entrypoint: str, config: dict[str, Any]) -> "ModelDescription":
        """Return the description with other values: a format that is not `auto`, an entrypoint if there is one, keys of `config`."""
        update = {
            "format": self.format if format_ == "auto" else format_,
            "entrypoint": entrypoint or self.entrypoint,
            "config": {**self.config, **config},
        }
        return self.model_copy(update=update)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys, and aliases, which can expand a few lines to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node. Raises LoadFailed for an alias."""
        if self.check_event(yaml.AliasEvent):
            raise LoadFailed(f"{MODEL_YAML}: found a YAML alias; expected none. Write the values out.")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the next mapping. Raises LoadFailed for a duplicate key."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                raise LoadFailed(f"{MODEL_YAML}: line {line}: duplicate key {key.value!r}, first in line {first}")
            lines[key.tag, key.value] = line
        return node


def parse_description(text: bytes) -> ModelDescription:
    """Parse the content of `model.yaml`. Raises LoadFailed naming the file and every field that is wrong."""
    if len(text) > MAX_MODEL_YAML_BYTES:
        raise LoadFailed(f"{MODEL_YAML}: {len(text)} bytes; expected at most {MAX_MODEL_YAML_BYTES}")
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 it is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LoadFailed(f"{MODEL_YAML} is not YAML: {error}") from None
    try:
        parsed = ModelDescription.model_validate({} if document is None else document)
    except ValidationError as error:
        raise LoadFailed(
            f"{MODEL_YAML}: {describe_validation_error(error, describe=_describe_unknown_field)}"
        ) from None
    for kind, tensors in (("inputs", parsed.inputs), ("outputs", parsed.outputs)):
        names = [tensor.name for tensor in tensors]
        if len(set(names)) < len(names):
            raise LoadFailed(f"{MODEL_YAML}: {kind} has two tensors with the same name; expected unique names")
    return parsed


def _describe_unknown_field(found: ErrorDetails) -> str:
    """Return what to do about an unknown field; empty for another error."""
    if found["type"] != "extra_forbidden":
        return ""
    *parents, name = map(str, found["loc"])
    if not parents and (elsewhere := _OTHER_PLACES.get(name.lower())):
        return f"unknown field; {elsewhere}"
    nested: dict[str, type[BaseModel]] = {"inputs": TensorField, "outputs": TensorField, "compile": Compile}
    of = nested[parents[0]] if parents else ModelDescription
    known = {(field.alias or key).lower(): field.alias or key for key, field in of.model_fields.items()}
    if near := difflib.get_close_matches(name.lower(), known, n=1):
        return f"unknown field; did you mean {known[near[0]]}?"
    return f"unknown field; known are {', '.join(known.values())}"


def read_description(root: Path) -> ModelDescription:
    """Return the description of a model's directory, without fields if it has none. Raises LoadFailed, or OSError."""
    path = root / MODEL_YAML
    if not path.is_file():
        return ModelDescription()
    with path.open("rb") as file:
        return parse_description(file.read(MAX_MODEL_YAML_BYTES + 1))


def write_description(root: Path, description: ModelDescription) -> None:
    """Write the fields of `model.yaml` that are not the default."""
    document = description.model_dump(by_alias=True, exclude_defaults=True, exclude={"compile"})
    if description.compile.enabled:
        document["compile"] = description.compile.model_dump()
    path = root / MODEL_YAML
    # Unlink first: `sundog package` links the file of the model's final place.
    path.unlink(missing_ok=True)
    if document:
        path.write_text(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=120))
