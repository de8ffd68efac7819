"""Render the reference and the JSON Schema of model.yaml."""

import json
from typing import Any, Final

from reference.markdown import GENERATED, cell, table
from sundog_runtime.model_yaml import MAX_MODEL_YAML_BYTES, ModelDescription

SCHEMA_NAME: Final = "model-yaml.schema.json"
_MAX_KIB: Final = MAX_MODEL_YAML_BYTES // 1024
_TOP: Final = f"""# model.yaml

{GENERATED.format("sundog_runtime.model_yaml")}

A model can describe itself in the file `model.yaml` at the top of its directory. The file and each
of its fields are optional. An unknown field, a duplicate key, a YAML alias or a file of more than
{_MAX_KIB} KiB is an error ([`LoadFailed`](condition-reasons.md#loadfailed)).
[{SCHEMA_NAME}]({SCHEMA_NAME}) is its JSON Schema, for editors.
[Bring a model](../guides/bring-a-model.md) explains how to use it.

`spec.model` overrides the file: `format` unless it is `auto`, `entrypoint` unless it is empty, and
`config` key by key. Only the manifest has `trustCode`, because a model must not trust itself.

```yaml
entrypoint: net:Net
config: {{hidden: 64}}
inputs:
- {{name: image, dtype: float32, shape: [-1, 64]}}
outputs:
- {{name: scores, dtype: float32, shape: [-1, 10]}}
```
"""


def render_schema() -> str:
    """Return the JSON Schema as text."""
    return json.dumps(model_yaml_schema(), indent=2) + "\n"


def model_yaml_schema() -> dict[str, Any]:
    """Return the JSON Schema of model.yaml."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ModelDescription.model_json_schema()}


def render_page() -> str:
    """Return the page, as Markdown."""
    document = model_yaml_schema()
    tensor, compiling = (document["$defs"][name] for name in ("TensorField", "Compile"))
    parts = [_TOP, "\n## Fields\n\n", _fields(document)]
    parts += ["\n## Fields of an input or output\n\n", _fields(tensor)]
    parts += ["\n## Fields of `compile`\n\n", _fields(compiling)]
    return "".join(parts)


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = (
        (
            f"`{name}`",
            _type(field),
            "required" if name in required else _default(field),
            cell(field.get("description", "")),
        )
        for name, field in schema["properties"].items()
    )
    return table(("field", "type", "default", "meaning"), rows)


def _default(field: dict[str, Any]) -> str:
    if field.get("default") in (None, "", [], {}) or isinstance(field["default"], dict):
        return ""
    return f"`{json.dumps(field['default']).strip(chr(34))}`"


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return _type(next(option for option in field["anyOf"] if option.get("type") != "null"))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return f"`{field['$ref'].rpartition('/')[2].lower()}`"
    if field.get("type") == "array":
        items = field["items"]
        return "list of inputs or outputs" if "$ref" in items else f"list of {items['type']}"
    return str(field.get("type", "any"))
